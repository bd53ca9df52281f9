"""A headless Chromium that is driven through its debugging protocol: real clicks, typed keys, screenshots."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
from PIL import Image

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-quic"),
    *("--enable-unsafe-swiftshader", "--disable-background-networking", "--disable-component-update"),
    *(
        "--remote-debugging-port=0",
        "--window-size=1000,760",
        "--disable-dev-shm-usage",
        "--force-device-scale-factor=0.5",
    ),
)


class Browser:
    """One page.

    Parameters
    ----------
    folder : Path
        For its profile; must be new.
    """

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        from urllib.request import urlopen

        from websockets.sync.client import connect

        port_file = folder / "DevToolsActivePort"
        wait_for(lambda: port_file.is_file() and len(port_file.read_text().splitlines()) >= 2, 30, "Chromium")
        port = port_file.read_text().splitlines()[0]
        pages = json.load(urlopen(f"http://127.0.0.1:{port}/json/list"))
        page = next(each for each in pages if each["type"] == "page")
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=2**27)
        self._numbers = itertools.count(1)
        self.errors = []  # uncaught exceptions and console errors of the page
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Call the protocol, and collect the page's errors that come in between."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"]["text"])
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)

    def run(self, script):
        """The value of a JavaScript expression."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"])
        return done["result"].get("value")

    @property
    def text(self):
        """All visible words of the page."""
        return self.run("document.body ? document.body.innerText : ''") or ""

    def wait_for_text(self, wanted, seconds=20.0):
        wait_for(lambda: wanted in self.text, seconds, lambda: f"{wanted!r} on a page that says\n{self.text}")

    def place(self, script):
        """The middle of an element on the screen, scrolled to, pixels, once it is there and rests."""
        asked = (
            f"(() => {{ const e = {script}; if (!e) return null; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2, r.width]; })()"
        )
        before, until = None, time.monotonic() + 5
        while time.monotonic() < until:
            box = self.run(asked)
            if box is not None and box[2] and box == before:
                return box[0], box[1]
            before = box
            time.sleep(0.05)
        raise LookupError(f"nothing at rest on the page is {script}; it says\n{self.text}")

    def click_at(self, x, y):
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, start, end, steps=8):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
        for i in range(1, steps + 1):
            x, y = (a + (b - a) * i / steps for a, b in zip(start, end, strict=True))
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
            time.sleep(0.02)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

    def click(self, words):
        """Click the smallest element whose words are exactly these."""
        self.click_at(*self.place(_smallest(words)))

    def choose(self, label, option):
        """Choose an option of a dropdown by clicking."""
        for _ in range(5):
            self.click_at(*self.place(_input_of(label)))
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: self.run(f"!!({_option(option)})"), 1, f"the option {option}")
                break
        self.click_at(*self.place(_option(option)))

    def tick(self, label):
        """Click a checkbox."""
        self.click_at(*self.place(_input_of(label)))

    def type(self, label, text):
        """Replace the text of an input."""
        self.click_at(*self.place(_input_of(label)))
        self.run(f"{_input_of(label)}.select()")
        self.call("Input.insertText", text=text)
        self.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13)
        self.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)

    def screenshot(self, path=None):
        """What is on the screen, (H, W, 3) uint8."""
        import io

        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def close(self):
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def wait_for(condition, seconds, what):
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds} s for {what() if callable(what) else what}")
        time.sleep(0.05)


def _smallest(words):
    return (
        f"[...document.querySelectorAll('*')].filter(e => e.textContent.trim() === {json.dumps(words)}"
        " && e.offsetParent !== null).pop()"
    )


def _input_of(label):
    """The first input, in a row, that follows a label's words."""
    return (
        f"(() => {{ let e = {_smallest(label)}; for (let i = 0; e && i < 6; i++, e = e.parentElement) {{"
        "const found = [...e.querySelectorAll('input, textarea')].find(i => i.type !== 'hidden' && i.offsetParent);"
        "if (found) return found; } return null; })()"
    )


def _option(words):
    return (
        "[...document.querySelectorAll('[role=option]')].filter(e => e.textContent.trim() === "
        f"{json.dumps(words)} && e.offsetParent !== null).pop()"
    )

"""A viser server behind a gate."""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import sys
import warnings
from typing import Any

from mosaicmem._extras import viser
from mosaicmem.viewer.gate import Gate

LOCAL = ("127.0.0.1", "localhost", "::1")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,200}")


class GuardedServer:
    """Starts viser on the loopback interface, and lets browsers in through a gate.

    Parameters
    ----------
    host, port
        Of the gate; port 0 takes any free one.
    token : str, optional
        Random if not given and ``host`` is not of the loopback interface.

    Attributes
    ----------
    viser : viser.ViserServer
    url : str
        For the browser, with the token.

    Raises
    ------
    ModuleNotFoundError
        viser is not installed.
    ValueError
        The token is too short, or has characters that addresses may not have.
    OSError
        As `Gate`.
    """

    def __init__(self, host: str, port: int, token: str | None, label: str) -> None:
        module = viser("a viewer")
        # What is sent to a browser that has just left is lost, as it should be.
        warnings.filterwarnings("ignore", r"Queued a \w+ on a closed connection", UserWarning)
        if token is not None and not _TOKEN.fullmatch(token):
            raise ValueError("token: expected 8 or more of A-Z, a-z, 0-9, - and _")
        if token is None and host not in LOCAL:
            token = secrets.token_urlsafe(16)
        with _quiet():
            inner = _hidden_address()
            self.viser: Any = module.ViserServer(host=inner, port=0, label=label, verbose=False)
        self.viser.request_share_url = lambda *_, **__: None  # a page must not open a tunnel past the gate
        try:
            self._gate = Gate(host, port, (inner, self.viser.get_port()), token)
        except BaseException:
            self._stop_viser()
            raise
        self.viser.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        shown = "localhost" if host in LOCAL else _address(host)
        self.url = f"http://{shown}:{self._gate.port}/" + ("" if token is None else f"?token={token}")

    def close(self) -> None:
        """Disconnect all browsers, and free the port."""
        self._gate.close()
        self._stop_viser()

    def _stop_viser(self) -> None:
        with _quiet():
            self.viser.stop()


def _hidden_address() -> str:
    """An address of the loopback interface that pages of other sites cannot guess."""
    if sys.platform != "linux":
        return "127.0.0.1"  # others are not set up elsewhere
    return "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))


def _address(host: str) -> str:
    """A name that browsers of other machines can open."""
    import socket

    return socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _quiet() -> Any:
    """viser prints a banner with an address that is not for users."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield

"""The door of a viewer: one port that lets in browsers of this machine, or those that know a token.

viser itself lets everyone in, and moves to another port if its own is taken. So it listens on a free port of the
loopback interface, and this passes on to it what may enter: TCP connections whose first request is allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

_MOST_HEAD = 65536  # bytes
_PATIENCE = 10.0  # seconds for a request's head
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Request:
    """The head of an HTTP request."""

    target: str
    headers: dict[str, str] = field(default_factory=dict)  # by lower-case name

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """From bytes that end in an empty line.

        Raises
        ------
        ValueError
            They are no such head.
        """
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        if not (method.isalpha() and version.startswith("HTTP/")):
            raise ValueError(f"not an HTTP request: {first[:80]!r}")
        headers = {}
        for line in filter(None, lines):
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"not a header: {line[:80]!r}")
            headers[name.strip().lower()] = value.strip()
        return cls(target, headers)


def answer(request: Request, token: str | None, cookie: str) -> bytes | None:
    """What to reply to a first request instead of letting it in; None lets it in.

    Without a token, only requests to this machine by its own names enter. In any case requests that a page of another
    site makes are refused.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    is_embedded = request.headers.get("sec-fetch-dest") != "document"  # rather than a link that the user follows
    is_foreign = is_embedded and request.headers.get("sec-fetch-site") == "cross-site"
    if is_foreign or (origin is not None and urlsplit(origin).netloc != host):
        return _reply("403 Forbidden", "This viewer takes no requests from pages of other sites.")
    if token is None:
        if urlsplit(f"//{host}").hostname not in _HERE:
            return _reply("403 Forbidden", "This viewer is for browsers of its own machine; --host opens it to others.")
        return None
    pairs = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
    if any(name == cookie and hmac.compare_digest(value.encode(), token.encode()) for name, _, value in pairs):
        return None
    target = urlsplit(request.target)
    query = parse_qs(target.query, keep_blank_values=True)
    given = query.pop("token", [""])[0]
    if not hmac.compare_digest(given.encode(), token.encode()):
        return _reply("403 Forbidden", "This viewer needs a token: open the whole address that was printed.")
    rest = urlencode(query, doseq=True)
    place = f"{target.path}?{rest}" if rest else target.path
    return _reply(
        "302 Found", "", f"Location: {place}", f"Set-Cookie: {cookie}={token}; HttpOnly; SameSite=Lax; Path=/"
    )


def _reply(status: str, text: str, *headers: str) -> bytes:
    body = text.encode()
    lines = [f"HTTP/1.1 {status}", *headers, "Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


class Gate:
    """Listens on a port and passes connections that may enter on to a server of this machine.

    Parameters
    ----------
    host : str
    port : int
        0 takes any free port.
    inner : (str, int)
        Address of the server.
    token : str, optional
        That browsers must know.

    Raises
    ------
    OSError
        The port is taken, or the host is not an address of this machine; the message says what to do.
    """

    def __init__(self, host: str, port: int, inner: tuple[str, int], token: str | None) -> None:
        self._inner, self._token = inner, token
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()  # in a thread of its own: notebooks run a loop in theirs
        self._thread = threading.Thread(target=self._loop.run_forever, name="mosaicmem gate", daemon=True)
        self._thread.start()
        try:
            listening = asyncio.start_server(self._enter, host, port, limit=_MOST_HEAD)
            self._server = asyncio.run_coroutine_threadsafe(_awaited(listening), self._loop).result()
        except OSError as error:
            self._end()
            raise _explained(error, host, port) from None
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=5)
        self._end()

    def _end(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._pass(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
            refused = answer(Request.parse(head), self._token, f"mosaicmem-{self.port}")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, ValueError):
            writer.write(_reply("400 Bad Request", "Expected a request of a browser."))
            await writer.drain()
            return
        if refused is not None:
            writer.write(refused)
            await writer.drain()
            return
        inner_reader, inner_writer = await asyncio.open_connection(*self._inner)
        try:
            inner_writer.write(head)
            there = asyncio.ensure_future(_copy(reader, inner_writer))
            back = asyncio.ensure_future(_copy(inner_reader, writer))
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            for half in (there, back):
                half.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        finally:
            inner_writer.close()


async def _awaited(server: Awaitable[asyncio.Server]) -> asyncio.Server:
    return await server


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(1 << 18):
        writer.write(content)
        await writer.drain()


def _explained(error: OSError, host: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        return OSError(error.errno, f"port: {port} is taken on {host}; choose another one, or 0 for any that is free")
    if error.errno == errno.EACCES:
        return OSError(error.errno, f"port: {port} may not be used by this user; choose one from 1024 on")
    return OSError(error.errno, f"host: expected an address of this machine, got {host}: {error.strerror or error}")

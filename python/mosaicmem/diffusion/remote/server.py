"""The model's side: answers requests about its parts, one connection at a time.

Run as ``python -m mosaicmem.diffusion.remote MODULE:FACTORY``, it serves what ``FACTORY()`` returns on the socket whose
descriptor the environment variable MOSAICMEM_SOCKET names, as `RemoteModel.launch` does.
"""

from __future__ import annotations

import importlib
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mosaicmem.diffusion.protocols import MemoryContext
from mosaicmem.diffusion.remote.connection import Connection, ProtocolError
from mosaicmem.diffusion.remote.values import decode, encode

SOCKET = "MOSAICMEM_SOCKET"
PARTS = ("backbone", "vae", "text_encoder")
_METHODS = {
    "backbone": ("predict", "finish_window"),
    "vae": ("encode", "decode", "encode_image", "decode_chunk"),
    "text_encoder": ("encode",),
}
_FACTS = {
    "backbone": ("prediction_type", "patch", "uses_anchor", "uses_previous"),
    "vae": ("stride", "channels", "temporal"),
    "text_encoder": (),
}
_MOST_CONTEXTS = 2


def serve(address: str | Path, parts: Mapping[str, Any], *, ready: Callable[[], None] | None = None) -> None:
    """Serve a model's parts on a Unix socket, one client after another, until the process ends.

    Parameters
    ----------
    address : path
        Of the socket, which must not exist. Only this user may connect.
    parts : mapping
        ``backbone``, and optionally ``vae`` and ``text_encoder``.
    ready : callable, optional
        Called when clients may connect.
    """
    server = _Server(parts)
    with socket.socket(socket.AF_UNIX) as listening:
        mask = os.umask(0o177)
        try:
            listening.bind(str(address))
        finally:
            os.umask(mask)
        listening.listen(1)
        if ready is not None:
            ready()
        try:
            while True:
                end, _ = listening.accept()
                server.answer_all(Connection(end))
        finally:
            Path(address).unlink(missing_ok=True)


def main(factory: str) -> None:
    """Serve what a factory returns on the inherited socket."""
    end = socket.socket(fileno=int(os.environ.pop(SOCKET)))
    connection = Connection(end)
    try:
        module, _, name = factory.partition(":")
        parts = getattr(importlib.import_module(module), name or "make_parts")()
        server = _Server(parts)
    except BaseException as error:
        connection.send({**_failure(error), "number": 0}, [])
        raise
    connection.send({"value": None, "number": 0}, [])
    server.answer_all(connection)


class _Server:
    """Calls parts as asked. It keeps the contexts of the last windows, so that steps do not send them again."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        unknown = sorted(set(parts) - set(PARTS))
        if unknown or "backbone" not in parts:
            got = ", ".join(sorted(parts)) or "nothing"
            raise ValueError(f"parts: expected backbone, and maybe vae and text_encoder, got {got}")
        self._parts = dict(parts)
        self._all = list(parts.items())
        self._contexts: dict[int, MemoryContext] = {}

    def answer_all(self, connection: Connection) -> None:
        """Answer until the client closes the connection."""
        try:
            while True:
                request, views = connection.receive()
                given = [array.copy() for array in views]  # parts may keep them, and write to them
                arrays: list[Any] = []
                try:
                    answer = {"value": encode(self._answer(request, given), arrays)}
                except Exception as error:
                    answer, arrays = _failure(error), []
                connection.send({**answer, "number": request.get("number")}, arrays)
        except (EOFError, OSError, ProtocolError):
            pass  # the client has left, or is none: the next one may be
        finally:
            self._contexts.clear()
            connection.close()

    def _answer(self, request: Any, given: list[Any]) -> Any:
        if request["do"] == "describe":
            return [[name, type(part).__name__, self._facts(name), self._methods(name)] for name, part in self._all]
        part, method = request["part"], request["method"]
        if method not in self._methods(part):
            raise ValueError(f"{part} has no method {method!r:.40}")
        arguments = decode(request["arguments"], given)
        named = dict(zip(request["names"], decode(request["named"], given), strict=True))
        if "context" in request:
            arguments.append(self._context(request["context"], given))
        return getattr(self._parts[part], method)(*arguments, **named)

    def _context(self, told: Any, given: list[Any]) -> MemoryContext:
        """A window's context: a new one, or one that was sent before."""
        number = told["number"]
        if told["value"] is not None:
            context = decode(told["value"], given)
            while len(self._contexts) >= _MOST_CONTEXTS:
                del self._contexts[min(self._contexts)]
            self._contexts[number] = context
        context = self._contexts[number]
        return context.without_prompt() if told["unprompted"] else context

    def _facts(self, part: str) -> list[Any]:
        names = [name for name in _FACTS[part] if hasattr(self._parts[part], name)]
        return [[name, getattr(self._parts[part], name)] for name in names]

    def _methods(self, part: str) -> list[str]:
        return [name for name in _METHODS.get(part, ()) if callable(getattr(self._parts.get(part), name, None))]


def _failure(error: BaseException) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {"error": f"{type(error).__name__}: {error}"[:2000], "trace": trace[-20000:]}

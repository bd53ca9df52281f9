"""The pipeline's side: parts that forward every call to the model's process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import check_number
from mosaicmem._border import Call
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.diffusion.protocols import MemoryContext
from mosaicmem.diffusion.remote.connection import Connection, ProtocolError
from mosaicmem.diffusion.remote.server import SOCKET
from mosaicmem.diffusion.remote.values import decode, encode


class RemoteModelError(RuntimeError):
    """A call in the model's process failed, or the process ended, hung, or answered nonsense.

    Attributes
    ----------
    trace : str
        The traceback of the other process, if it raised an exception.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.trace)


class RemoteModel(Uncopied):
    """A model in another process: ``AutoregressivePipeline(config, **model.parts())``.

    After a failure of the process or the connection, every further call fails; launch or connect again. A failure that
    the model raises leaves it usable.

    Parameters
    ----------
    end : socket.socket
        Connected to a server.
    timeout : float
        Seconds that a call may take.
    process : subprocess.Popen, optional
        The server's, which `close` ends.

    Examples
    --------
    >>> model = RemoteModel.launch("my_model:make_parts", python="other-venv/bin/python")  # doctest: +SKIP
    """

    _instead = "launch or connect another one"

    def __init__(self, end: socket.socket, *, timeout: float, process: subprocess.Popen[bytes] | None = None) -> None:
        self._process = process
        self._connection = Connection(end)
        self._lock = ForkSafeLock(over_io=True)
        self._owner = os.getpid()  # a forked process would share the socket
        self._broken: str | None = None
        self._sent: MemoryContext | None = None  # the context that the server knows by the last number
        self._number = 0
        self._requests = 0
        try:
            self._timeout = _check_timeout(timeout)
            end.settimeout(self._timeout)
            if process is not None:
                self._receive("start")
            described = self._ask("describe", {"do": "describe"}, [])
            self._parts = {name: _PROXIES[name](self, *told) for name, *told in described}
        except BaseException:
            self.close()
            raise

    @classmethod
    def launch(
        cls,
        factory: str,
        *,
        python: str | Path = sys.executable,
        arguments: Sequence[str] = (),
        timeout: float = 600.0,
        cwd: str | Path | None = None,
    ) -> RemoteModel:
        """Start a process that serves what a function returns.

        Parameters
        ----------
        factory : str
            ``MODULE:FUNCTION``; the function takes nothing and returns a dict of parts (see `serve`). The module is
            found in ``cwd`` or among what that Python has installed, which must include mosaicmem.
        python : path
            The interpreter, of a virtual environment of the model's own, say.
        arguments : sequence of str
            Options for the interpreter.
        timeout : float
            Seconds that loading the model, and each call, may take.
        cwd : path, optional
            Of the process.
        """
        _check_timeout(timeout)  # before anything is started
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with theirs:
            try:
                process = subprocess.Popen(
                    [str(python), *arguments, "-m", "mosaicmem.diffusion.remote", factory],
                    env={**os.environ, SOCKET: str(theirs.fileno())},
                    pass_fds=[theirs.fileno()],
                    cwd=cwd,
                )
            except BaseException:
                ours.close()
                raise
        return cls(ours, timeout=timeout, process=process)

    @classmethod
    def connect(cls, address: str | Path, *, timeout: float = 600.0) -> RemoteModel:
        """Connect to a server that was started elsewhere (`serve`).

        Raises
        ------
        OSError
            Nobody listens there.
        """
        _check_timeout(timeout)
        end = socket.socket(socket.AF_UNIX)
        end.settimeout(timeout)
        try:
            end.connect(str(address))
        except BaseException:
            end.close()
            raise
        return cls(end, timeout=timeout)

    def parts(self) -> dict[str, Any]:
        """The parts that the process serves, as keyword arguments of `AutoregressivePipeline`."""
        return dict(self._parts)

    def close(self) -> None:
        """Disconnect, and end the process if this launched it."""
        self._broken = self._broken or "the connection was closed"
        self._connection.close()
        if self._process is not None and os.getpid() == self._owner:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, part: str, method: str, *arguments: Any, context: MemoryContext | None = None, **named: Any) -> Any:
        """Call a method of a part, and wait for its result.

        Raises
        ------
        RemoteModelError
            See the class.
        """
        with self._lock:
            arrays: list[Any] = []
            request: dict[str, Any] = {"do": "call", "part": part, "method": method, "names": list(named)}
            request["arguments"] = encode(list(arguments), arrays)
            request["named"] = encode(list(named.values()), arrays)
            if context is not None:
                request["context"] = self._described(context, arrays)
            return self._ask(f"{part}.{method}", request, arrays)

    def _described(self, context: MemoryContext, arrays: list[Any]) -> dict[str, Any]:
        """A context as a number if the server has it: contexts of one window share what is made once."""
        known = self._sent
        is_same = known is context
        is_branch = known is not None and known._made is context._made and not (context.prompt or len(context.text))
        if not (is_same or is_branch):
            self._number += 1
            self._sent = context
            return {"number": self._number, "value": encode(context, arrays), "unprompted": False}
        return {"number": self._number, "value": None, "unprompted": not is_same}

    def _ask(self, what: str, request: Any, arrays: list[Any]) -> Any:
        if self._broken is not None:
            raise RemoteModelError(f"{what}: {self._broken}; launch or connect again")
        if os.getpid() != self._owner:
            raise RemoteModelError(f"{what}: this process was forked from the one that has the model; launch its own")
        self._requests += 1
        try:
            self._connection.send({**request, "number": self._requests}, arrays)
        except OSError as error:
            raise self._broke(what, error) from None
        except BaseException:
            self._abandon()
            raise
        return self._receive(what)

    def _receive(self, what: str) -> Any:
        try:
            answer, arrays = self._connection.receive()
            if answer["number"] != self._requests:
                raise ProtocolError("the answer to another request")
            if "error" not in answer:  # copies: the next answer overwrites the memory
                return decode(answer["value"], [np.array(array) for array in arrays])
            failure = RemoteModelError(f"{what}: in the model's process: {answer['error']}", answer["trace"])
        except (EOFError, OSError, ProtocolError, ValueError, TypeError, KeyError) as error:
            raise self._broke(what, error) from None
        except BaseException:
            self._abandon()
            raise
        raise failure

    def _abandon(self) -> None:
        """A call was interrupted: what the socket still holds belongs to it."""
        self._broken = "a call was interrupted"
        self._end()

    def _broke(self, what: str, error: Exception) -> RemoteModelError:
        """What to raise when the process or the connection has failed; nothing can be asked afterwards."""
        if isinstance(error, TimeoutError):
            why = f"no answer within {self._timeout:g} s: it hangs, or needs a larger timeout"
        elif isinstance(error, (EOFError, OSError)):
            why = self._how_it_ended()
        else:
            why = f"an answer that is none: {error}"
        self._broken = why
        self._end()
        return RemoteModelError(f"{what}: {why}")

    def _end(self) -> None:
        self._sent = None
        self._connection.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "the model's process has closed the connection"
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "the model's process has closed the connection"
        if code < 0:
            return f"the model's process was ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
        return f"the model's process ended with code {code}; what it printed says why"


def _check_timeout(timeout: float) -> float:
    return check_number("timeout", timeout, above=0.0, maximum=1e6)


class _Proxy:
    """A part whose methods are calls."""

    _part = ""

    def __init__(self, model: RemoteModel, kind: str, facts: list[Any], methods: Sequence[str]) -> None:
        self._model = model
        self.part_name = kind  # of the class in the model's process, which checkpoints compare
        self.__dict__.update(dict(facts))
        if "finish_window" in methods:
            self.finish_window = self._finish_window
        if "decode_chunk" in methods:
            self.decode_chunk = self._decode_chunk

    def _finish_window(self, latents: Any, context: MemoryContext) -> None:
        self._model.call(self._part, "finish_window", latents, context=context)

    def _decode_chunk(self, latents: Any, num_frames: int, *, first: bool) -> Any:
        return self._model.call(self._part, "decode_chunk", latents, num_frames, first=first)


def _there(reference: Any, answer: Any) -> Any:
    """An array of an answer, on the device of one that was sent; anything else as it is, for the pipeline to refuse."""
    if not isinstance(answer, np.ndarray) or isinstance(reference, np.ndarray):
        return answer
    return Call("sample", reference, 0).there(answer)


class RemoteBackbone(_Proxy):
    """The backbone of a remote model."""

    _part = "backbone"
    prediction_type: str

    def predict(self, sample: Any, timestep: float, context: MemoryContext) -> Any:
        """See `DiffusionBackbone`."""
        return _there(sample, self._model.call(self._part, "predict", sample, timestep, context=context))


class RemoteVAE(_Proxy):
    """The VAE of a remote model."""

    _part = "vae"

    def encode(self, video: Any) -> Any:
        """See `VAE`."""
        return _there(video, self._model.call(self._part, "encode", video))

    def decode(self, latents: Any, num_frames: int) -> Any:
        """See `VAE`."""
        return self._model.call(self._part, "decode", latents, num_frames)

    def encode_image(self, image: Any) -> Any:
        """See `VAE`."""
        return self._model.call(self._part, "encode_image", image)


class RemoteTextEncoder(_Proxy):
    """The text encoder of a remote model."""

    _part = "text_encoder"

    def encode(self, prompt: str) -> Any:
        """See `TextEncoder`."""
        return self._model.call(self._part, "encode", prompt)


_PROXIES = {"backbone": RemoteBackbone, "vae": RemoteVAE, "text_encoder": RemoteTextEncoder}

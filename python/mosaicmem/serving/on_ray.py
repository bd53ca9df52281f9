"""Sessions on a pool of Ray actors, each session on the actor that its id says."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from mosaicmem._arrays import ArrayLike, check_integer
from mosaicmem._copies import Uncopied
from mosaicmem._extras import running_ray
from mosaicmem._files import make_folder
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import MemoryContext
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.pipeline import AutoregressivePipeline
from mosaicmem.serving.session_folder import folder_name
from mosaicmem.serving.sessions import MemorySessions, SessionStatistics


class RayMemorySessions(Uncopied):
    """`MemorySessions` on Ray actors: more memory and cores than one process has.

    An actor that dies is started again by Ray: its sessions begin at their last snapshots, if ``folder`` outlives it;
    calls in progress raise ``ray.exceptions.RayActorError``.

    Parameters
    ----------
    folder : path
        Each actor has a folder in it, on the machine where it runs.
    make_pipeline : callable
        Makes the pipeline of an actor, in its process.
    actors : int
        Keep it: with another number, ids say other actors.
    max_bytes : int
        Of each actor.
    session_bytes : int, optional
    threads : int
        Calls that an actor serves at once.
    **options
        Of the actors: ``num_cpus``, ``num_gpus``, ``resources``, ...

    Raises
    ------
    ModuleNotFoundError
        Ray is not installed.
    """

    _instead: ClassVar[str] = "make another one of another folder"

    def __init__(
        self,
        folder: str | Path,
        make_pipeline: Callable[[], AutoregressivePipeline],
        *,
        actors: int,
        max_bytes: int,
        session_bytes: int | None = None,
        threads: int = 4,
        **options: Any,
    ) -> None:
        self._ray = running_ray("RayMemorySessions")
        check_integer("actors", actors, minimum=1)
        kind = self._ray.remote(_Actor).options(
            max_concurrency=check_integer("threads", threads, minimum=1), max_restarts=-1, **options
        )
        places = [Path(folder).absolute() / f"actor-{i}" for i in range(actors)]
        self._actors = [kind.remote(place, make_pipeline, max_bytes, session_bytes) for place in places]
        self._ray.get([actor.statistics.remote() for actor in self._actors])  # raises what their beginning raised

    def open(self, session: str) -> RaySession:
        """The session of an id, on its actor; as `MemorySessions.open`."""
        actor = self._actor_of(session)
        self._ray.get(actor.open.remote(session))
        return RaySession(self, session)

    def saved(self) -> list[str]:
        """The ids of all sessions with a snapshot."""
        return sorted(id for ids in self._ray.get([actor.saved.remote() for actor in self._actors]) for id in ids)

    def statistics(self) -> list[SessionStatistics]:
        """Of each actor."""
        found: list[SessionStatistics] = self._ray.get([actor.statistics.remote() for actor in self._actors])
        return found

    def close(self) -> None:
        """End all sessions and actors."""
        self._ray.get([actor.close.remote() for actor in self._actors])
        for actor in self._actors:
            self._ray.kill(actor)

    def __enter__(self) -> RayMemorySessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _actor_of(self, session: str) -> Any:
        folder_name(session)
        digest = hashlib.sha256(session.encode()).digest()
        return self._actors[int.from_bytes(digest[:8], "little") % len(self._actors)]

    def _call(self, session: str, method: str, *args: Any, **options: Any) -> Any:
        return self._ray.get(self._actor_of(session).call.remote(session, method, args, options))


class RaySession:
    """A `MemorySession` on an actor, with the same methods; each waits for its answer, so threads call at once.

    Attributes
    ----------
    id : str
    """

    def __init__(self, sessions: RayMemorySessions, session: str) -> None:
        self.id, self._sessions = session, sessions

    def observe(
        self, image: ArrayLike, depth: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, **options: Any
    ) -> None:
        """See `MemorySession.observe`."""
        self._sessions._call(self.id, "observe", image, depth, intrinsics, pose, **options)

    def remember(
        self, image: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, *, depth: ArrayLike | None = None
    ) -> None:
        """See `MemorySession.remember`."""
        self._sessions._call(self.id, "remember", image, intrinsics, pose, depth=depth)

    def context(self, cameras: CameraTrajectory, *, window: int = 0) -> MemoryContext:
        """See `MemorySession.context`."""
        made: MemoryContext = self._sessions._call(self.id, "context", cameras, window=window)
        return made

    def fork(self, session: str) -> RaySession:
        """See `MemorySession.fork`; the new session is on the actor that its own id says."""
        source, target = (self._sessions._actor_of(id) for id in (self.id, session))
        if source is target:
            self._sessions._ray.get(source.fork.remote(self.id, session))
        else:
            self._sessions._ray.get(target.receive.remote(session, source.send.remote(self.id)))
        return RaySession(self._sessions, session)

    def snapshot(self) -> None:
        """See `MemorySession.snapshot`."""
        self._sessions._call(self.id, "snapshot")

    def restore(self) -> None:
        """See `MemorySession.restore`."""
        self._sessions._call(self.id, "restore")

    def close(self, *, forget: bool = False) -> None:
        """See `MemorySession.close`."""
        self._sessions._call(self.id, "close", forget=forget)


class _Actor:
    """The sessions of one process."""

    def __init__(
        self, folder: Path, make_pipeline: Callable[[], AutoregressivePipeline], max_bytes: int, each: int | None
    ) -> None:
        make_folder(folder)
        self._sessions = MemorySessions(folder, make_pipeline(), max_bytes=max_bytes, session_bytes=each)

    def open(self, session: str) -> None:
        self._sessions.open(session)

    def call(self, session: str, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if session not in self._sessions:
            raise ValueError(f"session {session!r} is not open here: RayMemorySessions.open begins it, at its snapshot")
        return getattr(self._sessions.open(session), method)(*args, **options)

    def fork(self, session: str, other: str) -> None:
        self._sessions.open(session).fork(other)

    def send(self, session: str) -> dict[str, bytes]:
        """The files of a session's memory, saved."""
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder, "store")

            def save(store: MosaicMemoryStore) -> None:
                copy = store.fork()
                copy.save(saved)
                copy.close()

            self._sessions.open(session).with_store(save)
            return {path.name: path.read_bytes() for path in saved.iterdir() if path.name != "lock"}

    def receive(self, session: str, files: dict[str, bytes]) -> None:
        """Begin a session with the memory in these files."""
        folder = Path(tempfile.mkdtemp())
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            store = MosaicMemoryStore.open(folder)
            self._sessions._begin(session, store)
        finally:
            shutil.rmtree(folder)  # what the store has mapped stays until it lets go

    def saved(self) -> list[str]:
        return self._sessions.saved()

    def statistics(self) -> SessionStatistics:
        return self._sessions.statistics()

    def close(self) -> None:
        self._sessions.close()

"""Processes that work on tasks: one that dies is replaced, and its task is tried again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from mosaicmem.scale.builder import OutputError, Task

_TRIES = 3  # of a task whose process dies
_NOWHERE = (-1, -1)  # in place of a group and a sequence


class Work(Protocol):
    """What a process does; it is pickled to get there."""

    def prepare(self) -> None:
        """Once per process, before the first task."""

    def __call__(self, task: Task, at: Callable[[int], None]) -> Any:
        """Work on a task, telling ``at`` which sequence is next. Only an `OutputError` may be raised."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    life: Connection  # closed when this process ends, however it ends: the worker then ends too
    task: Task | None = None
    is_ready: bool = False
    at: int | None = None  # the sequence that it works on


def run_in_processes(work: Work, tasks: Iterable[Task], count: int, threads: int) -> Iterator[tuple[Task, Any]]:
    """Each task and its result, in the order in which they are done.

    A process that dies is replaced, and its task begins anew; after three deaths at the same sequence, without it.

    Parameters
    ----------
    work : Work
    tasks : iterable of Task
        Taken one by one, as processes become free.
    count : int
        Of processes.
    threads : int
        Of each, for kernels and for torch.

    Raises
    ------
    ValueError
        ``work`` cannot be prepared.
    RuntimeError
        Processes die before they have begun.
    OutputError
    """
    waiting = iter(tasks)
    deaths: Counter[tuple[int, int]] = Counter()
    workers: list[_Worker] = []
    try:
        while len(workers) < count and (task := next(waiting, None)) is not None:
            workers.append(_started(work, threads, task))
        while any(worker.task for worker in workers):
            for worker in _ready(workers):
                assert worker.task is not None
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    workers.append(_started(work, threads, _after_death(worker, deaths)))
                    continue
                if kind == "ready":
                    worker.is_ready = True
                    deaths[_NOWHERE] = 0
                elif kind == "at":
                    worker.at = value
                else:
                    _raise_if_failed(kind, value)
                    yield worker.task, value
                    worker.task = worker.at = None
                    if (task := next(waiting, None)) is not None:
                        _give(worker, task)
    finally:
        for worker in workers:
            worker.life.close()
            worker.pipe.close()
        for worker in workers:
            worker.process.join()


def _after_death(worker: _Worker, deaths: Counter[tuple[int, int]]) -> Task:
    """The task to begin anew, without the sequence at which processes have died too often."""
    died, task = _end_of(worker), worker.task
    assert task is not None
    if worker.at is None:
        deaths[_NOWHERE] += 1
        if deaths[_NOWHERE] < _TRIES:
            return task
        when = "before it began a sequence" if worker.is_ready else "before it was ready"
        raise RuntimeError(
            f"{_TRIES} processes of the build in turn died {when}, the last of {died}; a script that calls build "
            'must do so under if __name__ == "__main__", and the VAE of each process must fit into memory'
        )
    deaths[task.number, worker.at] += 1
    if deaths[task.number, worker.at] < _TRIES:
        return task
    reason = f"{_TRIES} processes that worked on it have died, the last of {died}"
    return replace(task, given_up=(*task.given_up, (worker.at, reason)))


def _started(work: Work, threads: int, task: Task) -> _Worker:
    context = multiprocessing.get_context("spawn")
    pipe, its_pipe = context.Pipe()
    its_life, life = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, its_pipe, its_life, threads), daemon=True)
    process.start()
    its_pipe.close()
    its_life.close()
    worker = _Worker(process, pipe, life)
    _give(worker, task)
    return worker


def _give(worker: _Worker, task: Task) -> None:
    worker.task = task
    with suppress(ConnectionError):  # it has died, which is seen when its answer is read
        worker.pipe.send(task)


def _ready(workers: list[_Worker]) -> list[_Worker]:
    """The workers that have answered, or died."""
    busy = {worker.pipe: worker for worker in workers if worker.task is not None}
    return [busy[pipe] for pipe in wait(list(busy)) if isinstance(pipe, Connection)]


def _end_of(worker: _Worker) -> str:
    worker.life.close()
    worker.pipe.close()
    worker.process.join()
    code = worker.process.exitcode
    if code == -signal.SIGKILL:
        return "signal 9, as the system sends it when memory runs out"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _raise_if_failed(kind: str, value: Any) -> None:
    if kind == "unprepared":
        raise ValueError(value)
    if kind == "no output":
        raise OutputError(*value)
    if kind == "bug":
        raise RuntimeError(f"a process of the build failed: {value}")


def _serve(work: Work, pipe: Connection, life: Connection, threads: int) -> None:
    """Of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process decides
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    limit_threads(threads)
    with suppress(EOFError, ConnectionError):  # the first process wants no more
        failure = _prepared(work)
        if failure is None:
            pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            pipe.send(("unprepared", failure) if failure else _answer(work, task, lambda at: pipe.send(("at", at))))


def _prepared(work: Work) -> str | None:
    """Why the work cannot be prepared; None if it can."""
    try:
        work.prepare()
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def _answer(work: Work, task: Task, at: Callable[[int], None]) -> tuple[str, Any]:
    try:
        return "done", work(task, at)
    except OutputError as error:
        return "no output", error.args
    except Exception as error:
        return "bug", f"{type(error).__name__}: {error}"


def limit_threads(threads: int) -> None:
    """Of this process, for kernels and for torch."""
    import torch

    os.environ["MOSAICMEM_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _end_with(life: Connection) -> None:
    """End this process at once when the first one has ended, whatever it is doing: what is not written is not done."""
    wait([life])
    os._exit(1)

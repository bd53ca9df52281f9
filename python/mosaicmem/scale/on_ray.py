"""A build on Ray Data: encoders stream what they have encoded to processes that write it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np

from mosaicmem._extras import running_ray
from mosaicmem.scale.builder import Builder, OutputError, Task
from mosaicmem.scale.workers import limit_threads

_TRIES = 3  # of a task whose process dies


def run_on_ray(
    builder: Builder, tasks: list[Task], count: int, threads: int, gpus: float
) -> Iterator[tuple[Task, Any]]:
    """Each task and its record, in the order in which they are done.

    Encoders are actors, each with its VAE and ``gpus`` GPUs; what they encode goes through Ray's object store, which
    holds them back when the writers, tasks on CPUs, do not keep up. Ray itself repeats what dies, a few times; a
    sequence that kills its encoder each time ends the build, and the backend ``local`` then gives it up.

    Parameters
    ----------
    count : int
        Of encoders at most; 0: as many as the cluster's GPUs or, without ``gpus``, half of its CPUs hold.
    threads : int
        CPUs of each encoder and writer.
    """
    ray = running_ray("backend: ray")
    most = count or _most(ray.cluster_resources(), threads, gpus)
    by_number = {task.number: task for task in tasks}
    rows = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    one: dict[str, Any] = {"batch_size": 1, "batch_format": "numpy"}
    actors = ray.data.ActorPoolStrategy(min_size=1, max_size=most)
    resources = {"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_cpus": threads}
    lives = {"max_restarts": -1, "max_task_retries": _TRIES - 1}
    encoded = rows.map_batches(
        _Encoder, compute=actors, fn_constructor_args=(builder, threads), **one, **lives, **resources
    )
    written = encoded.map_batches(_write, num_cpus=threads, fn_args=(builder, threads), **one)
    for row in written.iter_rows():
        kind, value = pickle.loads(row["answer"])
        if kind == "no output":
            raise OutputError(*value)
        if kind == "unprepared":
            raise ValueError(value)
        yield by_number[value["group"]], value


def _most(resources: dict[str, float], threads: int, gpus: float) -> int:
    has = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1) / (2 * threads)
    return max(1, math.floor(has))


class _Encoder:
    """An actor that encodes."""

    def __init__(self, builder: Builder, threads: int) -> None:
        limit_threads(threads)
        self._builder = builder
        self._failure: str | None = None
        try:
            builder.prepare()
        except Exception as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        task = pickle.loads(batch["task"][0])
        made: tuple[str, Any] = ("unprepared", self._failure)
        if self._failure is None:
            try:
                made = ("encoded", self._builder.encode(task))
            except OutputError as error:
                made = ("no output", error.args)
        return {"task": batch["task"], "encoded": _objects(pickle.dumps(made, protocol=5))}


def _write(batch: dict[str, Any], builder: Builder, threads: int) -> dict[str, Any]:
    limit_threads(threads)
    kind, value = pickle.loads(batch["encoded"][0])
    if kind == "encoded":
        try:
            kind, value = "done", builder.write(pickle.loads(batch["task"][0]), value)
        except OutputError as error:
            kind, value = "no output", error.args
    return {"answer": _objects(pickle.dumps((kind, value)))}


def _objects(value: Any) -> Any:
    """A column of one object."""
    column = np.empty(1, object)
    column[0] = value
    return column

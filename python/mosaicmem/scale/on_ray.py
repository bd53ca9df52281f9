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


def run_on_ray(
    builder: Builder, tasks: list[Task], count: int, threads: int, gpus: float
) -> Iterator[tuple[Task, Any]]:
    """Each task and its record, in the order in which they are done.

    Encoders are actors, each with its VAE and ``gpus`` GPUs; what they encode goes through Ray's object store, which
    holds them back when the writers, tasks on CPUs, do not keep up. Ray itself repeats what dies.

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
    encoder = {
        "fn_constructor_args": (builder, threads),
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most),
    }
    resources = {"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_cpus": threads}
    encoded = rows.map_batches(_Encoder, batch_size=1, batch_format="numpy", **encoder, **resources)
    written = encoded.map_batches(
        _write, batch_size=1, batch_format="numpy", num_cpus=threads, fn_args=(builder, threads)
    )
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
        self._builder, self._failure = builder, None
        try:
            builder.prepare()
        except Exception as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        task = pickle.loads(batch["task"][0])
        made = ("unprepared", self._failure) if self._failure else ("encoded", self._builder.encode(task))
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

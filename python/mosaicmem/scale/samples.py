"""A training sample as members of a WebDataset tar file, and back."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._json import decode_json, parse_json
from mosaicmem._numpy_files import read_data, read_header
from mosaicmem.attention import WarpedRoPE
from mosaicmem.errors import FormatError
from mosaicmem.models.memory_arrays import arrays_of, batch_of

_REDUCED = ("latents.npy", "memory.latents.npy", "memory.canvas.npy")  # of the dtype that the build asks for
_PLAIN = ("latents", "camera_from_world", "intrinsics")
_FACTS = ("prompt", "sequence", "start")


def members_of(sample: dict[str, Any], dtype: str, about: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The members of a sample of `RevisitDataset` by extension; ``about`` is kept beside its other facts."""
    arrays, facts = arrays_of(sample["memory"])
    named = {f"{name}.npy": sample[name].numpy() for name in _PLAIN}
    named |= {f"memory.{name}.npy": array for name, array in arrays.items()}
    for name, array in sorted(named.items()):
        yield name, _npy(array.astype(dtype) if name in _REDUCED else array)
    known = {name: sample[name] for name in _FACTS} | about | {"memory": facts}
    yield "json", json.dumps(known, sort_keys=True, allow_nan=False).encode()


def sample_of(where: str, content: bytearray, rope: WarpedRoPE) -> dict[str, Any]:
    """The sample whose members are ``content``, a part of a tar file; ``where`` names it in errors.

    Raises
    ------
    FormatError
        It is damaged, or no sample.
    """
    members = dict(_members_in(where, content))
    try:
        facts = parse_json(where, decode_json(where, bytes(members["json"])))
        named = {name: _array(where, name, members[f"{name}.npy"]) for name in _PLAIN}
        memory = {
            name.removeprefix("memory.").removesuffix(".npy"): _array(where, name, part)
            for name, part in members.items()
            if name.startswith("memory.")
        }
        batch = batch_of({name: _single(array) for name, array in memory.items()}, facts["memory"], rope)
        tensors = {name: torch.from_numpy(_single(array)) for name, array in named.items()}
        return {**tensors, "memory": batch, **{name: facts[name] for name in _FACTS}}
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise FormatError(where, f"damaged: no sample of a build: {type(error).__name__}: {error}") from None


def _members_in(where: str, content: bytearray) -> Iterator[tuple[str, memoryview]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                if not member.isfile() or member.size < 0:  # with a negative size, the same member would come again
                    raise FormatError(where, f"{member.name!r:.80}: expected a regular file")
                end = member.offset_data + member.size
                if end > len(content):
                    raise FormatError(where, f"{member.name!r:.80}: cut off")
                yield member.name.partition(".")[2], memoryview(content)[member.offset_data : end]
    except tarfile.TarError as error:
        raise FormatError(where, f"damaged: no tar file: {error}") from None


def _array(where: str, name: str, content: memoryview) -> NDArray[Any]:
    file = io.BytesIO(content)
    return read_data(where, file, read_header(where, file, name), name)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """float16 as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else array

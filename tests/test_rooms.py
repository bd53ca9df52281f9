"""Arrows between the rooms of the code point one way: a room includes or imports what stands before it, and itself."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE_ROOMS = ("base", "simd", "geometry", "attention", "memory", "published", "bindings")

pytestmark = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="not a checkout")


def core_sources():
    return sorted(
        path
        for part in ("cpp", "cuda")
        for path in (ROOT / part).rglob("*")
        if path.suffix in (".cpp", ".hpp", ".cu", ".cuh", ".inl")
    )


def wrong_includes(part, room, text):
    """What a file of a room may not include."""
    wrong = []
    for path in re.findall(r'^#include "(.+)"', text, re.MULTILINE):
        other_part, _, rest = path.partition("/")
        other_room = rest.partition("/")[0]
        if (
            other_part not in ("cpp", part)
            or other_room not in CORE_ROOMS
            or CORE_ROOMS.index(other_room) > CORE_ROOMS.index(room)
        ):
            wrong.append(path)
    if room != "bindings":
        wrong += re.findall(r"^#include <(pybind11.*|Python\.h|numpy.*)>", text, re.MULTILINE)
    return wrong


@pytest.mark.parametrize("path", core_sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_includes_of_the_core(path):
    part, room = path.relative_to(ROOT).parts[:2]
    assert room in CORE_ROOMS
    assert wrong_includes(part, room, path.read_text()) == []


@pytest.mark.parametrize(
    "include",
    ['"cpp/memory/box.hpp"', '"cuda/base/launch.cuh"', "<pybind11/numpy.h>", '"half.hpp"', '"../base/half.hpp"'],
)
def test_a_wrong_include_is_found(include):
    assert wrong_includes("cpp", "geometry", f'#include "cpp/base/half.hpp"\n#include {include}\n')

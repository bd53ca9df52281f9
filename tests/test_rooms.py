"""Dependencies between the rooms of the code point one way: a room includes or imports itself and earlier rooms."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "mosaicmem"
HELPERS = "helpers"  # modules directly in the package: those with an underscore, and a few small ones
PYTHON_ROOMS = (
    *(HELPERS, "_border", "camera", "synthetic", "geometry", "datasets", "attention", "memory", "diffusion"),
    *("plots", "pipeline", "models", "published", "importing", "serving", "scale", "evaluation", "viewer", "cli"),
)
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


def python_room(name):
    """The room of a module of the package, by the first part of its name."""
    return name if name in PYTHON_ROOMS else HELPERS


def wrong_imports(room, text):
    """What a module of a room may not import, at its top or within a function."""
    wrong = []
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "mosaicmem":
            names = [f"mosaicmem.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "mosaicmem" and rest:
                other = python_room(rest.partition(".")[0])
                if PYTHON_ROOMS.index(other) > PYTHON_ROOMS.index(room):
                    wrong.append(name)
    return wrong


def python_sources():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("path", python_sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_of_the_package(path):
    room = python_room(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    assert wrong_imports(room, path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    ["from mosaicmem.memory import Mosaic", "from mosaicmem import pipeline", "def f():\n    import mosaicmem.cli"],
)
def test_a_wrong_import_is_found(line):
    assert wrong_imports("attention", f"from mosaicmem.camera import CameraPose\n{line}\n") != []

"""Arrays and numbers at the border: which are accepted, copied or refused."""

import subprocess
import sys

import numpy as np
import pytest

from mosaicmem import (
    CameraIntrinsics,
    unproject_depth,
)
from mosaicmem._arrays import as_array, check_integer, check_number, check_threads

K = CameraIntrinsics.from_fov(16, 8, fov_x=1.0)


def test_contiguous_float32_is_not_copied():
    array = np.ones((3, 4), dtype=np.float32)
    assert as_array("x", array, np.float32, ("N", 4)) is array


def test_strided_and_other_dtypes_are_copied():
    assert as_array("x", np.ones((4, 3)).T, np.float32, (3, 4)).flags.c_contiguous


@pytest.mark.parametrize("value", [object(), ["a", "b"], [[1, 2], [3]], None, {"x": 1}])
def test_what_is_no_array_is_a_type_error(value):
    with pytest.raises(TypeError, match="depth: expected"):
        unproject_depth(value, K)


def test_numbers():
    assert check_number("x", np.float32(1.5)) == 1.5
    for bad in ("1", True, [1], None):
        with pytest.raises(TypeError, match="x: expected a number"):
            check_number("x", bad)
    for bad in (1.0, True, "1"):
        with pytest.raises(TypeError, match="n: expected an integer"):
            check_integer("n", bad)


def test_integers_do_not_wrap():
    with pytest.raises(ValueError, match=r"color: expected values in \[0, 255\], got 0 to 300"):
        as_array("color", np.array([0, 300]), np.uint8, (2,))


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="masked"):
        unproject_depth(np.ma.masked_less(np.ones((8, 16)), 0), K)


@pytest.mark.parametrize("value", ["abc", "-3", "4x", "1.5", "99999999"])
def test_bad_thread_counts_in_the_environment_are_named(monkeypatch, value):
    monkeypatch.setenv("MOSAICMEM_NUM_THREADS", value)
    with pytest.raises(ValueError, match="MOSAICMEM_NUM_THREADS: expected an integer from 0 to 1024"):
        unproject_depth(np.ones((8, 16)), K)


def test_the_environment_sets_the_threads(monkeypatch):
    monkeypatch.setenv("MOSAICMEM_NUM_THREADS", "3")
    assert check_threads(0) == 3
    assert check_threads(2) == 2


def test_torch_and_command_line_are_not_imported():
    code = (
        "import sys, mosaicmem; "
        "heavy = {'torch', 'typer', 'rich', 'matplotlib', 'av'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

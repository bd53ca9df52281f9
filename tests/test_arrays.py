"""Arrays at the border: kinds in, kinds out."""

import subprocess
import sys

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, WarpedRoPE, attention, depth_to_grid, unproject_depth
from mosaicmem._arrays import as_array, check_integer, check_number

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


def test_torch_in_torch_out(rng):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rng.standard_normal((2, 3, 5, 12)).astype(np.float32))
    positions = torch.zeros(5, 3)
    for result in (
        WarpedRoPE(12).apply(x, positions),
        attention(x, x, x),
        depth_to_grid(torch.ones(8, 16), 4),
        unproject_depth(torch.ones(8, 16), K)[0],
    ):
        assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(attention(x, x, x).numpy(), attention(x.numpy(), x.numpy(), x.numpy()))


def test_torch_and_command_line_are_not_imported():
    code = (
        "import sys, mosaicmem; "
        "heavy = {'torch', 'typer', 'rich', 'matplotlib', 'av', 'plyfile'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

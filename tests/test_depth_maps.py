"""Depth maps in the files of other tools."""

import struct

import numpy as np
import pytest
from PIL import Image

from mosaicmem import FormatError
from mosaicmem._depth_maps import read_depth_map, read_packed_depth

SHAPE = (6, 9)


@pytest.fixture
def metres(rng):
    depth = rng.uniform(0.5, 9, SHAPE).astype(np.float32)
    depth[2, 3] = 0
    return depth


def write_npz(path, depth):
    np.savez_compressed(path, other=np.arange(3), depth=depth)


def write_pfm(path, depth, order="<"):
    scale = b"-1.0" if order == "<" else b"1.0"
    path.write_bytes(b"Pf\n9 6\n" + scale + b"\n" + depth[::-1].astype(f"{order}f4").tobytes())


def write_colmap(path, depth):
    path.write_bytes(b"9&6&1&" + b"".join(struct.pack("<f", value) for row in depth for value in row))


def write_exr(path, depth):
    exr = pytest.importorskip("OpenEXR")
    with exr.File({"compression": exr.ZIP_COMPRESSION}, {"Z": depth}) as file:
        file.write(str(path))


WRITERS = {
    ".npy": np.save,
    ".npz": write_npz,
    ".pfm": write_pfm,
    ".bin": write_colmap,
    ".tiff": lambda path, depth: Image.fromarray(depth).save(path),
    ".exr": write_exr,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_floating_point_files_hold_metres(tmp_path, metres, suffix):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, metres)
    read = read_depth_map(path, 1000.0)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, metres)


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_is_no_distance_is_unknown(tmp_path, metres, suffix):
    metres[0, :4] = np.nan, np.inf, -np.inf, -2
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, metres)
    read = read_depth_map(path, 1000.0)
    assert (read[0, :4] == 0).all()
    np.testing.assert_array_equal(read[1:], metres[1:])


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
def test_integer_files_hold_units(tmp_path, rng, suffix):
    units = rng.integers(1, 60000, SHAPE).astype(np.uint16)
    units[0, 0], units[0, 1] = 65535, 0
    path = tmp_path / f"a{suffix}"
    np.save(path, units) if suffix == ".npy" else Image.fromarray(units).save(path)
    read = read_depth_map(path, 5000.0, invalid=65535)
    assert read[0, 0] == read[0, 1] == 0
    np.testing.assert_allclose(read[1:], units[1:] / 5000, rtol=2e-7)


def test_a_big_endian_pfm(tmp_path, metres):
    write_pfm(tmp_path / "a.pfm", metres, ">")
    np.testing.assert_array_equal(read_depth_map(tmp_path / "a.pfm", 1.0), metres)


def test_float32_packed_in_a_png(tmp_path, metres):
    blue, green, red, alpha = np.moveaxis(metres.view(np.uint8).reshape(*SHAPE, 4), -1, 0)
    Image.fromarray(np.stack([red, green, blue, alpha], axis=-1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_packed_depth(tmp_path / "a.png"), metres)


@pytest.mark.parametrize("suffix", WRITERS)
def test_half_a_file(tmp_path, metres, suffix):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, metres)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FormatError, match=str(path)):
        read_depth_map(path, 1000.0)


WRONG = [
    ("a.pfm", b"PF\n9 6\n-1\n" + bytes(648), r"one channel \(Pf\)"),
    ("a.pfm", b"Pf\n99999 99999\n-1\n", "expected 1 to 67108864 pixels"),
    ("a.bin", b"9&6&3&" + bytes(648), "a normal map"),
    ("a.bin", b"9&6&1&" + bytes(300), "expected 216 bytes of pixels, got more"),
    ("a.jpg", b"", "expected depth as one of .png, .npy"),
    ("a.npy", b"\x93NUMPY", "not a .npy array"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_files_that_are_no_depth(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_depth_map(tmp_path / name, 1000.0)


def test_an_archive_without_depth(tmp_path):
    np.savez(tmp_path / "a.npz", flow=np.zeros(SHAPE))
    with pytest.raises(FormatError, match=r"expected depth in one of depth, depths.*, got flow"):
        read_depth_map(tmp_path / "a.npz", 1.0)


def test_a_missing_file_is_named_with_its_image(tmp_path):
    with pytest.raises(FormatError, match=r"0\.npy: missing, though 0\.jpg is there"):
        read_depth_map(tmp_path / "0.npy", 1.0, beside=tmp_path / "0.jpg")

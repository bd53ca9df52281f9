"""Precomputed depth in files, one per frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F32, as_array, check_number
from mosaicmem._images import read_depth
from mosaicmem._numpy_files import read_data, read_header
from mosaicmem._opening import check_growth, file_size, open_file
from mosaicmem._reading import check_folder, in_name_order
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.errors import FormatError, suspect


class DepthFromFiles:
    """Reads the depth of each frame from the file with the frame's timestamp.

    Parameters
    ----------
    files : sequence of paths
        16-bit PNG images, or ``.npy`` arrays (H, W) of floating-point metres.
    timestamps : sequence of float
        Seconds, one per file, ascending.
    units_per_metre : float
        Of PNG files; 1000 means millimetres. Pixels of 0 and 65535 are invalid there.
    max_difference : float
        Maximum difference between the times of a frame and its file, seconds.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        timestamps: Sequence[float],
        *,
        units_per_metre: float = 1000.0,
        max_difference: float = 1e-3,
    ) -> None:
        self.files = [Path(file) for file in files]
        self.timestamps = as_array("timestamps", list(timestamps), np.float64, (len(self.files),), finite=True)
        if not self.files:
            raise ValueError("files: expected at least one, got none")
        if (np.diff(self.timestamps) <= 0).any():
            raise ValueError("timestamps: expected ascending times")
        self.units_per_metre = check_number("units_per_metre", units_per_metre, above=0.0)
        self.max_difference = check_number("max_difference", max_difference, minimum=0.0)

    @classmethod
    def in_folder(
        cls,
        folder: str | Path,
        timestamps: Sequence[float],
        *,
        units_per_metre: float = 1000.0,
        max_difference: float = 1e-3,
    ) -> DepthFromFiles:
        """Use the ``.png`` and ``.npy`` files of a folder in the order of their names, one per timestamp.

        Names sort in natural order, as everywhere in this library: ``2.npy`` before ``10.npy``.

        Raises
        ------
        FileNotFoundError
            There is no such folder.
        FormatError
            It is a file, does not hold one file per timestamp, or holds a frame twice.

        Warns
        -----
        SuspiciousInput
            The order of the names is ambiguous, or they seem to belong to several series.
        """
        folder = check_folder(folder, "give the folder of depth images, .png or .npy, one a frame")
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
        names = [path.name for path in paths if path.suffix.lower() in (".png", ".npy")]
        if len(names) != len(timestamps):
            others = sorted(path.name for path in paths if path.name not in names)
            also = f"; {others[0]} is neither" if others else ""
            raise FormatError(
                folder, f"expected {len(timestamps)} .png or .npy files, one a timestamp, got {len(names)}{also}"
            )
        names = in_name_order(names, str, folder)
        _check_series(folder, names)
        files = [folder / name for name in names]
        return cls(files, timestamps, units_per_metre=units_per_metre, max_difference=max_difference)

    def estimate(self, image: F32, intrinsics: CameraIntrinsics, pose: CameraPose, known_depth: F32) -> F32:
        """Depth (H, W) float32, metres, 0 where the file has none; ignores the image and the known depth.

        Raises
        ------
        ValueError
            No file matches the time of this frame.
        FormatError
            The file is missing, damaged, or of another size than the image.
        """
        nearest = int(np.abs(self.timestamps - pose.timestamp).argmin())
        difference = abs(float(self.timestamps[nearest]) - pose.timestamp)
        if difference > self.max_difference:
            raise ValueError(
                f"timestamp: no depth file within {self.max_difference:g} s of {pose.timestamp:g} s; "
                f"the nearest, {self.files[nearest].name}, is {difference:g} s away"
            )
        path = self.files[nearest]
        if path.suffix.lower() == ".npy":
            return _read_array(path, (intrinsics.height, intrinsics.width))
        size = (intrinsics.width, intrinsics.height)
        return read_depth(path, size, self.units_per_metre, invalid=65535)


def _check_series(folder: Path, names: Sequence[str]) -> None:
    """Warn if names differ in more than their numbers, as series may be mixed; reject a frame that is there twice."""
    kinds: dict[str, str] = {}
    stems: dict[str, str] = {}
    for name in names:
        stem = name[: -len(".png")]
        kinds.setdefault(re.sub("[0-9]+", "0", stem), name)
        if stem in stems:
            raise FormatError(folder / name, f"expected one file a frame, got {stems[stem]} too; keep one of them")
        stems[stem] = name
    if len(kinds) > 1:
        suspect(
            f"{folder}: files of {len(kinds)} kinds, such as {' and '.join(list(kinds.values())[:2])}, are taken as "
            "one series, in the order of their names; keep depth in a folder of its own"
        )


def _read_array(path: Path, shape: tuple[int, int]) -> F32:
    with open_file(path) as file:
        header = read_header(path, file, "not a .npy array")
        if header.shape != shape or header.dtype.kind != "f":
            hint = ""
            if header.shape in ((1, *shape), (*shape, 1)):
                hint = "; leave out the axis of length 1"
            elif header.shape == shape[::-1]:
                hint = "; transposed?"
            elif header.dtype.kind in "iu":
                hint = "; millimetres? divide by 1000"
            raise FormatError(
                path, f"expected floating-point metres of shape {shape}, got {header.dtype} {header.shape}{hint}"
            )
        check_growth(path, file_size(file), header.nbytes + 4 * header.elements, f"depth of shape {shape}")
        values = read_data(path, file, header, "not a .npy array")
    depth: F32 = np.zeros(shape, np.float32)
    for given, row in zip(values, depth, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):  # overflow gives inf, which is invalid
            numbers = given.astype(np.float32)
        np.copyto(row, numbers, where=np.isfinite(numbers) & (numbers > 0))
    return depth

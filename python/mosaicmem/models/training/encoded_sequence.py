"""A posed RGB-D sequence as a VAE encodes it, each part once."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32, as_array, check_integer
from mosaicmem._border import to_host
from mosaicmem._files import atomic_write, make_folder, read_json_object, write_json
from mosaicmem._numpy_files import read_data, read_header
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.datasets import RgbdImage, RgbdSequence
from mosaicmem.diffusion import VAE
from mosaicmem.errors import FormatError, SuspiciousInput, suspect
from mosaicmem.geometry import PoseCheck, depth_to_grid
from mosaicmem.models.training.detached import EncodedElsewhere

_ABOUT = "about.json"
_PROBE = "probe.npy"
_SAME = 0.05  # of the latents' unit variance: another machine or dtype, not another VAE
_SUBCELLS = 2  # along the edge of a cell


class EncodedSequence:
    """Latents and depth of a sequence, encoded when first asked for, and then kept in memory or in a folder.

    Parameters
    ----------
    sequence : RgbdSequence
        Frames with depth and poses: `open_sequence` reads them.
    vae : VAE
        For example `WanMemoryVAE`. With a folder, it encodes one small image at once, by which it is known again.
    size : (int, int), optional
        Width and height, pixels, to resize images to; whole cells of the VAE. If not given: as they are.
    folder : path, optional
        Where to keep what is encoded, 4 bytes per number. It must have been filled from the same sequence, VAE and
        size, or be new. Several processes may fill it at once. If not given, each process keeps its own in memory.
    dynamic : callable, optional
        Takes an `RgbdImage`, returns the pixels (H, W) bool that show something moving, which memory does not keep. A
        folder knows it by its name alone: after a change to the function itself, use another folder.
    name : str
        Of the sequence, for error messages.

    Raises
    ------
    ValueError
        The images are not of whole cells; the folder is of another sequence, VAE or size: the message says which. A
        sequence is known by its poses, and by the images and depth of its first, middle and last frame.
    """

    def __init__(
        self,
        sequence: RgbdSequence,
        vae: VAE,
        *,
        size: tuple[int, int] | None = None,
        folder: str | Path | None = None,
        dynamic: Callable[[RgbdImage], Any] | None = None,
        name: str = "sequence",
    ) -> None:
        self.sequence: RgbdSequence | None = sequence
        self.vae, self.name = vae, name
        self._dynamic = dynamic
        frames = range(len(sequence))
        if not frames:
            raise ValueError(f"{name}: expected frames, got a sequence without any")
        if size is not None:
            size = _size(size)
        path = sequence.trajectory(frames)
        camera = path.intrinsics if size is None else path.intrinsics.scaled(*size)
        self.path = CameraTrajectory(path.poses, camera)
        if camera.width % vae.stride or camera.height % vae.stride:
            raise ValueError(
                f"{name}: expected images of whole cells of {vae.stride} pixels, got {camera.width}x{camera.height}; "
                f"pass size={nearest_size(camera, vae.stride, vae.stride)}"
            )
        self._made: dict[str, Any] = {}
        self._last: tuple[int, RgbdImage] | None = None  # read: its image, depth and subcells are asked for in turn
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._open(self._folder)

    def __len__(self) -> int:
        return len(self.path)

    def window(self, frames: range) -> F32:
        """The latents of consecutive frames as a video, (C, T, h, w) float32."""
        shape = (self.vae.channels, self.vae.temporal.num_latents(len(frames)), *self._grid)
        return self._kept(_window_name(frames), shape, lambda: self._encode(frames))

    def forget_window(self, frames: range) -> None:
        """Free the latents of a window that are kept in memory."""
        self._made.pop(_window_name(frames), None)

    def detached(self) -> EncodedSequence:
        """What is encoded and kept in memory, for a process without frames and VAE; asked for more, it raises."""
        other = copy.copy(self)
        other.sequence, other.vae = None, EncodedElsewhere.of(self.vae)
        other._dynamic, other._made, other._last = None, dict(self._made), None
        return other

    def keyframe(self, index: int) -> tuple[F32, F32]:
        """The latents (h, w, C) and the depth (h, w), metres, of one frame; depth 0 where unknown or moving."""
        latents = self._kept(f"frame-{index:06d}", (*self._grid, self.vae.channels), lambda: self._encode_image(index))
        return latents, self.depth(index)

    def depth(self, index: int) -> F32:
        """The depth of each latent cell of a frame, (h, w), metres; 0 where unknown or moving."""
        name = f"depth-{index:06d}"
        if name not in self._made:  # small, and asked for often
            self._made[name] = self._kept(name, self._grid, lambda: self._depth_grid(index))
        kept: F32 = self._made[name]
        return kept

    def subcell_depth(self, index: int) -> F32 | None:
        """The depth of 2x2 parts of each cell, (2 h, 2 w), as a run's keyframes have it; None if the stride is odd."""
        if self.vae.stride % _SUBCELLS:
            return None
        rows, columns = self._grid
        stride = self.vae.stride // _SUBCELLS

        def make() -> F32:
            return np.asarray(depth_to_grid(_nearest(self._seen(index).depth, self.path.intrinsics), stride))

        return self._kept(f"subcells-{index:06d}", (_SUBCELLS * rows, _SUBCELLS * columns), make)

    def check_poses(self, frames: Sequence[int]) -> None:
        """Warn if the depth of some frames, on the grid of latents, does not fit their poses; refuse none at all."""
        grid, check = self.path.intrinsics.latent_grid(self.vae.stride), PoseCheck(times=False)
        depths = []
        for i in frames:
            depths.append(self.depth(i))
            self.subcell_depth(i)  # of the same frame, which is read once
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", SuspiciousInput)
            for i, depth in zip(frames, depths, strict=True):
                check.add(depth, grid, self.path[i])
        if not any((depth > 0).any() for depth in depths):
            count = len(frames)
            raise ValueError(f"{self.name}: expected depth, got none in any of {count} frames; are its files empty?")
        for warning in said:
            suspect(f"{self.name}: {warning.message}")

    @property
    def _grid(self) -> tuple[int, int]:
        camera = self.path.intrinsics
        return camera.height // self.vae.stride, camera.width // self.vae.stride

    # --- Encoding.

    def _seen(self, index: int) -> RgbdImage:
        if self.sequence is None:
            raise RuntimeError(f"{self.name}: expected a frame that was encoded before, got {index}: encode() it first")
        if self._last is None or self._last[0] != index:
            self._last = index, self.sequence[index]
        return self._last[1]

    def _encode(self, frames: range) -> F32:
        video = np.stack([self._pixels(self._seen(i)) for i in frames])
        return np.asarray(to_host("encoded video", self.vae.encode(video)), np.float32)

    def _encode_image(self, index: int) -> F32:
        encoded = to_host("encoded image", self.vae.encode_image(self._pixels(self._seen(index))))
        return np.asarray(encoded, np.float32)

    def _pixels(self, frame: RgbdImage) -> Any:
        camera = self.path.intrinsics
        if frame.image.shape[:2] == (camera.height, camera.width):
            return frame.image
        return np.asarray(Image.fromarray(frame.image).resize((camera.width, camera.height), Image.Resampling.LANCZOS))

    def _depth_grid(self, index: int) -> F32:
        frame = self._seen(index)
        grid = np.asarray(depth_to_grid(_nearest(frame.depth, self.path.intrinsics), self.vae.stride))
        if self._dynamic is None:
            return grid
        moving = as_array("dynamic", self._dynamic(frame), np.bool_, frame.depth.shape)
        rows, columns = self._grid
        cells = _nearest(moving, self.path.intrinsics).reshape(rows, self.vae.stride, columns, self.vae.stride)
        return np.where(cells.any(axis=(1, 3)), np.float32(0), grid)

    # --- Keeping.

    def _kept(self, name: str, shape: tuple[int, ...], make: Callable[[], F32]) -> F32:
        if self._folder is None:
            if name not in self._made:
                self._made[name] = self._checked(name, make(), shape)
            kept: F32 = self._made[name]
            return kept
        path = self._folder / f"{name}.npy"
        try:
            return _load(path, shape)
        except FileNotFoundError:
            made = self._checked(name, make(), shape)
            _save(path, made)
            return made

    def _checked(self, name: str, array: F32, shape: tuple[int, ...]) -> F32:
        if array.shape != shape:
            raise ValueError(f"vae: expected {name} of {self.name} to have shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"vae: expected finite latents, got NaN or infinity in {name} of {self.name}")
        return np.ascontiguousarray(array)

    def _open(self, folder: Path) -> None:
        """Begin a folder, or check that it is of the same sequence, VAE and size."""
        about = self._about()
        probe = np.asarray(to_host("encoded image", self.vae.encode_image(_probe(self.vae.stride))), np.float32)
        try:
            before = read_json_object(folder / _ABOUT)
        except FileNotFoundError:
            make_folder(folder)
            write_json(folder / _ABOUT, about)
            before = about
        for key, value in about.items():
            if before.get(key) != value:
                raise ValueError(
                    f"cache: {folder} was filled from another {_SOURCES[key]}"
                    f"{'' if key in _DIGESTS else f' ({before.get(key)}, now {value})'}; use another folder"
                )
        try:
            known = _load(folder / _PROBE, probe.shape)
        except FileNotFoundError:
            _save(folder / _PROBE, probe)
            return
        if np.abs(known - probe).max() > _SAME * max(1.0, float(probe.std())):
            raise ValueError(f"cache: {folder} was filled by a VAE of other weights; use another folder")

    def _about(self) -> dict[str, Any]:
        camera, layout = self.path.intrinsics, self.vae.temporal
        ends = [self._seen(i) for i in (0, len(self) // 2, len(self) - 1)]
        about = {
            "vae": [type(self.vae).__name__, self.vae.stride, self.vae.channels, layout.kind, layout.factor],
            "size": [camera.width, camera.height],
            "intrinsics": [round(x, 6) for x in camera.params],
            "frames": len(self),
            "dynamic": None if self._dynamic is None else getattr(self._dynamic, "__qualname__", "a callable"),
            "poses": _digest(self.path.world_from_camera.round(6) + 0.0),
            "content": _digest(*(array for frame in ends for array in (frame.image, frame.depth))),
        }
        return dict(json.loads(json.dumps(about)))


_SOURCES = {
    "vae": "VAE",
    "size": "image size",
    "intrinsics": "camera: fx, fy, cx, cy",
    "frames": "sequence: its number of frames was",
    "dynamic": "choice of dynamic masks",
    "poses": "sequence: its poses differ",
    "content": "sequence: its images or its depth differ",
}
_DIGESTS = ("poses", "content")


def _window_name(frames: range) -> str:
    return f"window-{frames.start:06d}-{len(frames)}"


def _digest(*arrays: Any) -> str:
    made = hashlib.sha256()
    for array in arrays:
        made.update(f"{array.dtype.str} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _nearest(image: Any, camera: Any) -> Any:
    """An image of depth or of a mask at another size: each pixel takes the one under its centre."""
    rows = ((np.arange(camera.height) + 0.5) * image.shape[0] / camera.height).astype(int)
    columns = ((np.arange(camera.width) + 0.5) * image.shape[1] / camera.width).astype(int)
    return np.ascontiguousarray(image[np.ix_(rows, columns)])


def _probe(stride: int) -> Any:
    """An image by whose latents a VAE is known again."""
    size = 4 * stride
    y, x = np.mgrid[:size, :size] / size
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y), np.sin(11 * x * y)], axis=-1)
    return np.rint(127.5 + 100 * waves).astype(np.uint8)


def _save(path: Path, array: F32) -> None:
    with atomic_write(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _size(size: Any) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"size: expected (width, height), got {size!r}")
    return check_integer("size: width", size[0], minimum=1), check_integer("size: height", size[1], minimum=1)


def nearest_size(camera: CameraIntrinsics, columns: int, rows: int) -> tuple[int, int]:
    """The size nearest to that of a camera's images of which ``columns`` and ``rows`` of pixels are whole parts."""
    return max(1, round(camera.width / columns)) * columns, max(1, round(camera.height / rows)) * rows


def _load(path: Path, shape: tuple[int, ...]) -> F32:
    with open(path, "rb") as file:
        header = read_header(path, file, "latents")
        if header.dtype != np.float32 or header.shape != shape:
            raise FormatError(path, f"expected float32 of shape {shape}, got {header.dtype} of {header.shape}")
        array = read_data(path, file, header, "latents")
    if not np.isfinite(array).all():
        raise FormatError(path, "damaged: expected finite numbers; delete it, and it will be made again")
    return np.asarray(array)

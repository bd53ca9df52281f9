"""Last stages: images, depth, masks and cameras in the layout that `mosaicmem.datasets.described` reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32, U8
from mosaicmem._files import atomic_write, write_json
from mosaicmem._images import image_size, read_color, read_depth, read_grey
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.datasets.described import SCHEMA, SCHEMA_VERSION
from mosaicmem.datasets.lens import Lens, Rectifier, nearest
from mosaicmem.errors import FormatError, suspect
from mosaicmem.geometry import PoseCheck, RegistrationCheck
from mosaicmem.importing.depth import DepthSource, Scale
from mosaicmem.importing.extraction import Track
from mosaicmem.importing.moving import moving_pixels
from mosaicmem.importing.points import depth_of_points, supported
from mosaicmem.importing.structure import Structure
from mosaicmem.importing.workspace import Workspace

PUBLISHED = ("dataset.json", "cameras.json", "color", "depth", "moving-mask", "confidence")
"""What stays in the folder of a finished data set."""

_MOST = 65000  # of the 16-bit values of depth images
_MILLIMETRES = 1000.0
_BEYOND = 1.5  # times the farthest depth, but for outliers: how deep depth images reach
_FAR = 0.999  # quantile of depth that counts as the farthest
_LEAST_COVERED = 1e-3  # fraction of the pixels that have depth; with less, something is wrong
_MANY = 1e-3  # fraction of the pixels that are too deep which is worth a warning
_SAMPLED = 32
_QUALITY = 95
_CACHED = 50  # depth images, while what moves is looked for


class Writer:
    """Writes the frames of a structure, each file atomically; files that an earlier run has written are kept.

    Parameters
    ----------
    work : Workspace
    entries : list of dict
        The extracted frames.
    structure : Structure
    depth : DepthSource

    Attributes
    ----------
    lens : Lens
        The most frequent one.
    camera : CameraIntrinsics
        The pinhole camera that all frames become.
    """

    def __init__(
        self, work: Workspace, entries: list[dict[str, Any]], structure: Structure, depth: DepthSource
    ) -> None:
        self._work, self._structure, self._depth = work, structure, depth
        self._entries = [entries[i] for i in structure.frames]
        self.lens = Counter(structure.lenses).most_common(1)[0][0]
        self.camera = self.lens.intrinsics
        self._rectifiers: dict[Lens, Rectifier | None] = {}
        others = sum(lens.size != self.lens.size for lens in structure.lenses)
        if others:
            suspect(
                f"{work.output}: {others} of {len(structure.lenses)} frames have another size than {self.lens.width}x"
                f"{self.lens.height}; they are resampled to it, and what they do not show stays black, without depth"
            )

    def rectified(self, k: int) -> tuple[U8, CameraIntrinsics]:
        """The image of frame ``k`` of the structure as the pinhole camera sees it, and that camera."""
        path = self._work.folder / "frames" / self._entries[k]["file"]
        image = read_color(path, image_size(path))
        rectifier = self._rectifier(k)
        return image if rectifier is None else rectifier.image(image), self.camera

    def _rectifier(self, k: int) -> Rectifier | None:
        lens = self._structure.lenses[k]
        if lens not in self._rectifiers:
            same = lens.is_pinhole and lens.intrinsics == self.camera
            self._rectifiers[lens] = None if same else Rectifier(lens, self.camera)
        return self._rectifiers[lens]

    def given_depth(self, k: int) -> F32 | None:
        """The depth that came with frame ``k``, as the pinhole camera sees it; None if there is none."""
        return self._map_of(k, self._depth.given(self._structure.frames[k]))

    def _map_of(self, k: int, values: F32 | None) -> F32 | None:
        """A map that came with frame ``k``, as the pinhole camera sees it."""
        if values is None:
            return None
        rectifier = self._rectifier(k)
        return values if rectifier is None else rectifier.depth(values)

    def write(self, scale: Scale, track: Track) -> float:
        """Write colour, depth and confidence of all frames; the fraction of the pixels that have depth."""
        folders = {name: self._work.kept(name) for name in ("color", "depth", "confidence")}
        units = self._units(scale)
        known, beyond, without, check, registration = 0.0, 0, 0, PoseCheck(), RegistrationCheck()
        count = len(self._entries)
        for k in track(range(count), "Depth", count):
            path = folders["depth"] / f"{k:06d}.png"
            if not path.exists():
                image, depth, sure = self._made(k, scale)
                beyond += int((depth * units > _MOST).sum())
                depth = np.where(depth * units > _MOST, 0, depth)
                if sure is not None:
                    _save(folders["confidence"] / f"{k:06d}.png", np.rint(sure * 255).astype(np.uint8))
                self._save_color(k, image, folders["color"])
                _save(path, np.rint(depth * units).astype(np.uint16))
            size = (self.camera.width, self.camera.height)
            written = read_depth(path, size, units)
            known += float((written > 0).mean())
            without += not written.any()
            check.add(written, self.camera, self._pose(k, scale))
            if self._depth.is_given and not registration.is_done:
                color = read_color(self._color_path(k, folders["color"]), size)
                registration.add(color, written, self.camera, self._pose(k, scale))
        if self._depth.is_given:
            registration.result()
        if known < _LEAST_COVERED * count:
            share = f"{100 * known / count:.2g} % of the pixels"
            raise FormatError(self._work.output, f"expected depth in the frames, got it for {share}; in another unit?")
        if without:
            suspect(
                f"{self._work.output}: {without} of {count} frames have no depth, as no point or file gives them any"
            )
        if beyond > _MANY * count * self.camera.width * self.camera.height:
            suspect(
                f"{self._work.output}: {beyond} pixels are deeper than {_MOST / units:.3g} {scale.unit}, and left out"
            )
        if not any(folders["confidence"].iterdir()):
            folders["confidence"].rmdir()
        return known / count

    def _made(self, k: int, scale: Scale) -> tuple[U8, F32, F32 | None]:
        """The image of a frame as the pinhole camera sees it, its depth in the scene's unit, and confidence."""
        image, camera = self.rectified(k)
        rectifier = self._rectifier(k)
        sure = self._map_of(k, self._depth.confidence(self._structure.frames[k]))
        if self._depth.is_given:
            given = self.given_depth(k)
            if given is None:
                return image, np.zeros(image.shape[:2], np.float32), sure
            return image, given * np.float32(scale.depth_factor), sure
        known = np.zeros(image.shape[:2], np.float32)
        row, column, z = depth_of_points(self._structure.points[k], self._structure.world_from_camera[k], camera)
        near = z * scale.factor * self._units(scale) <= _MOST  # points beyond it are errors of the structure
        near &= supported(row, column, z)
        known[row[near], column[near]] = z[near] * scale.factor
        knows_metres = self._depth.unit("") == "metres" and scale.unit == "metres"
        if not known.any() and not knows_metres:
            return image, known, sure
        depth = np.asarray(self._depth.estimate(image, camera, self._pose(k, scale), known), np.float32)
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
        if rectifier is not None:
            depth[~rectifier.sees] = 0
        return image, depth, sure

    def _color_path(self, k: int, folder: Path) -> Path:
        return folder / f"{k:06d}{Path(self._entries[k]['file']).suffix}"

    def _save_color(self, k: int, image: U8, folder: Path) -> None:
        source, path = self._work.folder / "frames" / self._entries[k]["file"], self._color_path(k, folder)
        if self._rectifier(k) is None:
            with atomic_write(path) as file:
                file.write(source.read_bytes())
        else:
            _save(path, image)

    def _units(self, scale: Scale) -> float:
        """Units of 16-bit depth images for each unit of the scene."""
        done = self._work.done("units")
        if done is not None:
            return float(done["units"])
        farthest = 0.0
        for k in np.unique(np.linspace(0, len(self._entries) - 1, _SAMPLED).astype(int)).tolist():
            if self._depth.is_given:
                given = self._depth.given(self._structure.frames[k])
                positive = None if given is None else given[given > 0]
                if positive is not None and len(positive):
                    farthest = max(farthest, float(np.quantile(positive, _FAR)) * scale.depth_factor)
            else:
                pose = self._structure.world_from_camera[k]
                _, _, z = depth_of_points(self._structure.points[k], pose, self.camera)
                farthest = max(farthest, float(np.quantile(z, 0.99)) * scale.factor if len(z) else 0.0)
        reach = max(farthest * _BEYOND, 1e-6)
        units = _MILLIMETRES if scale.unit == "metres" and reach * _MILLIMETRES <= _MOST else _MOST / reach
        return float(self._work.finish("units", {"units": units})["units"])

    def _pose(self, k: int, scale: Scale) -> CameraPose:
        matrix = self._structure.world_from_camera[k].copy()
        matrix[:3, 3] *= scale.factor
        times = self._structure.times
        return CameraPose(matrix, self._entries[k]["time"] if times is None else times[k])

    def find_moving(self, scale: Scale, by_depth: bool, track: Track) -> float:
        """Write masks of what moves, those of the footage and those that depth shows; the fraction of the pixels."""
        count, size = len(self._entries), (self.camera.width, self.camera.height)
        if not by_depth and not any("moving" in entry for entry in self._entries):
            return 0.0
        folder, depths = self._work.kept("moving-mask"), self._work.folder / "depth"
        units, read = self._units(scale), dict[int, F32]()

        def depth_of(k: int) -> F32:
            if k not in read:
                while len(read) >= _CACHED:
                    del read[min(read)]
                read[k] = read_depth(depths / f"{k:06d}.png", size, units)
            return read[k]

        total = 0.0
        for k in track(range(count), "Finding what moves", count):
            path = folder / f"{k:06d}.png"
            if not path.exists():
                mask = self._mask(k)
                if by_depth:
                    mask |= moving_pixels(k, count, self.camera, depth_of, lambda i: self._pose(i, scale))
                _save(path, np.where(mask, 255, 0).astype(np.uint8))
            total += float((read_grey(path) > 0).mean())
        return total / count

    def _mask(self, k: int) -> Any:
        """The mask of the footage, as the pinhole camera sees it."""
        entry, shape = self._entries[k], (self.camera.height, self.camera.width)
        if "moving" not in entry:
            return np.zeros(shape, np.bool_)
        mask = read_grey(self._work.folder / "moving" / f"{Path(entry['file']).stem}.png")
        rectifier = self._rectifier(k)
        if rectifier is None:
            return np.asarray(nearest(mask, shape[::-1]) > 0)
        return rectifier.depth(mask.astype(np.float32)) > 0

    def describe(self, scale: Scale, provenance: dict[str, Any]) -> None:
        """Write cameras.json, and dataset.json, which says what is where and where it comes from."""
        poses = [self._pose(k, scale) for k in range(len(self._entries))]
        CameraTrajectory(poses, self.camera).save(self._work.folder / "cameras.json")
        description: dict[str, Any] = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "unit": scale.unit,
            "images": "color",
            "trajectory": "cameras.json",
            "time_unit": "s",
            "depth": {"files": "depth", "units_per_metre": self._units(scale), "invalid": 0},
        }
        if (self._work.folder / "moving-mask").is_dir():
            description["masks"] = {"files": "moving-mask", "white": "moving"}
        if (self._work.folder / "confidence").is_dir():
            description["confidence"] = {"files": "confidence", "most": 255}
        description["frames"] = [
            {"number": entry["number"], "source": entry["name"], "time": entry["time"]} for entry in self._entries
        ]
        description["provenance"] = provenance
        write_json(self._work.folder / "dataset.json", description)


def _save(path: Path, pixels: Any) -> None:
    with atomic_write(path) as file:
        if path.suffix == ".jpg":
            Image.fromarray(pixels).save(file, format="JPEG", quality=_QUALITY, subsampling=0)
        else:
            Image.fromarray(pixels).save(file, format="PNG", compress_level=3)

"""First stage: frames of the footage as upright images of at most a given size, with what is known about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import U8, Bool, as_array
from mosaicmem._images import read_grey
from mosaicmem.datasets.lens import Lens, nearest
from mosaicmem.datasets.posed import check_shape, is_white
from mosaicmem.errors import FormatError, suspect
from mosaicmem.importing.footage import Footage, Taken, resized
from mosaicmem.importing.maps import MapFiles
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.selection import MotionSelection
from mosaicmem.importing.workspace import Workspace

_QUALITY = 95
_STILL = 0.004  # motion, as a fraction of the width, of a camera that stands still
_MOSTLY = 0.5  # fraction of pixels that are masked; with more, masks are likely inverted

Track = Callable[[Any, str, int], Iterator[Any]]
"""Wraps an iterable of a known length, and shows how far it is: (iterable, description, length)."""


def extract(source: Path, footage: Footage, work: Workspace, options: ImportOptions, track: Track) -> dict[str, Any]:
    """Write ``frames/NNNNNN.jpg`` or ``.png``, and masks and maps that come with them; returns what is known of each.

    Raises
    ------
    FormatError
        The camera does not move, or files of depth or masks do not match the frames.
    """
    done = work.done("frames")
    if done is not None:
        return done
    masks = None if options.masks is None else MapFiles("masks", Path(options.masks), footage)
    folders = {name: work.fresh(name) for name in ("frames", "moving", "given")}
    selection = MotionSelection(options.least_motion) if footage.kind == "video" and options.every is None else None
    known = options.known_length()
    pinned = set(known[1] or ()) if known is not None else set[int]()
    entries: list[dict[str, Any]] = []
    cuts: list[float] = []
    every = options.every or 1
    wanted = None if footage.kind == "video" or pinned else range(0, len(footage), every)
    for taken in track(footage.frames(wanted), "Reading frames", len(footage) if wanted is None else len(wanted)):
        chosen = taken.position % every == 0
        if selection is not None:
            chosen, cut = selection.add(taken.image)
            if cut:
                cuts.append(taken.time)
        if chosen or taken.number in pinned:
            entries.append(_write(folders, len(entries), taken, masks, options))
    lacking = sorted(pinned - {entry["number"] for entry in entries})
    if lacking:
        known_numbers = f"numbers from {entries[0]['number']} to {entries[-1]['number']}" if entries else "no frames"
        raise ValueError(f"scale: expected the numbers of two frames, got {lacking[0]}; {source} has {known_numbers}")
    if selection is not None and len(entries) < 3:
        _refuse_still(source, selection, len(entries))
    entries = _thinned(work, entries, options.max_frames, pinned)
    if len(entries) < 2:
        raise FormatError(source, f"expected at least two frames, got {len(entries)}")
    _suspect_masks(source, entries)
    _say_cuts(source, cuts)
    return work.finish(
        "frames",
        {
            "entries": entries,
            "count": len(footage),
            "kind": footage.kind,
            "unit": footage.unit,
            "in_order": footage.in_order,
        },
    )


def _refuse_still(source: Path, selection: MotionSelection, count: int) -> None:
    width = 100 * selection.most_motion
    why = (
        "the camera stands still, so nothing says how far things are"
        if selection.most_motion < _STILL
        else "less than structure from motion needs; keep frames that move less (--least-motion), or all (--every 1)"
    )
    raise FormatError(
        source,
        f"expected a camera that moves, got {count} keyframe{'s' * (count != 1)}, and motion of {width:.1f} % of the "
        f"width at most: {why}",
    )


def _write(
    folders: dict[str, Path], index: int, taken: Taken, masks: MapFiles | None, options: ImportOptions
) -> dict[str, Any]:
    image = resized(taken.image, options.max_side)
    size = (image.shape[1], image.shape[0])
    same = image is taken.image
    suffix = ".png" if taken.file is None and taken.depth is not None else ".jpg"
    if same and taken.file is not None:
        suffix = ".png" if taken.file.suffix.lower() == ".png" else ".jpg"
    path = folders["frames"] / f"{index:06d}{suffix}"
    if same and taken.file is not None:
        path.write_bytes(taken.file.read_bytes())
    elif suffix == ".png":
        Image.fromarray(image).save(path, compress_level=3)
    else:
        Image.fromarray(image).save(path, quality=_QUALITY, subsampling=0)
    moving = _moving(taken, image, masks, options)
    entry: dict[str, Any] = {"file": path.name, "position": taken.position, "number": taken.number}
    entry |= {"name": taken.name, "time": taken.time}
    if taken.camera is not None:
        entry["camera"] = taken.camera
    if taken.focal is not None:
        entry["focal"] = taken.focal * max(size) / max(taken.image.shape[:2])
    if moving is not None:
        Image.fromarray(np.where(moving, 255, 0).astype(np.uint8)).save(folders["moving"] / f"{index:06d}.png")
        entry["moving"] = float(moving.mean())
    lens = taken.lens
    if lens is not None and lens.size != size:
        lens = lens.scaled(*size)
    if lens is not None:
        entry["lens"] = lens.to_dict()
    if taken.pose is not None:
        entry["world_from_camera"] = taken.pose.world_from_camera.tolist()
    maps = {name: getattr(taken, name) for name in ("depth", "confidence") if getattr(taken, name) is not None}
    if maps:
        np.savez(folders["given"] / f"{index:06d}.npz", **{name: nearest(each, size) for name, each in maps.items()})
        entry["given"] = sorted(maps)
    entry["size"], entry["full"] = list(size), list(taken.image.shape[1::-1])
    return entry


def _moving(taken: Taken, image: U8, masks: MapFiles | None, options: ImportOptions) -> Bool | None:
    """What moves in a frame: by its data set, a mask file, or the caller's function."""
    shape = image.shape[:2]
    found = None if taken.moving is None else np.asarray(nearest(taken.moving, shape[::-1]), np.bool_)
    given: Bool | None = None
    if masks is not None:
        path = masks.of(taken.position)
        if path is not None:
            mask = read_grey(path)
            check_shape(path, mask.shape[::-1], taken.name, shape[::-1])
            given = np.asarray(nearest(is_white(mask), shape[::-1]))
    elif options.moving is not None:
        given = as_array("moving(image)", options.moving(image), np.bool_, shape)
    if found is None or given is None:
        return found if given is None else given
    return np.asarray(found | given)


def _thinned(work: Workspace, entries: list[dict[str, Any]], most: int, pinned: set[int]) -> list[dict[str, Any]]:
    """About ``most`` frames, evenly spaced, and those of the numbers ``pinned``; files of the others are removed."""
    if len(entries) <= most:
        return entries
    kept = set(np.linspace(0, len(entries) - 1, most).round().astype(int).tolist())
    kept |= {i for i, entry in enumerate(entries) if entry["number"] in pinned}
    for i, entry in enumerate(entries):
        if i not in kept:
            stem = Path(entry["file"]).stem
            for folder, name in (("frames", entry["file"]), ("moving", f"{stem}.png"), ("given", f"{stem}.npz")):
                (work.folder / folder / name).unlink(missing_ok=True)
    suspect(f"{len(entries)} frames were thinned out to {most}, evenly; keep more with max_frames (--max-frames)")
    return [entry for i, entry in enumerate(entries) if i in kept]


def _suspect_masks(source: Path, entries: list[dict[str, Any]]) -> None:
    masked = [entry["moving"] for entry in entries if "moving" in entry]
    if masked and float(np.mean(masked)) > _MOSTLY:
        suspect(
            f"{source}: masks say that {100 * float(np.mean(masked)):.0f} % of the pixels show something moving; white "
            "means moving: inverted?"
        )


def _say_cuts(source: Path, cuts: list[float]) -> None:
    if cuts:
        times = ", ".join(f"{time:.2f}" for time in cuts[:6])
        suspect(
            f"{source}: the video is cut at {times} s{' and more' if len(cuts) > 6 else ''}; what is before and after "
            "can be put into one scene only if it shows the same place"
        )


def common_lens(entries: list[dict[str, Any]]) -> Lens | None:
    """The most frequent lens of the frames; None if not all have one."""
    if not all("lens" in entry for entry in entries):
        return None
    lenses = [lens_of(entry) for entry in entries]
    return Counter(lenses).most_common(1)[0][0]


def lens_of(entry: dict[str, Any]) -> Lens:
    """The lens that is recorded of a frame."""
    fields = entry["lens"]
    return Lens(fields["model"], tuple(fields["params"]), fields["width"], fields["height"])

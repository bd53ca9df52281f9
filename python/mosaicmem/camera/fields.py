"""Named fields in third-party files: refuses non-pinhole cameras, and names each unknown field once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import check_number
from mosaicmem.errors import suspect

_MOST_NAMES = 8
_MOST_LETTERS = 40
_MOST_UNREAD = 1000  # distinct names that are counted
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "PERSPECTIVE", "PERSP")
_MODEL_FIELDS = frozenset({"camera_model", "camera_type", "projection", "projection_type", "lens_type"})
_BENT = frozenset(
    {
        *("k", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4", "sx1", "sy1", "omega", "xi"),
        *("distortion", "dist_coeff", "dist_coeffs", "lens_distortion"),
    }
)
_BENT_BEGINNINGS = ("distortion_", "radial_", "tangential_", "thin_prism_")
_SKEWED = frozenset({"sk_x", "sk_y", "skew", "shear"})
_OTHER_LENSES = frozenset(
    {
        *("is_fisheye", "fisheye", "orthographic", "is_orthographic", "ortho", "ortho_scale", "panorama", "spherical"),
        *("equirectangular", "is_equirectangular", "latlong", "lat_long", "is_latlong", "is_360"),
    }
)
_OTHER_LENSES_BEGINNINGS = ("ftheta", "is_ftheta")
_MOVING = frozenset({"transform_matrix_start", "transform_matrix_end", "motion_blur", "readout_time"})
_MOVING_BEGINNINGS = ("rolling_shutter",)
_NAMES = _MODEL_FIELDS | _BENT | _SKEWED | _OTHER_LENSES | _MOVING
_BEGINNINGS = (*_BENT_BEGINNINGS, *_OTHER_LENSES_BEGINNINGS, *_MOVING_BEGINNINGS)


def is_nothing(value: Any) -> bool:
    """Whether a field is unset: zero, false, None, empty, or a container of only such values."""
    if isinstance(value, Mapping):
        return all(is_nothing(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_nothing(part) for part in value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and not value.any()
    return value is None or value is False or value == "" or (isinstance(value, (int, float)) and value == 0)


def may_bend(name: str) -> bool:
    """Whether `refuse_bent` checks fields of this name."""
    return name in _NAMES or name.startswith(_BEGINNINGS)


def refuse_bent(fields: Mapping[str, Any]) -> None:
    """Refuse non-pinhole cameras: fields that describe one must be absent or unset (`is_nothing`).

    Raises
    ------
    ValueError
        A field is set, or names another camera model; the message quotes it and its value.
    """
    suspects = {name: value for name, value in fields.items() if may_bend(name)}
    for name in sorted(_MODEL_FIELDS & suspects.keys()):
        value = suspects.pop(name)
        if not (isinstance(value, str) and value.upper() in _PINHOLES):
            raise ValueError(f"{name}: expected one of {', '.join(_PINHOLES)}, got {_short(value)}")
    bent = {name: value for name, value in suspects.items() if not is_nothing(value)}
    if not bent:
        return
    name = next(iter(bent))
    found = "{" + ", ".join(f"{name!r}: {_short(bent[name])}" for name in list(bent)[:_MOST_NAMES]) + "}"
    if name in _OTHER_LENSES or name.startswith(_OTHER_LENSES_BEGINNINGS):
        raise ValueError(f"expected a pinhole camera, got {found}; rectify the images to one first")
    if name in _SKEWED:
        raise ValueError(f"expected no skew, got {found}; rectify the images first")
    if name in _MOVING or name.startswith(_MOVING_BEGINNINGS):
        raise ValueError(f"expected a camera that stands still while a frame is taken, got {found}")
    raise ValueError(f"expected no distortion, got {found}; undistort the images first")


def whole_pixels(name: str, value: Any) -> int:
    """An image side as whole pixels: 640.0 is accepted, 640.6 is not."""
    number = check_number(name, value, minimum=1)
    if number != round(number):
        raise ValueError(
            f"{name}: expected whole pixels, got {number:g}; of images that were scaled? give the size that they have, "
            "and scale fx, fy, cx and cy to it"
        )
    return round(number)


class Unread:
    """Collects the fields of one file that its reader does not know, and names them once."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = frozenset(known)
        self._found: dict[str, tuple[str, int]] = {}
        self._has_more = False

    def check(self, where: str, names: Iterable[str]) -> None:
        """Record the unknown ones among ``names``; ``where`` is their place in the file."""
        for name in names:
            if name not in self._known and not may_bend(name):
                first, count = self._found.get(name, (where, 0))
                if count or len(self._found) < _MOST_UNREAD:
                    self._found[name] = (first, count + 1)
                else:
                    self._has_more = True

    def say(self, path: Path) -> None:
        """Warn with `SuspiciousInput` if there were any."""
        if not self._found:
            return
        parts = []
        for name, (where, count) in list(self._found.items())[:_MOST_NAMES]:
            place = f" ({where}{f' and {count - 1} more' if count > 1 else ''})" if where else ""
            parts.append(f"{name[:_MOST_LETTERS]}{place}")
        more = len(self._found) - len(parts)
        others = f", and {more} more" if more > 0 else ""
        if self._has_more:
            others += " or many more"
        suspect(
            f"{path}: fields that are not known were skipped: {', '.join(parts)}"
            f"{others}; if one of them moves cameras, bends the image or changes units or "
            "times, the file is not what it is taken for"
        )


def worth_judging(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that matter to `refuse_bent`: camera models, and checked fields that are set.

    Overridden by the fields of a frame, they get the same verdict as all fields would.
    """
    return {
        name: value
        for name, value in fields.items()
        if may_bend(name) and (name in _MODEL_FIELDS or not is_nothing(value))
    }


def _short(value: Any) -> str:
    text = repr(value[:60] if isinstance(value, (str, list)) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."

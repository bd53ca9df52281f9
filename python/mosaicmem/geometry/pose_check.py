"""Checks whether the poses of frames fit their depth and, if not, suggests what was likely meant."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, as_depth, check_instance
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.errors import suspect
from mosaicmem.geometry.frame_pairs import (
    CAP,
    CLEAR_OVERLAP,
    LEAST_OVERLAP,
    SCALES,
    Frame,
    has_moved,
    scale_curve,
    score,
)

READINGS: Mapping[str, str] = {
    "as given": "",
    "inverse": "the matrices seem to be camera_from_world: invert them, or use CameraPose.from_camera_from_world",
    "opengl": "the matrices seem to have OpenGL axes (+y up, looking along -z): change the signs of their second and "
    "third columns, or use CameraPose.from_opengl",
    "inverse opengl": "the matrices seem to be camera_from_world with OpenGL axes: invert them, then use "
    "CameraPose.from_opengl",
    "upside down": "images seem to be upside down for these poses (rows from the bottom, a negative fy, or left-handed "
    "poses with y up): reverse the rows of images and depth, or the y axis of camera and world",
    "mirrored": "images seem to be mirrored for these poses (columns from the right, a negative fx, or left-handed "
    "poses): reverse the columns of images and depth",
    "rotated": "images seem to be rotated by 180 degrees for these poses: reverse the rows and columns of images and "
    "depth",
    "ray": "depth seems to be the distance along the ray, not z: divide it by the length of K^-1 [u, v, 1]",
}
"""Readings: how poses, images and depth may have been meant, and what to do then."""

_MOST_PAIRS = 16
_LEAST_TIMES = 3  # moved frames with one timestamp before a warning
_REST = 0.5  # a better reading leaves at most this fraction of the disagreement as given
_CLEAR, _FEW = 0.25, 2  # the same fraction for fewer pairs than _FEW
_NOT_BY_CHANCE = 3  # pairs needed to trust one of the many scales if no pair overlaps as given
_GAIN = 0.004  # minimum decrease of the mean disagreement
_WELL = 0.06  # maximum mean disagreement of a right reading
_MOST_OF_PAIRS = 0.75  # fraction of pairs that must be better under the other reading
_ENOUGH, _HOPELESS = 6, 0.45  # give up on poses after this many pairs if a smaller fraction of points agrees
_SAME_SCALE = 1.08
_DISPARITY_IS_OFF = 0.02  # minimum disagreement for disparity to be tried
_NO_MATTER = 0.9  # readings tie if their disagreements differ by no more than this factor


class PoseCheck:
    """Compares successive frames, and warns once if their depth fits only under another reading of the input.

    The poses project the surface seen by one frame into the other, whose depth should be the same there. Other readings
    compete with the input as given: those in `READINGS`, a scale of depth relative to the poses, and disparity in place
    of depth. Frames between which the camera hardly moves are skipped, and only the first pairs are compared.
    `conclusion` summarises the result, even if nothing could be compared.

    If the camera only yaws and moves level, an upside-down world has the same depth: upside-down images then go
    unnoticed, and mirrored ones cannot be told from rotated ones.

    Parameters
    ----------
    times : bool, optional
        Also warn if frames at different places all have the same timestamp. None: unless that is 0, the default of
        poses without a time. True if ages matter, False if they do not.
    """

    def __init__(self, *, times: bool | None = None) -> None:
        self._last: Frame | None = None  # the last frame that has moved
        self._moved = 0
        self._stamps: set[float] = set()
        self._off: dict[str, list[float]] = {name: [] for name in READINGS}  # per pair
        self._agreed: list[float] = []  # fraction of agreeing points as given, per overlapping pair
        self._curves: dict[str, list[F64]] = {"scale": [], "disparity": []}
        self._seen = 0
        self._found: str | None = None
        self._times = times

    @property
    def conclusion(self) -> str:
        """The result so far, in a sentence."""
        if self._found is not None:
            return f"poses and depth do not fit: {self._found}"
        pairs = len(self._agreed)
        if pairs:
            told = f"poses fit depth in {pairs} pairs of frames: {100 * np.mean(self._agreed):.0f} % of points agree"
            return told + (
                "" if self._tells_up else "; upside down images would fit as well, as the camera moves level"
            )
        if self._seen < 2:
            return f"poses and depth could not be compared: that takes two frames at least, got {self._seen}"
        if self._moved < 2:
            return f"poses and depth could not be compared: the camera hardly moves between {self._seen} frames"
        return f"poses and depth could not be compared: {self._moved} frames have no view in common"

    @property
    def _tells_up(self) -> bool:
        """Whether the camera moves such that upside-down images would not fit."""
        return bool(np.mean(self._off["upside down"]) > np.mean(self._off["as given"]) + _GAIN)

    @property
    def compared(self) -> int:
        """How many pairs of frames overlapped."""
        return len(self._agreed)

    def add(self, depth: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose) -> str | None:
        """Check one more frame.

        Parameters
        ----------
        depth : (H, W) array
            Metres; invalid where not finite or <= 0.
        intrinsics : CameraIntrinsics
        pose : CameraPose

        Returns
        -------
        str or None
            What this call warned of, if anything: a name in `READINGS`, "scale", "disparity", "units" or "times".

        Warns
        -----
        SuspiciousInput
            Poses and depth do not fit as given, or all timestamps are the same.
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        check_instance("pose", pose, CameraPose)
        self._seen += 1
        if self._found is not None or self._moved > _MOST_PAIRS:
            return None
        z = as_depth("depth", depth, (intrinsics.height, intrinsics.width), own=True)
        frame = Frame.of(z, intrinsics, pose)
        before = self._last
        if before is not None and not has_moved(before, frame):
            return None
        self._last, self._moved = frame, self._moved + 1
        self._stamps.add(frame.timestamp)
        if before is None:
            return None
        self._compare(before, frame)
        return self._judge()

    def __copy__(self) -> PoseCheck:
        """An independent check that continues from this state."""
        return copy.deepcopy(self)

    def _compare(self, a: Frame, b: Frame) -> None:
        least = LEAST_OVERLAP
        for name in READINGS:  # "as given" comes first
            overlap, agreed, off = score(a, b, name)
            if name == "as given":
                # Without overlap as given, another reading must overlap clearly.
                least = LEAST_OVERLAP if overlap >= LEAST_OVERLAP else CLEAR_OVERLAP
                if overlap >= LEAST_OVERLAP:
                    self._agreed.append(agreed)
            self._off[name].append(off if overlap >= least else CAP)
        self._curves["scale"].append(scale_curve(a, b, disparity=False, least_overlap=least))
        # The curve is costly, and disparity mistaken for depth disagrees a lot.
        may_be = self._off["as given"][-1] > _DISPARITY_IS_OFF
        curve = scale_curve(a, b, disparity=True, least_overlap=least) if may_be else np.full(len(SCALES), CAP)
        self._curves["disparity"].append(curve)

    def _judge(self) -> str | None:
        others = {name: (np.array(off), 1.0) for name, off in self._off.items() if name != "as given"}
        for name, curves in self._curves.items():
            best = int(np.mean(curves, axis=0).argmin())
            others[name] = (np.array(curves)[:, best], float(SCALES[best]))
        given = np.array(self._off["as given"])
        right = [name for name, (off, scale) in others.items() if self._fits_better(name, off, scale, given)]
        if right:
            least = min(float(others[name][0].mean()) for name in right)
            equal = [name for name in right if _NO_MATTER * float(others[name][0].mean()) <= least]
            return self._suspect(equal[0], others, given, also=equal[1:])
        if len(self._agreed) >= _ENOUGH and np.mean(self._agreed) < _HOPELESS:
            return self._suspect("units", others, given)
        matters = self._times or (self._times is None and self._stamps != {0.0})
        if matters and self._moved >= _LEAST_TIMES and len(self._stamps) == 1:
            self._times = False
            suspect(
                f"timestamp: {self._moved} frames at different places all have the time "
                f"{min(self._stamps):g} s; give each pose its time, or the age of what was seen means nothing"
            )
            return "times"
        return None

    def _fits_better(self, name: str, off: F64, scale: float, given: F64) -> bool:
        """Whether a reading fits the pairs of frames clearly better than the input as given."""
        if name == "scale" and max(scale, 1 / scale) < _SAME_SCALE:
            return False
        if name in self._curves and not self._agreed and len(given) < _NOT_BY_CHANCE:
            return False
        rest = _REST if len(given) >= _FEW else _CLEAR
        return bool(
            off.mean() <= min(rest * given.mean(), given.mean() - _GAIN, _WELL)
            and (off < given).mean() >= _MOST_OF_PAIRS
        )

    def _suspect(self, name: str, others: Mapping[str, tuple[F64, float]], given: F64, also: Sequence[str] = ()) -> str:
        frames, off = len(given) + 1, 100 * given.mean()
        if name == "units":
            self._found = "however poses are read"
            suspect(
                f"depth: that of {frames} frames fits their poses at {100 * np.mean(self._agreed):.0f} % of the common "
                "pixels, however poses are read; units of depth or of positions, depth along the ray, intrinsics of "
                "another image, or much that moves?"
            )
            return name
        where = "where they see the same"
        if name == "scale":
            where += ", however poses are read; units of depth or of positions?"
        better, scale = others[name]
        self._found = READINGS[name] if name in READINGS else _scale_text(name, scale)
        if "rotated" in also:
            self._found += "; or they are rotated by 180 degrees, which this path cannot tell apart"
        suspect(
            f"{'pose' if name in READINGS else 'depth'}: that of {frames} frames is off by {off:.1f} % of depth "
            f"{where}{' ' if name == 'scale' else '; '}{self._found} ({100 * better.mean():.1f} % would be left)"
        )
        return name


def _scale_text(name: str, scale: float) -> str:
    if name == "disparity":
        return "depth seems to be disparity or inverse depth: give its inverse, in the unit of the poses"
    size = f"about {scale:.2g} times too large" if scale > 1 else f"about {1 / scale:.2g} times too small"
    thousand = 300 < max(scale, 1 / scale) < 2000
    hint = "; millimetres in one of them, metres in the other?" if thousand else ", or their positions by as much"
    return f"depth seems to be {size} for the poses{hint}"

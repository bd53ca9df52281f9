"""Keyframes by motion: which frames of a video are worth keeping, and where it is cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem._arrays import F32, U8
from mosaicmem._extras import opencv

_WIDTH = 320  # pixels that frames are reduced to
_MOST_CORNERS = 400
_FEW_CORNERS = 60  # of the last keyframe's that are still seen; with fewer, the frame becomes a keyframe
_LEAST_CORNERS = 12  # that say anything about a cut
_GONE = 0.05  # fraction of one frame's corners that are found in the next; with fewer, the video is cut there
_LOST = 0.25  # with fewer, it is if the colours are others too
_OTHER_COLORS = 0.6  # correlation of histograms below which a frame shows another scene
_BINS = 32


class MotionSelection:
    """Chooses frames of a video as they come: each that has moved far enough from the last one chosen.

    Corners of the last keyframe are tracked from frame to frame (Lucas-Kanade). A frame is chosen when they have moved
    by ``least_motion`` of the image's width in the median, or when few are left. A frame to which hardly any corner can
    be tracked, or few if its colours are others, begins another scene: a cut.

    Parameters
    ----------
    least_motion : float
        Fraction of the width.

    Attributes
    ----------
    most_motion : float
        The largest median motion so far, as a fraction of the width.
    """

    def __init__(self, least_motion: float) -> None:
        self._least = least_motion
        self._before: U8 | None = None
        self._histogram: F32 | None = None
        self._first: F32 = np.zeros((0, 1, 2), np.float32)  # corners in the last keyframe
        self._now = self._corners = self._first  # the same in the frame before; all that the keyframe had
        self.most_motion = 0.0

    def add(self, image: U8) -> tuple[bool, bool]:
        """Whether a frame (H, W, 3) is chosen, and whether the video is cut before it."""
        cv2 = opencv("choosing keyframes of a video")
        grey = _reduced(cv2, image)
        histogram = cv2.calcHist([grey], [0], None, [_BINS], [0, 256])
        if self._before is None or self._histogram is None:
            self._keep(cv2, grey, histogram)
            return True, False
        tracked = self._track(cv2, grey)
        cut = tracked < _GONE or (tracked < _LOST and self._is_other(cv2, histogram))
        motion = self._motion()
        self.most_motion = max(self.most_motion, motion)
        chosen = cut or motion >= self._least or len(self._now) < _FEW_CORNERS < len(self._corners)
        if not chosen and len(self._now) < _LEAST_CORNERS:  # after a dark frame, or a wall
            chosen = len(_corners(cv2, grey)) >= _LEAST_CORNERS
        self._before, self._histogram = grey, histogram
        if chosen:
            self._keep(cv2, grey, histogram)
        return chosen, cut

    def _keep(self, cv2: Any, grey: U8, histogram: F32) -> None:
        self._before, self._histogram = grey, histogram
        self._first = self._now = self._corners = _corners(cv2, grey)

    def _track(self, cv2: Any, grey: U8) -> float:
        """Follow the corners into the next frame; the fraction of them that was found, 1 if there were too few."""
        if not len(self._now):
            return 1.0
        there, found, _ = cv2.calcOpticalFlowPyrLK(self._before, grey, self._now, None)
        back, _, _ = cv2.calcOpticalFlowPyrLK(grey, self._before, there, None)
        seen = (found.ravel() == 1) & (np.abs(back - self._now).max(axis=(1, 2)) < 1)
        before = len(self._now)
        self._first, self._now = self._first[seen], there[seen]
        return float(seen.mean()) if before >= _LEAST_CORNERS else 1.0

    def _is_other(self, cv2: Any, histogram: F32) -> bool:
        return bool(cv2.compareHist(self._histogram, histogram, cv2.HISTCMP_CORREL) < _OTHER_COLORS)

    def _motion(self) -> float:
        if not len(self._now):
            return 0.0
        return float(np.median(np.linalg.norm(self._now - self._first, axis=2)) / _WIDTH)


def _corners(cv2: Any, grey: U8) -> F32:
    """Corners (N, 1, 2) of a frame."""
    found = cv2.goodFeaturesToTrack(grey, _MOST_CORNERS, 0.01, 5)
    return np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)


def _reduced(cv2: Any, image: U8) -> U8:
    height, width = image.shape[:2]
    size = (_WIDTH, max(16, round(height * _WIDTH / width)))
    grey: U8 = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return grey

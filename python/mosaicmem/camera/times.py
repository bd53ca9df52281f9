"""Timestamps in files: converts them to seconds, and warns where they look like another unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem.errors import suspect

PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
TIME_UNITS = (*PER_SECOND, "frames")
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "frames": "frame numbers"}

_LATEST = 1e11  # seconds, about 3000 years: later than any clock
_SINCE_1970 = (9e8, 2.6e9)  # seconds since 1970: the years 1998 to 2052
_MOST_APART = 1000.0  # seconds between frames (median) that no camera path has
_LONG_APART = 10.0  # seconds between frames (median) that few camera paths have
_LEAST_APART = 0.9e-3  # 1000 frames per second, with a margin for rounding
_FASTEST = 1 / 121.0  # seconds between frames; times from 0 to exactly 1 with less look normalised
_LEAST_FRAMES = 3  # needed to judge intervals


def to_seconds(path: Path, times: F64, unit: str | None = None, native: str = "s", fps: float = 30.0) -> F64:
    """Convert the frame times of a file (N,), finite or not, to seconds.

    Times that cannot be in the unit of the format, such as nanoseconds since 1970, are read in the only unit that fits,
    with a `SuspiciousInput`. Times that are merely unusual are left as they are, with the same warning.

    Parameters
    ----------
    path : Path
        For messages.
    times : (N,) float64
        As stored in the file.
    unit : str, optional
        One of `TIME_UNITS`, if the user knows it: then nothing is judged.
    native : str
        The unit of the format.
    fps : float
        Frames per second, for the unit "frames".

    Raises
    ------
    ValueError
        The times or their intervals are impossible in the unit of the format, and the right unit is uncertain.
    """
    if unit is not None:
        return np.asarray(times / (fps if unit == "frames" else PER_SECOND[unit]))
    seconds = times / PER_SECOND[native]
    if not len(times) or not np.isfinite(times).all():
        return seconds
    if float(np.abs(seconds).max()) > _LATEST:
        certain = _certain_unit(times)
        if certain is None or float(np.abs(times).max()) / PER_SECOND[certain] > _LATEST:
            raise ValueError(
                f"times: expected {_NAMES[native]}, got {times[0]:.6g}; {_give('their unit')} if that is another one"
            )
        suspect(
            f"{path}: times up to {np.abs(times).max():.4g} cannot be {_NAMES[native]}: they were taken as "
            f"{_NAMES[certain]}; {_give(certain)} to say so"
        )
        return times / PER_SECOND[certain]
    suspicion = judge_times(times, native)
    if suspicion is not None and (step := _step(times)) and step / PER_SECOND[native] >= _MOST_APART:
        raise ValueError(suspicion)
    if suspicion is not None:
        suspect(f"{path}: {suspicion}")
    return seconds


def judge_times(times: F64, native: str = "s") -> str | None:
    """What is suspicious about the intervals of finite times in the unit ``native``; None if nothing is."""
    step = _step(times)
    if step is None:
        return None
    apart = step / PER_SECOND[native]
    said = f"times: expected {_NAMES[native]}, got frames that are {apart:.4g} s apart (median)"
    if apart >= _MOST_APART:
        return f"{said}; {_likely(times, step, native)}"
    if len(times) < _LEAST_FRAMES:
        return None
    if apart >= _LONG_APART or apart < _LEAST_APART:
        return f"{said}; {_likely(times, step, native)}"
    if native == "s" and _are_frame_numbers(times):
        return (
            f"times: {times[0]:g}, {times[1]:g}, {times[2]:g} ... look like frame numbers; {_give('frames')}, and fps"
        )
    if native == "s" and times[0] == 0 and times[-1] == 1 and apart < _FASTEST:
        return f"{said}, from 0 to 1; parts of the duration? multiply them by its seconds, or {_give('s')}"
    return None


def _likely(times: F64, step: float, native: str) -> str:
    unit = "frames" if _are_frame_numbers(times) else _unit_of_step(step)
    if unit is None or unit == native:
        return f"parts of the duration? multiply them by its seconds, or {_give(native)} if they are right"
    return f"{_NAMES[unit]}? {_give(unit)}, or {_give(native)} if they are right"


def _give(unit: str) -> str:
    return f"give {unit} (time_unit, --time-unit)" if " " in unit else f'give time_unit="{unit}" (--time-unit {unit})'


def _step(times: F64) -> float | None:
    """The median interval between frames with different times; None if there are none."""
    steps = np.diff(np.sort(times))
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else None


def _unit_of_step(step: float | None) -> str | None:
    """The unit in which a frame interval is plausible for a camera: 2 milliseconds to 2 seconds."""
    if step is None or step < 2e-3:
        return None
    return next((unit for unit, per_second in PER_SECOND.items() if step < 2 * per_second), "ns")


def _certain_unit(times: F64) -> str | None:
    """The unit of times too late to be seconds, from epoch and frame interval; None if the two disagree."""
    step = _step(times)
    since_1970, of_step = _unit_since_1970(times), _unit_of_step(step)
    if since_1970 is None or step is None:
        return since_1970 or of_step
    return since_1970 if step / PER_SECOND[since_1970] < _LONG_APART else None


def _unit_since_1970(times: F64) -> str | None:
    first, last = _SINCE_1970
    for unit, per_second in PER_SECOND.items():
        if first * per_second <= times.min() and times.max() <= last * per_second:
            return unit
    return None


def _are_frame_numbers(times: F64) -> bool:
    return len(times) >= _LEAST_FRAMES and times[0] in (0, 1) and bool((np.diff(times) == 1).all())

"""Videos, through PyAV: upright frames of square pixels with their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import U8
from mosaicmem._opening import foreign_parser, open_regular
from mosaicmem.errors import FormatError, suspect

if TYPE_CHECKING:
    from mosaicmem.importing.footage import Taken

_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
_MAX_PIXELS = 1 << 26
_WHOLE = 0.98  # fraction of the declared frames that a whole video has
_FPS = 30.0  # of frames whose times the file does not tell
_UNEVEN = 0.25  # difference between frame durations, of the usual one, that counts as a variable frame rate


class Video:
    """The frames of a video file, decoded one by one.

    Frames are turned upright as the file says, and stretched if its pixels are not square. Times are those of the file,
    so a variable frame rate is read as it is.

    Parameters
    ----------
    path : path
        Of any format that FFmpeg reads.

    Raises
    ------
    FormatError
        It is no video, has no pictures, or is in HDR, whose colours need a tone curve to become RGB.
    """

    kind = "video"
    unit = "scene units"
    in_order = True
    names: list[str] | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_regular(self.path) as file, _opened(self.path, file) as container:
            stream = container.streams.video[0]
            transfer = int(getattr(stream.codec_context, "color_trc", 0) or 0)
            if transfer in _HDR:
                raise FormatError(
                    self.path,
                    f"expected a video of standard range, got HDR ({_HDR[transfer]}); convert it first, for instance: "
                    f"ffmpeg -i {self.path.name} -vf zscale=t=linear,tonemap=hable,zscale=t=bt709:m=bt709,"
                    "format=yuv420p sdr.mp4",
                )
            if stream.width * stream.height > _MAX_PIXELS:
                raise FormatError(
                    self.path, f"expected at most {_MAX_PIXELS} pixels, got {stream.width}x{stream.height}"
                )
            aspect = stream.sample_aspect_ratio
            self._aspect = float(aspect) if aspect else 1.0
            self._count = int(stream.frames or 0)
            if not self._count:
                with foreign_parser(self.path, "damaged: its packets cannot be read"):
                    self._count = sum(1 for packet in container.demux(video=0) if packet.size)

    def __len__(self) -> int:
        return self._count

    def frames(self, wanted: range | None = None) -> Iterator[Taken]:
        """The frames, or those at some positions."""
        from mosaicmem.importing.footage import Taken

        durations: list[float] = []
        before = first = None
        late = 0.0  # what the times of the file lag behind, after joints
        with open_regular(self.path) as file, _opened(self.path, file) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            decoded, number = container.decode(video=0), -1
            while True:
                with foreign_parser(self.path, f"damaged: frame {number + 1} cannot be decoded"):
                    frame = next(decoded, None)
                if frame is None:
                    break
                number += 1
                time = None if frame.time is None else frame.time + late
                if before is not None:
                    durations.append(np.nan if time is None else time - before)
                    if time is None or time <= before:  # continue at the usual rate
                        rising = [each for each in durations if each > 0]
                        at = before + (float(np.median(rising)) if rising else 1 / _FPS)
                        late += 0.0 if time is None else at - time
                        time = at
                time = 0.0 if time is None else time
                first = time if first is None else first
                before = time
                if wanted is None or number in wanted:
                    at = time - first
                    image = _upright(self.path, frame, self._aspect)
                    yield Taken(number, number, f"{at:.3f} s", at, image)
        if number < 0:
            raise FormatError(self.path, "expected frames, got a video without any")
        self._suspect_rate(np.array(durations))
        if number + 1 < _WHOLE * self._count:
            suspect(f"{self.path}: it ends early: {number + 1} of {self._count} frames could be decoded; cut off?")
        self._count = number + 1

    def _suspect_rate(self, durations: Any) -> None:
        if len(durations) < 2:
            return
        wrong = int((~(durations > 0)).sum())
        if wrong:
            suspect(
                f"{self.path}: the times of {wrong} frames are missing or do not increase, the joints of a file that "
                "was put together? what follows goes on from there at the usual rate"
            )
            return
        usual = float(np.median(durations))
        uneven = int((np.abs(durations / usual - 1) > _UNEVEN).sum())
        if uneven > 0.02 * len(durations):
            suspect(
                f"{self.path}: the frame rate varies ({uneven} of {len(durations)} intervals are not {usual:.3f} s); "
                "each "
                "frame has the time of the file"
            )


def _opened(path: Path, file: Any) -> Any:
    """An open container with pictures."""
    import av

    with foreign_parser(path, "not a video that FFmpeg reads"):
        container = av.open(file, "r")
    if not container.streams.video:
        container.close()
        raise FormatError(path, "expected a video, got a file without pictures")
    return container


def _upright(path: Path, frame: Any, aspect: float) -> U8:
    """The pixels of a frame, made square and turned upright; ``aspect`` is the width of a pixel over its height."""
    with foreign_parser(path, "a frame cannot be converted to RGB"):
        width, height = max(1, round(frame.width * aspect)), frame.height
        pixels = np.asarray(frame.reformat(width=width, height=height, format="rgb24").to_ndarray(), np.uint8)
    turns = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

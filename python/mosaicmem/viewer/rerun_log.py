"""Records a run for the rerun viewer: cameras, clouds, what memory showed, what was generated, timings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._copies import Uncopied
from mosaicmem._extras import rerun
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.memory.summary import COVERAGE
from mosaicmem.pipeline import AutoregressivePipeline, Window
from mosaicmem.viewer.cloud import MemoryCloud
from mosaicmem.viewer.run_pictures import WindowPictures

_MOST_POINTS = 100_000  # in each window's cloud


class RerunLog(Uncopied):
    """Writes a ``.rrd`` file of a run. Pass `on_window` to `AutoregressivePipeline.generate`.

    Everything is logged on the timelines ``window`` and ``frame``: the memory as points, the cameras of the path with
    the generated frames, what memory showed to them before, coverage, and the seconds of each stage.

    Parameters
    ----------
    path : path
        Of the file.
    pipeline : AutoregressivePipeline
    trajectory : CameraTrajectory
        That the run follows.

    Raises
    ------
    ModuleNotFoundError
        rerun is not installed (mosaicmem's extra [view]).
    """

    _instead = "one file takes one run; make another one"

    def __init__(self, path: str | Path, pipeline: AutoregressivePipeline, trajectory: CameraTrajectory) -> None:
        self._rr = rr = rerun("RerunLog")
        self._pipeline, self._trajectory = pipeline, trajectory
        self._windows = len(pipeline.windows(trajectory))
        self._pictures = WindowPictures(pipeline, trajectory)
        self._cloud = MemoryCloud()
        self._logged = 0
        self._recording: Any = rr.RecordingStream("mosaicmem")
        rr.save(str(path), recording=self._recording)
        strip = trajectory.world_from_camera[:, :3, 3].astype(np.float32)
        self._log("world", rr.ViewCoordinates.RDF, static=True)
        self._log("world/path", rr.LineStrips3D([strip], colors=[(214, 39, 40)]), static=True)
        self._log_memory()

    def on_window(self, window: Window) -> None:
        """Log a finished window; what follows the last one, a run without memory say, is not logged."""
        if self._logged >= self._windows:
            return
        rr, statistics = self._rr, window.statistics
        self._logged += 1
        for each in self._pictures(window):
            self._set_time("frame", each.frame)
            self._log_camera(each.frame)
            self._log("world/camera", rr.Image(each.generated))
            self._log("memory_showed", rr.Image(each.memory))
        self._set_time("window", statistics.window)
        for name in COVERAGE:
            self._log(f"figures/{name}", rr.Scalars(float(getattr(statistics, name))))
        for stage, seconds in statistics.seconds.items():
            self._log(f"seconds/{stage}", rr.Scalars(float(seconds)))
        for name in ("patches", "tokens", "keyframes", "store_patches"):
            self._log(f"counts/{name}", rr.Scalars(float(getattr(statistics, name))))
        self._log_memory()

    def close(self) -> None:
        """Complete the file."""
        if self._recording is not None:
            self._recording.flush()
            self._rr.disconnect(recording=self._recording)
            self._recording = None

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _log_memory(self) -> None:
        for _ in self._cloud.update(self._pipeline.store.fork()):
            pass
        points, colors = self._cloud.drawn("scene", most=_MOST_POINTS)
        self._log("world/memory", self._rr.Points3D(points, colors=colors))

    def _log_camera(self, frame: int) -> None:
        rr, camera, matrix = self._rr, self._trajectory.cameras[frame], self._trajectory[frame].world_from_camera
        self._log("world/camera", rr.Transform3D(translation=matrix[:3, 3], mat3x3=matrix[:3, :3]))
        pinhole = rr.Pinhole(
            image_from_camera=_matrix(camera),
            resolution=(camera.width, camera.height),
            camera_xyz=rr.ViewCoordinates.RDF,
        )
        self._log("world/camera", pinhole)

    def _set_time(self, timeline: str, number: int) -> None:
        self._rr.set_time(timeline, sequence=number, recording=self._recording)

    def _log(self, entity: str, content: object, *, static: bool = False) -> None:
        self._rr.log(entity, content, static=static, recording=self._recording)


def _matrix(camera: CameraIntrinsics) -> np.ndarray:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])

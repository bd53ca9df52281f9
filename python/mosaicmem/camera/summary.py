"""Statistics of a camera path."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from mosaicmem.camera.trajectory import CameraTrajectory


def summarize_trajectory(path: CameraTrajectory) -> dict[str, Any]:
    """Statistics as plain JSON, with the intrinsics of the first frame; angles in degrees, lengths in metres."""
    centres = path.world_from_camera[:, :3, 3]
    turns = [math.degrees(a.angle_to(b)) for a, b in pairwise(path)]
    steps = max(1, len(path) - 1)
    return {
        "frames": len(path),
        "intrinsics": path.cameras[0].to_dict(),
        "zooms": path.zooms,
        "fov_degrees": [math.degrees(angle) for angle in path.cameras[0].fov],
        "seconds": path.duration,
        "metres": path.length,
        "metres_a_frame": path.length / steps,
        "metres_from_start": path[0].distance_to(path[-1]),
        "degrees": {
            "total": sum(turns),
            "frame": sum(turns) / steps,
            "most": max(turns, default=0.0),
            "from_start": math.degrees(path[0].angle_to(path[-1])),
        },
        "bounds": [centres.min(axis=0).tolist(), centres.max(axis=0).tolist()],
    }

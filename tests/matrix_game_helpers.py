"""Frames, cameras and calls of Matrix-Game 3.5's rollouts, and what they show, worked out cell by cell."""

from types import SimpleNamespace

import numpy as np
import torch

from mosaicmem.published.matrix_game import FrustumHandler

ROWS, COLUMNS, STRIDE = 8, 12, 16
SIZE = (ROWS * STRIDE, COLUMNS * STRIDE)
FRAMES, DEPTH = 9, (24, 36)
K = np.array([[150, 0, 95.5], [0, 151, 63.5], [0, 0, 1]], np.float32)  # in the middle of the image


def pose(i, away=0.0):
    """Each frame is further to the right and turned further."""
    angle, matrix = 0.05 * i, np.eye(4)
    matrix[:3, :3] = [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
    matrix[:3, 3] = matrix[:3, :3] @ [-0.137 * i, 0.011 * i, -away]
    return matrix.astype(np.float32)


def depth_of(frames):
    rows, columns = np.mgrid[: DEPTH[0], : DEPTH[1]]
    return np.stack([3 + 0.4 * np.sin(columns / 5 + i) + 0.02 * rows for i in frames]).astype(np.float32)


class Estimator:
    """A network as Matrix-Game holds it."""

    da3_compatible = True

    def __init__(self, shape=DEPTH):
        self.shape, self.places, self.asked, self.seen = shape, [], [], 0

    def to(self, device):
        self.places.append(device)
        return self

    def inference(self, images, use_ray_pose, process_res):
        self.asked.append((len(images), images[0].size, use_ray_pose, process_res))
        frames = range(self.seen, self.seen + len(images))
        self.seen += len(images)
        return SimpleNamespace(depth=np.resize(depth_of(frames), (len(images), *self.shape)))


def handler(estimator=None, **options):
    """As the distilled rollout makes it."""
    return FrustumHandler(
        K,
        **{
            "image_size": SIZE,
            "grid_size": (ROWS, COLUMNS),
            "depth_inf_thresh": 1e9,
            "depth_estimator": estimator or Estimator(),
            "is_c2w": False,
            "use_gpu": True,
            "init_extrinsic": np.eye(4)[None],
            "latent_stride": STRIDE,
            "fixed_intrinsics": False,
            "da3_process_res": 448,
            "da3_autocast_dtype": "bfloat16",
            **options,
        },
    )


def images(count):
    return list(np.zeros((count, *SIZE, 3), np.uint8))


def registered(intrinsics=None, **options):
    """First one frame, then the others, as both rollouts do."""
    memory = handler(**options)
    k = np.repeat(K[None], FRAMES, 0) if intrinsics is None else intrinsics
    poses = np.stack([pose(i) for i in range(FRAMES)])
    memory.register_source_sequence(
        "cpu",
        images(1),
        start_index=0,
        extrinsics=poses[:1],
        intrinsics=k[:1],
        force_using_input_extrinics=True,
        cache_frames=False,
    )
    memory.register_source_sequence(
        "cpu",
        images(FRAMES - 1),
        extrinsics=poses[1:],
        intrinsics=k[1:],
        depths=None,
        force_using_input_extrinics=True,
    )
    return memory


def latents(channels=3, dtype=torch.float32):
    made = torch.randn(channels, FRAMES, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    return made.to(dtype)


BASE = {
    "candidates_per_query_group": 5,
    "angle_threshold": None,
    "distance_threshold": None,
    "temporal_threshold": None,
    "fuse_mode": "fill_stop_zbuffer",
    "zbuffer_depth_preference": "near",
    "interpolation_mode": "nearest",
    "return_revgrid": False,
    "return_candidate_frame_ids": True,
    "return_view_change": False,
    "latent_merge_4frames": False,
    "query_reference_frame": 4,
    "selection_mode": "pose_nearest",
    "candidate_nms_mode": "pose",
    "candidate_nms_projection_iou_threshold": 0.7,
    "candidate_nms_min_temporal_gap": 0,
    "candidate_nms_pose_distance_threshold": 0.2,
    "candidate_nms_pool_multiplier": 2.0,
    "coverage_grid_downsample": 4,
    "coverage_pool_stride": 2,
    "source_valid_masks": None,
    "recent_first_cfg": None,
}
QUERY = np.stack([pose(2.3 + 0.25 * i) for i in range(8)]).astype(np.float64)  # two groups


def sampled(z):
    """Depth on the grid of cells, by the rule that the network's sizes here share with any rounding."""
    return z[:: DEPTH[0] // ROWS, :: DEPTH[1] // COLUMNS]


def landing(row, column, z, k, old, new, query_k):
    """x and y, in cells, and depth of a cell's upper left pixel in a view."""
    point = z * np.linalg.solve(k.astype(np.float64), [column * STRIDE, row * STRIDE, 1])
    world = np.linalg.inv(old.astype(np.float64)) @ [*point, 1]
    at = new.astype(np.float32).astype(np.float64) @ world
    pixel = query_k.astype(np.float64) @ (at[:3] / at[2])
    return pixel[0] / STRIDE, pixel[1] / STRIDE, at[2]


def splatted(frame, k, query, query_k, usable=None):
    """For each cell of the view that a frame reaches: its depth, its cell, and where that lands."""
    z, shown = sampled(depth_of([frame])[0]), {}
    for row in range(ROWS):
        for column in range(COLUMNS):
            if usable is not None and not usable[frame, row, column]:
                continue
            x, y, ahead = landing(row, column, z[row, column], k, pose(frame), query, query_k)
            target = (int(np.rint(y)), int(np.rint(x)))
            inside = 0 <= target[0] < ROWS and 0 <= target[1] < COLUMNS and ahead > 1e-2
            if inside and (target not in shown or ahead <= shown[target][0]):
                shown[target] = (ahead, (row, column), (x, y))
    return shown


def fused(ids, query, *, k=K, query_k=K, near=True, mode="fill_stop_zbuffer", usable=None, enough=0.95):
    """The frame and cell that each cell of a view shows."""
    shown = {}
    for frame in dict.fromkeys(i for i in ids if i >= 0):
        for target, found in splatted(frame, k, query, query_k, usable).items():
            front = target not in shown or (found[0] < shown[target][0]) == near
            if target not in shown or (mode == "fill_stop_zbuffer" and front):
                shown[target] = (*found, frame)
        if len(shown) >= enough * ROWS * COLUMNS:
            break
    return shown


def picture(shown, source):
    output = torch.zeros(source.shape[0], ROWS, COLUMNS, dtype=source.dtype)
    for (row, column), (_, cell, _, frame) in shown.items():
        output[:, row, column] = source[:, frame, cell[0], cell[1]]
    return output


def nearest(query, picks, apart):
    """Frames by pose, of those that look the same way."""
    centres = [-pose(i)[:3, :3].T @ pose(i)[:3, 3] for i in range(FRAMES)]
    at = -query[:3, :3].T @ query[:3, 3]
    ranked = sorted(range(FRAMES), key=lambda i: np.linalg.norm(centres[i] - at))
    chosen = []
    for frame in ranked:
        if len(chosen) < picks and all(np.linalg.norm(centres[frame] - centres[i]) >= apart for i in chosen):
            chosen.append(frame)
    return chosen + [frame for frame in ranked if frame not in chosen][: picks - len(chosen)]

"""Lyra-2's memory of frames, under its name: which frames show most of what a new camera sees. Needs torch.

Its code calls `Sparse3DCache` unchanged once it stands in for its own::

    import lyra_2._src.inference.lyra2_ar_inference as inference
    import lyra_2._src.models.lyra2_model as model
    from mosaicmem.published.lyra import Sparse3DCache

    inference.Sparse3DCache = model.Sparse3DCache = Sparse3DCache

Conventions are Lyra's: w2c is camera_from_world with OpenCV axes, intrinsics count pixel centres as integers, depth is
z, and tensors have a leading axis B.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mosaicmem._arrays import check_integer, check_number
from mosaicmem.published._points import moved, projected, unprojected

_TINY_DEPTH = 1e-7
_SAME_DEPTH = 1e-6  # of the points that own a pixel
_EXPLORATION = 0.02  # of the best score: what a frame without any has in a random choice


class Sparse3DCache:
    """Frames as points on a coarse grid; `retrieve` picks those that cover the target's view.

    The attributes with an underscore are Lyra's too: its snapshots shorten the lists, and count their items.

    Parameters
    ----------
    downsample : int
        Each such row and column of a frame's depth becomes a point.
    store_device : str
        "cpu" keeps everything on the host; anything else where it comes from.
    store_values : bool
        Whether to keep depth, w2c and intrinsics, for `get_rgbd_by_frame_id`.
    """

    def __init__(self, downsample: int = 4, store_device: str = "cuda", store_values: bool = False) -> None:
        self._downsample = check_integer("downsample", downsample, minimum=1)
        self._store_device, self._store_values = str(store_device), bool(store_values)
        self._world_points: list[Tensor] = []
        self._latent_indices: list[int] = []
        self._frame_ids: list[int] = []
        self._depths: list[Tensor] = []
        self._w2cs: list[Tensor] = []
        self._Ks: list[Tensor] = []
        self._rgbs: dict[int, Tensor] = {}

    def add(
        self,
        depth_B_1_H_W: Tensor,
        w2c_B_4_4: Tensor,
        K_B_3_3: Tensor,
        latent_index: int,
        frame_id: int | None = None,
    ) -> None:
        """Add a frame; ``frame_id`` is ``latent_index`` if not given. Pixels of depth <= 0 are no points."""
        points = self._points(depth_B_1_H_W, w2c_B_4_4, K_B_3_3)
        self._world_points.append(points)
        self._latent_indices.append(int(latent_index))
        self._frame_ids.append(int(latent_index if frame_id is None else frame_id))
        if self._store_values:
            for kept, value in zip(
                (self._depths, self._w2cs, self._Ks), (depth_B_1_H_W, w2c_B_4_4, K_B_3_3), strict=True
            ):
                kept.append(self._stored(value))

    def update_by_frame_id(self, frame_id: int, depth_B_1_H_W: Tensor, w2c_B_4_4: Tensor, K_B_3_3: Tensor) -> bool:
        """Replace depth and camera of the first frame with an id. Returns whether there is one."""
        if int(frame_id) not in self._frame_ids:
            return False
        place = self._frame_ids.index(int(frame_id))
        self._world_points[place] = self._points(depth_B_1_H_W, w2c_B_4_4, K_B_3_3)
        if self._store_values:
            self._depths[place] = self._stored(depth_B_1_H_W)
            self._w2cs[place] = self._stored(w2c_B_4_4)
            self._Ks[place] = self._stored(K_B_3_3)
        return True

    def store_rgb(self, frame_id: int, rgb: Tensor) -> None:
        """Keep an image (B, C, H, W) under an id."""
        self._rgbs[int(frame_id)] = self._stored(rgb)

    def get_rgb_by_frame_id(self, frame_id: int) -> Tensor:
        """The image kept under an id; KeyError if there is none."""
        if int(frame_id) not in self._rgbs:
            raise KeyError(f"frame_id: expected one that store_rgb was given, got {frame_id}")
        return self._rgbs[int(frame_id)]

    def get_rgbd_by_frame_id(self, frame_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (B, 1, H, W), w2c and intrinsics of the last frame with an id."""
        if not self._store_values:
            raise RuntimeError("store_values: expected True, so that depth and cameras are kept, got False")
        for place in reversed(range(len(self._frame_ids))):
            if self._frame_ids[place] == int(frame_id):
                return self._depths[place], self._w2cs[place], self._Ks[place]
        raise KeyError(f"frame_id: expected one that was added, got {frame_id}")

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def retrieve(
        self,
        target_w2c_B_4_4: Tensor,
        target_K_B_3_3: Tensor,
        target_hw: tuple[int, int],
        num_latents: int,
        skip_last_n: int = 0,
        random: bool = False,
        max_coverage: bool = False,
        depth_threshold: float = 0.1,
    ) -> list[tuple[int, int]]:
        """The frames that show most to the target, the worst first.

        Parameters
        ----------
        target_w2c_B_4_4, target_K_B_3_3 : (B, 4, 4) and (B, 3, 3), or (B, V, 4, 4) and (B, V, 3, 3) tensors
            One view, or V views that count together.
        target_hw : (int, int)
            Height and width, pixels.
        num_latents : int
            At most so many.
        skip_last_n : int
            The newest frames to leave out.
        random : bool
            Draw frames by their score, from torch's global generator, as training does.
        max_coverage : bool
            Greedily add the frame that shows most new pixels; what the frame of the largest id shows counts as known,
            unless that id is 0 or less, and this frame is left out.
        depth_threshold : float
            With ``max_coverage``: points this far behind the front are still shown, in units of the scene.

        Returns
        -------
        list of (latent index, frame id)
        """
        threshold = check_number("depth_threshold", depth_threshold, minimum=0.0)
        count = max(0, len(self._world_points) - max(0, int(skip_last_n or 0)))
        most = min(int(num_latents), count)
        if most <= 0:
            return []
        seen = [
            self._seen(points.to(target_w2c_B_4_4.device), target_w2c_B_4_4, target_K_B_3_3, target_hw)
            for points in self._world_points[:count]
        ]
        size = max(each.pixels for each in seen)
        front = torch.full((size,), torch.inf, device=target_w2c_B_4_4.device)
        for each in seen:
            front.scatter_reduce_(0, each.pixel, each.depth, "amin")
        if not bool(torch.isfinite(front).any()):
            return []
        chosen = (
            self._covering(seen, front, threshold, most)
            if max_coverage
            else _scored(_owned(seen, front), most, draw=bool(random))
        )
        return [(self._latent_indices[i], self._frame_ids[i]) for i in reversed(chosen)]

    def _covering(self, seen: list[_Seen], front: Tensor, threshold: float, most: int) -> list[int]:
        shown = torch.zeros((len(seen), len(front)), dtype=torch.bool, device=front.device)
        for row, each in zip(shown, seen, strict=True):
            row[each.pixel[each.depth <= front[each.pixel] + threshold]] = True
        ids = self._frame_ids[: len(seen)]
        newest = ids.index(max(ids)) if max(ids) > 0 else None
        free = torch.ones(len(seen), dtype=torch.bool, device=front.device)
        if newest is not None:
            free[newest] = False
            shown &= ~shown[newest].clone()
        chosen: list[int] = []
        for _ in range(most):
            gain = torch.where(free, shown.sum(dim=1), -1)
            best = int((gain == gain.max()).nonzero()[0])
            if gain[best] <= 0:
                break
            chosen.append(best)
            free[best] = False
            shown &= ~shown[best].clone()
        return chosen

    def _points(self, depth: Tensor, w2c: Tensor, intrinsics: Tensor) -> Tensor:
        """Points (B, h w, 3) of the world. As in Lyra, those without depth lie at its origin, and count."""
        _check(depth, w2c, intrinsics)
        step = self._downsample
        thin = depth[:, 0, ::step, ::step].float()
        return self._stored(unprojected(thin, w2c.float(), _thinned(intrinsics.float(), step)))

    def _seen(self, points: Tensor, w2c: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> _Seen:
        """Where points land on the thinned grid of each view."""
        if w2c.dim() == 3:
            w2c, intrinsics = w2c[:, None], intrinsics[:, None]
        batch, views = w2c.shape[:2]
        rows, columns = (-(-int(n) // self._downsample) for n in size)
        pixels, depths = [], []
        for view in range(views):
            camera = _thinned(intrinsics[:, view].float(), self._downsample)
            x, y, z = projected(camera, moved(w2c[:, view].float(), points)).unbind(-1)
            column, row = torch.round(x / (z + _TINY_DEPTH)), torch.round(y / (z + _TINY_DEPTH))
            valid = (z > 0) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
            item = (view * len(z) + torch.arange(len(z), device=z.device))[:, None].expand_as(z)
            pixel = (item[valid] * rows + row[valid].long()) * columns + column[valid].long()
            pixels.append(pixel)
            depths.append(z[valid])
        return _Seen(torch.cat(pixels), torch.cat(depths), views * max(batch, len(points)) * rows * columns)

    def _stored(self, value: Tensor) -> Tensor:
        value = value.detach()
        return value.cpu() if self._store_device == "cpu" else value


class _Seen:
    """The points of a frame that land in the target: their pixels, and their depth there."""

    def __init__(self, pixel: Tensor, depth: Tensor, pixels: int) -> None:
        self.pixel, self.depth, self.pixels = pixel, depth, pixels


def _owned(seen: list[_Seen], front: Tensor) -> Tensor:
    """How many pixels each frame shows in front of all others; the first of equals has a pixel."""
    owner = torch.full(front.shape, len(seen), dtype=torch.long, device=front.device)
    for i, each in enumerate(seen):
        ahead = each.pixel[each.depth <= front[each.pixel] + _SAME_DEPTH]
        owner[ahead] = owner[ahead].clamp(max=i)
    return torch.bincount(owner, minlength=len(seen) + 1)[: len(seen)].float()


def _scored(scores: Tensor, most: int, *, draw: bool) -> list[int]:
    if draw:
        return [int(i) for i in torch.multinomial(scores + _EXPLORATION * scores.max(), most, replacement=False)]
    return [int(i) for i in torch.sort(scores, descending=True, stable=True).indices[:most]]


def _thinned(intrinsics: Tensor, step: int) -> Tensor:
    """K of an image of which every ``step``-th row and column are left; pixel centres are integers."""
    scaled = intrinsics.clone()
    for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)):
        scaled[:, row, column] *= 1 / step
    return scaled


def _check(depth: Any, w2c: Any, intrinsics: Any) -> None:
    shapes = {"depth_B_1_H_W": (depth, 4), "w2c_B_4_4": (w2c, 3), "K_B_3_3": (intrinsics, 3)}
    for name, (tensor, axes) in shapes.items():
        if not isinstance(tensor, Tensor) or tensor.dim() != axes:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name}: expected a tensor of {axes} axes, got {got}")
    if depth.shape[1] != 1 or w2c.shape[1:] != (4, 4) or intrinsics.shape[1:] != (3, 3):
        raise ValueError(
            f"depth_B_1_H_W, w2c_B_4_4, K_B_3_3: expected the shapes in their names, got {tuple(depth.shape)}, "
            f"{tuple(w2c.shape)}, {tuple(intrinsics.shape)}"
        )

"""GEN3C's rendering of points: soft splatting, and a mesh of depth edges that hides what lies behind. Needs torch."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from mosaicmem.published._points import pixel_rays

_SHARPNESS = 50.0  # of the preference for near points
_LARGEST_POWER = 80.0  # so that its exponential stays finite
_TINY = 1e-7
_SURFACE_THICKNESS = 0.02  # a splat this far behind the mesh is still its surface; units of depth
_MESH_STEP = 4  # pixels to a vertex of the mesh
_AT_ONCE = 1 << 22  # pairs of triangle and pixel


def log_depth(z: Tensor) -> Tensor:
    """What nearness is measured in; points behind the camera count as at it."""
    return torch.log1p(z.clamp(min=0))


def soft_splat(
    values: Tensor, where: Tensor, mask: Tensor | None, farthest: Tensor, fill: float
) -> tuple[Tensor, Tensor]:
    """Pixels added up where they land, near ones with more weight.

    Parameters
    ----------
    values : (C, H, W) tensor
    where : (H W, 3) tensor
        (x z, y z, z) of each pixel in the new view.
    mask : (H W,) bool tensor, optional
        The pixels to use.
    farthest : () tensor
        The largest `log_depth` of all points that are rendered together.
    fill : float
        The value of pixels that nothing reaches.

    Returns
    -------
    (C, H, W) tensor, (H, W) bool tensor
        The image, and which of its pixels something reaches.
    """
    channels, rows, columns = values.shape
    z = where[:, 2]
    used = z > 0 if mask is None else (z > 0) & mask
    index = used.nonzero()[:, 0]
    z, value = z[index], values.flatten(1).T[index]
    row, column = (index // columns).to(z.dtype), (index % columns).to(z.dtype)
    # Through the flow from the pixel and back, plus one for a frame that collects what lands outside.
    x = where[index, 0] / (z + _TINY) - column + column + 1
    y = where[index, 1] / (z + _TINY) - row + row + 1
    nearness = torch.exp((log_depth(z) / (farthest + _TINY) * _SHARPNESS).clamp(max=_LARGEST_POWER)) + _TINY
    (left, right), (top, bottom) = _neighbours(x, columns), _neighbours(y, rows)
    x, y = x.clamp(0, columns + 1), y.clamp(0, rows + 1)

    sums = values.new_zeros((rows + 2) * (columns + 2), channels + 1)
    # A coordinate that is whole has both neighbours in one, and counts twice.
    for along_x, along_y in ((left, top), (left, bottom), (right, top), (right, bottom)):
        weight = (1 - (y - along_y).abs()) * (1 - (x - along_x).abs()) / nearness
        pixel = along_y.long() * (columns + 2) + along_x.long()
        sums.index_put_((pixel,), torch.cat([value * weight[:, None], weight[:, None]], dim=1), accumulate=True)
    inner = sums.T.unflatten(1, (rows + 2, columns + 2))[:, 1:-1, 1:-1]
    reached = inner[-1] > 0
    image = torch.where(reached, inner[:-1] / inner[-1], torch.full_like(inner[:-1], fill))
    return image, reached


def _neighbours(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return torch.floor(at).clamp(0, size + 1), torch.ceil(at).clamp(0, size + 1)


def hidden_by_edges(points: Tensor, edges: Tensor, intrinsics: Tensor, depth: Tensor) -> Tensor:
    """Where splatted points lie behind the surface that spans a depth edge of their image.

    Parameters
    ----------
    points : (H W, 3) tensor
        Of the image, in the new camera.
    edges : (H, W) bool tensor
        Pixels of the image at a jump of depth.
    intrinsics : (3, 3) tensor
        Of the new camera.
    depth : (H, W) tensor
        As splatted in the new view; 0 where there is none.

    Returns
    -------
    (H, W) bool tensor
    """
    rows, columns = depth.shape
    size = (rows // _MESH_STEP, columns // _MESH_STEP)
    grid = F.interpolate(points.T.unflatten(1, (rows, columns))[None], size=size, mode="bilinear", align_corners=False)
    vertex = grid[0].movedim(0, -1)
    at_edge = F.interpolate(edges[None, None].to(depth.dtype), size=size, mode="nearest")[0, 0] > 0
    spans = at_edge[:-1, :-1] | at_edge[:-1, 1:] | at_edge[1:, :-1] | at_edge[1:, 1:]
    a, b, c, d = (part[spans] for part in (vertex[:-1, :-1], vertex[:-1, 1:], vertex[1:, :-1], vertex[1:, 1:]))
    triangles = torch.cat([torch.stack([a, b, c], dim=1), torch.stack([b, d, c], dim=1)])
    surface = surface_depth(triangles, intrinsics, rows, columns)
    return (surface > 0) & (surface + _SURFACE_THICKNESS < depth)


def surface_depth(triangles: Tensor, intrinsics: Tensor, rows: int, columns: int) -> Tensor:
    """z (rows, columns) of the nearest of triangles (N, 3, 3) in a camera at each pixel, 0 where there is none."""
    rays = F.normalize(pixel_rays(intrinsics[None], rows, columns)[0], dim=-1)
    nearest = torch.full((rows * columns,), torch.inf, dtype=rays.dtype, device=rays.device)
    low, size = _boxes(triangles, intrinsics, rows, columns)
    seen = (size > 0).all(dim=1)
    triangles, low, size = triangles[seen], low[seen], size[seen]
    pixels = size.prod(dim=1)
    ends = pixels.cumsum(0)
    cuts = torch.searchsorted(ends, torch.arange(0, int(pixels.sum()), _AT_ONCE, device=ends.device)).unique().tolist()
    for begin, end in pairwise([*cuts, len(triangles)]):
        which = torch.repeat_interleave(torch.arange(begin, end, device=ends.device), pixels[begin:end])
        place = torch.arange(len(which), device=ends.device) - (ends - pixels - (ends - pixels)[begin])[which]
        row = low[which, 1] + place // size[which, 0]
        pixel = row * columns + low[which, 0] + place % size[which, 0]
        distance = _distance(triangles[which], rays[pixel])
        nearest.scatter_reduce_(0, pixel, distance, "amin")
    return (torch.where(nearest.isfinite(), nearest, 0) * rays[:, 2]).unflatten(0, (rows, columns))


def _boxes(triangles: Tensor, intrinsics: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """First pixel (N, 2), as column and row, and size of the part of the image that can see each triangle."""
    z = triangles[..., 2]
    ahead = (z > _TINY).all(dim=1)
    corner = torch.einsum("ij,ntj->nti", intrinsics[:2], triangles) / z.clamp(min=_TINY)[..., None]
    limit = torch.tensor([columns, rows], dtype=corner.dtype, device=corner.device)
    low = torch.minimum((corner.amin(dim=1).floor() - 1).clamp(min=0), limit)
    high = torch.minimum((corner.amax(dim=1).ceil() + 2).clamp(min=0), limit)
    # A triangle that reaches behind the camera may be seen anywhere; one that lies behind it nowhere.
    low = torch.where(ahead[:, None], low, 0)
    high = torch.where(ahead[:, None], high, limit * (z > 0).any(dim=1)[:, None])
    return low.long(), (high - low).long()


def _distance(triangles: Tensor, rays: Tensor) -> Tensor:
    """Along each ray from the origin to its triangle (Moeller and Trumbore); infinite where it misses."""
    first, edge_1, edge_2 = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    across = torch.linalg.cross(rays, edge_2)
    area = (edge_1 * across).sum(-1)
    u = -(first * across).sum(-1) / area
    turned = torch.linalg.cross(-first, edge_1)
    v, distance = (rays * turned).sum(-1) / area, (edge_2 * turned).sum(-1) / area
    hit = (area.abs() >= 1e-8) & (u >= 0) & (u <= 1) & (v >= 0) & (u + v <= 1) & (distance > 1e-8)
    return torch.where(hit, distance, torch.inf)

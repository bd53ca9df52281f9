"""Attention that reads memory by position and camera alone: Warped RoPE and PRoPE, without weights."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F32, check_number
from mosaicmem.attention import PRoPE, WarpedRoPE, grid_positions
from mosaicmem.attention.kernel import attention
from mosaicmem.camera.pose import rigid_part
from mosaicmem.diffusion.protocols import MemoryContext
from mosaicmem.memory import Mosaic

_CAMERA_DIMS = 16  # four four-vectors
_PLACE_DIMS = 24  # for y, and for x
_HEAD_DIM = _CAMERA_DIMS + 2 * _PLACE_DIMS


class PlaceAttention:
    """Each latent cell attends to the tokens of its frame, by where they land and by where they were seen from.

    Queries and keys have no content: all are the same vector, which Warped RoPE rotates by position and PRoPE
    multiplies by camera matrices. So a logit is a function of relative position and relative camera alone,

        place * sum_i (cos(f_i dy) + cos(f_i dx)) + view * trace(P_q P_k^-1),

    largest where a token lands on the cell and was seen from the same direction. The output is the softmax average of
    the latents; trained attention starts from this.

    Parameters
    ----------
    place : float
        A token that lands n cells away has about exp(-place n^2 / 2) times the weight.
    view : float
        A token seen from another angle has exp(-2 view (1 - cos angle)) times the weight.
    num_threads : int
    """

    def __init__(self, *, place: float = 12.0, view: float = 2.0, num_threads: int = 0) -> None:
        self.place = check_number("place", place, above=0.0)
        self.view = check_number("view", view, minimum=0.0)
        self.num_threads = num_threads
        self._rope = WarpedRoPE(_HEAD_DIM, (_CAMERA_DIMS, _PLACE_DIMS, _PLACE_DIMS))

    def read(self, context: MemoryContext) -> tuple[F32, F32]:
        """Attend to the mosaic from each cell.

        Returns
        -------
        latents : (T, h, w, C) float32
        mass : (T, h, w) float32
            Attention mass: 1 for one token exactly on the cell, seen from the same direction; 0 for no token.
        """
        mosaic, shape = context.mosaic, context.coverage.shape
        frames, cells = shape[0], shape[1] * shape[2]
        if mosaic is None or not mosaic.valid.any():
            return np.zeros((*shape, context.canvas.shape[3]), np.float32), np.zeros(shape, np.float32)
        feature = self._feature(context.use_prope)
        threads = self.num_threads
        # Valid tokens first, and room for no more than the longest frame has: what is masked costs a little, too.
        order = np.argsort(~mosaic.valid, axis=1, kind="stable")[:, : int(mosaic.valid.sum(axis=1).max())]
        tokens = order.size
        # A frame attends to its own tokens only, so time is the same on both sides and drops out.
        grid = grid_positions(1, shape[1], shape[2])
        queries = self._rope.apply(np.tile(feature, (cells, 1)), grid, num_threads=threads)
        queries = np.tile(queries, (frames, 1))
        places = np.take_along_axis(mosaic.positions, order[..., None], axis=1).reshape(tokens, 3)
        places[:, 0] = 0
        keys = self._rope.apply(np.tile(feature, (tokens, 1)), places, num_threads=threads)
        if context.use_prope:
            of_queries, of_keys = _cameras(context, mosaic, order, cells)
            queries = of_queries.apply_to_q(queries, num_threads=threads)
            keys = of_keys.apply_to_kv(keys, num_threads=threads)
        queries = queries.reshape(frames, 1, cells, _HEAD_DIM)
        keys = keys.reshape(frames, 1, -1, _HEAD_DIM)
        values = np.take_along_axis(mosaic.tokens, order[..., None], axis=1)[:, None]  # latents, which nothing rotates
        mask = np.take_along_axis(mosaic.valid, order, axis=1)
        read, lse = attention(queries, keys, values, mask=mask, scale=1.0, return_lse=True, num_threads=threads)
        best = float(feature @ feature)
        return read.reshape(*shape, -1), np.exp(lse - best).reshape(shape)

    def _feature(self, with_cameras: bool) -> F32:
        """The vector of all queries and keys; its squared norm is the largest logit."""
        feature = np.zeros(_HEAD_DIM, np.float32)
        if with_cameras:
            feature[:_CAMERA_DIMS] = np.sqrt(self.view) * np.eye(4).ravel()  # sum_j e_j^T M e_j is the trace of M
        feature[_CAMERA_DIMS::2] = np.sqrt(self.place)
        return feature


def _cameras(context: MemoryContext, mosaic: Mosaic, order: np.ndarray, cells: int) -> tuple[PRoPE, PRoPE]:
    """PRoPE of the target cells and of the tokens, in the frame of the first target, which keeps numbers small."""
    origin = context.cameras[0].world_from_camera
    frames = len(context.cameras)
    cells_per_patch = mosaic.valid.shape[1] // mosaic.patch_ids.shape[1]
    of_queries = PRoPE(
        _HEAD_DIM,
        context.cameras.camera_from_world @ origin,
        camera=np.repeat(np.arange(frames), cells),
        layout="contiguous",
        dims_per_camera=_CAMERA_DIMS,
    )
    of_keys = PRoPE(
        _HEAD_DIM,
        rigid_part(mosaic.sources.camera_from_world) @ origin,
        camera=np.take_along_axis(mosaic.patch_sources, order // cells_per_patch, axis=1).ravel().clip(0),
        layout="contiguous",
        dims_per_camera=_CAMERA_DIMS,
    )
    return of_queries, of_keys

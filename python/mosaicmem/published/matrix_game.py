"""Matrix-Game 3.5's memory, under its name: which frames new poses see, and their latents in the poses' views.

Needs torch. Its code looks the class up when it builds one, so an assignment before that is enough::

    import frustum.frustum_handler
    from mosaicmem.published.matrix_game import FrustumHandler

    frustum.frustum_handler.FrustumHandler = FrustumHandler

Its command line starts subprocesses; there the assignment belongs in a module that Python imports at start. Conventions
are Matrix-Game's: extrinsics are camera_from_world (w2c) with OpenCV axes, intrinsics in pixels of the full image, a
latent cell stands at its upper left pixel, four poses are a group, depth is z in metres.

Kept, because models were trained with it: intrinsics that are registered are rescaled as if their centre were the
image's, those of a query are not; depth is sampled as OpenCV rounds; no frame hides another in the choice. Different:
frames that are equally good are taken in the order of their ids, where the published order depends on the processor.
Not here, and refused by name: poses that the depth network estimates, ``recent_first_smooth``, ranking by the overlap
of boxes, latents that merge four frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mosaicmem._arrays import F32, F64, ArrayLike, check_integer
from mosaicmem.published import _matrix_game_cameras as cameras
from mosaicmem.published._matrix_game_candidates import Candidates

_AUTOCAST = {None: None, "": None, "none": None, "off": None} | {
    name: dtype
    for dtype, names in ((torch.float16, ("float16", "fp16")), (torch.bfloat16, ("bfloat16", "bf16")))
    for name in names
}
_DEFAULT_RESOLUTION = 700  # of the depth network
_UNUSED = (
    *("grid_size", "point_stride", "depth_inf_thresh", "is_c2w", "trans_axis_order", "flip_up_sign", "use_gpu"),
    *("depth_model_ckpt", "depth_model_config", "depth_infer_fps", "depth_fp32", "keyframe_rot_thresh_deg"),
    *("keyframe_trans_thresh", "keyframe_max_interval"),
)
_OF_FUSION = (
    *("fuse_mode", "fill_ratio_threshold", "fill_candidate_limit", "zbuffer_depth_preference", "special_query_frame"),
    *("return_revgrid", "return_view_change", "source_valid_masks", "memory_frames", "recent_first_cfg"),
)


class FrustumHandler(Candidates):
    """Frames with depth and cameras; `query_hits_mode_new` chooses and fuses latents for new poses.

    The attributes are Matrix-Game's, those with an underscore too.

    Attributes
    ----------
    extrinsics : list of (4, 4) float64
    depths : list of (H', W') float32
    last_extrinsic : (1, 4, 4) float64

    Parameters
    ----------
    intrinsic : (3, 3) array
        K in pixels or divided by the image's size; what frames without their own have.
    image_size : (int, int), optional
        Height and width; by default those of the first frame.
    depth_estimator : object, optional
        With ``to(device)``, ``inference(images, use_ray_pose=, process_res=)`` whose ``depth`` is (F, H', W'), and
        ``da3_compatible = True``; or `DepthAnything3` itself.
    depth_input_size, da3_process_res : int, optional
        The network's resolution, 700 by default.
    da3_autocast_dtype : str, optional
        "float16" or "bfloat16" on a GPU.
    init_extrinsic : (1, 4, 4) array, optional
        Where trajectories begin before any frame is registered.
    latent_stride : int
        Pixels per latent cell.
    fixed_intrinsics : bool
        All frames have ``intrinsic``.
    unused
        The other parameters of the published class, which nothing reads.
    """

    def __init__(
        self,
        intrinsic: ArrayLike,
        *,
        image_size: tuple[int, int] | None = None,
        depth_estimator: Any = None,
        depth_input_size: int | None = None,
        da3_process_res: int | None = None,
        da3_autocast_dtype: str | None = None,
        init_extrinsic: ArrayLike | None = None,
        latent_stride: int = 16,
        fixed_intrinsics: bool = False,
        **unused: Any,
    ) -> None:
        unknown = set(unused) - set(_UNUSED)
        if unknown:
            raise TypeError(f"FrustumHandler: expected no parameter {sorted(unknown)[0]!r}")
        self._intrinsic = cameras.normalised(cameras.matrix("intrinsic", intrinsic, 3))
        self._image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        self._estimator = depth_estimator
        self._resolution = da3_process_res or depth_input_size or _DEFAULT_RESOLUTION
        name = da3_autocast_dtype.lower() if isinstance(da3_autocast_dtype, str) else da3_autocast_dtype
        if name not in _AUTOCAST:
            raise ValueError(f"da3_autocast_dtype: expected float16, bfloat16 or none, got {da3_autocast_dtype!r}")
        self._autocast = _AUTOCAST[name]
        self._stride = check_integer("latent_stride", latent_stride, minimum=1)
        self._fixed = bool(fixed_intrinsics)
        self.last_extrinsic: F64 = np.eye(4)[None] if init_extrinsic is None else np.array(init_extrinsic)
        self.extrinsics: list[F64] = []
        self.depths: list[F32] = []
        self._Kpixs: list[F64] = []
        self._Kpix: F64 | None = None
        self._reporter: Any = None

    def register_source_sequence(
        self,
        device: Any,
        frames: Sequence[Any],
        *,
        extrinsics: ArrayLike | None = None,
        intrinsics: ArrayLike | None = None,
        depths: ArrayLike | None = None,
        start_index: int | None = None,
        overwrite_stride: int | None = None,
        force_using_input_extrinics: bool = False,
        cat_to_start: bool = False,
        cache_frames: bool = False,
    ) -> F32:
        """Remember frames, with depth that the network estimates; if anything is wrong, none of them.

        Parameters
        ----------
        device : str or torch.device
            Of the network.
        frames : sequence of F images (H, W, 3) uint8
        extrinsics, intrinsics : (F, 4, 4) and (F, 3, 3) array
            camera_from_world, and K in pixels.
        depths : (F, H', W') array, optional
            In place of the network's.
        force_using_input_extrinics : bool
            True; poses of the network are not supported.
        start_index, overwrite_stride, cache_frames
            Not read.
        cat_to_start : bool
            False.

        Returns
        -------
        (F, H', W') float32
        """
        images = list(frames)
        if not images:
            raise ValueError("frames: expected at least one, got none")
        if extrinsics is None or not force_using_input_extrinics or cat_to_start:
            raise NotImplementedError(
                "register_source_sequence: expected extrinsics with force_using_input_extrinics=True, appended at the "
                "end; poses of the depth network and cat_to_start are not supported here"
            )
        poses = cameras.matrices("extrinsics", extrinsics, 4, len(images))
        size = self._image_size or tuple(np.shape(images[0])[:2])
        for i, image in enumerate(images):
            if tuple(np.shape(image)[:2]) != size:
                raise ValueError(f"frames: expected images of {size} pixels, got {np.shape(image)[:2]} of frame {i}")
        default = cameras.in_pixels(self._intrinsic, size) if self._Kpix is None else self._Kpix
        kept = [default] * len(images)
        if intrinsics is not None:
            given = cameras.matrices("intrinsics", intrinsics, 3, len(images))
            if not self._fixed:
                kept = [cameras.in_pixels(cameras.normalised(k), size) for k in given]
        estimated = self._estimated(device, images) if depths is None else depths
        z: F32 = np.array(cameras.host_array("depths", estimated), dtype=np.float32)
        if z.ndim != 3 or len(z) != len(images):
            raise ValueError(f"depths: expected shape ({len(images)}, H, W), got {z.shape}")
        if self.depths and z.shape[1:] != self.depths[0].shape:
            raise ValueError(f"depths: expected {self.depths[0].shape} pixels as before, got {z.shape[1:]}")
        self._image_size, self._Kpix = size, kept[-1]
        self.extrinsics.extend(poses)
        self.last_extrinsic = np.array(self.extrinsics[-1:])
        self._Kpixs.extend(kept)
        self.depths.extend(z)
        return np.array(z)

    def align_w2c_trajectory(self, A_w2c: ArrayLike, B_w2c: ArrayLike | None = None, eps: float = 1e-8) -> F64:
        """Move poses (T, 4, 4) so that the first falls on ``B_w2c``, by default the last frame."""
        poses = cameras.host_array("A_w2c", A_w2c)
        target = self.last_extrinsic if B_w2c is None else cameras.host_array("B_w2c", B_w2c)
        target = target[0] if target.shape == (1, 4, 4) else target
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or target.shape != (4, 4):
            raise ValueError(
                f"A_w2c, B_w2c: expected shapes (T, 4, 4) and (4, 4), got {poses.shape} and {target.shape}"
            )
        return np.asarray(poses @ (np.linalg.inv(poses[0]) @ target))

    def query_hits_mode_new(
        self,
        device: Any,
        query_extrinsics: ArrayLike,
        latents: Tensor,
        w2c: ArrayLike | None = None,
        depths: ArrayLike | None = None,
        K: ArrayLike | None = None,
        memory_K: ArrayLike | None = None,
        query_K: ArrayLike | None = None,
        candidates_per_query_group: int = 1,
        *,
        query_reference_frame: int = 2,
        return_candidate_frame_ids: bool = False,
        **options: Any,
    ) -> Any:
        """Choose frames for each group of four poses, and fuse their latents.

        Parameters
        ----------
        device
            Not read; the answer is where ``latents`` (C, N, h, w) are.
        w2c, depths : (N, 4, 4) and (N, H', W') array, optional
            Those of the frames registered, if neither is given.
        return_candidate_frame_ids : bool
            Whether to return ids, and a list of -1 in their shape.
        options
            Other parameters of `select_candidates` and `fuse_candidates`, which take the rest, too.

        Returns
        -------
        (C, G, h, w) tensor, or a tuple
            The latents; then ids, the list of -1, (G, h, w, 2) revgrid, (G, h, w, 3) view change, as asked for.
        """
        if (w2c is None) != (depths is None):
            raise ValueError("w2c, depths: expected both, or neither for the frames registered")
        if w2c is None:
            if not self.extrinsics:
                raise ValueError("query_hits_mode_new: expected registered frames, or w2c and depths, got none")
            w2c, depths = np.array(self.extrinsics), np.array(self.depths, dtype=np.float32)
        both: dict[str, Any] = {"query_extrinsics": query_extrinsics, "query_reference_frame": query_reference_frame}
        both |= {"w2c": w2c, "depths": depths, "K": K, "memory_K": memory_K, "query_K": query_K}
        fusion = {name: options.pop(name) for name in _OF_FUSION if name in options}
        count, rows, columns = latents.shape[1:]
        ids = self.select_candidates(
            **both,
            H_lat=rows,
            W_lat=columns,
            total_latents=count,
            candidates_per_query_group=candidates_per_query_group,
            **options,
        )
        fused = self.fuse_candidates(**both, candidate_frame_ids=ids, latents=latents, **fusion)
        latent, *extra = fused if isinstance(fused, tuple) else (fused,)
        named = [ids, [[-1] * candidates_per_query_group for _ in ids]] if return_candidate_frame_ids else []
        return (latent, *named, *extra) if named or extra else latent

    def _estimated(self, device: Any, images: list[Any]) -> Any:
        """Depth by the network, which is on the device meanwhile."""
        if not _estimates(self._estimator):
            raise ValueError(
                "depth_estimator: expected an object with inference() and da3_compatible = True, or depths, got "
                f"{type(self._estimator).__name__}"
            )
        pictures = [_picture(image) for image in images]
        self._estimator = self._estimator.to(device)
        on_gpu = self._autocast is not None and str(device).startswith("cuda")
        try:
            with torch.no_grad(), torch.autocast("cuda", dtype=self._autocast) if on_gpu else nullcontext():
                found = self._estimator.inference(pictures, use_ray_pose=False, process_res=self._resolution)
        finally:
            self._estimator = self._estimator.to("cpu")
        return found.depth


def _estimates(estimator: Any) -> bool:
    kind = type(estimator)
    if kind.__name__ == "DepthAnything3" and kind.__module__.startswith("depth_anything_3."):
        return True
    return getattr(estimator, "da3_compatible", False) is True and callable(getattr(estimator, "inference", None))


def _picture(image: Any) -> Image.Image:
    """As Matrix-Game converts it: floating-point images up to 1 are scaled."""
    if not isinstance(image, np.ndarray):
        return image  # type: ignore[no-any-return]
    if image.dtype != np.uint8:
        image = image * 255 if image.max() <= 1 else image
    return Image.fromarray(image.astype(np.uint8))

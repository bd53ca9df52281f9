"""GEN3C's 3D caches, under their names: images as points that new cameras see. Needs torch.

Its code calls them unchanged once they stand in for its own, here in the script for single images::

    import cosmos_predict1.diffusion.inference.gen3c_single_image as script
    from mosaicmem.published import gen3c

    script.Cache3D_Buffer = gen3c.Cache3D_Buffer

Lyra-1 carries the same caches. Conventions are GEN3C's: w2c is camera_from_world with OpenCV axes, intrinsics count
pixel centres as integers, images are in [-1, 1]; axes are B (batch), F (frames), N (images shown at once), V (views,
always 1), C, H, W. Values are computed in float32.

Kept, because models were trained with it: views are rendered in pairs that share the scale of nearness; pixels without
depth are points at the world's origin unless a mask excludes them; whole coordinates count twice an axis; a buffer of
two holds its newest and its first image; the first image's edges serve all. Mended: an image that replaces the only one
brings its own mask, and `Cache4D` takes the edges of the frames that it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mosaicmem._arrays import check_integer, check_number
from mosaicmem.published._gen3c_alignment import aligned_depth, bent_depth
from mosaicmem.published._gen3c_splatting import hidden_by_edges, log_depth, soft_splat
from mosaicmem.published._points import moved, projected, unprojected

_AXES = ("B", "F", "N", "V", "C", "H", "W")
_LEADING = 4  # B, F, N, V
_TOGETHER = 2  # views that share the scale of nearness
_FARTHEST, _FARTHEST_UPDATE = 100.0, 1e4
_EDGE = 0.05  # relative difference of depth within 5 x 5 pixels


class Cache3D_Base:
    """Images with depth, kept on the host, and their rendering by `render_cache`.

    Parameters
    ----------
    input_image : tensor
        Three channels in [-1, 1], of the axes in ``input_format``.
    input_depth : tensor, optional
        One channel, in the same order; not a number means 100, 0 or less no depth, more than 100 is 100.
    input_w2c, input_intrinsics : tensors
        (..., 4, 4) and (..., 3, 3) of each image, in the same order.
    input_mask : tensor, optional
        Like the image with one channel: the pixels to use.
    input_format : sequence of str, optional
        The image's axes, in the order B, F, N, V, C, H, W; by default B, C, H, W.
    input_points : tensor, optional
        Points (..., H, W, 3) of the world in place of depth.
    weight_dtype : torch.dtype
        Of what `render_cache` returns.
    is_depth : bool
        Whether depth is z; the length of the ray otherwise.
    device : str or torch.device
        Where to render. "cuda" means the host where torch has no CUDA.
    filter_points_threshold : float
        Below 1: use only pixels around which depth differs relatively by less, in 5 x 5 pixels.
    foreground_masking : bool
        Hide what lies behind the surfaces that span depth edges.
    """

    input_mask: Tensor | None
    boundary_mask: Tensor | None

    def __init__(
        self,
        input_image: Tensor,
        input_depth: Tensor | None,
        input_w2c: Tensor | None,
        input_intrinsics: Tensor | None,
        input_mask: Tensor | None = None,
        input_format: Sequence[str] | None = None,
        input_points: Tensor | None = None,
        weight_dtype: torch.dtype = torch.float32,
        is_depth: bool = True,
        device: str | torch.device = "cuda",
        filter_points_threshold: float = 1.0,
        foreground_masking: bool = False,
    ) -> None:
        self.weight_dtype, self.is_depth = weight_dtype, bool(is_depth)
        self.device = _device(device)
        self.filter_points_threshold = check_number("filter_points_threshold", filter_points_threshold, minimum=0.0)
        self.foreground_masking = bool(foreground_masking)
        shape = _shape_of(input_image, input_format)
        leading, size = shape[:_LEADING], shape[-2:]
        self.input_image = _on_host(input_image).reshape(shape)
        self.input_mask = None if input_mask is None else _laid_out("input_mask", input_mask, (*leading, 1, *size)) > 0
        self.boundary_mask = None
        self.input_depth: Tensor | None = None
        if input_points is not None:
            self.input_points = _laid_out("input_points", input_points, (*leading, *size, 3))
            if self.foreground_masking:
                raise ValueError("foreground_masking: expected input_depth with it, got input_points")
            return
        if input_depth is None or input_w2c is None or input_intrinsics is None:
            raise ValueError("input_depth, input_w2c, input_intrinsics: expected all of them, or input_points")
        self.input_depth = torch.nan_to_num(input_depth, nan=_FARTHEST).clamp(0, _FARTHEST)
        depth = _laid_out("input_depth", self.input_depth, (*leading, 1, *size))
        w2c = _laid_out("input_w2c", input_w2c, (*leading, 4, 4))
        intrinsics = _laid_out("input_intrinsics", input_intrinsics, (*leading, 3, 3))
        self.input_points = self._points(depth, w2c, intrinsics)
        self.input_mask = self._reliable(depth, self.input_mask)
        if self.foreground_masking:
            self.boundary_mask = ~smooth(depth, _EDGE)

    def update_cache(self, *arguments: Any, **options: Any) -> None:
        """Not of this class."""
        raise NotImplementedError(f"{type(self).__name__} has no update_cache; Cache3D_Buffer has")

    def input_frame_count(self) -> int:
        """How many frames the images have along F."""
        return int(self.input_image.shape[1])

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def render_cache(
        self,
        target_w2cs: Tensor,
        target_intrinsics: Tensor,
        render_depth: bool = False,
        start_frame_idx: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """What cameras see of the images.

        Parameters
        ----------
        target_w2cs, target_intrinsics : (B, T, 4, 4) and (B, T, 3, 3) tensors
            Cameras, of images as large as the stored ones.
        render_depth : bool
            Return depth in place of colour.
        start_frame_idx : int
            The frame along F that the first target sees, if there are more frames than one.

        Returns
        -------
        (B, T, N, 3, H, W) tensor, (B, T, N, 1, H, W) tensor
            Pixels in [-1, 1], -1 where there is nothing, and 1 where there is something, 0 elsewhere. With
            ``render_depth`` (B, T, N, H, W) in place of pixels, 0 where there is nothing.
        """
        targets = self._targets(target_w2cs, target_intrinsics)
        pixels, masks = self._views(*targets, start_frame_idx, render_depth=bool(render_depth))
        pixels, masks = pixels.to(self.weight_dtype), masks.to(self.weight_dtype)
        return (pixels[:, :, :, 0] if render_depth else pixels), masks

    def _views(self, w2cs: Tensor, intrinsics: Tensor, start: int, *, render_depth: bool) -> tuple[Tensor, Tensor]:
        """Pixels (B, T, N, C, H, W) and masks in float32."""
        batch, frames = w2cs.shape[:2]
        images = self.input_image.shape[2]
        first = check_integer("start_frame_idx", start, minimum=0)
        stored = self.input_image.shape[1]
        if stored > 1 and first + frames > stored:
            raise ValueError(
                f"target_w2cs, start_frame_idx: expected frames among the {stored} that are stored, got {first} to "
                f"{first + frames - 1}"
            )
        items = [
            ((b, first + t if stored > 1 else 0, n, 0), w2cs[b, t], intrinsics[b, t])
            for b in range(batch)
            for t in range(frames)
            for n in range(images)
        ]
        rendered = [
            view
            for begin in range(0, len(items), _TOGETHER)
            for view in self._rendered(items[begin : begin + _TOGETHER], render_depth=render_depth)
        ]
        pixels, masks = (
            torch.stack(part).unflatten(0, (batch, frames, images)) for part in zip(*rendered, strict=True)
        )
        return pixels, masks

    def _rendered(
        self, items: Sequence[tuple[tuple[int, int, int, int], Tensor, Tensor]], *, render_depth: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Pixels and masks of views that share the scale of nearness."""
        seen = []
        for at, w2c, intrinsics in items:
            points = moved(w2c[None], self.input_points[at].to(self.device).flatten(0, 1)[None])
            seen.append((points[0], projected(intrinsics[None], points)[0]))
        farthest = torch.stack([log_depth(where[:, 2]).max() for _, where in seen]).max()
        rendered = []
        for (at, _, intrinsics), (points, where) in zip(items, seen, strict=True):
            mask = None if self.input_mask is None else self.input_mask[at].to(self.device).flatten()
            size = self.input_image.shape[-2:]
            z = where[:, 2].unflatten(0, size)[None]
            image = z if render_depth else self.input_image[at].to(self.device)
            pixels, reached = soft_splat(image, where, mask, farthest, 0.0 if render_depth else -1.0)
            if not render_depth:
                pixels = pixels.clamp(-1, 1)
            if self.boundary_mask is not None:
                depth = pixels if render_depth else soft_splat(z, where, mask, farthest, 0.0)[0]
                edges = self.boundary_mask[:, :, min(at[2], self.boundary_mask.shape[2] - 1), 0, 0][at[:2]]
                hidden = hidden_by_edges(points, edges.to(self.device), intrinsics, depth[0])
                pixels = pixels * ~hidden if render_depth else _shown(pixels, ~hidden)
                reached = reached & ~hidden
            rendered.append((pixels, reached[None].float()))
        return rendered

    def _targets(self, w2cs: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        for name, tensor, size in (("target_w2cs", w2cs, 4), ("target_intrinsics", intrinsics, 3)):
            if tensor.dim() != 4 or tensor.shape[2:] != (size, size):
                raise ValueError(f"{name}: expected shape (B, T, {size}, {size}), got {tuple(tensor.shape)}")
        if w2cs.shape[:2] != intrinsics.shape[:2] or len(w2cs) != len(self.input_image):
            raise ValueError(
                f"target_w2cs, target_intrinsics: expected the same B and T, and B = {len(self.input_image)} as the "
                f"images, got {tuple(w2cs.shape[:2])} and {tuple(intrinsics.shape[:2])}"
            )
        return w2cs.to(self.device, torch.float32), intrinsics.to(self.device, torch.float32)

    def _points(self, depth: Tensor, w2c: Tensor, intrinsics: Tensor) -> Tensor:
        """Points (B, F, N, V, H, W, 3) of depth (B, F, N, V, 1, H, W)."""
        leading, size = depth.shape[:_LEADING], depth.shape[-2:]
        flat = (each.flatten(0, _LEADING - 1) for each in (w2c, intrinsics))
        return unprojected(depth.reshape(-1, *size), *flat, z_depth=self.is_depth).reshape(*leading, *size, 3)

    def _reliable(self, depth: Tensor, mask: Tensor | None) -> Tensor | None:
        if self.filter_points_threshold >= 1:
            return mask
        reliable = smooth(depth, self.filter_points_threshold)
        return reliable if mask is None else reliable & mask


class Cache3D_Buffer(Cache3D_Base):
    """The newest images and the first one, all of which each camera sees.

    Parameters
    ----------
    frame_buffer_max : int
        Keep at most so many images; with 1 or less a new one replaces the only one.
    noise_aug_strength : float
        Gaussian noise on what is rendered: none on the oldest image, so much more on each newer one.
    generator : torch.Generator, optional
        Of the noise.
    kwargs
        As `Cache3D_Base` takes.
    """

    def __init__(
        self,
        frame_buffer_max: int = 0,
        noise_aug_strength: float = 0,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.frame_buffer_max = int(frame_buffer_max)
        self.noise_aug_strength, self.generator = noise_aug_strength, generator

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update_cache(
        self,
        new_image: Tensor,
        new_depth: Tensor,
        new_w2c: Tensor,
        new_mask: Tensor | None = None,
        new_intrinsics: Tensor | None = None,
        depth_alignment: bool = True,
        alignment_method: str = "non_rigid",
    ) -> None:
        """Add an image in front; once the buffer is full it replaces the one in front.

        Parameters
        ----------
        new_image, new_depth : (B, 3, H, W) and (B, 1, H, W) tensors
            Depth that is not a number means 10,000; more is 10,000.
        new_w2c, new_intrinsics : (B, 4, 4) and (B, 3, 3) tensors
        new_mask : (B, 1, H, W) tensor, optional
            The pixels to use.
        depth_alignment : bool
            Fit the depth to what the image in front shows to the new camera; B is 1.
        alignment_method : str
            "rigid": the inverse depth by a line. "non_rigid": then by a smooth map as well.
        """
        if new_intrinsics is None:
            raise ValueError("new_intrinsics: expected the intrinsics (B, 3, 3) of the new image, got None")
        if alignment_method not in ("rigid", "non_rigid"):
            raise ValueError(f"alignment_method: expected 'rigid' or 'non_rigid', got {alignment_method!r}")
        leading, size = (len(self.input_image), 1, 1, 1), tuple(self.input_image.shape[-2:])
        image = _laid_out("new_image", new_image, (*leading, 3, *size))
        depth = _laid_out("new_depth", new_depth, (*leading, 1, *size))
        depth = torch.nan_to_num(depth, nan=_FARTHEST_UPDATE).clamp(0, _FARTHEST_UPDATE)
        w2c = _laid_out("new_w2c", new_w2c, (*leading, 4, 4))
        intrinsics = _laid_out("new_intrinsics", new_intrinsics, (*leading, 3, 3))
        mask = None if new_mask is None else _laid_out("new_mask", new_mask, (*leading, 1, *size)) > 0
        if depth_alignment:
            depth = self._aligned(depth, w2c, intrinsics, bend=alignment_method == "non_rigid")
        self._put(image, self._points(depth, w2c, intrinsics), self._reliable(depth, mask))

    def _aligned(self, depth: Tensor, w2c: Tensor, intrinsics: Tensor, *, bend: bool) -> Tensor:
        if len(depth) != 1:
            raise ValueError(f"depth_alignment: expected one image (B = 1), got {len(depth)}; align them before")
        cameras = (each.reshape(1, 1, *each.shape[-2:]) for each in (w2c, intrinsics))
        target, seen = self._views(*self._targets(*cameras), 0, render_depth=True)
        front = target[0, 0, 0, 0], seen[0, 0, 0, 0] > 0
        new = aligned_depth(depth.reshape(depth.shape[-2:]).to(self.device), *front)
        if bend:
            on_device = (each.reshape(each.shape[-2:]).to(self.device) for each in (w2c, intrinsics))
            new = bent_depth(new, *front, *on_device)
        return new.reshape(depth.shape).cpu()

    def _put(self, image: Tensor, points: Tensor, mask: Tensor | None) -> None:
        kept = slice(None)
        if self.frame_buffer_max <= 1:
            kept = slice(0, 0)
        elif self.input_image.shape[2] >= self.frame_buffer_max:
            kept = slice(1, None)
        if self.frame_buffer_max <= 1:
            self.input_mask = mask
        elif self.input_mask is not None:  # as in GEN3C, a cache without masks takes none
            mask = torch.ones_like(image[..., :1, :, :], dtype=torch.bool) if mask is None else mask
            self.input_mask = torch.cat([mask, self.input_mask[:, :, kept]], dim=2)
        self.input_image = torch.cat([image, self.input_image[:, :, kept]], dim=2)
        self.input_points = torch.cat([points, self.input_points[:, :, kept]], dim=2)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def render_cache(
        self,
        target_w2cs: Tensor,
        target_intrinsics: Tensor,
        render_depth: bool = False,
        start_frame_idx: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """As `Cache3D_Base.render_cache`, on the targets' device, with noise; ``start_frame_idx`` is 0."""
        if start_frame_idx != 0:
            raise ValueError(
                f"start_frame_idx: expected 0, as the images of a buffer have no frames, got {start_frame_idx}"
            )
        pixels, masks = super().render_cache(target_w2cs, target_intrinsics, render_depth)
        pixels, masks = pixels.to(target_w2cs.device), masks.to(target_w2cs.device)
        if not render_depth:
            noise = torch.randn(pixels.shape, generator=self.generator, device=pixels.device, dtype=pixels.dtype)
            newer = torch.arange(pixels.shape[2] - 1, -1, -1, device=pixels.device)
            strength = (newer * self.noise_aug_strength).to(pixels.dtype)
            pixels = pixels + noise * strength[:, None, None, None]
        return pixels, masks


class Cache3D_BufferSelector(Cache3D_Base):
    """Several images, of which the cameras see those that show them most.

    Parameters
    ----------
    frame_buffer_max : int
        Show so many.
    mask_for_max_buffer_model : bool
        In frames where an image covers nearly all, show the first such alone.
    mask_full_threshold : float
        The share of the pixels that is nearly all.
    kwargs
        As `Cache3D_Base` takes.
    """

    def __init__(
        self,
        frame_buffer_max: int = 1,
        mask_for_max_buffer_model: bool = True,
        mask_full_threshold: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.frame_buffer_max = max(int(frame_buffer_max), 1)
        self.mask_for_max_buffer_model, self.mask_full_threshold = bool(mask_for_max_buffer_model), mask_full_threshold

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def render_cache(
        self,
        target_w2cs: Tensor,
        target_intrinsics: Tensor,
        render_depth: bool = False,
        start_frame_idx: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """As `Cache3D_Base.render_cache`, on the targets' device, of the best images; the best one first."""
        pixels, masks = super().render_cache(target_w2cs, target_intrinsics, render_depth, start_frame_idx)
        pixels, masks = pixels.to(target_w2cs.device), masks.to(target_w2cs.device)
        if masks.shape[2] > self.frame_buffer_max:
            score = masks.sum(dim=(1, 3, 4, 5))
            best = score.sort(dim=1, descending=True, stable=True).indices[:, : self.frame_buffer_max]
            pixels, masks = (
                torch.stack([one[:, order] for one, order in zip(each, best, strict=True)]) for each in (pixels, masks)
            )
        if self.mask_for_max_buffer_model and not render_depth:
            full = masks.mean(dim=(3, 4, 5)) >= self.mask_full_threshold
            first = full & (full.cumsum(dim=2) == 1)
            shown = (first | ~full.any(dim=2, keepdim=True))[..., None, None, None]
            pixels, masks = _shown(pixels, shown), masks * shown
        return pixels, masks


class Cache4D(Cache3D_Base):
    """A video with depth, frame by frame: each target sees the frame of its own time."""


def smooth(depth: Tensor, threshold: float) -> Tensor:
    """Where depth (..., H, W) is known and differs relatively by less than a threshold within 5 x 5 pixels."""
    flat = depth.reshape(-1, 1, *depth.shape[-2:])
    spread = F.max_pool2d(flat, 5, 1, 2) + F.max_pool2d(-flat, 5, 1, 2)
    mean = F.avg_pool2d(flat, 5, 1, 2)  # zeros outside count
    return ((spread / (mean + 1e-6) < threshold) & (flat > 0)).reshape(depth.shape)


def _shown(pixels: Tensor, where: Tensor) -> Tensor:
    """Pixels, -1 elsewhere; rounded as GEN3C rounds them."""
    return (pixels + 1) * where - 1


def _device(device: str | torch.device) -> torch.device:
    wanted = torch.device(device)
    return torch.device("cpu") if wanted.type == "cuda" and not torch.cuda.is_available() else wanted


def _shape_of(image: Tensor, input_format: Sequence[str] | None) -> tuple[int, ...]:
    axes = ["B", "C", "H", "W"] if input_format is None else list(input_format)
    if axes != [axis for axis in _AXES if axis in axes] or axes[-3:] != ["C", "H", "W"]:
        raise ValueError(f"input_format: expected C, H, W after some of B, F, N, V in this order, got {axes}")
    if not isinstance(image, Tensor) or image.dim() != len(axes):
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"input_image: expected a tensor of the axes {', '.join(axes)}, got {got}")
    sizes = dict(zip(axes, image.shape, strict=True))
    if sizes["C"] != 3:
        raise ValueError(f"input_image: expected 3 channels, got {sizes['C']}")
    if sizes.get("V", 1) != 1:
        raise NotImplementedError(f"input_image: expected one view (V = 1), got {sizes['V']}")
    return tuple(sizes.get(axis, 1) for axis in _AXES)


def _laid_out(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.numel() != torch.Size(shape).numel() or tensor.shape[-2:] != shape[-2:]:
        got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: expected a tensor of shape {shape} or without its axes of size 1, got {got}")
    return _on_host(tensor).reshape(shape)


def _on_host(tensor: Tensor) -> Tensor:
    """A copy of its own in float32."""
    return tensor.detach().to("cpu", torch.float32, copy=True)

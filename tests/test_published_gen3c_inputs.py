"""What GEN3C's caches take, and how they name what they do not."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from test_published_gen3c import (  # noqa: E402
    HEIGHT,
    TARGET_KS,
    TARGETS,
    WIDTH,
    K,
    buffer,
    depth,
    image,
    pixel_rays,
    w2c,
)


class TestInputs:
    def test_depth_is_bounded(self):
        z = depth(0)
        z[0, 0, 5, 5], z[0, 0, 5, 6], z[0, 0, 5, 7] = torch.nan, 1000.0, -1.0
        kept = buffer(input_depth=z).input_depth[0, 0, 5, 5:8]
        assert kept.tolist() == [100.0, 100.0, 0.0]

    def test_points_in_place_of_depth(self):
        wanted = buffer(filter_points_threshold=1.0)
        points = wanted.input_points[:, 0, 0, 0]
        found = buffer(
            input_points=points, input_depth=None, input_w2c=None, input_intrinsics=None, filter_points_threshold=1.0
        )
        assert torch.equal(found.render_cache(TARGETS, TARGET_KS)[0], wanted.render_cache(TARGETS, TARGET_KS)[0])

    def test_depth_along_the_ray(self):
        rays = torch.from_numpy(np.linalg.norm(pixel_rays(), axis=-1)).float()
        by_z, by_length = buffer(), buffer(input_depth=depth(0) * rays, is_depth=False)
        assert (by_z.input_points - by_length.input_points).abs().max() < 1e-4

    def test_half_precision_out(self):
        pixels, masks = buffer(weight_dtype=torch.float16).render_cache(TARGETS, TARGET_KS)
        assert pixels.dtype == masks.dtype == torch.float16

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"input_image": image(0)[0]}, "input_image: expected a tensor of the axes B, C, H, W"),
            ({"input_image": image(0)[:, :2]}, "input_image: expected 3 channels, got 2"),
            ({"input_format": ["C", "B", "H", "W"]}, "input_format: expected C, H, W after"),
            ({"input_depth": depth(0)[..., :-1]}, "input_depth: expected a tensor of shape"),
            ({"input_w2c": None}, "expected all of them, or input_points"),
            ({"input_w2c": w2c(0)[None, :3]}, "input_w2c: expected a tensor of shape"),
            ({"input_mask": torch.ones(1, 2, HEIGHT, WIDTH)}, "input_mask: expected a tensor of shape"),
        ],
    )
    def test_wrong_ones_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            buffer(**options)

    def test_wrong_calls_are_named(self):
        cache = buffer()
        with pytest.raises(ValueError, match=r"target_w2cs: expected shape \(B, T, 4, 4\)"):
            cache.render_cache(TARGETS[0], TARGET_KS)
        with pytest.raises(ValueError, match="expected the same B and T"):
            cache.render_cache(TARGETS, TARGET_KS[:, :2])
        with pytest.raises(ValueError, match="start_frame_idx: expected 0"):
            cache.render_cache(TARGETS, TARGET_KS, start_frame_idx=1)
        with pytest.raises(ValueError, match="new_intrinsics: expected"):
            cache.update_cache(image(1), depth(1), w2c(0)[None])
        with pytest.raises(ValueError, match="alignment_method: expected 'rigid' or 'non_rigid', got 'free'"):
            cache.update_cache(image(1), depth(1), w2c(0)[None], new_intrinsics=K, alignment_method="free")
        with pytest.raises(ValueError, match="expected a camera that sees a part of the cache"):
            cache.update_cache(image(1), depth(1), w2c(0, np.pi)[None], new_intrinsics=K)
        with pytest.raises(NotImplementedError, match="one view"):
            buffer(input_image=image(0)[:, None].expand(1, 2, 3, HEIGHT, WIDTH), input_format=["B", "V", "C", "H", "W"])
        assert cache.input_image.shape[2] == 1

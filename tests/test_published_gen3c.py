"""GEN3C's caches, called as its scripts call them; what they show is worked out pixel by pixel here."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.published import _gen3c_splatting  # noqa: E402
from mosaicmem.published._gen3c_alignment import bent_depth  # noqa: E402
from mosaicmem.published.gen3c import Cache3D_Base, Cache3D_Buffer, Cache3D_BufferSelector, Cache4D  # noqa: E402

HEIGHT, WIDTH = 20, 28
K = torch.tensor([[[23.3, 0, 14.2], [0, 24.1, 9.7], [0, 0, 1]]])


def w2c(x, turn=0.0, z=0.0):
    matrix = torch.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    matrix[:3, :3] = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    matrix[:3, 3] = matrix[:3, :3] @ torch.tensor([-x, 0.013 + 0.07 * x, -z])
    return matrix


def image(seed):
    return 2 * torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) - 1


def depth(seed):
    z = 3 + 0.02 * torch.rand(1, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    z[..., 6:13, 9:19] = 1.5
    z[..., 0, :3] = 0
    return z


TARGETS = torch.stack([w2c(0.11), w2c(0.23, 0.1), w2c(-0.3, -0.07)])[None]
TARGET_KS = K[None].expand(1, 3, 3, 3)


def buffer(**options):
    """As the script for single images makes it, with its released options."""
    return Cache3D_Buffer(
        **{
            "frame_buffer_max": 2,
            "generator": torch.Generator().manual_seed(1),
            "noise_aug_strength": 0.0,
            "input_image": image(0).clone(),
            "input_depth": depth(0),
            "input_w2c": w2c(0)[None],
            "input_intrinsics": K,
            "filter_points_threshold": 0.05,
            "foreground_masking": False,
            **options,
        }
    )


def smooth(z, threshold):
    """Where depth differs little around a pixel."""
    kept = np.zeros(z.shape, bool)
    for r in range(HEIGHT):
        for c in range(WIDTH):
            around = z[max(0, r - 2) : r + 3, max(0, c - 2) : c + 3]
            kept[r, c] = z[r, c] > 0 and np.ptp(around) / (around.sum() / 25 + 1e-6) < threshold
    return kept


def landings(z, source, target, intrinsics=K[0], mask=None):
    """(row, column, x, y, z) of each pixel that is used and lies before the target, in doubles."""
    k = intrinsics.numpy().astype(np.float64)
    to_world, to_target = np.linalg.inv(source.numpy().astype(np.float64)), target.numpy().astype(np.float64)
    found, farthest = [], 0.0
    for r in range(HEIGHT):
        for c in range(WIDTH):
            point = to_world[:3, :3] @ (z[r, c] * np.linalg.solve(k, [c, r, 1])) + to_world[:3, 3]
            x, y, ahead = k @ (to_target[:3, :3] @ (point if z[r, c] > 0 else np.zeros(3)) + to_target[:3, 3])
            farthest = max(farthest, np.log1p(max(ahead, 0)))
            if ahead > 0 and (mask is None or mask[r, c]):
                found.append((r, c, x / (ahead + 1e-7), y / (ahead + 1e-7), ahead))
    return found, farthest


def splatted(values, found, farthest):
    """What lands in each pixel, weighted by nearness and by how close to the pixel's centre it lands."""
    sums, weights = np.zeros((HEIGHT, WIDTH, values.shape[-1])), np.zeros((HEIGHT, WIDTH))
    for r, c, x, y, z in found:
        nearness = np.exp(50 * np.log1p(z) / (farthest + 1e-7)) + 1e-7
        for row in (np.floor(y), np.ceil(y)):
            for column in (np.floor(x), np.ceil(x)):
                if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column)) / nearness
                    sums[int(row), int(column)] += weight * values[r, c]
                    weights[int(row), int(column)] += weight
    reached = weights > 0
    return np.where(reached[..., None], sums / np.where(reached, weights, 1)[..., None], -1), reached


def shown(seed, source, targets, threshold):
    """Pixels (T, 3, H, W) and masks of an image in targets that are rendered two by two."""
    z = depth(seed)[0, 0].numpy().astype(np.float64)
    mask, values = smooth(z, threshold), image(seed)[0].numpy().astype(np.float64).transpose(1, 2, 0)
    landed = [landings(z, source, target, mask=mask) for target in targets]
    views = []
    for i, (found, _) in enumerate(landed):
        farthest = max(each for _, each in landed[i - i % 2 : i - i % 2 + 2])
        views.append(splatted(values, found, farthest))
    return np.stack([v.transpose(2, 0, 1) for v, _ in views]), np.stack([m for _, m in views])


class TestBuffer:
    def test_as_the_script_for_single_images_renders(self):
        cache = buffer()
        pixels, masks = cache.render_cache(TARGETS[:, 0:3], TARGET_KS[:, 0:3])
        assert (pixels.shape, masks.shape) == ((1, 3, 1, 3, HEIGHT, WIDTH), (1, 3, 1, 1, HEIGHT, WIDTH))
        assert pixels.dtype == masks.dtype == torch.float32
        wanted, reached = shown(0, w2c(0), TARGETS[0], 0.05)
        np.testing.assert_array_equal(masks[0, :, 0, 0].numpy() > 0, reached)
        np.testing.assert_allclose(pixels[0, :, 0].numpy(), wanted, atol=2e-4)
        assert 0.3 < reached.mean() < 0.9

    def test_views_are_rendered_in_pairs(self):
        near, far = w2c(0.1), w2c(0.1, z=-30.0)
        alone, _ = buffer().render_cache(near[None, None], K[None])
        paired, _ = buffer().render_cache(torch.stack([near, far])[None], K[None].expand(1, 2, 3, 3))
        assert (alone[:, 0] - paired[:, 0]).abs().max() > 0.02

    def test_whole_coordinates_count_twice_along_each_axis(self):
        """The first pixel lands on the second with 2 x 2, the second halfway to the third with 2 x 1 / 2."""
        where = torch.tensor([[1.0, 0, 1], [1.5, 0, 1], [50, 0, 1], [50, 0, 1]])  # x z, y z, z
        where[:, :2] *= 1 + 1e-7  # as the division takes it away
        row, reached = _gen3c_splatting.soft_splat(torch.tensor([[[1.0, 0, 0, 0]]]), where, None, torch.tensor(1.0), -1)
        assert row[0, 0].tolist() == pytest.approx([-1, 0.8, 0, -1])
        assert reached.tolist() == [[False, True, True, False]]

    def test_pixels_without_depth_are_at_the_worlds_origin(self):
        points = buffer(input_w2c=w2c(0.4, 0.2)[None], filter_points_threshold=1.0).input_points[0, 0, 0, 0]
        assert (points[0, :3] == 0).all()
        assert (points[1:].abs().sum(-1) > 0.5).all()

    def test_depth_has_no_axis_of_channels(self):
        found, masks = buffer().render_cache(TARGETS, TARGET_KS, render_depth=True)
        assert found.shape == (1, 3, 1, HEIGHT, WIDTH)
        assert masks.shape == (1, 3, 1, 1, HEIGHT, WIDTH)
        assert (found[masks[:, :, :, 0] == 0] == 0).all()
        seen = found[masks[:, :, :, 0] > 0]
        assert 1.0 < seen.min() < seen.max() < 3.6

    def test_it_holds_the_newest_image_and_the_first(self):
        cache, targets = buffer(), (TARGETS[:, :1], TARGET_KS[:, :1])
        first = cache.render_cache(*targets)[0]
        for seed in (1, 2):
            cache.update_cache(
                new_image=image(seed),
                new_depth=depth(seed),
                new_w2c=w2c(0.05 * seed)[None],
                new_intrinsics=K,
                depth_alignment=False,
            )
        pixels, masks = cache.render_cache(*targets)
        assert pixels.shape == (1, 1, 2, 3, HEIGHT, WIDTH)
        _, reached = shown(2, w2c(0.1), TARGETS[0, :1], 0.05)
        np.testing.assert_array_equal(masks[0, :, 0, 0].numpy() > 0, reached)
        assert (pixels[0, :, 1] - first[0, :, 0]).abs().median() < 1e-3
        assert cache.input_image.shape == (1, 1, 2, 1, 3, HEIGHT, WIDTH)
        assert cache.input_frame_count() == 1
        assert torch.equal(cache.input_depth, depth(0))

    def test_a_buffer_of_one_takes_the_new_mask_too(self):
        cache = buffer(frame_buffer_max=1)
        cache.update_cache(image(1), depth(1), w2c(0.1)[None], None, K, False)
        np.testing.assert_array_equal(cache.input_mask[0, 0, 0, 0, 0], smooth(depth(1)[0, 0].numpy(), 0.05))
        assert cache.input_points.shape == (1, 1, 1, 1, HEIGHT, WIDTH, 3)
        plain = buffer(frame_buffer_max=1, filter_points_threshold=1.0)
        plain.update_cache(image(1), depth(1), w2c(0.1)[None], torch.zeros(1, 1, HEIGHT, WIDTH), K, False)
        assert not plain.render_cache(TARGETS, TARGET_KS)[1].any()

    def test_a_rigid_alignment_finds_the_scale_of_the_new_depth(self):
        cache, truth = buffer(input_depth=ramp()), ramp()
        wrong = 1 / (0.7 / truth + 0.05)
        cache.update_cache(image(1), wrong, w2c(0)[None], new_intrinsics=K, alignment_method="rigid")
        assert (cache.input_points[0, 0, 0, 0, ..., 2] - truth[0, 0]).abs().max() < 0.01

    def test_a_rigid_alignment_where_much_has_no_depth(self):
        cache, truth = buffer(input_depth=ramp()), ramp()
        wrong = 1 / (0.7 / truth + 0.05)
        wrong[..., :6, :] = 0
        cache.update_cache(image(1), wrong, w2c(0)[None], new_intrinsics=K, alignment_method="rigid")
        assert (cache.input_points[0, 0, 0, 0, 6:, :, 2] - truth[0, 0, 6:]).abs().max() < 0.01

    def test_bending_brings_an_uneven_depth_nearer(self):
        truth = ramp()
        uneven = truth.clone()
        uneven[..., 4:12, 12:20] *= 1.05
        errors = {}
        for method in ("rigid", "non_rigid"):
            cache = buffer(input_depth=truth)
            cache.update_cache(image(1), uneven, w2c(0.01)[None], new_intrinsics=K, alignment_method=method)
            found = cache.input_points[0, 0, 0, 0, ..., 2]
            errors[method] = (found - truth[0, 0])[4:12, 12:20].abs().mean()
        assert errors["non_rigid"] < 0.6 * errors["rigid"]

    def test_bending_follows_the_gradient_of_its_loss(self):
        generator = torch.Generator().manual_seed(5)
        new, target = (2 + torch.rand(HEIGHT, WIDTH, generator=generator) for _ in range(2))
        seen, pose = torch.rand(HEIGHT, WIDTH, generator=generator) > 0.4, w2c(0.2, 0.3)
        rays = torch.from_numpy(pixel_rays() @ pose[:3, :3].numpy().T.astype(np.float64))
        factor = torch.ones(HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([factor], lr=1e-3)
        for _ in range(100):
            apart = (new * factor)[..., None] * rays - target[..., None] * rays
            around = torch.nn.functional.avg_pool2d(factor[None], 3, 1, 1)[0]
            adam.zero_grad()
            (apart.abs()[seen].mean() + 0.1 * (around - factor).abs().mean()).backward()
            adam.step()
        found = bent_depth(new, target, seen, pose, K[0]) / new
        assert (found - factor).abs().median() < 1e-3
        assert ((found - factor).abs() < 0.01).float().mean() > 0.9
        assert (found[~seen] - 1).abs().mean() > 0.005  # the smoothness alone moves these

    def test_bending_runs_in_inference_mode(self):
        caches = buffer(), buffer()
        arguments = {"new_image": image(1), "new_depth": depth(1), "new_w2c": w2c(0.05)[None], "new_intrinsics": K}
        caches[0].update_cache(**arguments)
        with torch.inference_mode():
            caches[1].update_cache(**arguments)
        a, b = (cache.input_points for cache in caches)
        assert (a - b).abs().max() < 0.05  # a rounding may decide the sign of a step
        assert not caches[0].input_points.requires_grad

    def test_noise_is_on_the_newer_images_alone(self):
        cache = buffer(noise_aug_strength=0.5)
        cache.update_cache(image(1), depth(1), w2c(0.05)[None], new_intrinsics=K, depth_alignment=False)
        pixels, _ = cache.render_cache(TARGETS, TARGET_KS)
        cache.noise_aug_strength, cache.generator = 0.0, torch.Generator().manual_seed(1)
        plain, _ = cache.render_cache(TARGETS, TARGET_KS)
        drawn = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(pixels[:, :, 0], plain[:, :, 0] + 0.5 * drawn[:, :, 0])
        assert torch.equal(pixels[:, :, 1], plain[:, :, 1])
        assert not torch.equal(cache.render_cache(TARGETS, TARGET_KS, render_depth=True)[0], plain[..., 0, :, :])

    def test_nothing_is_shared_with_the_caller(self):
        given = image(0)
        cache = buffer(input_image=given)
        before = cache.render_cache(TARGETS, TARGET_KS)[0]
        given.zero_()
        assert torch.equal(cache.render_cache(TARGETS, TARGET_KS)[0], before)

    def test_copies_part(self):
        cache = buffer(generator=None)
        other = copy.deepcopy(cache)
        other.update_cache(image(1), depth(1), w2c(0.05)[None], new_intrinsics=K, depth_alignment=False)
        assert (cache.input_image.shape[2], other.input_image.shape[2]) == (1, 2)


def ramp():
    """A smooth depth, all of which is reliable."""
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    return (2 + 0.005 * rows + 0.01 * columns)[None, None]


class TestForeground:
    def test_what_lies_behind_a_near_surface_is_hidden(self):
        """The near rectangle moves more than the wall; between them the wall shows through, unless masked."""
        z = torch.full((1, 1, HEIGHT, WIDTH), 3.0)
        z[..., 4:16, 8:20] = 1.0
        options = {"input_depth": z, "filter_points_threshold": 1.0}
        target = w2c(0.25)[None, None]
        pixels, plain = buffer(**options).render_cache(target, K[None])
        masked, masks = buffer(**options, foreground_masking=True).render_cache(target, K[None])
        hidden = (plain > masks)[0, 0, 0, 0]
        assert not (masks > plain).any()
        assert 10 < hidden.sum() < 80
        assert (masked[0, 0, 0, :, hidden] == -1).all()
        assert (masked - pixels)[0, 0, 0, :, ~hidden].abs().max() < 1e-6
        deep, _ = buffer(**options, foreground_masking=True).render_cache(target, K[None], True)
        assert (deep[0, 0, 0][hidden] == 0).all()

    @pytest.mark.parametrize("at_once", [1 << 22, 50])
    def test_the_surface_is_the_nearest_triangle_along_each_ray(self, monkeypatch, at_once):
        monkeypatch.setattr(_gen3c_splatting, "_AT_ONCE", at_once)
        triangles = 2 * torch.rand(40, 3, 3, generator=torch.Generator().manual_seed(3)) - 1
        triangles[:, :, 2] = 1.5 + triangles[:, :, 2]
        triangles[:5, 0, 2] = -1.0  # reach behind the camera
        triangles[5:8, :, 2] = -1.0  # lie behind it
        found = _gen3c_splatting.surface_depth(triangles, K[0], HEIGHT, WIDTH).numpy()
        k = K[0].numpy().astype(np.float64)
        wanted = np.zeros((HEIGHT, WIDTH))
        for r in range(HEIGHT):
            for c in range(WIDTH):
                ray, depths = np.linalg.solve(k, [c, r, 1]), []
                for a, b, d in triangles.numpy().astype(np.float64):
                    t, u, v = np.linalg.solve(np.stack([ray, a - b, a - d], 1), a)
                    if t > 0 and u >= 0 and v >= 0 and u + v <= 1:
                        depths.append(t)
                wanted[r, c] = min(depths, default=0)
        assert (np.abs(found - wanted) > 1e-3).sum() <= 2  # pixels on a triangle's edge
        assert (wanted > 0).mean() > 0.3


class TestSelector:
    def made(self, kind=Cache3D_BufferSelector, **options):
        """As the script for several images makes it."""
        return kind(
            **{
                "frame_buffer_max": 2,
                "input_image": torch.stack([image(i)[0] for i in range(3)])[None],
                "input_depth": torch.stack([depth(i)[0] for i in range(3)])[None],
                "input_mask": torch.ones(1, 3, 1, HEIGHT, WIDTH),
                "input_w2c": torch.stack([w2c(2.0), w2c(0.1), w2c(0.4, 0.2)])[None],
                "input_intrinsics": K[None].expand(1, 3, 3, 3).contiguous(),
                "filter_points_threshold": 0.05,
                "input_format": ["B", "N", "C", "H", "W"],
                "foreground_masking": False,
                **options,
            }
        )

    def all_images(self):
        return self.made(Cache3D_Buffer, frame_buffer_max=3).render_cache(TARGETS, TARGET_KS)

    def test_the_images_that_show_most_come_first(self):
        cache = self.made(mask_for_max_buffer_model=False)
        pixels, masks = cache.render_cache(TARGETS[:, 0:3], TARGET_KS[:, 0:3])
        every, covered = self.all_images()
        best = covered.sum(dim=(1, 3, 4, 5))[0].sort(descending=True).indices[:2]
        assert best.tolist() == [1, 2]
        assert torch.equal(pixels, every[:, :, best])
        assert torch.equal(masks, covered[:, :, best])

    def test_an_image_that_shows_nearly_all_is_shown_alone(self):
        pixels, masks = self.made(mask_full_threshold=0.45).render_cache(TARGETS, TARGET_KS)
        _, covered = self.all_images()
        share = covered.mean(dim=(3, 4, 5))[0, :, [1, 2]]
        assert (share[:, 0] >= 0.45).any()
        for t in range(3):
            full = (share[t] >= 0.45).nonzero()[:, 0].tolist()
            for place in range(2):
                shown = not full or place == full[0]
                assert bool(masks[0, t, place].any()) == shown
                assert shown or (pixels[0, t, place] == -1).all()

    def test_the_option_off(self):
        _, masks = self.made(mask_full_threshold=0.0, mask_for_max_buffer_model=False).render_cache(TARGETS, TARGET_KS)
        assert masks.any(dim=5).any(dim=4).all()

    def test_it_has_no_update(self):
        with pytest.raises(NotImplementedError, match="Cache3D_BufferSelector has no update_cache"):
            self.made().update_cache(image(0), depth(0), w2c(0)[None])


class TestVideo:
    def given(self):
        return {
            "input_image": torch.cat([image(i) for i in range(4)]),
            "input_depth": torch.cat([depth(i) for i in range(4)]),
            "input_mask": torch.ones(4, 1, HEIGHT, WIDTH),
            "input_w2c": torch.stack([w2c(0.05 * i) for i in range(4)]),
            "input_intrinsics": K.expand(4, 3, 3),
        }

    def made(self, **options):
        """As the script for videos makes it."""
        own = {"filter_points_threshold": 0.05, "foreground_masking": False, "input_format": ["F", "C", "H", "W"]}
        return Cache4D(**{**self.given(), **own, **options})

    def test_each_target_sees_the_frame_of_its_time(self):
        cache = self.made()
        pixels, masks = cache.render_cache(TARGETS[:, :2], TARGET_KS[:, :2], start_frame_idx=1)
        assert cache.input_frame_count() == 4
        for t in range(2):
            _, reached = shown(1 + t, w2c(0.05 * (1 + t)), TARGETS[0, t : t + 1], 0.05)
            np.testing.assert_array_equal(masks[0, t, 0, 0].numpy() > 0, reached[0])
        assert pixels.shape == (1, 2, 1, 3, HEIGHT, WIDTH)

    def test_edges_are_those_of_the_frames_that_are_shown(self):
        masked = self.made(foreground_masking=True)
        late = self.made(
            foreground_masking=True,
            **{name: value[2:] for name, value in self.given().items()},
        )
        wanted = late.render_cache(TARGETS[:, :2], TARGET_KS[:, :2], start_frame_idx=0)
        found = masked.render_cache(TARGETS[:, :2], TARGET_KS[:, :2], start_frame_idx=2)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])

    def test_a_buffer_is_no_video(self):
        """The server asks."""
        assert not isinstance(buffer(), Cache4D)
        assert isinstance(self.made(), Cache3D_Base)

    def test_beyond_its_end(self):
        with pytest.raises(ValueError, match="expected frames among the 4 that are stored, got 2 to 4"):
            self.made().render_cache(TARGETS, TARGET_KS, start_frame_idx=2)


def pixel_rays():
    inverse = np.linalg.inv(K[0].numpy().astype(np.float64))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns, rows, np.ones_like(rows)], -1) @ inverse.T

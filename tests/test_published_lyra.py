"""Lyra-2's cache of frames, called as its model, its inference and its server call it."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.published.lyra import Sparse3DCache  # noqa: E402

HEIGHT, WIDTH, STEP = 24, 36, 4
K = torch.tensor([[[30.0, 0, 18], [0, 30.0, 12], [0, 0, 1]]])


def w2c(x, turn=0.0):
    matrix = torch.eye(4)[None].clone()
    c, s = np.cos(turn), np.sin(turn)
    matrix[0, :3, :3] = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    matrix[0, :3, 3] = matrix[0, :3, :3] @ torch.tensor([-x, 0.0, 0.0])
    return matrix


def depth(seed):
    z = 2 + torch.rand(1, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    z[..., :4, :8] = 0
    return z


POSES = [(0.0, 0.0), (0.5, 0.1), (1.0, 0.3), (-1.0, -0.4), (0.6, 0.0), (2.0, 0.8), (-0.4, 0.2)]


def filled(**options):
    cache = Sparse3DCache(downsample=STEP, store_device="cpu", store_values=True, **options)
    for i, pose in enumerate(POSES):
        cache.add(depth(i), w2c(*pose), K, latent_index=8 * i, frame_id=8 * i)
    return cache


def shown(targets, threshold):
    """The pixels of all targets that each frame of `filled` shows, as sets, and what each owns; point by point."""
    inner = K[0].numpy().astype(np.float64).copy()
    inner[:2] /= STEP
    rows, columns = -(-HEIGHT // STEP), -(-WIDTH // STEP)
    points = []
    for i, pose in enumerate(POSES):
        world = np.linalg.inv(w2c(*pose)[0].numpy().astype(np.float64))
        z = depth(i)[0, 0, ::STEP, ::STEP].numpy().astype(np.float64)
        for row in range(rows):
            for column in range(columns):
                at = z[row, column] * np.linalg.inv(inner) @ [column, row, 1]
                points.append((i, (world @ [*at, 1])[:3] if z[row, column] > 0 else np.zeros(3)))
    landed = []
    for view, target in enumerate(targets):
        for i, point in points:
            p = inner @ (target[0].numpy().astype(np.float64) @ [*point, 1])[:3]
            if p[2] > 0:
                x, y = (int(np.rint(part / (p[2] + 1e-7))) for part in p[:2])
                if 0 <= x < columns and 0 <= y < rows:
                    landed.append((i, (view, y, x), p[2]))
    front = {}
    for _, pixel, z in landed:
        front[pixel] = min(front.get(pixel, np.inf), z)
    near = [{pixel for j, pixel, z in landed if j == i and z <= front[pixel] + threshold} for i in range(len(POSES))]
    owners = {}
    for i, pixel, z in landed:
        if z <= front[pixel] + 1e-6:
            owners[pixel] = min(owners.get(pixel, i), i)
    return near, [list(owners.values()).count(i) for i in range(len(POSES))]


def greedy(near, most, newest):
    covered, chosen, out = set(near[newest]), [], {newest}
    for _ in range(most):
        gains = [-1 if i in out else len(pixels - covered) for i, pixels in enumerate(near)]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        chosen.append(best)
        out.add(best)
        covered |= near[best]
    return [(8 * i, 8 * i) for i in reversed(chosen)]


class TestRetrieve:
    @pytest.mark.parametrize("pose", [(0.3, 0.0), (-0.8, -0.2), (1.5, 0.5)])
    @pytest.mark.parametrize("threshold", [0.1, 0.5])
    def test_as_the_inference_calls_it(self, pose, threshold):
        near, _ = shown([w2c(*pose)], threshold)
        found = filled().retrieve(
            w2c(*pose),
            K,
            (HEIGHT, WIDTH),
            num_latents=5,
            skip_last_n=0,
            random=False,
            max_coverage=True,
            depth_threshold=threshold,
        )
        assert found == greedy(near, 5, len(POSES) - 1)
        assert len(found) >= 2
        assert all(type(i) is int for pair in found for i in pair)

    def test_of_several_views(self):
        targets = [w2c(0.3), w2c(-0.8, -0.2)]
        near, _ = shown(targets, 0.1)
        stacked = torch.stack(targets, dim=1), torch.stack([K, K], dim=1)
        assert filled().retrieve(*stacked, (HEIGHT, WIDTH), 5, max_coverage=True) == greedy(near, 5, len(POSES) - 1)

    def test_by_score(self):
        _, owned = shown([w2c(0.3)], 0.1)
        order = sorted(range(len(POSES)), key=lambda i: (-owned[i], i))[:4]
        assert filled().retrieve(w2c(0.3), K, (HEIGHT, WIDTH), 4) == [(8 * i, 8 * i) for i in reversed(order)]

    def test_at_random_it_takes_one_draw_of_the_global_generator(self):
        _, owned = shown([w2c(0.3)], 0.1)
        torch.manual_seed(4)
        found = filled().retrieve(w2c(0.3), K, (HEIGHT, WIDTH), 3, random=True)
        after = torch.rand(1)
        torch.manual_seed(4)
        scores = torch.tensor(owned, dtype=torch.float32)
        drawn = torch.multinomial(scores + 0.02 * scores.max(), 3, replacement=False)
        assert found == [(8 * i, 8 * i) for i in reversed(drawn.tolist())]
        assert torch.equal(after, torch.rand(1))

    def test_the_seed_alone_is_found(self):
        cache = Sparse3DCache(store_device="cpu")
        cache.add(depth(0), w2c(0), K, latent_index=0, frame_id=0)
        assert cache.retrieve(w2c(0.1), K, (HEIGHT, WIDTH), 5, max_coverage=True) == [(0, 0)]

    def test_a_frame_that_is_known_already_is_not_found(self):
        cache = Sparse3DCache(store_device="cpu")
        cache.add(depth(0), w2c(0), K, latent_index=8)
        assert cache.retrieve(w2c(0.1), K, (HEIGHT, WIDTH), 5, max_coverage=True) == []

    def test_nothing_to_find(self):
        away = w2c(0.0, np.pi)
        assert Sparse3DCache().retrieve(w2c(0), K, (HEIGHT, WIDTH), 5, max_coverage=True) == []
        assert filled().retrieve(w2c(0), K, (HEIGHT, WIDTH), 0) == []
        assert filled().retrieve(w2c(0), K, (HEIGHT, WIDTH), 5, skip_last_n=7) == []
        away[0, 2, 3] = -100.0
        assert filled().retrieve(away, K, (HEIGHT, WIDTH), 5, max_coverage=True) == []


class TestContent:
    def test_frames_of_other_videos_have_negative_ids(self):
        """As with --multiview_ids."""
        cache = filled()
        image = torch.rand(1, 3, HEIGHT, WIDTH)
        cache.store_rgb(-1, image)
        cache.add(depth(9), w2c(0.2), K, latent_index=-1, frame_id=-1)
        assert torch.equal(cache.get_rgb_by_frame_id(-1), image)
        z, pose, intrinsics = cache.get_rgbd_by_frame_id(-1)
        assert torch.equal(z, depth(9))
        assert torch.equal(pose, w2c(0.2))
        assert torch.equal(intrinsics, K)

    def test_an_update_changes_what_is_retrieved(self):
        """As with --da3_use_predicted_pose."""
        cache, moved = filled(), filled()
        assert moved.update_by_frame_id(frame_id=8, depth_B_1_H_W=depth(3), w2c_B_4_4=w2c(9.0), K_B_3_3=K) is True
        assert torch.equal(moved.get_rgbd_by_frame_id(8)[1], w2c(9.0))
        target = w2c(0.5, 0.1), K, (HEIGHT, WIDTH), 6
        assert (8, 8) in cache.retrieve(*target, max_coverage=True)
        assert (8, 8) not in moved.retrieve(*target, max_coverage=True)
        assert moved.update_by_frame_id(99, depth(3), w2c(0), K) is False

    def test_of_an_id_added_twice(self):
        cache = filled()
        cache.add(depth(9), w2c(0.2), K, 8, 8)
        assert torch.equal(cache.get_rgbd_by_frame_id(8)[0], depth(9))  # the last
        cache.update_by_frame_id(8, depth(3), w2c(9.0), K)  # the first
        assert torch.equal(cache.get_rgbd_by_frame_id(8)[0], depth(9))

    def test_the_server_takes_snapshots_by_length(self):
        cache = filled()
        before = cache.retrieve(w2c(0.3), K, (HEIGHT, WIDTH), 5)
        length, names = len(cache._world_points), set(cache._rgbs.keys())
        cache.add(depth(9), w2c(0.3), K, 80)
        cache.store_rgb(-3, torch.zeros(1, 3, 2, 2))
        assert 80 in cache._latent_indices
        assert cache.retrieve(w2c(0.3), K, (HEIGHT, WIDTH), 5) != before
        cache._world_points = cache._world_points[:length]
        cache._latent_indices = cache._latent_indices[:length]
        cache._frame_ids = cache._frame_ids[:length]
        if cache._store_values:
            cache._depths, cache._w2cs, cache._Ks = (kept[:length] for kept in (cache._depths, cache._w2cs, cache._Ks))
        cache._rgbs = {name: image for name, image in cache._rgbs.items() if name in names}
        assert cache.retrieve(w2c(0.3), K, (HEIGHT, WIDTH), 5) == before

    def test_copies_part(self):
        cache = filled()
        other = copy.deepcopy(cache)
        other.add(depth(9), w2c(0.3), K, 80)
        assert len(cache._frame_ids) + 1 == len(other._frame_ids)

    def test_errors(self):
        cache = filled()
        with pytest.raises(KeyError, match="expected one that was added, got 5"):
            cache.get_rgbd_by_frame_id(5)
        with pytest.raises(KeyError, match="expected one that store_rgb was given"):
            cache.get_rgb_by_frame_id(8)
        with pytest.raises(RuntimeError, match="store_values: expected True"):
            Sparse3DCache().get_rgbd_by_frame_id(0)
        with pytest.raises(ValueError, match="depth_B_1_H_W: expected a tensor of 4 axes, got"):
            cache.add(depth(0)[0], w2c(0), K, 3)
        with pytest.raises(ValueError, match="expected the shapes in their names"):
            cache.add(depth(0), w2c(0)[:, :3], K, 3)
        assert len(cache._world_points) == len(cache._frame_ids) == len(POSES)

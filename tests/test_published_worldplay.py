"""HY-WorldPlay's choice of memory frames, called as its pipelines call it."""

import math

import numpy as np
import pytest

from mosaicmem import CameraPose

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.published import worldplay  # noqa: E402


def overlap(current, earlier, points, field=(60.0, 35.0)):
    """The share of the current view's points that the earlier view has, point by point."""

    def angles(x, y, z):
        return math.degrees(math.atan2(x, z)), math.degrees(math.atan2(y, math.hypot(x, z)))

    def inside(away, yaw, pitch):
        found = angles(*away)
        apart = [(f - own + 180) % 360 - 180 for f, own in zip(found, (yaw, pitch), strict=True)]
        return abs(apart[0]) < field[0] / 2 and abs(apart[1]) < field[1] / 2

    there = current @ np.linalg.inv(earlier)
    own = [p for p in points if inside(p, 0.0, 0.0)]
    heading = angles(*there[:3, 2])
    seen = [p for p in own if inside(p - there[:3, 3], *heading) and np.linalg.norm(p - there[:3, 3]) < 8]
    return len(seen) / len(own) if own else 0.0


def chosen(w2c, start, points, most, recent, sink):
    """Frames by the published rule, candidate by candidate."""
    first_recent = max(0, start - recent)
    ranked = []
    for clip in range(len(sink), first_recent, 4):
        total = 0.0
        queries = range(start, min(start + 4, len(w2c)))
        for query in queries:
            total += sum(1 - overlap(w2c[query], w2c[frame], points) for frame in (clip, clip + 2)) / 2
        ranked.append((total / len(queries), clip))
    memory = list(sink)
    for _, clip in sorted(ranked, key=lambda pair: pair[0]):
        if len(memory) >= most - recent:
            break
        if clip not in memory:
            memory += range(clip, clip + 4)
    return sorted({*memory, *range(first_recent, start)})


@pytest.fixture(scope="module")
def w2c():
    """Turns away, and back."""
    yaw = np.concatenate([np.linspace(0, 170, 20), np.linspace(170, 10, 24)])
    poses = [
        CameraPose.look_at([0.1 * i, 0, 0], [0.1 * i + math.sin(math.radians(a)), 0.1, math.cos(math.radians(a))])
        for i, a in enumerate(yaw)
    ]
    return np.stack([pose.camera_from_world for pose in poses])


@pytest.fixture(scope="module")
def points():
    torch.manual_seed(0)
    return worldplay.generate_points_in_sphere(4000, 8.0)


def test_points_take_three_draws_of_the_global_generator():
    torch.manual_seed(5)
    ball = worldplay.generate_points_in_sphere(20_000, 8.0)
    after = torch.rand(2)
    torch.manual_seed(5)
    for _ in range(3):
        torch.rand(20_000)
    assert torch.equal(after, torch.rand(2))
    assert ball.dtype == torch.float32
    distance = ball.norm(dim=1)
    assert distance.max() <= 8.00001
    assert abs((distance < 4).float().mean() - 1 / 8) < 0.01  # evenly in the volume
    assert ball.mean(dim=0).abs().max() < 0.1


class TestOverlap:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_is_that_of_the_formula(self, w2c, points, dtype):
        given = w2c.astype(dtype)
        for query, frame in ((20, 18), (20, 24), (40, 3), (43, 2), (5, 5), (0, 19)):
            expected = overlap(given[query].astype(float), given[frame].astype(float), points.numpy().astype(float))
            found = worldplay.calculate_fov_overlap_similarity(
                given[query], given[frame], fov_h_deg=60.0, fov_v_deg=35.0, device="cpu", points_local=points
            )
            assert isinstance(found, float)
            assert found == pytest.approx(expected, abs=1e-7)

    def test_of_a_view_with_itself(self, w2c, points):
        assert worldplay.calculate_fov_overlap_similarity(w2c[3], w2c[3], points_local=points) == 1.0

    def test_nothing_in_view(self, w2c):
        behind = torch.tensor([[0.0, 0.0, -1.0]])
        assert worldplay.calculate_fov_overlap_similarity(w2c[3], w2c[3], points_local=behind) == 0.0


class TestSelection:
    @pytest.mark.parametrize("start", [24, 28, 32, 40])
    def test_as_the_pipeline_calls_it(self, w2c, points, start):
        frames = worldplay.select_aligned_memory_frames(
            w2c,
            start,
            memory_frames=20,
            temporal_context_size=12,
            pred_latent_size=4,
            points_local=points,
            device=torch.device("cpu"),
        )
        assert frames == chosen(w2c, start, points.numpy().astype(float), 20, 12, range(4))
        assert len(frames) == 20
        frames.extend(range(start, start + 4))  # as the trainer does

    def test_a_return_remembers_what_it_saw(self, w2c, points):
        frames = worldplay.select_aligned_memory_frames(w2c, 40, 20, 12, 4, points_local=points)
        assert {28, 29, 39} <= set(frames)
        assert set(frames) & set(range(4, 16))

    def test_early_frames_are_all_remembered(self, w2c, points):
        assert worldplay.select_aligned_memory_frames(w2c[:4], 18, 20, 12, 4, points_local=points) == list(range(18))

    def test_more_clips_than_one(self, w2c, points):
        frames = worldplay.select_aligned_memory_frames(w2c, 40, 28, 12, 4, points_local=points)
        assert frames == chosen(w2c, 40, points.numpy().astype(float), 28, 12, range(4))

    @pytest.mark.parametrize("start", [16, 20, 36])
    def test_of_wan(self, w2c, points, start):
        later = w2c.astype(np.float32)
        later[start + 4 :] = 0  # chunks that have not come yet
        frames = worldplay.select_mem_frames_wan(
            later,
            start,
            memory_frames=16,
            temporal_context_size=12,
            pred_latent_size=4,
            points_local=points,
            device="cpu",
        )
        assert frames == chosen(w2c, start, points.numpy().astype(float), 16, 12, ())

    def test_of_wan_counts_on_the_number_of_frames(self, w2c, points):
        with pytest.raises(AssertionError, match="expected 20 frames, got 16"):
            worldplay.select_mem_frames_wan(w2c, 16, 20, 12, 4, points_local=points)

    def test_equal_clips_keep_their_order(self, w2c, points):
        away = np.repeat(w2c[:1], 44, axis=0)
        away[40:] = CameraPose.look_at([0, 0, 0], [0, 0, -1]).camera_from_world  # sees none of them
        frames = worldplay.select_aligned_memory_frames(away, 40, 20, 12, 4, points_local=points)
        assert frames == [*range(8), *range(28, 40)]

    def test_errors(self, w2c, points):
        for select in (worldplay.select_aligned_memory_frames, worldplay.select_mem_frames_wan):
            with pytest.raises(ValueError, match=r"current_frame_idx: expected 3 to 43, .* got 44"):
                select(w2c, 44, 20, 12, 4, points_local=points)
            with pytest.raises(ValueError, match="pred_latent_size"):
                select(w2c, 40, 20, 12, 0, points_local=points)
        with pytest.raises(TypeError, match="points_local: expected points from generate_points_in_sphere"):
            worldplay.select_aligned_memory_frames(w2c, 40, 20, 12, 4)
        with pytest.raises(ValueError, match=r"w2c_list\[4\]: expected finite"):
            worldplay.select_aligned_memory_frames(np.full_like(w2c, np.nan), 40, 20, 12, 4, points_local=points)

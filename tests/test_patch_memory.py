"""The published patch memory: equal to its twin on made-up scenes, and to the published code's answers on real ones."""

import threading

import numpy as np
import pytest
from PIL import Image

from conftest import random_pose
from mosaicmem import PatchMemory
from reference import patch_memory as reference

pytestmark = pytest.mark.kernel

ROWS, COLUMNS = 9, 13
K = np.array([[110, 0, 100], [0, 120, 70], [0, 0, 1]], np.float32)


def scene(rng, frames, channels=3, spread=0.3):
    """Frames with overlapping views and invalid depth in places."""
    depth = rng.uniform(1, 3, (frames, 2 * ROWS + 5, 3 * COLUMNS)).astype(np.float32)
    depth[:, :4, :7] = 0
    depth[::3, 5:9] = np.nan
    depth[1::3, 9:12] = np.inf
    poses = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    for pose in poses:
        pose[:3, :3] = np.linalg.qr(np.eye(3) + 0.15 * rng.standard_normal((3, 3)))[0]
        pose[:3, :3] *= np.sign(np.diag(pose[:3, :3]))
        pose[:3, 3] = spread * rng.standard_normal(3)
    latents = rng.standard_normal((channels, frames, ROWS, COLUMNS)).astype(np.float32)
    return latents, poses, np.tile(K, (frames, 1, 1)) + np.float32(0.01), depth


def queries(rng, groups):
    return scene(rng, 4 * groups)[1], np.tile(K, (4 * groups, 1, 1))


def filled(policy, frames):
    memory = PatchMemory(policy)
    memory.append(*frames)
    return memory


def assert_nearly_equal(actual, expected):
    """Cells may differ where a tie (landing halfway between two cells, or equal depths) was decided the other way."""
    different = (actual != expected).any(axis=0) if actual.ndim == 4 else actual != expected
    assert different.mean() <= 1e-3, f"{different.sum()} of {different.size} cells differ"


@pytest.mark.parametrize("frames", [1, 3, 5, 7, 10, 40])
def test_pose_nearest_is_that_of_the_twin(rng, frames):
    parts = scene(rng, frames, spread=0.15)
    poses, _ = queries(rng, 8)
    expected = reference.pose_nearest(parts[1], poses[3::4])
    np.testing.assert_array_equal(filled("base", parts).select_candidate_frame_ids(poses), expected)


@pytest.mark.parametrize("frames", [1, 2, 6, 40])
@pytest.mark.parametrize("spread", [0.3, 30.0])
def test_coverage_is_that_of_the_twin(rng, frames, spread):
    parts = scene(rng, frames, spread=spread)
    poses, k = queries(rng, 8)
    expected = reference.coverage(parts[1], parts[2], parts[3], poses[3::4], k[3::4], ROWS, COLUMNS)
    memory = filled("distilled", parts)
    np.testing.assert_array_equal(memory.select_candidate_frame_ids(poses, k), expected)
    if spread == 30.0 and frames == 1:
        assert (expected == -1).all()


@pytest.mark.parametrize(("policy", "keep"), [("base", "near"), ("distilled", "far")])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_fusion_is_that_of_the_twin(rng, policy, keep, num_threads):
    parts = scene(rng, 12)
    poses, k = queries(rng, 6)
    candidates = [[3, 1, 3, 0], [], [-1, -1], [11], [5, 6, 7, 8, 9], [2, -1, 4]]
    memory = filled(policy, parts)
    memory.num_threads = num_threads
    latents, valid = memory.fuse_candidates(poses, candidates, query_intrinsics=k)
    expected, expected_valid = reference.fuse(
        parts[0], parts[2], parts[1], parts[3], k[3::4], poses[3::4], candidates, keep
    )
    assert 0.05 < valid.mean() < 0.95
    assert_nearly_equal(latents, expected)
    assert_nearly_equal(valid, expected_valid)


def test_fusion_stops_once_enough_is_filled(rng):
    latents, poses, k, depth = scene(rng, 3)
    poses[:] = np.eye(4)
    depth[:] = [[[2.0]], [[1.0]], [[3.0]]]
    k[:] = K
    memory = filled("base", (latents, poses, k, depth))
    fused, valid = memory.fuse_candidates(poses[[0, 0, 0, 0]], [[0, 1]], query_intrinsics=k[[0, 0, 0, 0]])
    assert valid.all()
    np.testing.assert_array_equal(fused[:, 0], latents[:, 0])  # though frame 1 is nearer


def test_appending_in_parts_is_appending_at_once(rng):
    parts = scene(rng, 11)
    poses, k = queries(rng, 3)
    for policy in ("base", "distilled"):
        whole, pieces = filled(policy, parts), PatchMemory(policy)
        for part in (slice(0, 1), slice(1, 6), slice(6, 11)):
            pieces.append(parts[0][:, part], *(array[part] for array in parts[1:]))
        assert pieces.num_frames == whole.num_frames == 11
        one, other = whole.query(poses[0], poses, k), pieces.query(poses[0], poses, k)
        assert one.candidate_frame_ids == other.candidate_frame_ids
        np.testing.assert_array_equal(one.latents, other.latents)
        np.testing.assert_array_equal(one.aligned_query_w2c, other.aligned_query_w2c)


def test_alignment_puts_the_anchor_on_the_last_frame(rng):
    parts = scene(rng, 4)
    memory = filled("base", parts)
    anchor = random_pose(rng).camera_from_world
    path = np.stack([anchor] + [random_pose(rng).camera_from_world for _ in range(4)])
    aligned = memory.align_query_trajectory(anchor, path)
    np.testing.assert_allclose(aligned[0], parts[1][-1], atol=1e-5)
    np.testing.assert_allclose(  # motion within the trajectory is as it was
        aligned[3] @ np.linalg.inv(aligned[1]), path[3] @ np.linalg.inv(path[1]), atol=1e-5
    )


def test_what_is_appended_is_copied(rng):
    parts = scene(rng, 4)
    poses, _ = queries(rng, 2)
    memory = filled("base", parts)
    before = memory.query(poses[0], poses)
    for array in parts:
        array[:] = 1
    np.testing.assert_array_equal(memory.query(poses[0], poses).latents, before.latents)


@pytest.fixture(scope="module")
def golden(rgbd_scene):
    path = rgbd_scene.parent / "patch_memory_golden.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the real RGB-D frames")
    answers = dict(np.load(path))
    numbers = [f"frame-{n:06d}" for n in answers["memory_frames"]]
    depth = np.stack([np.asarray(Image.open(rgbd_scene / f"{n}.depth.png"), np.float32) for n in numbers]) / 1000
    depth[depth > 60] = 0
    poses = np.stack([np.linalg.inv(np.loadtxt(rgbd_scene / f"{n}.pose.txt")) for n in numbers]).astype(np.float32)
    k = np.loadtxt(rgbd_scene / "camera-intrinsics.txt").astype(np.float32)
    c, f, y, x = np.ogrid[:8, : len(numbers), :30, :40]
    latents = (1 + (c * 7919 + f * 104729 + y * 1299709 + x * 15485863) % 1000003) / 1000003
    return (latents.astype(np.float32), poses, np.tile(k, (len(numbers), 1, 1)), depth), answers


@pytest.mark.parametrize(
    ("policy", "ids", "mosaic"),
    [("base", "near_ids", "near_latents"), ("distilled", "coverage_ids", "coverage_far_latents")],
)
def test_answers_are_those_of_the_published_code(golden, policy, ids, mosaic):
    frames, answers = golden
    memory = filled(policy, frames)
    query = answers["query_w2c"]
    candidates = memory.select_candidate_frame_ids(query)
    np.testing.assert_array_equal(candidates, answers[ids])
    latents, valid = memory.fuse_candidates(query, candidates)
    different = (latents != answers[mosaic]).any(axis=0)
    assert different.sum() == 0, f"{different.sum()} of {different.size} cells differ"
    np.testing.assert_array_equal(valid, (answers[mosaic] != 0).any(axis=0))


def test_threads_may_append_and_query(rng):
    parts, (poses, k) = scene(rng, 4), queries(rng, 2)
    memory, stop, errors = filled("distilled", parts), threading.Event(), []

    def ask():
        try:
            while not stop.is_set():
                memory.query(poses[0], poses, k)
        except Exception as error:
            errors.append(error)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(40):
        memory.append(*parts)
    stop.set()
    for asker in askers:
        asker.join()
    assert not errors
    assert memory.num_frames == 164


class TestErrors:
    @pytest.fixture
    def memory(self, rng):
        return filled("base", scene(rng, 4))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ((0, lambda a: a[:, :2]), r"w2c: expected shape \(2, 4, 4\), got \(4, 4, 4\)"),
            ((0, lambda a: a[:2]), r"latents: expected shape \(3, F, 9, 13\) as before, got \(2, 4, 9, 13\)"),
            ((0, lambda a: a * np.nan), "latents: expected finite values"),
            ((1, lambda a: a[:, :3]), r"w2c: expected shape \(4, 4, 4\)"),
            ((2, lambda a: a * 0), "intrinsics: expected invertible matrices"),
            ((3, lambda a: a[:, :0]), "depths: expected at least one pixel"),
        ],
    )
    def test_a_refused_append_changes_nothing(self, rng, memory, change, message):
        parts = list(scene(rng, 4))
        parts[change[0]] = change[1](parts[change[0]])
        with pytest.raises(ValueError, match=message):
            memory.append(*parts)
        assert memory.num_frames == 4

    def test_millimetres_are_refused(self, rng, memory):
        parts = list(scene(rng, 4))
        parts[3] = np.full(parts[3].shape, 1000, np.uint16)
        with pytest.raises(TypeError, match="depths: expected metres"):
            memory.append(*parts)

    def test_queries_come_in_groups_of_four(self, rng, memory):
        with pytest.raises(ValueError, match="query_w2c: expected groups of 4 poses, got 6"):
            memory.select_candidate_frame_ids(scene(rng, 6)[1])

    def test_candidates_fit(self, rng, memory):
        poses, _ = queries(rng, 2)
        with pytest.raises(ValueError, match="candidate_frame_ids: expected one sequence a group, 2, got 1"):
            memory.fuse_candidates(poses, [[0]])
        with pytest.raises(ValueError, match="candidate_frame_ids: expected ids below 4, the frames appended, got 4"):
            memory.fuse_candidates(poses, [[0], [1, 4]])

    @pytest.mark.parametrize(
        ("candidates", "message"),
        [
            (0, "candidate_frame_ids: expected a sequence of ids for each group, got int"),
            ([0, 1], r"candidate_frame_ids\[0\]: expected shape \(N,\), got \(\)"),
            ([[0.5], [1]], r"candidate_frame_ids\[0\]: expected dtype int64, got float64"),
        ],
    )
    def test_candidates_of_another_kind(self, rng, memory, candidates, message):
        with pytest.raises((TypeError, ValueError), match=message):
            memory.fuse_candidates(queries(rng, 2)[0], candidates)

    def test_a_singular_anchor_is_named(self, rng, memory):
        with pytest.raises(ValueError, match="anchor_w2c: expected invertible matrices"):
            memory.align_query_trajectory(1e-40 * np.eye(4), queries(rng, 1)[0])

    def test_an_empty_memory_says_so(self, rng):
        with pytest.raises(ValueError, match="append some first"):
            PatchMemory().query(np.eye(4), queries(rng, 1)[0])

    def test_policy(self):
        with pytest.raises(ValueError, match="policy: expected one of base, distilled, got 'near'"):
            PatchMemory("near")


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_in_torch_out(rng, dtype):
    torch = pytest.importorskip("torch")
    parts = scene(rng, 6)
    poses, k = queries(rng, 2)
    latents = torch.from_numpy(parts[0]).to(getattr(torch, dtype)).requires_grad_()
    from_torch = filled("distilled", (latents, *(torch.from_numpy(array) for array in parts[1:])))
    from_numpy = filled("distilled", (latents.detach().float().numpy(), *parts[1:]))
    one = from_torch.query(torch.from_numpy(poses[0]), torch.from_numpy(poses), torch.from_numpy(k))
    other = from_numpy.query(poses[0], poses, k)
    assert one.candidate_frame_ids == other.candidate_frame_ids
    for name in ("latents", "valid_mask", "aligned_query_w2c"):
        tensor = getattr(one, name)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), getattr(other, name))

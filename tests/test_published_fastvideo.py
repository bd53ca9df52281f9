"""FastVideo's patch memories, called as its stages and its tests call them."""

import numpy as np
import pytest

from mosaicmem import CameraPose
from mosaicmem.published import PatchMemory

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.published.fastvideo import (  # noqa: E402
    MatrixGame35BasePatchMemory,
    MatrixGame35DistilledMemoryResult,
    MatrixGame35DistilledPatchMemory,
    MatrixGame35PatchMemoryResult,
)

CHANNELS, ROWS, COLUMNS = 6, 8, 12
BOTH = pytest.mark.parametrize("kind", [MatrixGame35BasePatchMemory, MatrixGame35DistilledPatchMemory])
K = np.array([[150.0, 0, 96], [0, 150.0, 64], [0, 0, 1]], np.float32)


def poses(count, start=0.0):
    return np.stack(
        [
            CameraPose.look_at(
                [0.05 * (start + i), 0, 0], [0.05 * (start + i) + np.sin(0.02 * i), 0, 3]
            ).camera_from_world
            for i in range(count)
        ]
    ).astype(np.float32)


def frames(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "latents": torch.from_numpy(rng.standard_normal((CHANNELS, count, ROWS, COLUMNS)).astype(np.float32)),
        "w2c": poses(count),
        "intrinsics": np.tile(K, (count, 1, 1)),
        "depths": rng.uniform(1, 4, (count, 56, 84)).astype(np.float32),
    }


class Estimator:
    def __init__(self, depth):
        self.depth, self.given = depth, []

    def estimate_depth(self, frames):
        self.given.append(frames)
        return self.depth


def known(policy, **given):
    memory = PatchMemory(policy)
    memory.append(given["latents"], given["w2c"], given["intrinsics"], given["depths"])
    return memory


class TestBase:
    def test_as_the_rollout_stage_calls_it(self):
        memory, given = MatrixGame35BasePatchMemory(), frames(20)
        images = [np.zeros((56, 84, 3), np.uint8)] * 20
        adapter = Estimator(given["depths"])
        memory.append(
            latents=given["latents"],
            w2c=given["w2c"],
            intrinsics=given["intrinsics"],
            frames=images,
            depth_adapter=adapter,
        )
        assert adapter.given == [images]
        query, cameras = poses(84, 20), np.tile(K, (84, 1, 1))
        result = memory.query(anchor_w2c=query[0], query_w2c=query, query_intrinsics=cameras)
        assert type(result) is MatrixGame35PatchMemoryResult
        expected = known("base", **given).query(query[0], query, cameras)
        assert torch.equal(result.latents, expected.latents)
        assert torch.equal(result.valid_mask, expected.valid_mask)
        assert result.candidate_frame_ids == expected.candidate_frame_ids
        np.testing.assert_array_equal(result.aligned_query_w2c, expected.aligned_query_w2c)
        assert result.latents.unsqueeze(0).to(dtype=torch.bfloat16).shape == (1, CHANNELS, 21, ROWS, COLUMNS)
        assert result.valid_mask.any()
        assert len(result.candidate_frame_ids) == 21
        # The next append takes the aligned poses, and the next block reads the last ones.
        memory.append(**{**frames(1, 1), "w2c": result.aligned_query_w2c[:1]})
        np.testing.assert_array_equal(memory.w2c[-1], result.aligned_query_w2c[0])
        assert memory.intrinsics[-4:].shape == (4, 3, 3)

    def test_without_intrinsics_those_of_the_last_frame_count(self):
        memory = MatrixGame35BasePatchMemory()
        memory.append(**frames(8))
        query = poses(84)
        ids = memory.select_candidate_frame_ids(query)
        one, other = (
            memory.fuse_candidates(query, ids, query_intrinsics=given)[0] for given in (None, np.tile(K, (84, 1, 1)))
        )
        assert torch.equal(one, other)

    @pytest.mark.parametrize("count", [83, 12])
    def test_takes_84_poses(self, count):
        memory = MatrixGame35BasePatchMemory()
        memory.append(**frames(4))
        for act in (
            lambda: memory.query(anchor_w2c=np.eye(4), query_w2c=poses(count)),
            lambda: memory.select_candidate_frame_ids(poses(count)),
            lambda: memory.fuse_candidates(poses(count), []),
        ):
            with pytest.raises(ValueError, match="exactly 84"):
                act()


class TestDistilled:
    def test_as_the_rollout_stage_calls_it(self):
        memory, given = MatrixGame35DistilledPatchMemory(), frames(16)
        memory.append(**given)
        query, cameras = poses(12, 16), np.tile(K, (12, 1, 1))
        result = memory.query(anchor_w2c=query[0], query_w2c=query, query_intrinsics=cameras)
        assert type(result) is MatrixGame35DistilledMemoryResult
        expected = known("distilled", **given).query(query[0], query, cameras)
        assert torch.equal(result.latents, expected.latents)
        assert result.candidate_frame_ids == expected.candidate_frame_ids
        assert result.latents.shape[1] == 3

    def test_intrinsics_come_second(self):
        memory, given = MatrixGame35DistilledPatchMemory(), frames(16)
        memory.append(**given)
        query, cameras = poses(8, 16), np.tile(K, (8, 1, 1))
        ids = memory.select_candidate_frame_ids(query, cameras)
        latents, valid = memory.fuse_candidates(query, cameras, ids)
        twin = known("distilled", **given)
        assert ids == twin.select_candidate_frame_ids(query, cameras)
        assert torch.equal(latents, twin.fuse_candidates(query, ids, query_intrinsics=cameras)[0])
        assert valid.dtype == torch.bool

    def test_errors(self):
        memory = MatrixGame35DistilledPatchMemory()
        memory.append(**frames(4))
        with pytest.raises(ValueError, match=r"must have shape \[4\*k,4,4\]"):
            memory.select_candidate_frame_ids(poses(6), np.tile(K, (6, 1, 1)))
        small = MatrixGame35DistilledPatchMemory()
        small.append(**{**frames(2), "latents": torch.zeros(CHANNELS, 2, 3, COLUMNS)})
        with pytest.raises(ValueError, match="at least the coverage downsample factor"):
            small.select_candidate_frame_ids(poses(4), np.tile(K, (4, 1, 1)))


@BOTH
class TestBank:
    def test_has_all_frames(self, kind):
        memory, first, second = kind(), frames(3), frames(2, 1)
        memory.append(**first)
        memory.append(**second)
        assert memory.num_frames == 5
        for name in ("w2c", "intrinsics", "depths"):
            np.testing.assert_array_equal(getattr(memory, name), np.concatenate([first[name], second[name]]))
        assert torch.equal(memory.latents, torch.cat([first["latents"], second["latents"]], dim=1))

    def test_other_dtypes_are_cast(self, kind):
        memory, given = kind(), frames(2)
        memory.append(
            latents=given["latents"].bfloat16(),
            w2c=given["w2c"].astype(np.float64),
            intrinsics=torch.from_numpy(given["intrinsics"]),
            depths=np.full((2, 56, 84), 3),
        )
        assert memory.latents.dtype == torch.float32
        assert memory.depths.dtype == memory.w2c.dtype == np.float32

    def test_what_is_given_is_copied(self, kind):
        memory, given = kind(), frames(2)
        memory.append(**given)
        for value in given.values():
            value[:] = 7
        assert not (memory.latents == 7).any()
        assert not (memory.depths == 7).any()

    def test_empty(self, kind):
        memory = kind()
        assert memory.num_frames == 0
        for name in ("latents", "w2c", "intrinsics", "depths"):
            with pytest.raises(RuntimeError, match=r"Patch Memory is empty\."):
                getattr(memory, name)
        cameras = {"query_intrinsics": np.tile(K, (84, 1, 1))}
        with pytest.raises(RuntimeError, match="empty"):
            memory.query(anchor_w2c=np.eye(4), query_w2c=poses(84), **cameras)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"latents": torch.zeros(CHANNELS, ROWS, COLUMNS)}, r"latents must have shape \[channels, frames"),
            ({"latents": np.zeros((CHANNELS, 2, ROWS, COLUMNS))}, "got ndarray"),
            ({"w2c": np.zeros((2, 3, 4))}, r"w2c must have shape \[frames, 4, 4\], got \(2, 3, 4\)"),
            ({"intrinsics": np.zeros((2, 4, 4))}, r"intrinsics must have shape \[frames, 3, 3\]"),
            ({"w2c": poses(3)}, "must contain the same number of frames"),
            ({"depths": None}, "depths or both frames and a depth_adapter are required"),
            ({"depths": np.ones((3, 56, 84))}, r"depths must have shape \[2, height, width\]"),
            ({"depths": np.ones((2, 28, 42))}, "appended spatial dimensions of depths must match the bank"),
            ({"latents": torch.zeros(CHANNELS, 2, ROWS, 13)}, "appended channel and spatial dimensions of latents"),
        ],
    )
    def test_an_append_that_fails_changes_nothing(self, kind, change, message):
        memory = kind()
        memory.append(**frames(2))
        with pytest.raises(ValueError, match=message):
            memory.append(**{**frames(2), **change})
        with pytest.raises(ValueError, match=r"frames must contain 2 items, got 1\."):
            memory.append(**{**frames(2), "depths": None, "frames": [None], "depth_adapter": Estimator(None)})
        assert memory.num_frames == len(memory.w2c) == len(memory.depths) == memory.latents.shape[1] == 2

    def test_errors_of_the_adapter_pass_through(self, kind):
        class Refuses:
            def estimate_depth(self, frames):
                raise RuntimeError("Insufficient non-sky pixels for alignment")

        memory = kind()
        with pytest.raises(RuntimeError, match="Insufficient non-sky pixels"):
            memory.append(**{**frames(1), "depths": None, "frames": [None], "depth_adapter": Refuses()})
        assert memory.num_frames == 0

"""Matrix-Game 3.5's choice and fusion of frames, called as its data set and its trainer call them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from matrix_game_helpers import (  # noqa: E402
    COLUMNS,
    DEPTH,
    FRAMES,
    QUERY,
    ROWS,
    STRIDE,
    K,
    depth_of,
    fused,
    landing,
    latents,
    nearest,
    picture,
    pose,
    sampled,
    splatted,
)
from mosaicmem.published._matrix_game_cameras import nearest_rows  # noqa: E402
from mosaicmem.published.matrix_game import FrustumHandler  # noqa: E402


class TestChoosing:
    """As the data set builds each sample."""

    def call(self, **options):
        return FrustumHandler(np.eye(3), latent_stride=STRIDE).select_candidates(
            **{
                "query_extrinsics": QUERY,
                "depths": np.zeros((0,)),
                "w2c": np.stack([pose(i) for i in range(FRAMES)]),
                "memory_K": np.repeat(K[None], FRAMES, 0),
                "query_K": np.repeat(K[None], 8, 0),
                "H_lat": ROWS,
                "W_lat": COLUMNS,
                "total_latents": FRAMES,
                "candidates_per_query_group": 3,
                "distance_threshold": None,
                "temporal_threshold": None,
                "angle_threshold": None,
                "geometry_rep_mode": "second_frame",
                "latent_merge_4frames": False,
                "selection_mode": "pose_nearest",
                "query_reference_frame": 2,
                "depth_downsample_pool": {},
                **options,
            }
        )

    def test_by_pose_without_suppression(self):
        assert self.call() == [nearest(QUERY[1], 3, 0.0), nearest(QUERY[5], 3, 0.0)]

    def test_frames_apart_in_time(self):
        found = self.call(candidate_nms_mode="temporal", candidate_nms_min_temporal_gap=3)
        assert found == [[3, 0, 6], [4, 1, 7]]

    def test_of_another_number_of_poses_each_is_a_group(self):
        assert self.call(query_extrinsics=QUERY[:3]) == [nearest(q, 3, 0.0) for q in QUERY[:3]]
        assert self.call(query_extrinsics=QUERY[0], query_K=None) == [nearest(QUERY[0], 3, 0.0)]

    def test_coverage_of_nothing(self):
        away = np.stack([pose(40, away=-900)] * 4)
        options = {"selection_mode": "projection_iou", "candidate_nms_mode": "coverage"}
        found = self.call(query_extrinsics=away, query_K=K, depths=depth_of(range(FRAMES)), **options)
        assert found == [[-1] * 3]
        assert self.call(depths=depth_of(range(FRAMES)), H_lat=3, **options) == [[-1] * 3] * 2

    def test_depth_is_sampled_as_opencv_rounds(self):
        assert nearest_rows(80, 448)[45] == 251  # not 252
        assert nearest_rows(8, 186)[4] == 92  # not 93
        assert nearest_rows(44, 392)[[11, 22]].tolist() == [97, 195]
        assert nearest_rows(ROWS, DEPTH[0]).tolist() == [3 * i for i in range(ROWS)]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"selection_mode": "projection_iou"}, NotImplementedError, "got projection_iou with None"),
            ({"candidate_nms_mode": "coverage"}, NotImplementedError, "got pose_nearest with coverage"),
            ({"angle_threshold": 30.0}, NotImplementedError, "angle_threshold: expected None or False"),
            ({"latent_merge_4frames": True}, NotImplementedError, "latent_merge_4frames"),
            ({"total_latents": 3}, ValueError, "total_latents: expected 9"),
            ({"query_reference_frame": 5}, ValueError, "query_reference_frame: expected 1 to 4, got 5"),
            ({"K": K}, None, None),
            ({"colour": 1}, TypeError, "expected no parameter 'colour'"),
        ],
    )
    def test_wrong_ones_are_named(self, options, error, message):
        if error is None:
            self.call(**options)  # not read with this mode
            return
        with pytest.raises(error, match=message):
            self.call(**options)


class TestFusing:
    """As the trainer materialises a sample: without frames registered."""

    def call(self, ids, **options):
        return FrustumHandler(np.eye(3), latent_stride=STRIDE).fuse_candidates(
            **{
                "query_extrinsics": QUERY[:4],
                "candidate_frame_ids": [ids],
                "latents": latents(),
                "w2c": np.stack([pose(i) for i in range(FRAMES)]),
                "depths": depth_of(range(FRAMES)),
                "memory_K": np.repeat(K[None], FRAMES, 0),
                "query_K": np.repeat(K[None], 4, 0),
                "fuse_mode": "fill_stop_zbuffer",
                "zbuffer_depth_preference": "near",
                "interpolation_mode": "nearest",
                "query_reference_frame": 4,
                "H_lat": ROWS,
                "W_lat": COLUMNS,
                **options,
            }
        )

    def test_where_sources_land_and_which_they_are(self):
        extra = {"return_revgrid": True, "return_source_frame_ids": True}
        output, grid, frames = self.call([0, 8, 6], fill_ratio_threshold=1.0, **extra)
        shown = fused([0, 8, 6], QUERY[3], enough=1.0)
        assert torch.equal(output[:, 0], picture(shown, latents()))
        wanted, ids = np.full((ROWS, COLUMNS, 2), -1.0), np.full((ROWS, COLUMNS), -1)
        for target, (_, _, at, frame) in shown.items():
            if at[0] >= 0:
                wanted[target], ids[target] = at, frame
        np.testing.assert_allclose(grid[0], wanted, atol=1e-4)
        np.testing.assert_array_equal(frames[0], ids[::2, ::2])
        assert (grid.dtype, frames.dtype) == (np.float32, np.int64)
        assert grid.shape == (1, ROWS, COLUMNS, 2)
        assert frames.shape == (1, ROWS // 2, COLUMNS // 2)
        assert len(np.unique(ids)) == 4

    @pytest.mark.parametrize("near", [True, False])
    def test_the_surface_that_is_kept(self, near):
        found = self.call([0, 6], zbuffer_depth_preference="near" if near else "far")
        assert torch.equal(found[:, 0], picture(fused([0, 6], QUERY[3], near=near), latents()))

    def test_the_first_frame_stays(self):
        found = self.call([6, 0], fuse_mode="fill_stop")
        assert torch.equal(found[:, 0], picture(fused([6, 0], QUERY[3], mode="fill_stop"), latents()))

    def test_the_mean(self):
        total, count = torch.zeros(3, ROWS, COLUMNS), torch.zeros(ROWS, COLUMNS)
        for frame in (2, 6):
            for (row, column), (_, cell, _) in splatted(frame, K, QUERY[3], K).items():
                total[:, row, column] += latents()[:, frame, cell[0], cell[1]]
                count[row, column] += 1
        found = self.call([2, 6, 2], fuse_mode="masked_mean")
        torch.testing.assert_close(found[:, 0], total / count.clamp(min=1))

    def test_it_stops(self):
        assert torch.equal(self.call([0, 8, 6], fill_ratio_threshold=0.1), self.call([0]))
        two = self.call([0, 8], fill_ratio_threshold=1.0)
        assert torch.equal(self.call([0, 8, 6], fill_ratio_threshold=1.0, fill_candidate_limit=2), two)
        assert not torch.equal(self.call([0, 8, 6], fill_ratio_threshold=1.0), two)

    def test_cells_that_may_not_be_used(self):
        usable = np.random.default_rng(0).random((FRAMES, ROWS, COLUMNS)) > 0.4
        wanted = picture(fused([1, 4], QUERY[3], usable=usable), latents())
        for masks in (usable, torch.from_numpy(usable)):
            assert torch.equal(self.call([1, 4], source_valid_masks=masks)[:, 0], wanted)

    @pytest.mark.parametrize("block", [1, 2])
    def test_sky_without_end_lands_nowhere(self, block):
        sky = depth_of(range(FRAMES))
        sky[:, :9] = np.inf
        covered = self.call([4], depths=sky, fuse_block_size=block)
        none = self.call([4], depths=np.where(np.isinf(sky), -1, sky).astype(np.float32), fuse_block_size=block)
        assert 0.2 < (covered != 0).any(0).float().mean() < 0.8
        if block == 1:
            assert torch.equal(covered, none)
        chosen = {"selection_mode": "projection_iou", "candidate_nms_mode": "coverage", "depths": sky}
        assert TestChoosing().call(**chosen) != []

    def test_ids(self):
        assert torch.equal(self.call([-1, 2, 2, -1]), self.call([2]))
        assert torch.equal(self.call([99]), self.call([FRAMES - 1]))
        assert torch.equal(self.call([-1, -1]), self.call([0]))
        assert torch.equal(self.call([5], special_query_frame=[1]), self.call([1, 5]))

    def test_blocks(self):
        """Blocks of four cells, between whose corners depth is the mean, land in even blocks."""
        output, grid = self.call([4], fuse_block_size=2, return_revgrid=True)
        z, shown = sampled(depth_of([4])[0]), {}
        for row, column in np.ndindex(ROWS - 1, COLUMNS - 1):
            mean = z[row : row + 2, column : column + 2].mean()
            x, y, ahead = landing(row + 0.5, column + 0.5, mean, K, pose(4), QUERY[3], K)
            target = (int(np.floor(y / 2)), int(np.floor(x / 2)))
            inside = 0 <= target[0] < ROWS // 2 and 0 <= target[1] < COLUMNS // 2
            if inside and (target not in shown or ahead <= shown[target][0]):
                shown[target] = (ahead, (row, column), (x, y))
        wanted, at = torch.zeros(3, ROWS, COLUMNS), np.full((ROWS, COLUMNS, 2), -1.0)
        for (i, j), (_, (row, column), (x, y)) in shown.items():
            wanted[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = latents()[:, 4, row : row + 2, column : column + 2]
            for down, right in np.ndindex(2, 2):
                if x + right - 0.5 >= 0:
                    at[2 * i + down, 2 * j + right] = (x + right - 0.5, y + down - 0.5)
        assert torch.equal(output[:, 0], wanted)
        np.testing.assert_allclose(grid[0], at, atol=1e-4)

    def test_blocks_use_cells_that_may_all_be_used(self):
        usable = np.ones((FRAMES, ROWS, COLUMNS), bool)
        usable[4, 3, 5] = False
        found = self.call([4], fuse_block_size=2, source_valid_masks=usable)
        hidden = latents()[:, 4, 3, 5]
        assert not (found[:, 0] == hidden[:, None, None]).all(0).any()

    def test_view_change_is_the_turn_of_a_point_and_its_distance(self):
        """A camera that goes straight on sees what is ahead half as far away, without a turn."""
        k, flat = K.copy(), np.full((1, *DEPTH), 4.0, np.float32)
        ahead = np.repeat(pose(0, away=2.0)[None], 4, 0)
        _, change = self.call(
            [0],
            query_extrinsics=ahead,
            latents=latents()[:, :1],
            w2c=pose(0)[None],
            depths=flat,
            memory_K=k[None],
            return_view_change=True,
        )
        assert change.shape == (1, ROWS, COLUMNS, 3)
        middle = change[0, ROWS // 2, COLUMNS // 2]
        np.testing.assert_allclose(middle, [0.5, 0, 0], atol=0.12)
        assert change[0, 0, -1, 0] > 0.5
        far = np.stack([pose(60)] * FRAMES)
        _, change = self.call([0], w2c=far, return_view_change=True)
        np.testing.assert_array_equal(change[0, 0, 0], [1, 0, 0])  # nothing lands

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"fuse_mode": "recent_first_smooth"}, NotImplementedError, "fuse_mode: expected one of fill_stop_zbuffer"),
            ({"zbuffer_depth_preference": "middle"}, ValueError, "zbuffer_depth_preference"),
            ({"fuse_block_size": 3}, ValueError, "fuse_block_size: expected 1 or 2, got 3"),
            ({"latents": latents()[0]}, ValueError, "latents: expected a tensor"),
            ({"candidate_frame_ids": []}, ValueError, "candidate_frame_ids: expected 1 groups, got 0"),
            ({"depths": depth_of([0])}, ValueError, r"depths: expected shape \(9, H, W\)"),
            ({"query_K": None}, ValueError, r"query_K: expected it with memory_K \(N, 3, 3\)"),
            ({"K": K}, ValueError, "K, memory_K: expected one of them, got both"),
            ({"memory_K": K[None]}, ValueError, r"memory_K: expected shape \(9, 3, 3\)"),
            ({"memory_K": None, "query_K": None}, ValueError, "expected them, or frames registered before"),
            ({"source_valid_masks": np.ones((2, 2))}, ValueError, "source_valid_masks: expected shape"),
        ],
    )
    def test_wrong_ones_are_named(self, options, error, message):
        with pytest.raises(error, match=message):
            self.call([1], **options)

    def test_blocks_need_even_grids(self):
        with pytest.raises(ValueError, match="odd number of cells, 8 x 11"):
            self.call([0], fuse_block_size=2, latents=latents()[..., :11])

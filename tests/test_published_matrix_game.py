"""Matrix-Game 3.5's handler, called as its rollouts call it."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from matrix_game_helpers import (  # noqa: E402
    BASE,
    COLUMNS,
    DEPTH,
    FRAMES,
    QUERY,
    ROWS,
    SIZE,
    Estimator,
    K,
    depth_of,
    fused,
    handler,
    images,
    landing,
    latents,
    nearest,
    picture,
    pose,
    registered,
)
from mosaicmem.published.matrix_game import FrustumHandler  # noqa: E402


class TestRollouts:
    def test_the_base_one(self):
        memory = registered(fixed_intrinsics=True)
        found = memory.query_hits_mode_new("cpu", QUERY, latents(), **BASE)
        assert isinstance(found, tuple)
        assert len(found) == 3
        output, ids, placeholder = found
        assert ids == [nearest(QUERY[3], 5, 0.2), nearest(QUERY[7], 5, 0.2)]
        assert placeholder == [[-1] * 5] * 2
        assert output.shape == (3, 2, ROWS, COLUMNS)
        for group, reference in enumerate((3, 7)):
            wanted = picture(fused(ids[group], QUERY[reference]), latents())
            assert torch.equal(output[:, group], wanted)
            assert (wanted != 0).any(0).float().mean() > 0.6

    def test_the_distilled_one(self):
        """Its query has the file's K, its memory K as registered; the farthest surface is kept."""
        memory = registered()
        own = np.repeat(K[None], 8, 0)
        own[:, 0, 2] += 0.5
        output = memory.query_hits_mode_new(
            "cpu",
            QUERY,
            latents(),
            w2c=None,
            depths=None,
            candidates_per_query_group=5,
            angle_threshold=None,
            distance_threshold=None,
            temporal_threshold=None,
            fuse_mode="fill_stop_zbuffer",
            zbuffer_depth_preference="far",
            interpolation_mode="nearest",
            return_revgrid=False,
            latent_merge_4frames=False,
            selection_mode="projection_iou",
            candidate_nms_mode="coverage",
            candidate_nms_projection_iou_threshold=0.7,
            candidate_nms_min_temporal_gap=0,
            candidate_nms_pose_distance_threshold=0.25,
            candidate_nms_pool_multiplier=2.5,
            coverage_pool_stride=2,
            query_reference_frame=4,
            memory_K=np.repeat(K[None], FRAMES, 0),
            query_K=own,
            return_candidate_frame_ids=False,
        )
        assert isinstance(output, torch.Tensor)
        for group, reference in enumerate((3, 7)):
            ids = self.covering(QUERY[reference], own[reference], pool=2, picks=5)
            wanted = picture(fused(ids, QUERY[reference], query_k=own[reference], near=False), latents())
            assert torch.equal(output[:, group], wanted)

    def covering(self, query, query_k, pool, picks, step=4):
        """Frames that greedily cover most coarse cells, then those that cover most, then the last again."""
        covered = {}
        for frame in range(0, FRAMES, pool):
            z = depth_of([frame])[0][:: DEPTH[0] // (ROWS // step), :: DEPTH[1] // (COLUMNS // step)]
            cells = set()
            for row, column in np.ndindex(ROWS // step, COLUMNS // step):
                x, y, _ = landing(step * row, step * column, z[row, column], K, pose(frame), query, query_k)
                fine = np.rint([y, x])
                if (fine >= 0).all() and fine[0] < ROWS and fine[1] < COLUMNS:
                    cells.add(tuple((fine // step).astype(int)))
            covered[frame] = cells
        chosen, union = [], set()
        while len(chosen) < picks:
            best = max(covered, key=lambda i: (len(covered[i] - union), -i))
            if not covered[best] - union:
                break
            chosen.append(best)
            union |= covered[best]
        rest = sorted((i for i in covered if i not in chosen and covered[i]), key=lambda i: (-len(covered[i]), i))
        chosen = (chosen + rest)[:picks]
        return chosen + [chosen[-1]] * (picks - len(chosen))

    def test_trajectories_begin_where_memory_ends(self):
        memory = registered()
        asked = np.stack([pose(20), pose(21), pose(22)])
        found = memory.align_w2c_trajectory(asked)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found[0], pose(FRAMES - 1), atol=1e-6)
        moves = [here @ np.linalg.inv(asked[0].astype(np.float64)) for here in asked]
        np.testing.assert_allclose(found, [move @ pose(FRAMES - 1) for move in moves], atol=1e-5)
        np.testing.assert_allclose(handler().align_w2c_trajectory(asked)[0], np.eye(4), atol=1e-6)
        np.testing.assert_allclose(memory.align_w2c_trajectory(asked, pose(1)[None])[0], pose(1), atol=1e-6)

    def test_a_query_of_the_first_frames_alone(self):
        """With nonlocal_memory_context all arrays are cut."""
        memory = registered()
        first = {
            "w2c": np.asarray(memory.extrinsics)[:4],
            "depths": np.asarray(memory.depths)[:4],
            "memory_K": np.asarray(memory._Kpixs, dtype=np.float32)[:4],
            "query_K": np.repeat(K[None], 8, 0),
        }
        _, ids, _ = memory.query_hits_mode_new("cpu", QUERY, latents()[:, :4], **first, **BASE)
        assert sorted(ids[0]) == [-1, 0, 1, 2, 3]

    def test_latents_keep_their_dtype(self):
        output, *_ = registered().query_hits_mode_new("cpu", QUERY, latents(dtype=torch.bfloat16), **BASE)
        assert output.dtype == torch.bfloat16


class TestRegistering:
    def test_the_network_is_asked_for_depth_alone(self):
        estimator = Estimator()
        memory = registered(estimator=estimator)
        assert estimator.asked == [(1, SIZE[::-1], False, 448), (FRAMES - 1, SIZE[::-1], False, 448)]
        assert estimator.places == ["cpu"] * 4
        assert len(memory.extrinsics) == len(memory.depths) == len(memory._Kpixs) == FRAMES
        np.testing.assert_array_equal(np.asarray(memory.depths), depth_of(range(FRAMES)))
        np.testing.assert_array_equal(memory.last_extrinsic, pose(FRAMES - 1)[None])
        assert memory.extrinsics[0].dtype == np.float64

    def test_intrinsics_are_rescaled_as_if_centred(self):
        given = np.array([[[900, 0, 640], [0, 900, 352], [0, 0, 1]]], np.float32)
        memory = handler(image_size=None)
        memory.register_source_sequence(
            "cpu",
            [np.zeros((704, 1280, 3), np.uint8)],
            extrinsics=pose(0)[None],
            intrinsics=given,
            force_using_input_extrinics=True,
        )
        wanted = [[899.297, 0, 639.5], [0, 898.723, 351.5], [0, 0, 1]]
        np.testing.assert_allclose(memory._Kpixs[0], wanted, atol=1e-3)
        np.testing.assert_array_equal(memory._Kpix, memory._Kpixs[0])

    def test_fixed_intrinsics_are_the_handlers_own(self):
        other = np.repeat(2 * K[None], FRAMES, 0)
        memory = registered(intrinsics=other, fixed_intrinsics=True)
        np.testing.assert_allclose(memory._Kpixs[3], K, atol=1e-4)

    def test_normalised_intrinsics_are_taken(self):
        memory = FrustumHandler([[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]], depth_estimator=Estimator())
        memory.register_source_sequence("cpu", images(1), extrinsics=pose(0)[None], force_using_input_extrinics=True)
        np.testing.assert_allclose(memory._Kpix[0], [0.9 * SIZE[1], 0, SIZE[1] / 2 - 0.5])

    def test_depth_may_be_given(self):
        memory = handler(depth_estimator=None)
        memory.register_source_sequence(
            "cpu",
            images(2),
            extrinsics=np.stack([pose(0), pose(1)]),
            depths=depth_of([0, 1]),
            force_using_input_extrinics=True,
        )
        np.testing.assert_array_equal(memory.depths[1], depth_of([1])[0])

    def test_what_is_given_is_copied(self):
        memory, given = handler(depth_estimator=None), depth_of([0])
        call = {"extrinsics": pose(0)[None], "force_using_input_extrinics": True}
        returned = memory.register_source_sequence("cpu", images(1), depths=given, **call)
        given[:] = returned[:] = 9
        np.testing.assert_array_equal(memory.depths[0], depth_of([0])[0])
        coarse = torch.from_numpy(depth_of([1])).bfloat16()
        memory.register_source_sequence("cpu", images(1), depths=coarse, **call)
        np.testing.assert_array_equal(memory.depths[1], coarse[0].float())
        with pytest.raises(ValueError, match=r"depths: expected \(24, 36\) pixels as before, got \(2, 2\)"):
            memory.register_source_sequence("cpu", images(1), depths=np.ones((1, 2, 2)), **call)
        assert len(memory.depths) == len(memory.extrinsics) == 2

    def test_a_network_that_fails_changes_nothing(self):
        class Refuses(Estimator):
            def inference(self, images, use_ray_pose, process_res):
                raise RuntimeError("Insufficient non-sky pixels for alignment")

        estimator = Refuses()
        memory = handler(estimator)
        call = {"extrinsics": pose(0)[None], "intrinsics": K[None], "force_using_input_extrinics": True}
        with pytest.raises(RuntimeError, match="Insufficient non-sky pixels"):
            memory.register_source_sequence("xpu", images(1), **call)
        assert estimator.places == ["xpu", "cpu"]
        memory._estimator = Estimator(shape=(2, *DEPTH))
        with pytest.raises(ValueError, match=r"depths: expected shape \(1, H, W\), got"):
            memory.register_source_sequence("cpu", images(1), **call)
        assert memory.extrinsics == memory.depths == memory._Kpixs == []

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"frames": []}, ValueError, "frames: expected at least one"),
            ({"extrinsics": None}, NotImplementedError, "expected extrinsics with force_using_input_extrinics=True"),
            ({"force_using_input_extrinics": False}, NotImplementedError, "expected extrinsics with"),
            ({"cat_to_start": True}, NotImplementedError, "cat_to_start"),
            ({"extrinsics": pose(0)}, ValueError, r"extrinsics: expected shape \(1, 4, 4\), got \(4, 4\)"),
            ({"intrinsics": K}, ValueError, r"intrinsics: expected shape \(1, 3, 3\), got \(3, 3\)"),
            ({"frames": [np.zeros((8, 8, 3), np.uint8)]}, ValueError, "frames: expected images of"),
            ({"frames": [*images(1), images(1)[0][:8]], "extrinsics": np.stack([pose(0)] * 2)}, ValueError, "frame 1"),
        ],
    )
    def test_wrong_ones_are_named(self, change, error, message):
        call = {
            "frames": images(1),
            "extrinsics": pose(0)[None],
            "intrinsics": K[None],
            "force_using_input_extrinics": True,
            **change,
        }
        with pytest.raises(error, match=message):
            handler().register_source_sequence("cpu", call.pop("frames"), **call)

    def test_wrong_constructors_are_named(self):
        with pytest.raises(TypeError, match="expected no parameter 'latent_size'"):
            FrustumHandler(K, latent_size=16)
        with pytest.raises(ValueError, match="da3_autocast_dtype: expected float16"):
            FrustumHandler(K, da3_autocast_dtype="float8")
        with pytest.raises(ValueError, match=r"intrinsic: expected shape \(3, 3\)"):
            FrustumHandler(np.eye(4))
        with pytest.raises(ValueError, match="depth_estimator: expected an object with inference"):
            handler(depth_estimator=object()).register_source_sequence(
                "cpu", images(1), extrinsics=pose(0)[None], force_using_input_extrinics=True
            )


def test_queries_without_frames_are_named():
    with pytest.raises(ValueError, match="expected registered frames, or w2c and depths"):
        handler().query_hits_mode_new("cpu", QUERY, latents(), **BASE)
    with pytest.raises(ValueError, match="w2c, depths: expected both, or neither"):
        registered().query_hits_mode_new("cpu", QUERY, latents(), w2c=np.eye(4)[None], **BASE)


def test_a_reporter_is_told_what_takes_time():
    told = []

    class Reporter:
        enabled = True

        def scope(self, name, metadata=None):
            told.append((name, metadata["groups"]))
            return contextlib.nullcontext()

    memory = registered()
    memory.set_timing_reporter(Reporter())
    memory.query_hits_mode_new("cpu", QUERY, latents(), **BASE)
    assert told == [("materialize.select_candidates", 2), ("materialize.fuse_candidates", 2)]
    memory.set_timing_reporter(SimpleNamespace(enabled=False))
    memory.query_hits_mode_new("cpu", QUERY, latents(), **BASE)

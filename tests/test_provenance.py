"""Observed and generated keyframes: kept apart for good, weighted in retrieval, told apart in coverage."""

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import STRIDE, K, random_keyframe, reference_patches
from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    FormatError,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    PipelineConfig,
    SpatialManipulation,
)
from mosaicmem.evaluation import compare_memory
from mosaicmem.memory.contents import observed_keyframes
from mosaicmem.memory.storage import read_manifest
from mosaicmem.memory.storage.tensors import write_tensors
from mosaicmem.memory.summary import coverage_along, summarize
from reference import blend as blend_reference
from reference import retrieval as retrieval_reference

ASIDE = np.eye(4)
ASIDE[0, 3] = 5.0


def kinds(count):
    return ["generated" if i % 3 == 1 else "observed" for i in range(count)]


@pytest.fixture
def mixed(rng):
    """A store of both kinds, and its keyframes with their provenance."""
    store, keyframes = MosaicMemoryStore(), []
    for i, kind in enumerate(kinds(12)):
        keyframes.append((*random_keyframe(rng, float(i)), kind))
        store.insert_keyframe(*keyframes[-1][:2], K, keyframes[-1][2], provenance=kind)
    return store, keyframes


def half_and_half():
    """The left half of a wall was observed, and all of it generated; cells of 8 pixels, 6 x 10."""
    store = MosaicMemoryStore()
    wall = np.full((6, 10), 2.0, np.float32)
    left = np.where(np.arange(10) < 6, wall, np.float32(0))
    latents = np.ones((6, 10, 4), np.float32)
    store.insert_keyframe(latents, left, K, CameraPose())
    store.insert_keyframe(2 * latents, wall, K, CameraPose(), provenance="generated", confidence=0.5 * (wall > 0))
    return store, CameraTrajectory([CameraPose()], K)


@pytest.mark.kernel
class TestTopK:
    @pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
    def test_the_score_is_weighed(self, rng, mixed, weight):
        store, keyframes = mixed
        weights = [1.0 if kind == "observed" else weight for *_, kind in keyframes]
        patches = reference_patches([keyframe[:3] for keyframe in keyframes])
        options = {"near": 0.3, "far": 3.5, "half_life": 9.0, "min_visibility": 0.0}
        for patch in patches:
            patch["weight"] = weights[int(patch["timestamp"])]
        for _ in range(5):
            pose = random_pose(rng, 0.5, timestamp=12.0)
            found = retrieval_reference.score_patches(patches, K, pose.camera_from_world, 12.0, stride=8, **options)
            for top_k, radius in ((7, 0.0), (7, 9.0), (5000, 9.0)):
                expected = retrieval_reference.select(found, top_k, radius, 0.5)
                got = store.retrieve(K, pose, top_k=top_k, diversity_radius=radius, generated_weight=weight, **options)
                np.testing.assert_array_equal(got.ids, [patch[0] for patch in expected])
                np.testing.assert_allclose(got.scores, [patch[1] for patch in expected], rtol=1e-9)

    def test_tokens_say_where_they_come_from(self, mixed):
        store, keyframes = mixed
        targets = CameraTrajectory([pose for _, _, pose, _ in keyframes[:3]], K)
        mosaic = MemoryRetrieval().retrieve(store, targets, STRIDE).packed()
        expected = store.describe_patches(mosaic.patch_ids)["generated"]
        np.testing.assert_array_equal(mosaic.patch_generated, expected)
        assert 0 < expected.sum() < len(expected)


@pytest.mark.kernel
@pytest.mark.parametrize("composition", ["blend", "backward"])
class TestCanvases:
    @pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
    def test_the_worth_is_weighed(self, mixed, composition, weight):
        store, keyframes = mixed
        sources = [
            {
                "latents": latents,
                "depth": depth,
                "k": K.params,
                "stride": STRIDE,
                "world_from_camera": pose.world_from_camera,
                "timestamp": pose.timestamp,
                "weight": 1.0 if kind == "observed" else weight,
            }
            for latents, depth, pose, kind in keyframes
        ]
        pose = keyframes[0][2]
        target = {
            "k": K.params,
            "stride": STRIDE,
            "camera_from_world": pose.camera_from_world,
            "rows": 6,
            "columns": 10,
            "time": pose.timestamp,
            "near": 0.05,
            "far": np.inf,
        }
        latents, coverage, *_ = blend_reference.blend(sources, target, (0.3, 0.055, 0.0), 0.15, composition)
        options = {"composition": composition, "generated_weight": weight, "max_keyframes": 32}
        retrieval = KeyframeRetrieval(**options)
        everything = np.unique(store.describe_patches(store.patch_ids)["observation"])
        chosen = type(retrieval.select(store, CameraTrajectory([pose], K), STRIDE))([everything])
        canvas = retrieval.compose(store, CameraTrajectory([pose], K), STRIDE, chosen)
        same = np.isclose(canvas.latents[0], latents, rtol=1e-4, atol=1e-4).all(axis=-1)
        assert (same & (canvas.coverage[0] == coverage)).mean() > 0.97

    def test_nothing_generated_is_chosen_or_shown_at_weight_0(self, mixed, composition):
        store, keyframes = mixed
        targets = CameraTrajectory([pose for _, _, pose, _ in keyframes[:3]], K)
        without = MosaicMemoryStore()
        for latents, depth, pose, kind in keyframes:
            if kind == "observed":
                without.insert_keyframe(latents, depth, K, pose)
        options = {"composition": composition, "max_keyframes": 4, "max_window_keyframes": 6}
        expected = KeyframeRetrieval(**options).retrieve(without, targets, STRIDE)
        got = KeyframeRetrieval(**options, generated_weight=0.0).retrieve(store, targets, STRIDE)
        for name in ("latents", "coverage", "depth", "weight"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        np.testing.assert_array_equal(got.timestamps, expected.timestamps)
        np.testing.assert_array_equal(got.observed, got.coverage)


class TestCoverage:
    def test_a_canvas_tells_them_apart(self):
        store, targets = half_and_half()
        canvas = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        assert canvas.coverage.all()
        np.testing.assert_array_equal(canvas.observed[0], np.tile(np.arange(10) < 6, (6, 1)))
        assert canvas.coverage_ratio[0] == 1
        assert canvas.observed_ratio[0] == pytest.approx(0.6)

    def test_so_do_retrieved_tokens(self):
        store, targets = half_and_half()
        mosaic = MemoryRetrieval().retrieve(store, targets, STRIDE)
        assert mosaic.coverage_ratio[0] == 1
        assert 0.6 <= mosaic.observed_ratio[0] <= 0.7  # a footprint reaches into the next cell
        assert mosaic.observed[0, :, :6].all()

    def test_nothing_is_observed_where_all_is_generated(self):
        store, targets = half_and_half()
        store.delete_frame(0)
        assert KeyframeRetrieval().retrieve(store, targets, STRIDE).observed_ratio[0] == 0
        assert MemoryRetrieval().retrieve(store, targets, STRIDE).observed_ratio[0] == 0

    def test_along_a_path(self):
        store, targets = half_and_half()
        (frame,) = coverage_along(store, targets, STRIDE, {}, {})
        assert frame["coverage"] == 1
        assert frame["coverage_observed"] == pytest.approx(0.6)
        assert frame["coverage_generated"] == pytest.approx(0.4)


class TestTheStore:
    def assert_kept(self, store, keyframes):
        found = {keyframe.timestamp: keyframe.provenance for keyframe in observed_keyframes(store)}
        assert found == {pose.timestamp: kind for _, _, pose, kind in keyframes}

    def test_counts_them_apart(self, mixed):
        store, keyframes = mixed
        statistics = store.statistics()
        assert statistics.generated_keyframes == sum(kind == "generated" for *_, kind in keyframes)
        generated = store.describe_patches(store.patch_ids)["generated"]
        assert statistics.generated_patches == generated.sum()
        summary = summarize(store)["provenance"]
        assert summary["generated"] == {"observations": 4, "patches": int(generated.sum())}
        assert summary["observed"] == {"observations": 8, "patches": int((~generated).sum())}

    def test_saved_and_opened(self, mixed, tmp_path):
        store, keyframes = mixed
        store.save(tmp_path / "store")
        self.assert_kept(MosaicMemoryStore.open(tmp_path / "store"), keyframes)
        store.delete_frame(0)
        store.save(tmp_path / "store")
        store.close()
        self.assert_kept(MosaicMemoryStore.open(tmp_path / "store"), keyframes[1:])

    def test_forked_restored_spliced_and_edited(self, mixed):
        store, keyframes = mixed
        snapshot = store.snapshot()
        store.delete_frame(1)
        store.restore(snapshot)
        self.assert_kept(store.fork(), keyframes)
        other = MosaicMemoryStore()
        SpatialManipulation(other).splice(store, np.eye(4))
        self.assert_kept(other, keyframes)
        editing = SpatialManipulation(store)
        editing.translate([1.0, 0.0, 0.0])
        editing.duplicate(ASIDE)
        self.assert_kept(store, keyframes)
        assert store.statistics().generated_keyframes == 8

    def test_files_of_before_provenance_count_as_observed(self, mixed, tmp_path):
        store, keyframes = mixed
        store.save(tmp_path)
        store.close()
        self.rewrite_state(tmp_path, lambda tensors: tensors.pop("provenance"), version=1)
        opened = MosaicMemoryStore.open(tmp_path)
        self.assert_kept(opened, [(*keyframe[:3], "observed") for keyframe in keyframes])
        opened.save(tmp_path)
        assert read_manifest(tmp_path).version == 4

    @pytest.mark.parametrize("damage", [2, 255])
    def test_hostile_values(self, mixed, tmp_path, damage):
        mixed[0].save(tmp_path)
        mixed[0].close()
        self.rewrite_state(tmp_path, lambda tensors: tensors["provenance"].fill(damage))
        with pytest.raises(FormatError, match="neither observed nor generated"):
            MosaicMemoryStore.open(tmp_path)

    def test_one_keyframe_is_of_one_kind(self, mixed, tmp_path):
        SpatialManipulation(mixed[0]).duplicate(ASIDE)
        mixed[0].save(tmp_path)
        mixed[0].close()

        def contradict(tensors):
            tensors["provenance"][0] = 1

        self.rewrite_state(tmp_path, contradict)
        with pytest.raises(FormatError, match="one keyframe with two"):
            MosaicMemoryStore.open(tmp_path)

    @staticmethod
    def rewrite_state(folder, change, version=2):
        from safetensors.numpy import load_file

        manifest = read_manifest(folder)
        (state,) = manifest.states
        tensors = load_file(folder / state.name)
        change(tensors)
        entry = write_tensors(folder / state.name, tensors, {}, rows=state.rows)
        manifest.model_copy(update={"states": [entry], "version": version}).write(folder)

    def test_of_two_kinds_only(self, rng):
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(ValueError, match="provenance: expected one of observed, generated, got 'imagined'"):
            MosaicMemoryStore().insert_keyframe(latents, depth, K, pose, provenance="imagined")


@pytest.fixture(scope="module")
def observed(world, small_camera):
    """A pipeline that has seen one view, and a path that leaves it."""
    pipeline = AutoregressivePipeline(PipelineConfig(window_size=6, window_overlap=2, num_inference_steps=2))
    path = world.leave_and_return(small_camera, 18)
    view = world.render(small_camera, path[0])
    pipeline.observe(view.image, view.depth, small_camera, path[0])
    return pipeline, path


class TestTheLoop:
    def test_windows_say_what_they_leant_on(self, observed):
        pipeline, path = observed
        windows = pipeline.varied().generate(path).windows
        for window in windows:
            assert window.coverage == pytest.approx(window.coverage_observed + window.coverage_generated)
        assert windows[0].coverage_generated == 0
        assert windows[0].coverage_observed > 0.3
        assert max(window.coverage_generated for window in windows) > 0.1

    def test_generated_frames_may_be_left_out(self, observed):
        pipeline, path = observed
        run = pipeline.varied(generated_weight=0.0)
        windows = run.generate(path).windows
        assert all(window.coverage_generated == 0 for window in windows)
        assert run.store.statistics().generated_keyframes > 0

    def test_scores_tell_them_apart(self, observed, world, small_camera):
        pipeline, path = observed
        truth = {i: world.render(small_camera, path[i]).image for i in range(len(path))}
        scores = compare_memory(pipeline.varied(), path, truth).scores
        assert scores[0].coverage_observed > 0.9
        assert max(score.coverage_generated for score in scores) > 0.05

    def test_a_checkpoint_keeps_it(self, observed, tmp_path):
        pipeline, path = observed
        first, again = (list(pipeline.varied().stream(path, checkpoint=tmp_path)) for _ in range(2))
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.context.observed, b.context.observed)
            assert a.statistics.coverage_generated == b.statistics.coverage_generated
        assert any((w.context.coverage & ~w.context.observed).any() for w in again)

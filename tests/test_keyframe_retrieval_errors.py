"""What keyframe retrieval refuses."""

import numpy as np
import pytest

from keyframe_helpers import COLUMNS, ROWS, STRIDE, random_sources, sideways, store_of, targets_of
from mosaicmem import (
    CameraIntrinsics,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
)
from mosaicmem.memory import KeyframeSelection

pytestmark = pytest.mark.kernel


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"max_keyframes": 0}, ValueError, "max_keyframes: expected at least 1, got 0"),
            (
                {"max_window_keyframes": 8},
                ValueError,
                "max_window_keyframes: expected at least max_keyframes = 16, got 8",
            ),
            ({"composition": "near"}, ValueError, "composition: expected one of blend, backward, got 'near'"),
            ({"field_angle": 0.0}, ValueError, "field_angle: expected at least 1e-06, got 0.0"),
            ({"depth_tolerance": "thin"}, TypeError, "depth_tolerance: expected a number, got str"),
            ({"far": 0.01}, ValueError, "far: expected more than near = 0.05, got 0.01"),
        ],
    )
    def test_options(self, options, error, message):
        with pytest.raises(error, match=message):
            KeyframeRetrieval(**options)

    def test_sources_must_be_of_these_targets(self, rng):
        store = store_of(random_sources(rng, 2))
        retrieval = KeyframeRetrieval()
        chosen = retrieval.select(store, targets_of(sideways(0)), STRIDE)
        with pytest.raises(ValueError, match="sources: expected those of 2 targets, got those of 1"):
            retrieval.compose(store, targets_of(sideways(0), sideways(0.1)), STRIDE, chosen)
        with pytest.raises(TypeError, match="sources: expected KeyframeSelection or Mosaic, got list"):
            retrieval.compose(store, targets_of(sideways(0)), STRIDE, [0])

    @pytest.mark.parametrize(
        ("observations", "message"),
        [
            (None, "chosen: expected a list of arrays, got NoneType"),
            ([[-1]], r"chosen\[0\]: expected ids >= 0, got -1"),
            ([[0], [0.5]], r"chosen\[1\]: expected integer ids, got dtype float64"),
            ([[[0]]], r"chosen\[0\]: expected shape \(N,\), got \(1, 1\)"),
        ],
    )
    def test_selections_are_of_ids(self, observations, message):
        with pytest.raises((TypeError, ValueError), match=message):
            KeyframeSelection(observations)

    def test_a_keyframe_given_twice_counts_once(self, rng):
        store, targets = store_of(random_sources(rng, 1)), targets_of(sideways(0))
        once, twice = (
            KeyframeRetrieval().compose(store, targets, STRIDE, KeyframeSelection([ids])) for ids in ([0], [0, 0])
        )
        np.testing.assert_array_equal(once.weight, twice.weight)

    def test_a_grid_without_bounds_is_refused(self):
        huge = CameraTrajectory([sideways(0)], CameraIntrinsics(8.0, 8.0, 2.0**31, 2.0**31, 2**32, 2**32))
        with pytest.raises(ValueError, match="targets: expected at most 67108864 cells of 1 pixels"):
            KeyframeRetrieval().retrieve(MosaicMemoryStore(), huge, 1)

    def test_an_empty_store_covers_nothing(self):
        mosaic = KeyframeRetrieval().retrieve(MosaicMemoryStore(), targets_of(sideways(0)), STRIDE)
        assert not mosaic.coverage.any()
        assert mosaic.latents.shape == (1, ROWS, COLUMNS, 0)
        assert len(mosaic.selection.window) == 0

    def test_keyframes_that_have_gone_are_passed_over(self, rng):
        store = store_of(random_sources(rng, 3))
        retrieval, targets = KeyframeRetrieval(), targets_of(sideways(0))
        chosen = retrieval.select(store, targets, STRIDE)
        for frame in range(3):
            store.delete_frame(frame)
        assert not retrieval.compose(store, targets, STRIDE, chosen).coverage.any()

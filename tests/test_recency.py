"""A half-life that discards everything that memory would have shown gives a warning, once per store."""

import warnings

import numpy as np
import pytest

from mosaicmem import CameraPose, CameraTrajectory, MemoryRetrieval, MosaicMemoryStore, SuspiciousInput

AWAY = np.diag([-1.0, 1.0, -1.0, 1.0])


def remembered(camera, times, device=None):
    store = MosaicMemoryStore(device=device)
    for time in times:
        store.insert_keyframe(
            np.ones((6, 10, 4), np.float32), np.full((6, 10), 2.0), camera, CameraPose(timestamp=time)
        )
    return store


def retrieve(store, camera, pose, **options):
    return len(store.retrieve(camera, pose, **options))


def retrieve_window(store, camera, pose, **options):
    return int(store.retrieve_window(CameraTrajectory([pose], camera), **options).count[0])


def mosaic(store, camera, pose, **options):
    return len(MemoryRetrieval(**options).retrieve(store, CameraTrajectory([pose, pose], camera), 8).packed())


@pytest.mark.parametrize("ask", [retrieve, retrieve_window, mosaic])
class TestEveryQuestion:
    def test_times_of_another_unit_are_named_once(self, small_camera, ask):
        store = remembered(small_camera, [0, 5e7, 1e8])

        def ask_again_and_again():
            for _ in range(3):
                assert ask(store, small_camera, CameraPose(timestamp=1.5e8), half_life=60.0) == 0

        with pytest.warns(SuspiciousInput, match=r"5e\+07 s old or older, which is 8\.333e\+05 times .*unit") as caught:
            ask_again_and_again()
        assert len(caught) == 1
        assert caught[0].filename == __file__

    @pytest.mark.parametrize(
        ("pose", "options"),
        [
            (CameraPose(timestamp=1e9), {}),  # age does not count
            (CameraPose(timestamp=1000.0), {"half_life": 60.0}),  # 16 half-lives: forgotten as intended
            (CameraPose(AWAY, 1e9), {"half_life": 60.0}),  # the camera looks away
            (CameraPose(timestamp=1e9), {"half_life": 60.0, "near": 5.0}),
            (CameraPose(timestamp=1e9), {"half_life": 60.0, "min_visibility": 0.0}),
            (CameraPose(timestamp=0.0), {"half_life": 60.0}),
        ],
    )
    def test_all_else_is_fine(self, small_camera, ask, pose, options):
        store = remembered(small_camera, [0.0, 1.0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="half_life")
            ask(store, small_camera, pose, **options)
            ask(MosaicMemoryStore(), small_camera, pose, **options)

"""A store mirrored on the GPU answers as it does on the host."""

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import COLUMNS, ROWS, STRIDE, K, random_keyframe
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    _core,
)
from mosaicmem._border.device import DeviceCall
from mosaicmem._border.stores import DevicePlace

pytestmark = pytest.mark.kernel


class Twins:
    """The same store on the host and on the GPU."""

    def __init__(self, device, **options):
        self.device = device
        self.host = MosaicMemoryStore(**options)
        self.there = MosaicMemoryStore(**options, device=device.for_store)

    def insert(self, keyframe, **options):
        *arrays, pose = keyframe
        for store in (self.host, self.there):
            store.insert_keyframe(*arrays, K, pose, **options)

    def both(self, action):
        return action(self.host), action(self.there)

    def assert_alike(self, targets, **options):
        expected = self.host.retrieve_window(targets, **options)
        got = self.there.retrieve_window(targets, **options)
        for name in ("count", "ids", "scores", "pixels", "depth"):
            np.testing.assert_array_equal(self.device.get(getattr(got, name)), getattr(expected, name), err_msg=name)
        return expected


def views(rng, count, spread=0.5, time=0.0):
    return CameraTrajectory([random_pose(rng, spread, time + t) for t in range(count)], K)


@pytest.fixture
def twins(rng, device):
    both = Twins(device)
    for i in range(30):
        both.insert(random_keyframe(rng, float(i)))
    return both


class TestTopK:
    @pytest.mark.parametrize(
        ("count", "radius", "penalty"),
        [(1, 0.0, 0.5), (1, 200.0, 0.9), (3, 9.0, 0.5), (3, 25.0, 0.0), (2, 9.0, 1.0), (40, 9.0, 0.5)],
    )
    def test_is_that_of_the_host(self, rng, twins, count, radius, penalty):
        targets = views(rng, count, time=15.0)
        for top_k, half_life in ((1, 0.0), (13, 7.0), (700 if count < 40 else 3, 0.0)):
            found = twins.assert_alike(
                targets,
                top_k=top_k,
                half_life=half_life,
                near=0.3,
                far=3.5,
                diversity_radius=radius,
                diversity_penalty=penalty,
            )
        assert found.count.max() >= 3

    def test_cameras_that_zoom(self, rng, twins):
        cameras = [CameraIntrinsics(K.fx * f, K.fy * f, K.cx, K.cy, K.width, K.height) for f in (0.7, 1.0, 1.6)]
        found = twins.assert_alike(CameraTrajectory(list(views(rng, 3)), cameras), top_k=50)
        assert found.count.min() > 0

    def test_least_visibility(self, rng, twins):
        for least in (0.0, 0.3, 0.9):
            twins.assert_alike(views(rng, 3), top_k=50, min_visibility=least)

    @pytest.mark.parametrize("weight", [0.0, 0.3])
    def test_generated_keyframes_are_weighed(self, rng, twins, weight):
        for i in range(10):
            twins.insert(random_keyframe(rng, float(i)), provenance="generated")
        found = twins.assert_alike(views(rng, 3), top_k=200, generated_weight=weight, min_visibility=0.0)
        generated = twins.host.describe_patches(found.ids[found.ids >= 0])["generated"]
        assert generated.any() == (weight > 0)

    def test_single_views_are_trimmed(self, rng, twins, device):
        pose = random_pose(rng)
        expected, got = twins.both(lambda store: store.retrieve(K, pose, top_k=10**4))
        assert len(expected) > 0
        for name in ("ids", "scores", "pixels", "depth"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))

    def test_empty_stores(self, rng, device):
        both = Twins(device)
        both.assert_alike(views(rng, 2), top_k=5)
        both.insert(random_keyframe(rng, 0.0))
        both.both(lambda store: store.delete_patches(store.patch_ids))
        both.assert_alike(views(rng, 2), top_k=5)

    def test_keyframes_that_lose_their_images(self, rng, device):
        both = Twins(device, max_bytes=12 * 3 * K.width * K.height)
        image = rng.integers(0, 256, (K.height, K.width, 3), dtype=np.uint8)
        for i in range(12):
            both.insert(random_keyframe(rng, float(i)), image=image, image_pixels=STRIDE)
            both.assert_alike(views(rng, 2), top_k=50)
        assert both.host.statistics().image_bytes < 12 * image.nbytes

    def test_equal_scores_go_to_the_smaller_id(self, rng, device):
        both = Twins(device)
        keyframe = random_keyframe(rng, 0.0, holes=0.0)
        for _ in range(40):
            both.insert(keyframe)
        for radius in (0.0, 6.0):
            both.assert_alike(CameraTrajectory([keyframe[2]], K), top_k=33, diversity_radius=radius)

    @pytest.mark.parametrize("room", [64, 256, 1 << 14])  # the last exceeds shared memory
    def test_lists_of_any_length(self, rng, device, monkeypatch, room):
        """Rounds that overflow, too few rounds, and a remainder for the last kernel."""
        monkeypatch.setattr(_core.cuda, "retrieval_room", (room, room, 1))
        both = Twins(device)
        same = random_keyframe(rng, 0.0, holes=0.0)
        for i in range(40):
            latents, depth, _ = random_keyframe(rng, float(i), holes=0.0)
            both.insert(same if i % 3 == 0 else (latents, depth, same[2]))
        targets = CameraTrajectory([same[2], random_pose(rng), random_pose(rng)], K)
        for radius in (0.0, 9.0, 30.0) if room < 1024 else (9.0,):
            both.assert_alike(targets, top_k=100 if room < 1024 else 20, diversity_radius=radius, min_visibility=0.0)

    @pytest.mark.parametrize("room", [64, 1024])
    @pytest.mark.parametrize("top_k", [5, 16])
    def test_a_camera_that_stood_still_needs_no_last_resort(self, rng, device, monkeypatch, room, top_k):
        """Hundreds of patches share one score, and most of the others have a small footprint."""
        if device.name != "emulated":
            pytest.skip("only there does the core say where its rounds are")
        monkeypatch.setattr(_core.cuda, "retrieval_room", (room, room, 1))
        both = Twins(device)
        same = random_keyframe(rng, 0.0, holes=0.0)
        for i in range(150):
            latents, depth, _ = random_keyframe(rng, float(i), holes=0.6)
            both.insert((latents, same[1], same[2]) if i % 2 else (latents, depth, random_pose(rng)))
        targets = CameraTrajectory([same[2], random_pose(rng), random_pose(rng)], K)
        both.assert_alike(targets, top_k=top_k, min_visibility=0.0)
        scratch = []

        def remember(call, nbytes):
            array, view = call.empty((nbytes,), "uint8")
            scratch.append(array)
            return int(view.address)

        monkeypatch.setattr(DeviceCall, "allocate", remember)
        both.there.retrieve_window(targets, top_k=top_k, min_visibility=0.0)
        size, at = _core.cuda.retrieval_state_bytes, _core.cuda.retrieval_rounds_offset
        states = device.get(scratch[-1])[: 3 * size].reshape(3, size)  # the states come first in the scratch memory
        rounds = states[:, at : at + 4].copy().view(np.uint32)
        assert rounds.min() >= 1
        assert rounds.max() <= 4  # after that, a single block does the rest

    def test_too_many(self, rng, twins):
        with pytest.raises(ValueError, match="top_k: expected at most 65536 on a GPU, got 70000"):
            twins.there.retrieve_window(views(rng, 1), top_k=70000)


class TestMirror:
    """The mirror follows every change of the store."""

    def test_inserting_and_deleting(self, rng, twins):
        targets = views(rng, 3)
        for i in range(4):
            twins.assert_alike(targets, top_k=200)
            gone = rng.choice(twins.host.patch_ids, 40, replace=False)
            twins.both(lambda store, gone=gone: store.delete_patches(gone))
            twins.assert_alike(targets, top_k=200)
            twins.both(lambda store, i=i: store.delete_frame(5 * i))
            twins.insert(random_keyframe(rng, 50.0 + i))
        twins.assert_alike(targets, top_k=200)

    def test_undoing(self, rng, twins):
        targets = views(rng, 2)
        before = twins.both(lambda store: store.snapshot())
        twins.both(lambda store: store.delete_frame(3))
        twins.assert_alike(targets, top_k=200)
        twins.host.restore(before[0])
        twins.there.restore(before[1])
        twins.assert_alike(targets, top_k=200)
        twins.insert(random_keyframe(rng, 99.0))
        twins.assert_alike(targets, top_k=200)

    def test_edits(self, rng, twins):
        targets = views(rng, 2)
        some = rng.choice(twins.host.patch_ids, 100, replace=False)
        twins.both(lambda store: SpatialManipulation(store).translate([0.1, 0.0, 0.2], some))
        twins.assert_alike(targets, top_k=200)
        twins.both(lambda store: SpatialManipulation(store).rotate([0, 1, 0], 0.3))
        twins.assert_alike(targets, top_k=200)
        twins.both(lambda store: SpatialManipulation(store).duplicate(np.diag([1.0, 1.0, 2.0, 1.0]), some))
        twins.assert_alike(targets, top_k=200)

    def test_forks_and_bounded_stores(self, rng, device):
        both = Twins(device, max_patches=120)
        targets = views(rng, 2)
        for i in range(12):
            both.insert(random_keyframe(rng, float(i)))
            both.assert_alike(targets, top_k=200)
        fork = both.there.fork()
        both.insert(random_keyframe(rng, 20.0))
        both.assert_alike(targets, top_k=200)
        assert not np.array_equal(
            device.get(fork.retrieve_window(targets, top_k=200).ids),
            device.get(both.there.retrieve_window(targets, top_k=200).ids),
        )

    def test_tables_that_are_mostly_empty_are_made_anew(self, rng, twins):
        targets = views(rng, 2)
        for i in range(220):
            twins.insert(random_keyframe(rng, float(i)), frame_id=1000 + i)
        twins.assert_alike(targets, top_k=50)
        twins.both(lambda store: [store.delete_frame(1000 + i) for i in range(220)])
        twins.assert_alike(targets, top_k=200)
        assert twins.there._place._store.used_chunks < 60
        twins.assert_alike(targets, top_k=200)

    def test_memory_that_is_used_up_loses_nothing(self, rng, twins, monkeypatch):
        targets = views(rng, 2)
        twins.assert_alike(targets, top_k=200)
        own = DeviceCall.own_bytes
        left = 5

        def fails(self, nbytes):
            nonlocal left
            left -= 1
            if left < 0:
                raise MemoryError("no more on the device")
            return own(self, nbytes)

        monkeypatch.setattr(DeviceCall, "own_bytes", fails)
        for i in range(4):
            twins.insert(random_keyframe(rng, 40.0 + i))
        with pytest.raises(MemoryError, match="no more on the device"):
            twins.there.retrieve_window(targets)
        monkeypatch.undo()
        twins.assert_alike(targets, top_k=200)

    @pytest.mark.parametrize("n", range(6))
    def test_an_interrupt_while_memory_is_given_back(self, rng, device, monkeypatch, n):
        """Whichever call it hits, the interrupt is raised, and later answers are unaffected."""
        both = Twins(device)
        both.there._place = DevicePlace(device.for_store, 3 * ROWS * COLUMNS * 4 * 4)
        targets, release, left = views(rng, 2), DeviceCall.release, n

        def interrupted(call, array):
            nonlocal left
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
            release(call, array)

        for i in range(4):
            both.insert(random_keyframe(rng, float(i)))
        both.assert_alike(targets, top_k=50)
        both.both(lambda store: store.delete_frame(0))
        for i in range(70):  # tables grow, latents leave device memory
            both.insert(random_keyframe(rng, float(i)))
        monkeypatch.setattr(DeviceCall, "release", interrupted)

        def look():
            both.there.retrieve_window(targets, top_k=50)
            for _ in range(1000):  # a deferred interrupt is raised where Python checks for one
                pass

        with pytest.raises(KeyboardInterrupt):
            look()
        monkeypatch.undo()
        both.assert_alike(targets, top_k=50)
        both.both(lambda store: store.delete_patches(store.patch_ids))
        both.assert_alike(targets, top_k=50)
        assert both.there._place._store.latent_bytes == 0

    def test_stores_of_files(self, rng, twins, tmp_path, device):
        twins.host.save(tmp_path / "store")
        twins.there = MosaicMemoryStore.open(tmp_path / "store", device=device.for_store)
        twins.assert_alike(views(rng, 3), top_k=200)
        twins.there.close()

    def test_keyframes_from_the_device(self, rng, twins, device):
        latents, depth, pose = random_keyframe(rng, 7.0)
        valid, confidence = rng.random(depth.shape) < 0.8, rng.random(depth.shape).astype(np.float32)
        twins.host.insert_keyframe(latents, depth, K, pose, valid=valid, confidence=confidence)
        twins.there.insert_keyframe(
            device.put(latents), device.put(depth), K, pose, valid=device.put(valid), confidence=device.put(confidence)
        )
        twins.assert_alike(views(rng, 2), top_k=300)


class TestTokens:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("temporal", ["target", "offset"])
    def test_are_those_of_the_host(self, rng, device, dtype, temporal):
        both = Twins(device, latent_dtype=dtype, latent_patch_size=4)  # 6 x 10 cells: patches that end at the border
        for i in range(5):
            keyframe, confidence = random_keyframe(rng, float(i)), rng.random((ROWS, COLUMNS)).astype(np.float32)
            both.insert(keyframe, confidence=confidence, provenance="generated" if i % 2 else "observed")
        retrieval = MemoryRetrieval(temporal=temporal, top_k=20)
        targets = views(rng, 3)
        expected, got = both.both(lambda store: retrieval.retrieve(store, targets, STRIDE, seconds_per_latent=0.5))
        valid = device.get(got.valid)
        assert valid.sum() == expected.valid.sum()
        assert valid.sum() > 50
        for name, values in (
            ("tokens", expected.tokens),
            ("positions", expected.positions),
            ("source_positions", expected.source_positions),
            ("depth", expected.depth),
            ("confidence", expected.confidence),
        ):
            array = device.get(getattr(got, name))
            np.testing.assert_array_equal(array[valid], values[expected.valid], err_msg=name)
            assert (array[~valid] == 0).all()
        np.testing.assert_array_equal(device.get(got.coverage), expected.coverage)
        np.testing.assert_array_equal(device.get(got.observed), expected.observed)
        assert expected.observed.sum() < expected.coverage.sum()
        ids = device.get(got.patch_ids)
        np.testing.assert_array_equal(ids[ids >= 0], expected.patch_ids[expected.patch_ids >= 0])
        for name, values in vars(expected.packed()).items():
            np.testing.assert_array_equal(getattr(got.packed(), name), values, err_msg=name)


class TestBudget:
    """Latents that are not in device memory are read from the host; answers are the same."""

    @pytest.mark.parametrize("keyframes", [0, 1, 3, 100])
    def test_answers_do_not_depend_on_it(self, rng, device, keyframes):
        nbytes = ROWS * COLUMNS * 4 * 4
        host = MosaicMemoryStore()
        there = MosaicMemoryStore(device=device.for_store, device_bytes=keyframes * nbytes)
        targets = views(rng, 2)
        retrieval = MemoryRetrieval(top_k=100)
        for i in range(8):
            latents, depth, pose = random_keyframe(rng, float(i))
            for store in (host, there):
                store.insert_keyframe(latents, depth, K, pose)
            expected = retrieval.retrieve(host, targets, STRIDE)
            got = retrieval.retrieve(there, targets, STRIDE)
            np.testing.assert_array_equal(got.packed().tokens, expected.packed().tokens)
            assert there._place._store.latent_bytes == min(keyframes, i + 1) * nbytes
        there.delete_patches(there.patch_ids)
        retrieval.retrieve(there, targets, STRIDE)
        assert there._place._store.latent_bytes == 0

    def test_memory_may_be_used_up_at_any_time(self, rng, device, monkeypatch):
        """A failed call leaves later answers unaffected."""
        left = failures = 0

        def failing(real):
            def fails(*arguments):
                nonlocal left
                left -= 1
                if left < 0:
                    raise MemoryError("no more")
                return real(*arguments)

            return fails

        host = MosaicMemoryStore()
        there = MosaicMemoryStore(device=device.for_store, device_bytes=3 * ROWS * COLUMNS * 4 * 4)
        targets, retrieval = views(rng, 2), MemoryRetrieval(top_k=100)
        for i in range(24):
            for j in range(2):
                latents, depth, pose = random_keyframe(rng, float(i))
                for store in (host, there):
                    store.insert_keyframe(latents, depth, K, pose, frame_id=2 * i + j)
            if i > 4:
                for store in (host, there):
                    store.delete_frame(2 * (i - 4))
            left = i % 14
            with monkeypatch.context() as patch:
                for name in ("empty", "own_bytes"):
                    patch.setattr(DeviceCall, name, failing(getattr(DeviceCall, name)))
                try:
                    retrieval.retrieve(there, targets, STRIDE)
                except MemoryError:
                    failures += 1
            expected = retrieval.retrieve(host, targets, STRIDE)
            got = retrieval.retrieve(there, targets, STRIDE)
            np.testing.assert_array_equal(got.packed().tokens, expected.packed().tokens)
        assert failures >= 3
        there.delete_patches(there.patch_ids)
        retrieval.retrieve(there, targets, STRIDE)
        assert there._place._store.latent_bytes == 0


class TestRefusals:
    def test_devices(self):
        with pytest.raises(ValueError, match="device_bytes: expected with device only"):
            MosaicMemoryStore(device_bytes=5)
        if not hasattr(_core, "cuda"):  # with kernels but no driver, arguments are still checked
            with pytest.raises(RuntimeError, match="built without CUDA"):
                MosaicMemoryStore(device="cuda")
            return
        with pytest.raises(ValueError, match='device: expected "cuda", "cuda:1" or an array module such as cupy'):
            MosaicMemoryStore(device="cpu")
        with pytest.raises(TypeError, match=r"device: expected .* got int"):
            MosaicMemoryStore(device=0)

    def test_a_device_that_torch_cannot_use(self):
        pytest.importorskip("torch")
        if not hasattr(_core, "cuda"):
            pytest.skip("built without CUDA")
        with pytest.raises(RuntimeError, match="device: torch cannot use 'cuda:99': "):
            MosaicMemoryStore(device="cuda:99")

    def test_integer_depth(self, rng, device):
        store = MosaicMemoryStore(device=device.for_store)
        with pytest.raises(TypeError, match="millimetres"):
            store.insert_keyframe(
                device.put(np.ones((ROWS, COLUMNS, 4), np.float32)),
                device.put(np.full((ROWS, COLUMNS), 1500, np.int32)),
                K,
                CameraPose(),
            )

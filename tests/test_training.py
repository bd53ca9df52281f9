"""Training data: windows of sequences with the memory of their other parts."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    FormatError,
    KeyframeRetrieval,
    MosaicMemoryStore,
    SuspiciousInput,
    SyntheticVAE,
    TemporalLayout,
    WarpedRoPE,
    depth_to_grid,
)
from mosaicmem.datasets import RgbdImage, SyntheticWalk

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.models.training import EncodedSequence, MemoryPolicy, RevisitDataset  # noqa: E402

CAMERA = CameraIntrinsics.from_fov(96, 64, fov_x=1.2)
ROPE = WarpedRoPE(24)
EXACT = {"dropout": 0.0, "noise": 0.0, "holes": 0.0}
CLOSE = {"translation": 0.0, "angle": 0.0, "interval": 1}  # every frame is a keyframe


LATEST = MemoryPolicy(composition="latest", max_keyframes=5, **EXACT, **CLOSE)


class CountingVAE(SyntheticVAE):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.encoded = self.images = 0

    def encode(self, video):
        self.encoded += len(video)
        return super().encode(video)

    def encode_image(self, image):
        self.images += 1
        return super().encode_image(image)


@pytest.fixture(scope="module")
def walk():
    return SyntheticWalk(24, intrinsics=CAMERA)


@pytest.fixture
def vae():
    return CountingVAE(8, 16)


def dataset(walk, vae, **options):
    return RevisitDataset(walk, vae, **{"window": 4, "rope": ROPE, "policy": MemoryPolicy(**EXACT), **options})


class TestSamples:
    def test_latents_and_cameras_are_those_of_the_window(self, walk, vae):
        sample = dataset(walk, vae)[3]
        frames = range(12, 16)
        expected = vae.encode(np.stack([walk[i].image for i in frames]))
        np.testing.assert_array_equal(sample["latents"], expected)
        assert (sample["sequence"], sample["start"], sample["prompt"]) == (0, 12, "")
        np.testing.assert_allclose(sample["camera_from_world"][0], np.eye(4), atol=1e-7)
        third = walk.pose(14).camera_from_world @ walk.pose(12).world_from_camera
        np.testing.assert_allclose(sample["camera_from_world"][2], third, atol=1e-6)
        np.testing.assert_allclose(sample["intrinsics"], CAMERA.matrix, rtol=1e-6)

    def test_memory_is_that_of_a_store_with_the_drawn_frames(self, walk, vae):
        memory = dataset(walk, vae, policy=LATEST)[3]["memory"]
        store = MosaicMemoryStore(latent_patch_size=2)
        for i in range(7, 12):
            frame = walk[i]
            depth, fine = (depth_to_grid(frame.depth, stride) for stride in (8, 4))
            latents = vae.encode_image(frame.image)
            store.insert_keyframe(latents, depth, CAMERA, frame.pose, subcell_depth=fine)
        expected = KeyframeRetrieval().retrieve(store, walk.trajectory(range(12, 16)), 8)
        canvas = memory.canvas()[0].numpy()
        np.testing.assert_array_equal(canvas[:-1], expected.latents.transpose(3, 0, 1, 2))
        np.testing.assert_array_equal(canvas[-1], expected.coverage)
        assert expected.coverage.mean() > 0.5
        assert memory.mask.sum() > 50

    def test_memory_is_disturbed_as_the_policy_says(self, walk, vae):
        exact, noisy, holed = (
            dataset(walk, vae, policy=replace(LATEST, **change))[3]["memory"].canvas()[0]
            for change in ({}, {"noise": 0.5}, {"holes": 0.9})
        )
        covered = exact[-1] > 0
        assert torch.equal(noisy[-1], exact[-1])
        assert 0.02 < (noisy - exact)[:-1, covered].std() < 0.5
        assert 0.1 < holed[-1].mean() < 0.95 * exact[-1].mean()

    def test_of_a_causal_vae_a_latent_frame_has_four_frames(self, walk):
        sample = dataset(walk, SyntheticVAE(8, 16, TemporalLayout("causal", 4)), window=5)[2]
        assert sample["latents"].shape == (16, 2, 8, 12)
        assert sample["camera_from_world"].shape == (5, 4, 4)
        assert sample["memory"].frames == 2

    def test_depend_on_seed_epoch_and_index_alone(self, walk, vae):
        policy = MemoryPolicy(remembered="around", dropout=0.2, noise=0.3, holes=0.3, **CLOSE)

        def canvases(workers, order, epoch=0, seed=0):
            data = dataset(walk, vae, policy=policy, seed=seed)
            data.epoch = epoch
            loader = torch.utils.data.DataLoader(data, batch_size=None, sampler=order, num_workers=workers)
            return [sample["memory"].canvas() for sample in loader]

        forward = canvases(0, [0, 1, 2, 3])
        for one, other in zip(forward, reversed(canvases(2, [3, 2, 1, 0])), strict=True):
            assert torch.equal(one, other)
        for changed in ({"epoch": 1}, {"seed": 1}):
            assert not all(map(torch.equal, forward, canvases(0, [0, 1, 2, 3], **changed)))

    def test_workers_that_persist_see_the_epoch(self, walk, vae):
        data = dataset(walk, vae, policy=MemoryPolicy(remembered="around", dropout=0.0, **CLOSE))
        loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, persistent_workers=True)
        seen = []
        for data.epoch in range(2):
            seen.append([sample["memory"].canvas() for sample in loader])
        assert not all(map(torch.equal, *seen))

    def test_a_loader_collates_them(self, walk, vae):
        loader = torch.utils.data.DataLoader(dataset(walk, vae, prompts={"0": "a room"}, policy=LATEST), batch_size=3)
        batch = next(iter(loader))
        assert batch["latents"].shape == (3, 16, 4, 8, 12)
        assert len(batch["memory"]) == 3
        assert batch["prompt"] == ["a room"] * 3
        assert not batch["memory"].mask[0].any()  # nothing comes before the first window
        assert batch["memory"].mask[2].any()

    def test_images_of_another_size(self, walk, vae):
        sample = dataset(walk, vae, size=(64, 32), policy=LATEST)[1]
        assert sample["latents"].shape == (16, 4, 4, 8)
        np.testing.assert_allclose(sample["intrinsics"], CAMERA.scaled(64, 32).matrix, rtol=1e-6)
        canvas, latents = sample["memory"].canvas()[0], sample["latents"]
        covered = canvas[-1] > 0
        assert covered.float().mean() > 0.2
        colors = slice(0, 3)  # of the low frequencies; others move with the cells
        apart = (canvas[colors] - latents[colors])[:, covered]
        assert (apart**2).mean() < 0.3 * latents[colors][:, covered].var()


class TestPolicy:
    def test_past_and_around_keep_away_from_the_window(self, walk):
        path, window = walk.trajectory(range(24)), range(8, 12)
        keyframes = MemoryPolicy(**CLOSE).keyframes(path)
        past = MemoryPolicy(gap=2, **CLOSE).candidates(keyframes, window)
        around = MemoryPolicy(remembered="around", gap=2, **CLOSE).candidates(keyframes, window)
        assert past == list(range(6))
        assert around == [*range(6), *range(14, 24)]

    def test_keyframes_are_spaced(self, walk):
        path = walk.trajectory(range(24))
        policy = MemoryPolicy(translation=0.5, angle=9.0, interval=100)
        chosen = policy.candidates(policy.keyframes(path), range(23, 24))
        assert chosen == [i for i in path.select_keyframes(0.5, 9.0, 100) if i < 23]
        assert 2 < len(chosen) < 20

    def test_compositions(self):
        rng, window = np.random.default_rng(0), range(20, 24)
        draws = [MemoryPolicy(max_keyframes=4, **EXACT).draw(list(range(10)), window, rng) for _ in range(200)]
        assert {len(draw) for draw in draws} == {1, 2, 3, 4}
        assert set().union(*draws) == set(range(10))
        assert all(draw == sorted(set(draw)) for draw in draws)
        latest = MemoryPolicy(composition="latest", max_keyframes=4, **EXACT)
        assert latest.draw([3, 9, 12, 18, 30, 40], window, rng) == [9, 12, 18, 30]

    def test_dropout(self):
        rng = np.random.default_rng(0)
        draws = [MemoryPolicy(dropout=0.3).draw([1, 2], range(5, 6), rng) for _ in range(1000)]
        assert 0.25 < sum(not draw for draw in draws) / 1000 < 0.35

    def test_noise(self):
        latents = np.zeros((40, 40, 16), np.float32)
        noisy = MemoryPolicy(noise=0.4).noisy(latents, 0.5, np.random.default_rng(0))
        assert noisy.std() == pytest.approx(0.2, rel=0.02)

    def test_holes(self):
        rng, policy = np.random.default_rng(0), MemoryPolicy(holes=0.4)
        lost = [1 - policy.remaining((30, 52), rng).mean() for _ in range(300)]
        assert 0.1 < np.mean(lost) < 0.2  # half of it at the mean, less where holes overlap
        assert max(lost) < 0.45
        assert MemoryPolicy(holes=0.0).remaining((30, 52), rng) is None

    def test_what_moves_is_not_remembered(self, walk, vae):
        def left_half(frame):
            return np.arange(frame.depth.shape[1])[None].repeat(len(frame.depth), 0) < 48

        whole, half = (EncodedSequence(walk, vae, dynamic=moving).depth(3) for moving in (None, left_half))
        assert (whole > 0).all()
        assert (half[:, :6] == 0).all()
        np.testing.assert_array_equal(half[:, 6:], whole[:, 6:])

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"remembered": "future"}, "remembered: expected one of past, around"),
            ({"composition": "best"}, "composition: expected one of"),
            ({"dropout": 1.5}, "dropout"),
            ({"noise": -1.0}, "noise"),
            ({"max_keyframes": 0}, "max_keyframes"),
        ],
    )
    def test_errors(self, fields, message):
        with pytest.raises(ValueError, match=message):
            MemoryPolicy(**fields)


class TestCache:
    def test_nothing_is_encoded_twice(self, walk, vae, tmp_path):
        first = dataset(walk, vae, cache=tmp_path)
        expected = [first[i] for i in range(len(first))]
        again = CountingVAE(8, 16)
        second = dataset(walk, again, cache=tmp_path)
        for one, sample in enumerate(expected):
            assert torch.equal(second[one]["latents"], sample["latents"])
            assert torch.equal(second[one]["memory"].latents, sample["memory"].latents)
        assert again.encoded == 0 < vae.encoded

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"vae": SyntheticVAE(8, 12)}, r"another VAE .*16.*12"),
            ({"size": (64, 32)}, "another image size"),
            ({"walk": SyntheticWalk(25, intrinsics=CAMERA)}, "another sequence: its number of frames was"),
            (
                {"walk": SyntheticWalk(24, seed=1, intrinsics=CAMERA)},
                "another sequence: its images or its depth differ",
            ),
            ({"walk": SyntheticWalk(24, intrinsics=CameraIntrinsics.from_fov(96, 64, fov_x=1.3))}, "another camera"),
            ({"dynamic": lambda frame: frame.depth < 1}, "another choice of dynamic masks"),
        ],
    )
    def test_of_something_else_is_refused(self, walk, vae, tmp_path, change, message):
        dataset(walk, vae, cache=tmp_path)
        given = {"walk": walk, "vae": vae, **change}
        with pytest.raises(ValueError, match=f"cache: .* {message}"):
            dataset(given.pop("walk"), given.pop("vae"), cache=tmp_path, **given)

    def test_poses_that_do_not_fit_depth_are_warned_of(self, walk, vae):
        class Inverse(SyntheticWalk):
            def pose(self, index):
                return CameraPose.from_world_from_camera(self._path[index].camera_from_world, index / 15)

            def _frame(self, index):
                view = self._world.render(self.intrinsics, self._path[index])
                return RgbdImage(view.image_uint8, view.depth, self.pose(index), index)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset(SyntheticWalk(48, intrinsics=CAMERA), vae, policy=MemoryPolicy(**CLOSE)).encode()
        inverse = Inverse(48, intrinsics=CAMERA)
        with pytest.warns(SuspiciousInput, match=r"sequences\['0'\]: .*camera_from_world"):
            dataset(inverse, vae, policy=MemoryPolicy(**CLOSE)).encode()

    def test_a_sequence_without_depth_is_named(self, vae):
        class Flat(SyntheticWalk):
            def _frame(self, index):
                frame = super()._frame(index)
                return replace(frame, depth=np.zeros_like(frame.depth))

        flat = Flat(24, intrinsics=CAMERA)
        with pytest.raises(ValueError, match=r"sequences\['0'\]: expected depth, got none in any of \d+ frames"):
            dataset(flat, vae).encode()
        with pytest.raises(ValueError, match=r"got none in 0 \(no depth\)"):
            dataset(flat, vae, min_coverage=0.2)

    def test_all_is_encoded_at_once(self, walk, vae, tmp_path):
        policy, steps = MemoryPolicy(remembered="around", dropout=0.0, **CLOSE), []
        dataset(walk, vae, cache=tmp_path, policy=policy).encode(lambda done, of: steps.append((done, of)))
        assert steps[-1] == (6 + 24, 6 + 24)
        again = CountingVAE(8, 16)
        data = dataset(walk, again, cache=tmp_path, policy=policy)
        probed = again.images
        for data.epoch in range(3):
            for i in range(len(data)):
                data[i]
        assert (again.encoded, again.images) == (0, probed)

    def test_a_lost_probe_is_made_again(self, walk, vae, tmp_path):
        dataset(walk, vae, cache=tmp_path)
        probe = next(tmp_path.rglob("probe.npy"))
        probe.unlink()
        dataset(walk, vae, cache=tmp_path)
        assert probe.is_file()

    def test_of_other_weights_is_refused(self, walk, vae, tmp_path):
        dataset(walk, vae, cache=tmp_path)
        vae._encode_matrix = -vae._encode_matrix
        with pytest.raises(ValueError, match="a VAE of other weights"):
            dataset(walk, vae, cache=tmp_path)

    @pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\1\0", "half", "nan"])
    def test_damage_is_named(self, walk, vae, tmp_path, damage):
        data = dataset(walk, vae, cache=tmp_path)
        data[0]
        file = next(tmp_path.rglob("window-000000-4.npy"))
        content = file.read_bytes()
        file.write_bytes({"half": content[:-9], "nan": content[:-4] + b"\xff\xff\xff\x7f"}.get(damage, damage))
        with pytest.raises(FormatError, match=r"window-000000-4\.npy"):
            data[0]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"window": 30}, ValueError, "expected at least window = 30 frames, got 24 at most"),
            (
                {"size": (100, 60)},
                ValueError,
                r"sequences\['0'\]: expected images of whole cells of 8 pixels, got 100x60",
            ),
            ({"size": (88, 64)}, ValueError, "expected images of whole tokens of 16x16 pixels, got 88x64; pass size"),
            ({"prompts": {"hall": "a hall"}}, ValueError, "expected names of sequences, such as 0, got 'hall'"),
            ({"min_coverage": 0.99, "policy": MemoryPolicy(gap=23)}, ValueError, r"got none in 0 \(0.00 at most\)"),
            ({"rope": 24}, TypeError, "rope"),
        ],
    )
    def test_are_one_sentence(self, walk, vae, options, error, message):
        with pytest.raises(error, match=message):
            dataset(walk, vae, **options)

    def test_windows_are_whole_latent_frames(self, walk):
        with pytest.raises(ValueError, match=r"window: expected 1 \+ 4 k frames, .* got 8"):
            dataset(walk, SyntheticVAE(8, 16, TemporalLayout("causal", 4)), window=8)

    def test_sequences(self, walk, vae):
        with pytest.raises(
            TypeError, match=r"sequences\['0'\]: expected an RgbdSequence, got PosixPath; open_sequence"
        ):
            dataset([Path("scene")], vae)
        with pytest.raises(ValueError, match="at least one"):
            dataset([], vae)
        with pytest.raises(ValueError, match="images of one size"):
            dataset([walk, SyntheticWalk(8, intrinsics=CAMERA.scaled(64, 64))], vae)
        with pytest.raises(ValueError, match=r"names that can be those of folders, got '\.\./x'"):
            dataset({"../x": walk}, vae)

    def test_windows_without_revisits_are_left_out(self, walk, vae):
        everything = dataset(walk, vae, policy=MemoryPolicy(**EXACT, **CLOSE))
        some = dataset(walk, vae, policy=MemoryPolicy(**EXACT, **CLOSE), min_coverage=0.5)
        assert [frames.start for _, frames in some.windows] == [
            frames.start
            for i, (_, frames) in enumerate(everything.windows)
            if everything.memory(i, range(frames.start)).canvas()[:, -1].mean() >= 0.5
        ]
        assert 0 < len(some) < len(everything)
        assert vae.encoded == 0 or len(some) == 5

    def test_names_are_those_of_folders(self, walk, vae):
        def at(folder):
            one = SyntheticWalk(8, intrinsics=CAMERA)
            one.folder = Path(folder)
            return one

        data = dataset([at("/a/chess/seq-01"), at("/a/fire/seq-01"), at("/a/office"), walk], vae)
        assert data._names == ["chess-seq-01", "fire-seq-01", "office", "3"]

    def test_sequences_without_revisits_are_named(self, walk, vae):
        with pytest.warns(SuspiciousInput, match=r"got none in short \(0.00 at most\).*1 of 2 sequences are left out"):
            data = dataset({"long": walk, "short": SyntheticWalk(4, intrinsics=CAMERA)}, vae, min_coverage=0.3)
        assert {number for number, _ in data.windows} == {0}


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"size": 96}, TypeError, r"size: expected \(width, height\), got 96"),
            ({"size": (96, 0)}, ValueError, "size: height: expected at least 1, got 0"),
            ({"size": (100, 64)}, ValueError, r"got 100x64; pass size=\(96, 64\)"),
            ({"size": (104, 72)}, ValueError, r"whole tokens of 16x16 pixels, got 104x72; pass size=\(96, 64\)"),
            ({"topk": 4}, TypeError, "expected parameters of MemoryBatch.build, got 'topk'; did you mean top_k?"),
            ({"vae_stride": 8}, TypeError, "expected parameters of MemoryBatch.build, got 'vae_stride'"),
        ],
    )
    def test_are_named_when_the_dataset_is_made(self, walk, vae, options, error, message):
        with pytest.raises(error, match=message):
            dataset(walk, vae, **options)

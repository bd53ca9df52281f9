"""Paths whose intrinsics change from frame to frame: read, written, retrieved for, and generated along."""

import json

import numpy as np
import pytest

import mosaicmem as mm
from mosaicmem.camera.formats import load_trajectory, save_trajectory
from mosaicmem.errors import FormatError
from mosaicmem.memory.contents import observed_keyframes

WIDE = mm.CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(80))
NARROW = mm.CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(45))
STRIDE = 8


@pytest.fixture
def path(world):
    """Zooms in, and out again."""
    poses = world.leave_and_return(WIDE, 8).poses
    steps = np.radians([80, 70, 55, 45, 45, 55, 70, 80])
    return mm.CameraTrajectory(poses, [mm.CameraIntrinsics.from_fov(160, 96, fov_x=angle) for angle in steps])


class TestTrajectory:
    def test_each_frame_has_its_intrinsics(self, path):
        assert path.zooms
        assert len(path.cameras) == 8
        assert path.size == (160, 96)
        assert path.cameras[3] == NARROW
        assert path.cameras[3] is path.cameras[4]
        assert path[2:5].cameras == path.cameras[2:5]
        assert path.taken([0, 3]).cameras == (WIDE, NARROW)

    def test_intrinsics_that_all_share(self, path):
        still = path[3:5]
        assert not still.zooms
        assert still.intrinsics == NARROW
        with pytest.raises(ValueError, match=r"intrinsics: expected those that all frames share, got .* of frame 1"):
            _ = path.intrinsics

    def test_one_for_all_equals_one_for_each(self, path):
        one = mm.CameraTrajectory(path.poses, WIDE)
        assert one == mm.CameraTrajectory(path.poses, [mm.CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(80))] * 8)
        assert one != path

    def test_joined_and_padded(self, path):
        back = path.there_and_back()
        assert back.cameras == (*path.cameras, *path.cameras[-2::-1])
        assert path.then(path).cameras == path.cameras * 2
        assert path.then(mm.CameraTrajectory(path.poses[:1], NARROW)).cameras[-1] == NARROW
        with pytest.raises(ValueError, match=r"other: expected images of \(160, 96\) pixels, got \(80, 48\)"):
            path.then(mm.CameraTrajectory(path.poses[:1], WIDE.scaled(80, 48)))
        padded = path.padded(64)
        assert padded.size == (192, 128)
        assert [k.params for k in padded.cameras] == [k.params for k in path.cameras]

    def test_files(self, path, tmp_path):
        path.save(tmp_path / "path.json")
        assert mm.CameraTrajectory.load(tmp_path / "path.json") == path
        written = json.loads((tmp_path / "path.json").read_text())
        assert written["schema_version"] == 2
        assert ["intrinsics" in frame for frame in written["frames"]] == [False, *[True] * 6, False]
        path[3:5].save(tmp_path / "still.json")
        assert json.loads((tmp_path / "still.json").read_text())["schema_version"] == 1

    def test_wrong_ones_are_named(self, path, tmp_path):
        with pytest.raises(ValueError, match="expected one, or one for each of the 8 poses, got 2"):
            mm.CameraTrajectory(path.poses, [WIDE, NARROW])
        with pytest.raises(TypeError, match=r"intrinsics\[1\]: expected CameraIntrinsics, got int"):
            mm.CameraTrajectory(path.poses[:2], [WIDE, 3])
        with pytest.raises(ValueError, match=r"intrinsics\[1\]: expected those of images of 160x96"):
            mm.CameraTrajectory(path.poses[:2], [WIDE, WIDE.scaled(80, 48)])
        with pytest.raises(TypeError, match="intrinsics: expected CameraIntrinsics, or one for each pose, got None"):
            mm.CameraTrajectory(path.poses, None)
        document = path.to_dict()
        document["frames"][2]["intrinsics"]["fx"] = -1
        (tmp_path / "path.json").write_text(json.dumps(document))
        with pytest.raises(FormatError, match=r"frames\[2\]: fx: expected more than 0"):
            mm.CameraTrajectory.load(tmp_path / "path.json")


class TestFormats:
    @pytest.mark.parametrize("format", ["mosaicmem", "nerfstudio", "re10k", "matrixgame", "worldplay", "colmap"])
    def test_are_written_and_read(self, path, tmp_path, format):
        file = tmp_path / {"matrixgame": "p.npz", "re10k": "p.txt", "colmap": "model"}.get(format, "p.json")
        save_trajectory(file, path, format)
        size = (160, 96) if format in ("re10k", "matrixgame") else None
        found = load_trajectory(file, size=size)
        assert found.zooms
        np.testing.assert_allclose([k.params for k in found.cameras], [k.params for k in path.cameras], rtol=1e-12)
        np.testing.assert_allclose(found.camera_from_world, path.camera_from_world, atol=1e-9)
        first = load_trajectory(file, size=size, intrinsics_mode="first_frame")
        np.testing.assert_allclose(first.intrinsics.params, WIDE.params, rtol=1e-12)
        mean = load_trajectory(file, size=size, intrinsics_mode="mean")
        np.testing.assert_allclose(mean.intrinsics.fx, np.mean([k.fx for k in path.cameras]))
        given = load_trajectory(file, intrinsics=NARROW)
        assert given.intrinsics == NARROW

    def test_binary_models(self, path, tmp_path):
        save_trajectory(tmp_path / "model", path, "colmap-binary")
        found = load_trajectory(tmp_path / "model")
        assert [k.params for k in found.cameras] == [k.params for k in path.cameras]

    def test_formats_without_intrinsics_drop_them(self, path, tmp_path):
        save_trajectory(tmp_path / "p.txt", path, "tum")
        assert len(load_trajectory(tmp_path / "p.txt", intrinsics=WIDE)) == 8

    def test_rounding_is_no_zoom(self, path, tmp_path):
        params = np.tile(np.array(WIDE.params), (8, 1))
        params[3:] *= 1 + 1e-8
        np.savez(tmp_path / "camera.npz", extrinsics_c2w=path.world_from_camera, intrinsics=params)
        assert load_trajectory(tmp_path / "camera.npz", size=(160, 96)).intrinsics == WIDE

    def test_a_bad_k_of_a_later_frame_is_named(self, path, tmp_path):
        params = np.tile(np.array(WIDE.params), (8, 1))
        params[5, 0] = 0
        np.savez(tmp_path / "camera.npz", extrinsics_c2w=path.world_from_camera, intrinsics=params)
        for mode in ("per_frame", "mean"):
            with pytest.raises(FormatError, match=r"intrinsics\[5\]: fx: expected more than 0"):
                load_trajectory(tmp_path / "camera.npz", size=(160, 96), intrinsics_mode=mode)

    def test_one_warning_is_enough(self, path, tmp_path):
        params = [[50 + i, 50, 0.25, 0.25] for i in range(8)]
        np.savez(tmp_path / "camera.npz", extrinsics_c2w=path.world_from_camera, intrinsics=np.array(params))
        with pytest.warns(mm.SuspiciousInput) as said:
            assert load_trajectory(tmp_path / "camera.npz", size=(160, 96)).zooms
        assert len(said) == 1

    def test_modes_are_checked(self, path, tmp_path):
        path.save(tmp_path / "p.json")
        with pytest.raises(ValueError, match="intrinsics_mode: expected one of per_frame, first_frame, mean, got"):
            load_trajectory(tmp_path / "p.json", intrinsics_mode="all")


@pytest.fixture
def store(world, path):
    """Remembers four frames, each with its zoom."""
    memory, vae = mm.MosaicMemoryStore(), mm.SyntheticVAE()
    for pose, camera in zip(path[::2], path.cameras[::2], strict=True):
        view = world.render(camera, pose)
        memory.insert_keyframe(vae.encode_image(view.image), mm.depth_to_grid(view.depth, STRIDE), camera, pose)
    return memory


class TestRetrieval:
    """Each frame of a window that zooms is served as if it were alone."""

    def alone(self, path):
        return [path[i : i + 1] for i in range(len(path))]

    def test_patches(self, store, path):
        window = store.retrieve_window(path, top_k=40)
        for i, one in enumerate(self.alone(path)):
            found = store.retrieve(one.intrinsics, one[0], top_k=40)
            np.testing.assert_array_equal(window.ids[i][: window.count[i]], found.ids)
            np.testing.assert_array_equal(window.pixels[i][: window.count[i]], found.pixels)

    def test_mosaics(self, store, path):
        mosaic = mm.MemoryRetrieval(top_k=40).retrieve(store, path, STRIDE)
        assert mosaic.valid.any(axis=1).sum() >= 4
        for i, one in enumerate(self.alone(path)):
            alone = mm.MemoryRetrieval(top_k=40).retrieve(store, one, STRIDE)
            own, valid = mosaic.valid[i], alone.valid[0]
            np.testing.assert_array_equal(mosaic.tokens[i][own], alone.tokens[0][valid])
            np.testing.assert_array_equal(mosaic.positions[i][own][:, 1:], alone.positions[0][valid][:, 1:])
            np.testing.assert_array_equal(mosaic.coverage[i], alone.coverage[0])

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_canvases(self, store, path, composition):
        retrieval = mm.KeyframeRetrieval(composition=composition)
        canvas = retrieval.retrieve(store, path, STRIDE)
        assert canvas.coverage.any(axis=(1, 2)).sum() >= 4
        for i, one in enumerate(self.alone(path)):
            alone = retrieval.retrieve(store, one, STRIDE)
            np.testing.assert_array_equal(canvas.coverage[i], alone.coverage[0])
            np.testing.assert_allclose(canvas.latents[i], alone.latents[0], atol=1e-6)

    @pytest.mark.parametrize("strategy", ["visible_coverage", "pose_nearest", "coverage", "top_k"])
    def test_all_strategies_follow(self, world, path, strategy):
        memory, vae = mm.MosaicMemoryStore(), mm.SyntheticVAE(stride=16)  # for which the published rules are made
        for pose, camera in zip(path[::2], path.cameras[::2], strict=True):
            view = world.render(camera, pose)
            memory.insert_keyframe(vae.encode_image(view.image), mm.depth_to_grid(view.depth, 16), camera, pose)
        canvas = mm.KeyframeRetrieval(strategy).retrieve(memory, path, 16)
        assert canvas.coverage.any(axis=(1, 2)).sum() >= 3

    def test_zooming_in_enlarges_what_is_seen(self, store, path):
        """A cell of the middle comes from nearer to the middle of the keyframe."""
        both = mm.CameraTrajectory([path[0]] * 2, [WIDE, NARROW])
        mosaic = mm.MemoryRetrieval(top_k=400).retrieve(store, both, STRIDE)
        cells = mosaic.positions[:, :, 1:] - [6, 10]
        middle = [np.abs(cells[i][mosaic.valid[i]]).mean() for i in range(2)]
        assert middle[1] > 1.05 * middle[0]


class TestPipeline:
    @pytest.mark.parametrize("latents", ["encoded", "generated"])
    def test_generates_along_the_path_and_remembers_each_zoom(self, world, path, latents):
        windows = {"window_size": 8, "keyframe_interval": 2, "keyframe_latents": latents}
        config = mm.PipelineConfig(num_inference_steps=2, seed=1, **windows)
        pipeline = mm.AutoregressivePipeline(config, depth_estimator=mm.SyntheticDepthEstimator(world))
        view = world.render(path.cameras[0], path[0])
        pipeline.observe(view.image, view.depth, path.cameras[0], path[0])
        result = pipeline.generate(path)
        assert result.frames.shape == (8, 96, 160, 3)
        kept = list(observed_keyframes(pipeline.store))
        assert len(kept) > 2
        zoom_at = {pose.timestamp: camera.fx for camera, pose in zip(path.cameras, path, strict=True)}
        for keyframe in kept:
            assert keyframe.intrinsics.fx * STRIDE == pytest.approx(zoom_at[keyframe.timestamp])
        assert len({k.intrinsics.fx for k in kept}) > 1

    def test_equal_zooms_change_nothing(self, world, path):
        still, config = mm.CameraTrajectory(path.poses, WIDE), mm.PipelineConfig(num_inference_steps=2, seed=1)
        videos = [
            mm.AutoregressivePipeline(config).generate(mm.CameraTrajectory(still.poses, cameras)).frames
            for cameras in (WIDE, [WIDE] * 8)
        ]
        np.testing.assert_array_equal(*videos)

    def test_the_backbone_looks_along_each_frames_rays(self, world, path):
        from mosaicmem.diffusion.backbone import _directions

        seen = _directions(path, STRIDE)
        for i in range(len(path)):
            np.testing.assert_allclose(seen[i], _directions(path[i : i + 1], STRIDE)[0], atol=1e-12)
        assert np.abs(seen[0, :, 0] - seen[0, :, -1]).max() > 1.2 * np.abs(seen[3, :, 0] - seen[3, :, -1]).max()


@pytest.mark.torch
def test_batches_encode_each_frames_k(store, path):
    pytest.importorskip("torch")
    from mosaicmem.models import MemoryBatch

    rope = mm.WarpedRoPE(head_dim=32)
    batch = MemoryBatch.build([store], [path], vae_stride=STRIDE, rope=rope, top_k=16, prope="half")
    matrices = batch.prope.target_matrices
    np.testing.assert_allclose(matrices[0, :, 0], [camera.matrix for camera in path.cameras])


def test_convert_says_what_to_make_of_zooms(path, tmp_path):
    from typer.testing import CliRunner

    from mosaicmem.cli import app

    path.save(tmp_path / "zoom.json")
    run = CliRunner().invoke(app, ["convert", str(tmp_path / "zoom.json"), str(tmp_path / "out.json"), "--json"])
    assert json.loads(run.stdout)["zooms"] is True
    arguments = ["convert", str(tmp_path / "zoom.json"), str(tmp_path / "mean.json"), "--intrinsics-mode", "mean"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert not mm.CameraTrajectory.load(tmp_path / "mean.json").zooms
    wrong = CliRunner().invoke(app, [*arguments[:-1], "all"])
    assert wrong.exit_code != 0
    assert "--intrinsics-mode: expected per_frame, first_frame or mean, got 'all'" in wrong.output


def test_revisits_of_a_video_that_zooms_are_scored(world):
    pytest.importorskip("skimage")
    from mosaicmem.evaluation import find_revisits, score_revisits

    loop = world.leave_and_return(WIDE, 24)
    path = mm.CameraTrajectory(loop.poses, [WIDE, NARROW] * 12)
    video = np.stack([world.render(camera, pose).image for camera, pose in zip(path.cameras, path, strict=True)])
    assert len(score_revisits(video, path)) == len(find_revisits(path)) > 0

"""copy.copy, copy.deepcopy and pickle of an object of each public class: right, or the message says what to do."""

import copy
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mosaicmem
import mosaicmem as mm
from conftest import random_pose
from dataset_helpers import make_frames, write_replica, write_scannet, write_tum
from import_makers import posed, predicted, rectifier, segmenter
from memory_helpers import K, filled_store
from mosaicmem import datasets, diffusion, evaluation, geometry, importing, memory, pipeline, published, serving
from mosaicmem.attention import MemoryKeysValues
from mosaicmem.latent_colors import LatentColors
from mosaicmem.memory import storage, strategies, tiles
from mosaicmem.memory.contents import ObservedKeyframe, observed_keyframes
from mosaicmem.synthetic import RenderedView
from onnx_models import PLAIN, red_model
from scene_helpers import write_scene

NO_PACKAGE = ("errors", "latent_colors", "synthetic", "memory.contents")  # public modules without __all__
# Tested beside their callers.
NEED_TORCH = tuple(f"published.{name}" for name in ("lyra", "fastvideo", "gen3c", "matrix_game", "vmem"))


def public_classes():
    """Classes in the ``__all__`` of any public module, and those of the public modules without one."""
    found = {}
    for info in pkgutil.walk_packages(mosaicmem.__path__, "mosaicmem."):
        name = info.name.removeprefix("mosaicmem.")
        if name.startswith("cli") or any(part.startswith("_") for part in name.split(".")):
            continue
        if name.startswith(("models", "scale")) or name in NEED_TORCH:
            continue  # torch copies and pickles its modules
        if name.startswith(("viewer", "diffusion.remote")):
            continue  # need a browser or a process, beside which they are tested
        module = importlib.import_module(info.name)
        names = getattr(module, "__all__", None)
        if names is None and name in NO_PACKAGE:
            names = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == info.name]
        for n in names or []:
            kind = getattr(module, n)
            if inspect.isclass(kind) and not n.startswith(("_", "Ray")):  # those of Ray need a cluster
                found[kind] = None
    found.update({getattr(mosaicmem, n): None for n in mosaicmem.__all__ if inspect.isclass(getattr(mosaicmem, n))})
    return list(found)


@pytest.fixture
def given(rng, tmp_path):
    """The inputs that the objects are made from."""
    world = mm.SyntheticWorld(3)
    return SimpleNamespace(rng=rng, folder=tmp_path, world=world, path=world.leave_and_return(K, 6))


def frames_of(given, write):
    return write(given.folder / "scene", make_frames(given.rng))


def mosaic_of(given):
    store, keyframes = filled_store(given.rng, 2)
    return mm.MemoryRetrieval(top_k=4).retrieve(store, mm.CameraTrajectory([keyframes[0][2]], K), 8)


def composed(given):
    store, keyframes = filled_store(given.rng, 2)
    return mm.KeyframeRetrieval().retrieve(store, mm.CameraTrajectory([keyframes[0][2]], K), 8)


def checked(given):
    check = mm.PoseCheck()
    for pose in given.path[:3]:
        check.add(given.world.render(K, pose).depth, K, pose)
    return check


def registered(given):
    check = geometry.RegistrationCheck()
    for pose in given.path[:3]:
        view = given.world.render(K, pose)
        check.add(view.image, view.depth, K, pose)
    return check


def pixels(given):
    store, keyframes = filled_store(given.rng, 2)
    return mm.KeyframeRetrieval().retrieve_pixels(store, mm.CameraTrajectory([keyframes[0][2]], K), 8)


def running(given):
    run = mm.AutoregressivePipeline(mm.PipelineConfig(window_size=4, window_overlap=0, num_inference_steps=1))
    view = given.world.render(K, given.path[0])
    run.observe(view.image, view.depth, K, given.path[0])
    return run


def layer(_given):
    return mm.MemoryCrossAttention(8, 4, 2, 12, half_life=2.0, seed=4)


def prope(given):
    views = np.stack([random_pose(given.rng).camera_from_world for _ in range(2)])
    views[:, :3, 3] += 50  # far from the origin, so that it computes in a frame of its own
    return mm.PRoPE(16, views, patches_x=3, patches_y=2)


def depth_files(given):
    for i in range(2):
        np.save(given.folder / f"{i}.npy", np.full((48, 80), 2.0 + i, np.float32))
    return mm.DepthFromFiles.in_folder(given.folder, [0.0, 1.0])


def onnx_estimator(given):
    pytest.importorskip("onnxruntime")
    (given.folder / "model.onnx").write_bytes(red_model(gain=0.0, offset=1.7))
    return mm.OnnxDepthEstimator(given.folder / "model.onnx", output="metric", **PLAIN)


def patch_memory(_given):
    memory_of_frames = mm.PatchMemory()
    camera = np.float32([[300, 0, 32], [0, 300, 24], [0, 0, 1]])
    memory_of_frames.append(np.zeros((2, 1, 3, 4)), np.eye(4)[None], camera[None], np.ones((1, 48, 64), np.float32))
    return memory_of_frames


def saved(given):
    store, _ = filled_store(given.rng, 1)
    store.save(given.folder / "store")
    store.close()
    return storage.read_manifest(given.folder / "store")


def settings(_given):
    store = mm.MosaicMemoryStore()
    return storage.StoreSettings.model_validate(
        {name: getattr(store, name) for name in storage.StoreSettings.model_fields}
    )


WALK = datasets.SyntheticWalk(4)


@cache
def grid_frames():
    return evaluation.grid_frames(WALK, range(2), 16)


def composer(_given):
    return evaluation.Composer(grid_frames(), WALK.intrinsics, 16)


def canvases(_given):
    return composer(None)(mm.CameraTrajectory([frame.pose for frame in grid_frames()], WALK.intrinsics))


@cache
def evaluated():
    pytest.importorskip("skimage")
    return evaluation.evaluate_composition(composer(None), grid_frames(), WALK.intrinsics)


def error(_given):
    return mm.WindowError(2, range(3, 7), "decode", pipeline.GenerationResult(np.zeros((3, 2, 2, 3))), OSError("full"))


STATISTICS = pipeline.WindowStatistics(0, 0, 3, 4, 5, 0.5, 0.25, 0.25, 1, 6, {"decode": 0.25})
CANVAS = (
    np.zeros((2, 2, 1), np.float32),
    np.ones((2, 2), bool),
    np.ones((2, 2), np.float32),
    np.zeros((2, 2), np.int32),
)

COPIED = {
    memory.Box: lambda g: memory.Box([0, 0, 0], [1, 2, 3], g.path[0].world_from_camera),
    mm.CameraIntrinsics: lambda g: K,
    mm.CameraPose: lambda g: g.path[1],
    mm.CameraTrajectory: lambda g: g.path,
    pipeline.Checkpoint: lambda g: pipeline.Checkpoint(g.folder / "run", {"from": "here"}),
    mm.ComposedMosaic: composed,
    mm.DDPMScheduler: lambda g: mm.DDPMScheduler(),
    mm.DepthCompletion: lambda g: mm.DepthCompletion(),
    mm.DepthFromFiles: depth_files,
    mm.FlowMatchingScheduler: lambda g: mm.FlowMatchingScheduler(shift=3.0),
    mm.FormatError: lambda g: mm.FormatError("a/b.txt", "expected numbers, got words", 7),
    mm.Frustum: lambda g: mm.Frustum(K, g.path[0]),
    mm.GenerationResult: lambda g: mm.GenerationResult(np.zeros((1, 2, 2, 3), np.float32), [STATISTICS]),
    mm.HashedTextEncoder: lambda g: mm.HashedTextEncoder(5),
    mm.KeyframeRetrieval: lambda g: mm.KeyframeRetrieval(),
    mm.LatentCanvas: lambda g: mm.LatentCanvas(*CANVAS),
    mm.MemoryContext: lambda g: running(g).align(g.path[:2]),
    mm.MemoryCrossAttention: layer,
    mm.MemoryRetrieval: lambda g: mm.MemoryRetrieval(top_k=3),
    mm.Mosaic: mosaic_of,
    mm.OnnxDepthEstimator: onnx_estimator,
    mm.PRoPE: prope,
    storage.Compaction: lambda g: storage.Compaction(3, 2, 500, 400),
    tiles.TiledStatistics: lambda g: tiles.TiledStatistics(3, 900, 1, 300, 2, 1),
    serving.SessionStatistics: lambda g: serving.SessionStatistics(3, 1, 500, 4, 2),
    storage.ExportedStore: lambda g: filled_store(g.rng, 2)[0]._exported(),
    mm.PackedMosaic: lambda g: mosaic_of(g).packed(),
    mm.PipelineConfig: lambda g: mm.PipelineConfig(seed=3),
    mm.PointCloud: lambda g: mm.PointCloud(np.ones((2, 3)), np.zeros((2, 3), np.uint8)),
    mm.PoseCheck: checked,
    mm.RetrievedWindow: lambda g: filled_store(g.rng, 1)[0].retrieve_window(g.path[:2], top_k=3),
    mm.RotaryTable: lambda g: mm.WarpedRoPE(12).table(mm.grid_positions(1, 2, 2)),
    mm.Sphere: lambda g: mm.Sphere([0, 1, 2], 3.0),
    mm.StoreLockedError: lambda g: mm.StoreLockedError("another process writes there"),
    mm.SuspiciousInput: lambda g: mm.SuspiciousInput("millimetres?"),
    mm.SyntheticBackbone: lambda g: mm.SyntheticBackbone(mm.DDPMScheduler()),
    mm.SyntheticDepthEstimator: lambda g: mm.SyntheticDepthEstimator(g.world),
    mm.SyntheticVAE: lambda g: mm.SyntheticVAE(8, 16),
    mm.SyntheticWorld: lambda g: g.world,
    mm.TemporalLayout: lambda g: mm.TemporalLayout("causal", 4),
    mm.WarpedLatent: lambda g: mm.WarpedLatent("block"),
    mm.WarpedRoPE: lambda g: mm.WarpedRoPE(12),
    pipeline.Window: lambda g: next(iter(running(g).stream(g.path[:4]))),
    mm.WindowError: error,
    MemoryKeysValues: lambda g: layer(g).project_memory(np.ones((1, 3, 4)), np.zeros((3, 3)), time=np.zeros(3)),
    LatentColors: lambda g: LatentColors(g.rng.standard_normal((9, 4))),
    ObservedKeyframe: lambda g: next(observed_keyframes(filled_store(g.rng, 1)[0])),
    RenderedView: lambda g: g.world.render(K, g.path[0]),
    storage.Manifest: saved,
    storage.StoreSettings: settings,
    datasets.DepthCoding: lambda g: datasets.DepthCoding(5000.0, 65535),
    datasets.Lens: lambda g: datasets.Lens("OPENCV", (70, 72, 47, 37, 0.1, 0, 0, 0), 96, 72),
    datasets.PosedFrame: lambda g: posed(g).frames[0],
    datasets.PosedFrames: lambda g: posed(g),
    datasets.PosedSequence: lambda g: datasets.PosedSequence(posed(g)),
    datasets.PredictedSequence: predicted,
    datasets.Rectifier: rectifier,
    importing.ImportOptions: lambda g: importing.ImportOptions(every=3, scale="0,4=2"),
    importing.ImportReport: lambda g: importing.ImportReport(
        *("out", "photos", 3, 4, 5, "estimated", 0.5, 60, [], {}, K.to_dict(), "points", 1.0, "metres", "depth", 0.0)
    ),
    importing.OnnxSegmenter: segmenter,
    datasets.Replica: lambda g: datasets.Replica(frames_of(g, write_replica)),
    datasets.RgbdImage: lambda g: datasets.SyntheticWalk(4)[1],
    datasets.ScanNet: lambda g: datasets.ScanNet(frames_of(g, write_scannet)),
    datasets.SevenScenes: lambda g: datasets.SevenScenes(write_scene(g.folder / "scene", g.world, g.path)),
    datasets.SyntheticWalk: lambda g: datasets.SyntheticWalk(4),
    datasets.TumRgbd: lambda g: datasets.TumRgbd(write_tum(g.folder / "freiburg1_room", make_frames(g.rng))),
    diffusion.PlaceAttention: lambda g: diffusion.PlaceAttention(place=3.0),
    evaluation.AblationScore: lambda g: evaluation.AblationScore("all", 20.0, 0.5, 0.25, 0.25),
    evaluation.Canvases: canvases,
    evaluation.Comparison: lambda g: evaluation.Comparison(*[mm.GenerationResult(np.zeros((1, 2, 2, 3)))] * 2, []),
    evaluation.Baseline: lambda g: evaluation.Baseline("warp", grid_frames(), WALK.intrinsics, 16),
    evaluation.MirrorScore: lambda g: evaluation.MirrorScore(3, 1, 20.0, 0.5),
    evaluation.WarpConsistency: lambda g: evaluation.WarpConsistency(20.0, 0.5, 0.9),
    evaluation.CameraErrors: lambda g: evaluation.camera_errors(g.path, g.path),
    evaluation.Revisit: lambda g: evaluation.Revisit(3, 1, 2.0, 1.0, 0.5, 20.0, 0.5, 0.1),
    evaluation.RevisitBin: lambda g: evaluation.RevisitBin(0.0, 1.0, 2, 20.0, 0.5, 0.1),
    evaluation.Evaluation: lambda g: evaluated(),
    evaluation.ForgettingBin: lambda g: evaluation.ForgettingBin(0.0, 1.0, 3, 0.5, 20.0),
    evaluation.FrameScore: lambda g: evaluation.FrameScore(1, 0.5, 0.25, 0.25, 20.0, 21.0, 19.0),
    evaluation.GridFrame: lambda g: grid_frames()[0],
    evaluation.MosaicRecorder: lambda g: evaluation.MosaicRecorder(mm.SyntheticVAE(8, 16)),
    evaluation.Noise: lambda g: evaluation.Noise(),
    evaluation.TargetScore: lambda g: evaluated().scores[0],
    geometry.Alignment: lambda g: geometry.fit_scale(np.linspace(1, 2, 4000), np.linspace(2, 4, 4000)),
    geometry.Registration: lambda g: geometry.Registration(500.0, 510.0, 0.5, 0.25, 8, True),
    geometry.RegistrationCheck: registered,
    memory.PixelMosaic: pixels,
    datasets.RegisteredSequence: lambda g: datasets.RegisteredSequence(WALK, WALK.intrinsics),
    geometry.FusionCounts: lambda g: geometry.FusionCounts(1, 2, 3),
    memory.KeyframeOptions: lambda g: memory.KeyframeOptions(),
    strategies.VisibleCoverage: lambda g: strategies.VisibleCoverage(memory.KeyframeOptions(max_keyframes=3)),
    strategies.TopK: lambda g: strategies.TopK(memory.KeyframeOptions(half_life=2.0)),
    published.PoseNearest: lambda g: published.PoseNearest(memory.KeyframeOptions(max_keyframes=3)),
    published.Coverage: lambda g: published.Coverage(memory.KeyframeOptions(max_keyframes=3)),
    memory.KeyframeSelection: lambda g: mm.KeyframeRetrieval().select(filled_store(g.rng, 2)[0], g.path[:2], 8),
    published.PatchMemoryResult: lambda g: published.PatchMemoryResult(*CANVAS),
    memory.RetrievalOptions: lambda g: memory.RetrievalOptions(),
    memory.RetrievedPatches: lambda g: filled_store(g.rng, 1)[0].retrieve(K, g.path[0], top_k=3),
    memory.StoreStatistics: lambda g: filled_store(g.rng, 1)[0].statistics(),
    pipeline.PromptEvent: lambda g: pipeline.PromptEvent(window=1, prompt="rain"),
    pipeline.WindowStatistics: lambda g: STATISTICS,
}

# Classes that refuse some ways: how to make an object, the ways refused, and what the message says to do.
REFUSED = {
    mm.AutoregressivePipeline: (running, ("deepcopy", "pickle"), r"use copy\.copy or varied\(\)"),
    mm.MosaicMemoryStore: (
        lambda g: filled_store(g.rng, 1)[0],
        ("deepcopy", "pickle"),
        r"fork\(\) .* save\(\) and open",
    ),
    mm.PatchMemory: (patch_memory, ("pickle",), "append the same frames to another one"),
    published.SpatialMemoryState: (
        lambda g: published.SpatialMemoryState.allocated(),
        ("copy", "deepcopy", "pickle"),
        r"fork\(\) gives an independent one; save view\(\)",
    ),
    mm.SpatialManipulation: (
        lambda g: mm.SpatialManipulation(filled_store(g.rng, 1)[0]),
        ("copy", "deepcopy", "pickle"),
        r"make another one of store\.fork\(\)",
    ),
    mm.StreamingFusion: (lambda g: mm.StreamingFusion(), ("pickle",), r"keep point_cloud\(\)"),
    serving.MemorySessions: (
        lambda g: serving.MemorySessions(g.folder / "sessions", mm.AutoregressivePipeline(), max_bytes=1),
        ("copy", "deepcopy", "pickle"),
        "share it between threads",
    ),
    serving.MemorySession: (
        lambda g: serving.MemorySessions(g.folder / "one", mm.AutoregressivePipeline(), max_bytes=1).open("a"),
        ("copy", "deepcopy", "pickle"),
        r"use fork\(\) for a second session",
    ),
    tiles.TiledStore: (
        lambda g: tiles.TiledStore(g.folder / "tiles", tile_size=5.0),
        ("copy", "deepcopy", "pickle"),
        "make another one of the same folder",
    ),
    storage.StoreFolder: (
        lambda g: storage.StoreFolder(g.folder / "new"),
        ("copy", "deepcopy", "pickle"),
        "open the store",
    ),
    storage.StoreHome: (lambda g: storage.StoreHome(), ("copy", "deepcopy", "pickle"), "open the store"),
    evaluation.Composer: (
        composer,
        ("deepcopy", "pickle"),
        "MosaicMemoryStore",
    ),
    memory.StoreSnapshot: (lambda g: filled_store(g.rng, 1)[0].snapshot(), ("pickle",), r"save\(\) the store"),
}

WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


def decided(kind):
    """Protocols and abstract classes have no instances, so there is nothing to decide."""
    return getattr(kind, "_is_protocol", False) or inspect.isabstract(kind) or kind in COPIED or kind in REFUSED


def test_every_public_class_is_decided():
    assert [kind for kind in public_classes() if not decided(kind)] == []


def state(value, seen=()):
    """An object's content in plain containers that compare; a reference back to a container becomes a marker."""
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, (str, bytes, int, float, bool, type(None), Path, range, type)):
        return repr(value)
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    if isinstance(value, (list, tuple)):
        return [state(each, seen) for each in value]
    if hasattr(value, "items") and not hasattr(value, "__dict__"):
        return {repr(key): state(each, seen) for key, each in value.items()}
    if isinstance(value, BaseException):
        return [repr(type(value)), str(value), state(value.args, seen), state(value.__dict__, seen)]
    if hasattr(value, "__dict__"):
        return {name: state(each, seen) for name, each in vars(value).items() if name not in ("_known", "_session")}
    return repr(type(value))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", COPIED, ids=lambda kind: kind.__name__)
def test_copies_hold_the_same(given, kind, way):
    value = COPIED[kind](given)
    assert isinstance(value, kind)
    twin = WAYS[way](value)
    assert type(twin) is type(value)
    assert state(twin) == state(value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_copied_says_what_to_do(given, kind, way):
    make, refused, message = REFUSED[kind]
    value = make(given)
    if way in refused:
        with pytest.raises(TypeError, match=message):
            WAYS[way](value)
    else:
        assert type(WAYS[way](value)) is type(value)


class TestIndependence:
    """A change to one does not show in the other."""

    @pytest.mark.parametrize("way", WAYS)
    def test_layers(self, given, way):
        ours = layer(given)
        hidden, tokens = given.rng.standard_normal((1, 5, 8)), given.rng.standard_normal((1, 3, 4))
        options = {"query_time": np.zeros(5), "memory_time": np.arange(3.0)}

        def attend(one):
            return one(hidden, tokens, mm.grid_positions(1, 1, 5), mm.grid_positions(1, 1, 3), **options)

        before, twin = attend(ours), WAYS[way](ours)
        np.testing.assert_array_equal(attend(twin), before)
        twin.load_weights({name: 2 * weight for name, weight in twin.weights.items()})
        np.testing.assert_array_equal(attend(ours), before)
        assert np.abs(attend(twin) - before).max() > 0

    @pytest.mark.parametrize("way", WAYS)
    def test_pose_checks(self, given, way):
        ours = checked(given)
        before, twin = state(ours), WAYS[way](ours)
        for pose in given.path[3:]:
            twin.add(given.world.render(K, pose).depth, K, pose)
        assert state(ours) == before != state(twin)

    def test_pipelines(self, given):
        ours = running(given)
        twin = copy.copy(ours)
        assert len(twin.store) == len(ours.store) > 0
        first = len(ours.store)
        twin.generate(given.path[:4])
        assert len(ours.store) == first < len(twin.store)

    def test_snapshots(self, given):
        store, _ = filled_store(given.rng, 2)
        snapshots = [way(store.snapshot()) for way in (copy.copy, copy.deepcopy)]
        ids = store.patch_ids
        store.delete_frame(0)
        for snapshot in snapshots:
            store.restore(snapshot)
            np.testing.assert_array_equal(store.patch_ids, ids)

    @pytest.mark.parametrize("way", ["deepcopy", "pickle"])
    def test_poses_stay_read_only(self, given, way):
        twin = WAYS[way](given.path)
        with pytest.raises(ValueError, match="read-only"):
            twin[0].world_from_camera[0, 3] = 1.0
        assert hash(twin) == hash(given.path)

    @pytest.mark.parametrize("way", WAYS)
    def test_estimators(self, given, way):
        ours = onnx_estimator(given)
        image, nothing = np.zeros((48, 80, 3), np.float32), np.zeros((48, 80), np.float32)
        arguments = (image, K, given.path[0], nothing)
        np.testing.assert_array_equal(WAYS[way](ours).estimate(*arguments), ours.estimate(*arguments))

    def test_a_model_of_bytes(self):
        pytest.importorskip("onnxruntime")
        estimator = mm.OnnxDepthEstimator(red_model(), **PLAIN)
        with pytest.raises(TypeError, match="whose model was given as bytes: give the path"):
            pickle.dumps(estimator)

    @pytest.mark.parametrize("way", WAYS)
    def test_backbones(self, given, way):
        context = running(given).align(given.path[:2])
        ours = mm.SyntheticBackbone(mm.DDPMScheduler())
        sample = given.rng.standard_normal((1, 16, *context.coverage.shape)).astype(np.float32)
        answer = ours.predict(sample, 500, context)
        np.testing.assert_array_equal(WAYS[way](ours).predict(sample, 500, context), answer)

    def test_a_checkpoint_in_use(self, given):
        checkpoint = pipeline.Checkpoint(given.folder / "run")
        with checkpoint, pytest.raises(TypeError, match="a Checkpoint in use: make another one of its path"):
            copy.copy(checkpoint)


@pytest.mark.parametrize("way", WAYS)
def test_errors_keep_what_they_say(way):
    """An exception that cannot be unpickled breaks the process pool whose worker raises it."""
    twin = WAYS[way](mm.FormatError("./poses.txt", "expected 12 numbers, got 3", 4))
    assert str(twin) == "./poses.txt:4: expected 12 numbers, got 3"
    assert (twin.path, twin.line) == (Path("poses.txt"), 4)
    twin = WAYS[way](error(None))
    assert str(twin) == "window 2 (frames 3-6) failed in stage 'decode': OSError: full"
    assert (twin.window, twin.frames, twin.stage) == (2, range(3, 7), "decode")
    assert twin.completed.frames.shape == (3, 2, 2, 3)

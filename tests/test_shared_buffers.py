"""Results do not change when the owner of an input buffer reuses it."""

import numpy as np
import pytest

from memory_helpers import K
from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    HashedTextEncoder,
    MemoryCrossAttention,
    PatchMemory,
    PipelineConfig,
    PointCloud,
    PoseCheck,
    PRoPE,
    RotaryTable,
    Sphere,
    SyntheticVAE,
    SyntheticWorld,
    WarpedRoPE,
    grid_positions,
)
from mosaicmem.evaluation import MosaicRecorder
from mosaicmem.memory import Box


def buffers(**arrays):
    return {name: np.array(array) for name, array in arrays.items()}


def point_cloud():
    given = buffers(points=np.ones((4, 3), "f4"), colors=np.full((4, 3), 9, "u1"), normals=np.ones((4, 3), "f4"))
    cloud = PointCloud(**given)
    return given, lambda: (cloud.points, cloud.colors, cloud.normals)


def rotary_table():
    given = buffers(cos=np.full((3, 4), 0.6), sin=np.full((3, 4), 0.8))
    table, x = RotaryTable(**given), np.ones((3, 8))
    return given, lambda: WarpedRoPE(8).apply(x, table)


def table_of_positions():
    given = buffers(positions=grid_positions(1, 1, 3))
    table, x = WarpedRoPE(8).table(given["positions"]), np.ones((3, 8))
    return given, lambda: WarpedRoPE(8).apply(x, table)


def prope():
    views = np.tile(np.eye(4), (2, 1, 1))
    views[1, 0, 3] = 2
    given = buffers(views=views, camera=np.array([0, 1, 1], "i4"), positions=np.ones((3, 2)))
    encoding, x = PRoPE(16, given["views"], camera=given["camera"], positions=given["positions"]), np.ones((3, 16))
    return given, lambda: encoding.apply_to_o(x)


def keys_and_values():
    given = buffers(memory=np.ones((1, 2, 4), "f4"), mask=np.array([[True, False]]), time=np.array([0.0, 5.0]))
    given["memory"][0, 1] = 3
    layer = MemoryCrossAttention(6, 4, 1, 12, half_life=1.0)
    ready = layer.project_memory(given["memory"], np.ones((2, 3)), mask=given["mask"], time=given["time"])
    hidden = np.ones((1, 1, 6), "f4")
    return given, lambda: layer.attend(hidden, ready, np.zeros((1, 3)), query_time=np.zeros(1))


def weights():
    layer = MemoryCrossAttention(6, 4, 1, 12)
    given = {name: weight.copy() for name, weight in layer.weights.items()}
    layer.load_weights(given)
    hidden, memory = np.ones((1, 1, 6), "f4"), np.ones((1, 2, 4), "f4")
    return given, lambda: layer(hidden, memory, np.zeros((1, 3)), np.ones((2, 3)))


def poses():
    given = buffers(matrix=np.eye(4))
    path = CameraTrajectory([CameraPose(given["matrix"]), CameraPose.from_camera_from_world(given["matrix"])], K)
    return given, lambda: path.world_from_camera


def regions():
    given = buffers(centre=np.ones(3), low=np.zeros(3), high=np.ones(3), world_from_box=np.eye(4))
    sphere, box = Sphere(given["centre"], 2.0), Box(given["low"], given["high"], given["world_from_box"])
    return given, lambda: (sphere.centre, box.half_spaces)


def patch_memory():
    k = np.array([[[300.0, 0, 32], [0, 300, 24], [0, 0, 1]]], "f4")
    latents, depths = np.ones((2, 1, 3, 4), "f4"), np.ones((1, 48, 64), "f4")
    given = buffers(latents=latents, w2c=np.eye(4, dtype="f4")[None], k=k, depths=depths)
    memory = PatchMemory()
    memory.append(*given.values())
    return given, lambda: memory.fuse_candidates(np.tile(np.eye(4), (4, 1, 1)), [[0]])


MADE = (point_cloud, rotary_table, table_of_positions, prope, keys_and_values, weights, poses, regions, patch_memory)


def parts(answer):
    return [np.array(part) for part in (answer if isinstance(answer, tuple) else (answer,))]


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_objects(make):
    given, answer = make()
    before = parts(answer())
    for buffer in given.values():
        buffer[...] = 0
    for ours, theirs in zip(parts(answer()), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_frame_that_a_pose_check_compares_with():
    world = SyntheticWorld(3)
    path = world.leave_and_return(K, 40)[:8]
    depths = [world.render(K, pose).depth for pose in path]
    buffer, ours, theirs = depths[0].copy(), PoseCheck(), PoseCheck()
    ours.add(buffer, K, path[0])
    theirs.add(depths[0], K, path[0])
    buffer[:] = 0.01
    for depth, pose in zip(depths[1:], path[1:], strict=True):
        ours.add(depth, K, pose)
        theirs.add(depth, K, pose)
    assert vars(ours)["_agreed"] == vars(theirs)["_agreed"] != vars(PoseCheck())["_agreed"]


class Reusing:
    """A model that returns all answers in the same buffer."""

    def __init__(self, part):
        self.part, self.rooms = part, {}

    def __getattr__(self, name):
        value = getattr(self.part, name)
        if name not in ("encode", "decode", "encode_image"):
            return value

        def answer(*arguments):
            result = value(*arguments)
            room = self.rooms.setdefault((name, result.shape), np.empty_like(result))
            room[...] = result
            return room

        return answer


def observe(pipeline, world, path):
    for pose in path:
        view = world.render(K, pose)
        pipeline.observe(view.image, view.depth, K, pose)


class TestModels:
    """A pipeline keeps what models return, and they may return the same array each time."""

    CONFIG = PipelineConfig(window_size=4, window_overlap=2, num_inference_steps=1, prompt="a room")

    def generate(self, vae, text_encoder):
        world = SyntheticWorld(3)
        path = world.leave_and_return(K, 8)
        pipeline = AutoregressivePipeline(self.CONFIG, vae=vae, text_encoder=text_encoder)
        observe(pipeline, world, path[:2])
        recorder, texts = MosaicRecorder(vae), []

        def keep(window):
            recorder(window)
            texts.append(np.array(window.context.text))
            text_encoder.encode("another room")

        frames = pipeline.generate(path, on_window=keep).frames
        return frames, np.stack([recorder.mosaics[i] for i in range(8)]), np.stack(texts)

    def test_that_reuse_their_buffers(self):
        plain = self.generate(SyntheticVAE(8, 16), HashedTextEncoder(4))
        vae, text = Reusing(SyntheticVAE(8, 16)), Reusing(HashedTextEncoder(4))
        for ours, theirs in zip(self.generate(vae, text), plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)

"""A model in another process: the same results, one context a window, and every way in which it can fail."""

import copy
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import remote_models
from memory_helpers import filled_store
from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraTrajectory,
    MemoryRetrieval,
    PipelineConfig,
    SyntheticDepthEstimator,
    SyntheticWorld,
    TemporalLayout,
    WindowError,
)
from mosaicmem.diffusion import MemoryContext
from mosaicmem.diffusion.remote import RemoteModel, RemoteModelError
from mosaicmem.diffusion.remote.connection import Connection, ProtocolError
from mosaicmem.diffusion.remote.values import decode, encode

HERE = Path(__file__).parent
K = CameraIntrinsics.from_fov(64, 48, fov_x=math.radians(75))
WORLD = SyntheticWorld(0)
PATH = WORLD.leave_and_return(K, 14, fps=8)
CONFIG = PipelineConfig(window_size=8, window_overlap=2, num_inference_steps=4, guidance_scale=2.0, prompt="a flat")


def launch(name, timeout=60.0):
    return RemoteModel.launch(f"remote_models:{name}", cwd=HERE, timeout=timeout)


def pipeline_with(parts, config=CONFIG):
    one = AutoregressivePipeline(config, depth_estimator=SyntheticDepthEstimator(WORLD), **parts)
    seen = WORLD.render(K, PATH[0])
    one.observe(seen.image, seen.depth, K, PATH[0])
    return one


class TestResults:
    def test_the_same_video_as_in_one_process(self):
        here = pipeline_with(remote_models.make_parts()).generate(PATH)
        with launch("make_parts") as model:
            assert set(model.parts()) == {"backbone", "vae", "text_encoder"}
            assert model.parts()["vae"].temporal == TemporalLayout("uniform", 1)
            there = pipeline_with(model.parts()).generate(PATH)
        np.testing.assert_array_equal(here.frames, there.frames)

    def test_what_continues_and_what_is_made_once(self):
        begin = {"image": np.zeros((48, 64, 3)), "depth": np.ones((48, 64))}
        expected = pipeline_with(remote_models.continuing()).generate(PATH, **begin)
        with launch("continuing") as model:
            backbone = model.parts()["backbone"]
            assert (backbone.patch, backbone.uses_anchor, backbone.uses_previous) == (2, True, True)
            assert hasattr(backbone, "finish_window")
            assert hasattr(model.parts()["vae"], "decode_chunk")
            assert not hasattr(backbone, "decode_chunk")
            one = pipeline_with(model.parts())
            found = one.generate(PATH, **begin)
        np.testing.assert_array_equal(expected.frames, found.frames)

    def test_a_context_is_sent_once_per_window(self, monkeypatch):
        sent = []
        real = Connection.send

        def counted(self, message, arrays):
            sent.append(sum(array.nbytes for array in arrays))
            real(self, message, arrays)

        with launch("make_parts") as model:
            one = pipeline_with({"backbone": model.parts()["backbone"]})
            monkeypatch.setattr(Connection, "send", counted)
            one.generate(PATH[:8])
        assert len(sent) == 8  # four steps, with and without prompt
        assert sent[0] > 2 * sent[1]
        assert len(set(sent[1:])) == 1


class TestFailures:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("raising", "backbone.predict: in the model's process: RuntimeError: CUDA out of memory, say"),
            ("wrong_shape", "backbone's prediction: expected shape"),
            ("wrong_type", "backbone's prediction: expected"),
            ("wrong_numbers", "backbone's prediction: expected finite"),
            ("unknown_type", "backbone.predict: in the model's process"),
            ("killed", r"backbone.predict: the model's process was ended by signal 9 \(out of memory\?\)"),
            ("exiting", "backbone.predict: the model's process ended with code 3; what it printed says why"),
            ("nonsense", "backbone.predict: an answer that is none: a message of impossible length"),
        ],
    )
    def test_in_the_middle_of_a_window(self, name, message):
        with launch(name) as model:
            one = pipeline_with(model.parts())
            before = one.store.patch_ids
            with pytest.raises(WindowError, match=message) as failed:
                one.generate(PATH)
            assert failed.value.stage == "denoise"
            np.testing.assert_array_equal(one.store.patch_ids, before)
            if name == "raising":
                assert "remote_models.py" in failed.value.__cause__.trace
            if name in ("killed", "exiting", "nonsense"):
                with pytest.raises(WindowError, match="launch or connect again"):
                    one.generate(PATH)

    def test_a_model_that_raises_can_be_asked_again(self):
        with launch("raising") as model:
            one = pipeline_with(model.parts())
            for _ in range(2):
                with pytest.raises(WindowError, match="CUDA out of memory, say"):
                    one.generate(PATH)

    def test_a_model_that_hangs(self):
        with launch("hung", timeout=3.0) as model:
            one = pipeline_with(model.parts())
            begun = time.monotonic()
            with pytest.raises(WindowError, match=r"no answer within 3 s: it hangs, or needs a larger timeout"):
                one.generate(PATH)
            assert time.monotonic() - begun < 20
            assert model._process.wait(timeout=5) == -signal.SIGKILL

    def test_a_run_continues_with_a_new_process(self, tmp_path):
        whole = pipeline_with(remote_models.make_parts()).generate(PATH, checkpoint=tmp_path / "whole")
        with launch("make_parts") as model:
            one = pipeline_with(model.parts())

            def kill(window):
                os.kill(model._process.pid, signal.SIGKILL)

            with pytest.raises(WindowError, match="signal 9"):
                one.generate(PATH, checkpoint=tmp_path / "kept", on_window=kill)
        with launch("make_parts") as model:
            rest = pipeline_with(model.parts()).generate(PATH, checkpoint=tmp_path / "kept")
        np.testing.assert_array_equal(rest.frames, whole.frames)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("failing", "start: in the model's process: ImportError: no module named torch_of_another_version"),
            (
                "nothing",
                "start: in the model's process: ValueError: parts: expected backbone, and maybe",
            ),
            ("missing", "start: in the model's process: AttributeError"),
        ],
    )
    def test_at_the_start(self, name, message, capfd):
        with pytest.raises(RemoteModelError, match=message):
            launch(name)

    def test_python_without_the_package(self, capfd):
        with pytest.raises(RemoteModelError, match="start: the model's process ended with code 1"):
            RemoteModel.launch("remote_models:make_parts", cwd=HERE, arguments=["-S", "-I"], timeout=20)

    def test_after_closing(self):
        model = launch("make_parts")
        process = model._process
        model.close()
        model.close()
        assert process.poll() is not None
        with pytest.raises(RemoteModelError, match=r"vae\.encode: the connection was closed; launch or connect again"):
            model.parts()["vae"].encode(np.zeros((1, 8, 8, 3), np.float32))


def test_copies_say_what_to_do():
    with launch("make_parts") as model:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="launch or connect another one"):
                attempt(model)
    error = pickle.loads(pickle.dumps(RemoteModelError("why", "where")))
    assert (str(error), error.trace) == ("why", "where")


class TestServing:
    def test_clients_come_one_after_another(self, tmp_path):
        address = tmp_path / "model"
        code = (
            "import remote_models; from mosaicmem.diffusion.remote import serve;"
            f"serve({str(address)!r}, remote_models.make_parts(), ready=lambda: print('ready', flush=True))"
        )
        with subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "ready\n"
                assert address.stat().st_mode & 0o077 == 0
                videos = []
                for _ in range(2):
                    with RemoteModel.connect(address, timeout=30) as model:
                        videos.append(pipeline_with(model.parts()).generate(PATH[:8]).frames)
                np.testing.assert_array_equal(*videos)
            finally:
                process.kill()

    def test_nobody_listens(self, tmp_path):
        with pytest.raises(OSError, match="No such file"):
            RemoteModel.connect(tmp_path / "nothing")


class TestValues:
    def through(self, value):
        """A value, sent through a connection."""
        one, other = socket.socketpair(socket.AF_UNIX)
        sender, receiver = Connection(one), Connection(other)
        arrays = []
        message = encode(value, arrays)
        sender.send(message, arrays)
        got, views = receiver.receive()
        result = decode(got, [view.copy() for view in views])
        sender.close()
        receiver.close()
        return result

    def test_contexts_keep_every_bit(self, rng):
        store, keyframes = filled_store(rng, 3)
        from memory_helpers import K as CAMERA

        cameras = CameraTrajectory([pose for _, _, pose in keyframes[:2]], CAMERA)
        mosaic = MemoryRetrieval(top_k=5).retrieve(store, cameras, 8)
        grid = rng.standard_normal((2, 6, 10, 4)).astype(np.float32)
        context = MemoryContext(
            *(cameras, 8, mosaic, grid, grid[..., 0] > 0, np.abs(grid[..., 0]), "a prompt", 3, 4),
            text=rng.standard_normal((3, 5)).astype(np.float32),
            frames=cameras,
            temporal=TemporalLayout("causal", 4),
            gate=0.5,
        )
        back = self.through(context)
        for name in ("canvas", "coverage", "depth", "text"):
            np.testing.assert_array_equal(getattr(back, name), getattr(context, name))
        for name in ("prompt", "seed", "window", "gate", "temporal", "stride", "shared", "anchor", "observed"):
            assert getattr(back, name) == getattr(context, name)
        for name in ("tokens", "positions", "patch_ids", "valid"):
            np.testing.assert_array_equal(getattr(back.mosaic, name), getattr(mosaic, name))
        np.testing.assert_array_equal(back.mosaic.sources.world_from_camera, mosaic.sources.world_from_camera)
        np.testing.assert_array_equal(back.cameras.camera_from_world, cameras.camera_from_world)
        assert back.cameras.cameras == cameras.cameras
        assert [pose.timestamp for pose in back.cameras] == [pose.timestamp for pose in cameras]

    @pytest.mark.parametrize(
        "value",
        [None, True, 3, 0.5, "text", [1, [2.5, None]], np.zeros((0, 3), np.float32), np.float32(2), np.arange(3) > 1],
    )
    def test_plain_ones(self, value):
        back = self.through(value)
        if isinstance(value, np.ndarray):
            assert back.dtype == value.dtype
            np.testing.assert_array_equal(back, value)
        else:
            assert back == value

    def test_large_arrays_and_small_ones_after(self, rng):
        one, other = socket.socketpair(socket.AF_UNIX)
        sender, receiver = Connection(one), Connection(other)
        for size in (10, 3_000_000, 5, 6_000_000, 0):
            array = rng.random(size, dtype=np.float32)
            sender.send("x", [array, array[::-1]])
            message, (a, b) = receiver.receive()
            assert message == "x"
            np.testing.assert_array_equal(a, array)
            np.testing.assert_array_equal(b, array[::-1])
            assert not a.flags.writeable
        sender.close()
        with pytest.raises(EOFError):
            receiver.receive()
        receiver.close()

    @pytest.mark.parametrize(
        "described",
        [
            [["<f4", [2**40], 0]],
            [["<f4", [4], 2**40]],
            [["<f4", [-1], 0]],
            [["|O", [1], 0]],
            [["<f4", [True], 0]],
            [["<f4", 4, 0]],
            ["<f4"],
            7,
        ],
    )
    def test_impossible_arrays(self, described):
        import json

        one, other = socket.socketpair(socket.AF_UNIX)
        sender, receiver = Connection(one), Connection(other)
        real = json.dumps
        sender.send(None, [])
        receiver.receive()
        text = real({"message": None, "arrays": described}).encode()
        from mosaicmem.diffusion.remote.connection import _LENGTH

        one.sendall(_LENGTH.pack(len(text), 4096, False) + text)
        with pytest.raises(ProtocolError, match="no message"):
            receiver.receive()
        sender.close()
        receiver.close()

    def test_other_types_are_refused(self):
        for other in ({"a": 1}, object(), b"text", np.array(["a"])):
            with pytest.raises(TypeError, match="value: expected"):
                encode(other, [])
        for wrong in ({"is": "os.system"}, {"is": "array", "at": 3}, {}, {"is": "MemoryContext", "fields": {"x": 1}}):
            with pytest.raises(ValueError, match="not a value of the protocol"):
                decode(wrong, [])

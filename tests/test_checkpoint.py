"""A run that is killed at any moment resumes from its last window and gives the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraTrajectory,
    PipelineConfig,
    StoreLockedError,
    SuspiciousInput,
    SyntheticBackbone,
    WindowError,
)
from mosaicmem.pipeline import Checkpoint
from mosaicmem.pipeline import checkpoint as module
from scene_helpers import observed

SETTINGS = {
    "window_size": 4,
    "window_overlap": 1,
    "num_inference_steps": 2,
    "keyframe_interval": 1,
    "keyframe_translation": 0.05,
    "remember": "all",
}


@pytest.fixture(scope="module")
def loop(world, small_camera):
    return world.leave_and_return(small_camera, 16)


@pytest.fixture(scope="module")
def straight(world, loop):
    """A run without a checkpoint."""
    return start(world, loop).generate(loop)


def start(world, loop, **changes):
    return observed(world, PipelineConfig(**{**SETTINGS, **changes}), loop, range(3))


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class TestResume:
    def test_a_checkpoint_changes_nothing(self, world, loop, straight, tmp_path):
        pipeline = start(world, loop)
        result = pipeline.generate(loop, checkpoint=tmp_path / "run")
        np.testing.assert_array_equal(result.frames, straight.frames)
        assert Checkpoint(tmp_path / "run").windows == len(result.windows) == 5

    def test_an_ended_run_is_brought_back_whole(self, world, loop, straight, tmp_path):
        start(world, loop).generate(loop, checkpoint=tmp_path / "run")
        replayed = []

        class Fails(SyntheticBackbone):
            def predict(self, sample, timestep, context):
                raise AssertionError("nothing is left to compute")

        pipeline = start(world, loop)
        fails = Fails(pipeline.scheduler)
        fails.__class__.__name__ = "SyntheticBackbone"
        pipeline.backbone = fails
        result = pipeline.generate(loop, checkpoint=tmp_path / "run", on_window=replayed.append)
        np.testing.assert_array_equal(result.frames, straight.frames)
        assert [w.statistics.window for w in replayed] == list(range(5))
        assert replayed[0].context.coverage.any()
        assert len(pipeline.store) == result.windows[-1].store_patches

    @pytest.mark.parametrize("where", ["run.json", "window", "before the store", "after the store"])
    @pytest.mark.parametrize("index", [0, 2])
    def test_stopped_between_any_two_writes(self, world, loop, straight, tmp_path, monkeypatch, where, index):
        write_json, keep_store, replace = module.write_json, Checkpoint._keep_store, os.replace

        def die_at_run(path, value):
            raise Killed

        def die_at_window(source, target):
            if Path(target).name.startswith("attachment-") and Checkpoint(tmp_path / "run").windows == index:
                raise Killed
            replace(source, target)

        def die_at_store(self, store, attachment=None):
            is_it = attachment is not None and self.windows == index
            if is_it and where == "before the store":
                raise Killed
            store = keep_store(self, store, attachment)
            if is_it:
                raise Killed
            return store

        if where == "run.json":
            monkeypatch.setattr(module, "write_json", die_at_run)
        elif where == "window":
            monkeypatch.setattr(os, "replace", die_at_window)
        else:
            monkeypatch.setattr(Checkpoint, "_keep_store", die_at_store)
        pipeline = start(world, loop)
        with pytest.raises(Killed):
            pipeline.generate(loop, checkpoint=tmp_path / "run")
        pipeline.store.close()  # as the end of a process would
        monkeypatch.undo()
        assert write_json is module.write_json
        expected = None if where == "run.json" else index + (where == "after the store")
        assert Checkpoint(tmp_path / "run").windows == expected
        result = start(world, loop).generate(loop, checkpoint=tmp_path / "run")
        np.testing.assert_array_equal(result.frames, straight.frames)

    def test_a_failed_window_can_be_tried_again(self, world, loop, straight, tmp_path):
        class FailsOnce(SyntheticBackbone):
            def predict(self, sample, timestep, context):
                if context.window == 3:
                    raise RuntimeError("out of memory")
                return super().predict(sample, timestep, context)

        pipeline = start(world, loop)
        FailsOnce.__name__ = "SyntheticBackbone"
        pipeline.backbone = FailsOnce(pipeline.scheduler)
        with pytest.raises(WindowError, match="window 3"):
            pipeline.generate(loop, checkpoint=tmp_path / "run")
        assert Checkpoint(tmp_path / "run").windows == 3
        pipeline.backbone = SyntheticBackbone(pipeline.scheduler)
        np.testing.assert_array_equal(pipeline.generate(loop, checkpoint=tmp_path / "run").frames, straight.frames)

    @pytest.mark.parametrize("eviction", ["oldest", "redundant"])
    def test_a_bounded_memory(self, world, loop, tmp_path, eviction):
        """After a resume, evicted patches stay evicted and the next evictions are the same."""
        limits = {"max_patches": 60, "eviction": eviction}
        whole = start(world, loop, **limits).generate(loop, checkpoint=tmp_path / "whole")
        for _ in range(5):  # one window at a time, as if each ran in a process of its own
            pipeline = start(world, loop, **limits)
            stream = pipeline.stream(loop, checkpoint=tmp_path / "parts")
            kept = Checkpoint(tmp_path / "parts").windows or 0
            for window in stream:
                if window.statistics.window == kept:
                    break
            stream.close()
            pipeline.store.close()
        result = start(world, loop, **limits).generate(loop, checkpoint=tmp_path / "parts")
        np.testing.assert_array_equal(result.frames, whole.frames)

    def test_sizes_that_are_padded(self, world, loop, tmp_path):
        odd = CameraTrajectory(loop.poses, replace(loop.intrinsics, width=77, height=45))
        first = start(world, odd).generate(odd, checkpoint=tmp_path / "run")
        again = start(world, odd).generate(odd, checkpoint=tmp_path / "run")
        assert again.frames.shape == (16, 45, 77, 3)
        np.testing.assert_array_equal(again.frames, first.frames)


# The process counts its calls and kills itself at one of them, so that the load on the machine changes nothing.
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import numpy as np
from mosaicmem import CameraIntrinsics, PipelineConfig, SyntheticWorld
from scene_helpers import observed
from test_checkpoint import SETTINGS
last, calls = sys.argv[1], int(sys.argv[2])
world = SyntheticWorld(0)
loop = world.leave_and_return(CameraIntrinsics.from_fov(80, 48, fov_x=np.radians(70)), 16)
pipeline = observed(world, PipelineConfig(**SETTINGS), loop, range(3))
def count(frame, event, argument):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
replace = os.replace
def replace_and_count(source, target):
    replace(source, target)
    if last == "window" and "attachment-" in str(target):
        sys.setprofile(count)
os.replace = replace_and_count
if last == "start":
    sys.setprofile(count)
np.save({output!r}, pipeline.generate(loop, checkpoint={folder!r}).frames)
"""


def test_killed_again_and_again(straight, tmp_path):
    """SIGKILL a random number of calls after the start, or after a window of an attempt; the last attempt finishes."""
    rng, kills = random.Random(0), 0
    output, folder = tmp_path / "v.npy", tmp_path / "run"
    script = SCRIPT.format(tests=str(Path(__file__).parent), output=str(output), folder=str(folder))
    for last in ("start", *4 * ["window"], "never"):
        code = subprocess.run([sys.executable, "-c", script, last, str(rng.randrange(1, 3000))]).returncode
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert kills >= 4
    np.testing.assert_array_equal(np.load(output), straight.frames)


class TestOtherRuns:
    def test_a_setting_that_came_later_has_its_default(self, world, loop, straight, tmp_path, monkeypatch):
        """A run begun by a version that had no strategies."""
        with monkeypatch.context() as before:
            dump = PipelineConfig.model_dump
            before.setattr(
                PipelineConfig,
                "model_dump",
                lambda self, **options: {k: v for k, v in dump(self, **options).items() if k != "strategy"},
            )
            next(start(world, loop).stream(loop, checkpoint=tmp_path / "run"))
            assert "strategy" not in (tmp_path / "run" / module.RUN).read_text()
        with pytest.raises(ValueError, match='strategy was "visible_coverage", now it is "top_k"'):
            start(world, loop, strategy="top_k").generate(loop, checkpoint=tmp_path / "run")
        result = start(world, loop).generate(loop, checkpoint=tmp_path / "run")
        np.testing.assert_array_equal(result.frames, straight.frames)

    def test_a_run_begun_with_the_far_of_before_resumes_without_a_limit(self, world, loop, straight, tmp_path):
        stream = start(world, loop, far=100.0).stream(loop, checkpoint=tmp_path / "run")
        next(stream)
        stream.close()
        with pytest.warns(SuspiciousInput, match="far: the run in .* was begun with far = 100, the default at that"):
            result = start(world, loop).generate(loop, checkpoint=tmp_path / "run")
        np.testing.assert_array_equal(result.frames, straight.frames)
        with pytest.raises(ValueError, match="far"):
            start(world, loop, far=50.0).generate(loop, checkpoint=tmp_path / "run")

    def test_a_config_that_differs_is_named(self, world, loop, tmp_path):
        start(world, loop).generate(loop[:5], checkpoint=tmp_path / "run")
        with pytest.raises(ValueError, match="of another run: seed was 0, now it is 4; window_size was 4, now it is 5"):
            start(world, loop, seed=4, window_size=5).generate(loop[:5], checkpoint=tmp_path / "run")
        with pytest.raises(ValueError, match="the trajectory was another"):
            start(world, loop).generate(loop[:6], checkpoint=tmp_path / "run")
        start(world, loop).generate(loop, checkpoint=Checkpoint(tmp_path / "other", {"scene": "a"}))
        with pytest.raises(ValueError, match='scene was "a", now it is "b"'):
            start(world, loop).generate(loop, checkpoint=Checkpoint(tmp_path / "other", {"scene": "b"}))
        start(world, loop, num_threads=1).generate(loop[:5], checkpoint=tmp_path / "run")  # changes no result

    def test_parts_that_differ_are_named(self, world, loop, tmp_path):
        start(world, loop).generate(loop[:5], checkpoint=tmp_path / "run")
        with pytest.raises(ValueError, match='depth_estimator was "SyntheticDepthEstimator", now it is "DepthCompl'):
            AutoregressivePipeline(PipelineConfig(**SETTINGS)).generate(loop[:5], checkpoint=tmp_path / "run")

    def test_a_second_run_at_once_is_refused_and_harms_nothing(self, world, loop, straight, tmp_path):
        stream = start(world, loop).stream(loop, checkpoint=tmp_path / "run")
        windows = [next(stream)]
        with pytest.raises(StoreLockedError, match="checkpoint: another run continues in"):
            start(world, loop, seed=3).generate(loop, checkpoint=tmp_path / "run")
        windows += stream
        np.testing.assert_array_equal(np.concatenate([w.final_video for w in windows]), straight.frames)

    def test_a_run_json_of_others_is_left_alone(self, world, loop, tmp_path):
        (tmp_path / "run.json").write_text('{"my": "experiment"}')
        with pytest.raises(FileExistsError, match=r"run\.json is no run of mosaicmem: it is left alone"):
            start(world, loop).generate(loop, checkpoint=tmp_path)
        assert (tmp_path / "run.json").read_text() == '{"my": "experiment"}'

    def test_a_run_without_its_store_is_still_that_run(self, world, loop, tmp_path):
        start(world, loop).generate(loop[:5], checkpoint=tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "store")
        with pytest.raises(ValueError, match="of another run: seed was 0, now it is 4"):
            start(world, loop, seed=4).generate(loop[:5], checkpoint=tmp_path / "run")

    def test_other_folders_are_left_alone(self, loop, tmp_path):
        (tmp_path / "letters").write_text("dear")
        with pytest.raises(FileExistsError, match=r"expected a new or empty folder, .* which has no run\.json"):
            AutoregressivePipeline().generate(loop, checkpoint=tmp_path)
        with pytest.raises(FileExistsError, match="expected a folder, got a file"):
            AutoregressivePipeline().generate(loop, checkpoint=tmp_path / "letters")
        with pytest.raises(TypeError, match="checkpoint: expected a path or Checkpoint, got int"):
            AutoregressivePipeline().generate(loop, checkpoint=3)
        assert (tmp_path / "letters").read_text() == "dear"

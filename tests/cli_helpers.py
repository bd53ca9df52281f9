"""The command line as people run it, for tests."""

import contextlib
import io
import json
import os
import subprocess
import sys

import av

from mosaicmem import CameraTrajectory, PipelineConfig, PointCloud


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", "from mosaicmem.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def invoke(*arguments, cwd=None):
    """The same without a process of its own, which is faster: for commands that fail early or do little."""
    from mosaicmem.cli import app

    before, code = os.getcwd(), 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        os.chdir(cwd or before)
        try:
            app([str(a) for a in arguments], prog_name="mosaicmem")
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def succeed(*arguments, cwd=None):
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def check_outputs(folder, count):
    names = {p.name for p in folder.iterdir()}
    assert {"frames", "video.mp4", "scene.ply", "trajectory.json", "config.json", "summary.json"} <= names
    frames = sorted((folder / "frames").iterdir())
    assert len(frames) == count
    with av.open(str(folder / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == count
    assert len(CameraTrajectory.load(folder / "trajectory.json")) == count
    PipelineConfig.load(folder / "config.json")
    assert len(PointCloud.load_ply(folder / "scene.ply")) > 1000
    return json.loads((folder / "summary.json").read_text()), frames

"""Helpers that run the command line as a user does."""

import contextlib
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import warnings

import av

from mosaicmem import CameraTrajectory, PipelineConfig, PointCloud
from mosaicmem.cli import app
from mosaicmem.cli._terminal import show_warnings


def run(*arguments, cwd=None):
    """Run a command in this process: importing everything takes longer than most commands."""
    before, code = os.getcwd(), 0
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        warnings.catch_warnings(),
    ):
        os.chdir(cwd or before)
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # Python's default filters
        show_warnings()
        try:
            app([str(a) for a in arguments], prog_name="mosaicmem")
        except SystemExit as end:
            code = end.code or 0
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def succeed(*arguments, cwd=None):
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


class Terminal:
    """A command that runs in a terminal of its own.

    Parameters
    ----------
    arguments
        Arguments of the command.
    code : str, optional
        Python to run instead.
    columns : int
        Width of the terminal.
    stderr : optional
        Where standard error goes, if not to the terminal.
    """

    def __init__(self, *arguments, code="from mosaicmem.cli import main; main()", columns=60, cwd=None, stderr=None):
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if stderr is None else stderr,
            cwd=cwd,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, word):
        """Read until the terminal shows a word."""
        while word not in self.text and self._read():
            pass
        assert word in self.text

    def read(self):
        """Read until the process has ended; return the text that this call read."""
        before = len(self.text)
        while self._read():
            pass
        self.process.wait(timeout=60)
        os.close(self._own)
        return self.text[before:]

    def _read(self):
        try:
            content = os.read(self._own, 65536)
        except OSError:  # the process has closed its end
            return False
        self.text += content.decode(errors="replace")
        return bool(content)


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

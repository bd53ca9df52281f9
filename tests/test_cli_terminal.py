"""The command line in a terminal: signals, progress, warnings, narrow windows. Each test has a terminal of its own."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cli_helpers import Terminal, run
from mosaicmem import AutoregressivePipeline, PipelineConfig
from mosaicmem.cli import _common, _tables
from mosaicmem.cli._terminal import WindowBar, progress_bar
from scene_helpers import observed

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
    def test_the_cursor_is_there_afterwards(self, tmp_path, number):
        if signal.getsignal(number) == signal.SIG_IGN:
            pytest.skip("these tests run under nohup, which commands respect")
        terminal = Terminal("demo", "-o", tmp_path / "out")
        terminal.read_until("Observing")
        terminal.process.send_signal(number)
        shown = terminal.read()
        assert terminal.process.returncode == -number  # a shell says 130 for SIGINT
        assert SHOW in shown
        assert HIDE not in terminal.text  # never hidden, so that not even SIGKILL can leave it hidden
        assert "no unfinished output is left" in shown
        assert "checkpoint" not in shown
        assert not list(tmp_path.iterdir())

    def test_a_checkpoint_is_named_where_there_is_one(self, tmp_path, scene):
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:4", "--frames", "4:12", "-o", "out"]
        arguments += ["--set", "window_size=2", "--set", "window_overlap=1", "--set", "num_inference_steps=200"]
        terminal = Terminal(*arguments, "--checkpoint", "kept", cwd=tmp_path)
        while not list(tmp_path.glob("kept/store/attachment-*.safetensors")) and terminal.process.poll() is None:
            time.sleep(0.005)
        terminal.process.send_signal(signal.SIGINT)
        assert "the same command resumes from the checkpoint in kept" in " ".join(terminal.read().split())
        assert terminal.process.returncode == -signal.SIGINT

    def test_none_is_named_before_a_window_is_kept(self, tmp_path, monkeypatch):
        written = []
        monkeypatch.setattr(_common, "_checkpoints", [tmp_path])
        monkeypatch.setattr(os, "write", lambda descriptor, text: written.append(text))
        monkeypatch.setattr(os, "kill", lambda *process: None)
        monkeypatch.setattr(signal, "signal", lambda *handler: None)
        _common.end_on_signal(signal.SIGINT, None)
        assert written[-1] == b"mosaicmem: interrupted\n"
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "attachment-00000003-01234567.safetensors").touch()
        _common.end_on_signal(signal.SIGINT, None)
        assert b"resumes from the checkpoint" in written[-1]

    def test_nohup_is_respected(self, tmp_path):
        code = """
            import os, signal
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            import mosaicmem.cli as cli
            cli.app = lambda **names: os.kill(os.getpid(), signal.SIGHUP)
            cli.main()
            print("still there")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
        )
        assert done.stdout == "still there\n"


class TestProgress:
    def test_each_denoising_step_is_reported(self, world, small_camera):
        config = PipelineConfig(window_size=4, window_overlap=1, num_inference_steps=3)
        path = world.leave_and_return(small_camera, 7)
        pipeline = observed(world, config, path, [0])
        steps = []
        pipeline.generate(path, on_step=lambda *step: steps.append(step))
        assert steps == [(window, done, 3) for window in (0, 1) for done in (1, 2, 3)]

    def test_a_bar_moves_within_a_window_and_over_runs(self, world, small_camera):
        path = world.leave_and_return(small_camera, 4)
        pipeline = AutoregressivePipeline(PipelineConfig(window_size=4, window_overlap=1, num_inference_steps=4))
        reached = []
        with progress_bar() as progress:
            bar = WindowBar(progress, "Generating", windows=1, runs=2)

            def step(*each):
                bar.on_step(*each)
                reached.append(progress.tasks[0].percentage)

            for _ in range(2):
                pipeline.generate(path, on_window=bar.on_window, on_step=step)
        assert reached == [12.5, 25, 37.5, 50, 62.5, 75, 87.5, 100]


def script(*lines):
    """Code that imports the progress bar and the warnings of the command line, followed by ``lines``."""
    code = ["from mosaicmem.cli._terminal import progress_bar, warn, show_warnings", "import time, warnings", *lines]
    return "\n".join(code)


class TestWarnings:
    BELOW_A_BAR = script(
        "show_warnings()",
        "with progress_bar() as progress:",
        "    for i in progress.track(range(3), description='Working'):",
        "        warnings.warn('two\\nlines that are longer than a narrow window ' + 8 * 'is wide, ')",
        "        warn('said once')",
        "        time.sleep(0.15)",
    )

    def test_above_the_bar_and_once(self):
        terminal = Terminal(code=self.BELOW_A_BAR)
        terminal.read()
        lines = [re.sub(r".*\r|\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in terminal.text.split("\r\n")]
        said = [line for line in lines if "warning" in line]
        assert said[0].startswith("mosaicmem: warning: two lines that are longer than a narrow window is wide")
        assert said[1:] == ["mosaicmem: warning: said once"]
        assert not any("━" in line for line in said)

    def test_on_standard_error_where_that_goes_elsewhere(self):
        terminal = Terminal(code=self.BELOW_A_BAR, stderr=subprocess.PIPE)
        _, errors = terminal.process.communicate(timeout=60)
        assert [line.split(": ")[1] for line in errors.decode().splitlines()] == ["warning", "warning"]

    def test_before_the_bar(self, tmp_path, scene):
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "6:9"]
        terminal = Terminal(*arguments, "-o", tmp_path / "out", columns=200)
        terminal.read()
        assert terminal.text.count("warning: 2 of 3 target frames are remembered too") == 1
        assert terminal.text.index("warning:") < terminal.text.index("━")


class TestNarrow:
    """In sixty columns, nothing is truncated and no number is separated from its unit."""

    def check(self, *arguments, cwd=None, columns=60):
        terminal = Terminal(*arguments, cwd=cwd, columns=columns)
        terminal.read()
        assert terminal.process.returncode == 0, terminal.text
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text.split("\x1b[2K")[-1]).replace("\r\n", "\n")
        assert "…" not in shown
        return shown

    def test_figures_are_those_of_a_wide_one(self, memory):
        arguments = ["inspect", memory / "store", "--trajectory", memory / "path.json", "--coverage"]
        wide = run(*arguments).stdout
        narrow = self.check(*arguments)
        assert narrow.split() == wide.split()

    def test_tables_that_find_no_room_become_blocks(self, scene):
        arguments = ["evaluate", "--scene", scene, "--memory-frames", "0:4", "--frames", "8:10", "--stride", "8"]
        shown = self.check(*arguments, "--repeats", 1)
        assert max(map(len, shown.splitlines())) <= 60
        assert re.search(r"\n  cover %    [0-9.]+\n  own PSNR   [0-9.]+\n", shown)
        assert re.search(r"memory +PSNR", run(*arguments).stdout)  # in a pipe, it stays a table

    def test_a_figure_keeps_its_unit(self):
        lines = _tables._wrapped("Coming back: 21.99 dB with memory, 14.79 dB without (+7.20 dB), covered 98.8 %.", 18)
        figures = ["21.99 dB with", "memory, 14.79 dB", "without", "(+7.20 dB),", "covered 98.8 %."]
        assert lines == ["Coming back:", *figures]
        assert _tables._wrapped("a /path/longer/than/the/window", 10) == ["a", "/path/longer/than/the/window"]

    def test_progress_shows_how_far_it_is(self, tmp_path, scene):
        terminal = Terminal("export-ply", "--scene", scene, "-o", tmp_path / "a.ply", columns=40)
        terminal.read()
        bars = [part for part in re.split(r"\r|\n", terminal.text) if "━" in part]
        assert bars
        assert all(re.search(r"[0-9]%", bar) for bar in bars)
        assert max(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", bar)) for bar in bars) <= 40

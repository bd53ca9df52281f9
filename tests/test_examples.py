"""The examples run, and show what they say they show. Skipped where torch or matplotlib is absent."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
EXAMPLES = Path(__file__).parents[1] / "examples"


def test_alignment_helps_a_transformer_to_use_memory(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curves.png"
    command = [sys.executable, EXAMPLES / "train_memory_attention.py", "--steps", "60", "--samples", "4"]
    run = subprocess.run([*command, "--plot", plot], capture_output=True, text=True, check=True, timeout=300)
    aligned, plain = (float(loss) for loss in re.findall(r": (\d\.\d+)", run.stdout.splitlines()[-1]))
    assert aligned < 0.9 * plain < 0.9, run.stdout
    assert plot.stat().st_size > 10_000

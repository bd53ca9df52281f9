"""The examples run and show what they promise. Skipped where a package that they need is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, *arguments):
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_come_back(tmp_path):
    """After a stop and a resume, the last view shows the first one again."""
    printed = run_example("come_back.py", "--output", tmp_path)
    assert "window 1: a flat by day\nwindow 2: a flat at night" in printed
    assert float(re.search(r"first again: (\d+\.\d) dB", printed)[1]) > 22
    assert (tmp_path / "video.mp4").stat().st_size > 10_000


def test_draw_a_memory(tmp_path):
    pytest.importorskip("matplotlib")
    printed = run_example("draw_a_memory.py", "--output", tmp_path)
    assert int(re.match(r"(\d+) patches of the table moved", printed)[1]) > 20
    names = {p.name for p in tmp_path.iterdir() if p.stat().st_size > 5_000}
    assert names == {"from-above.png", "coverage.png", "view.png", "view-with-the-table-moved.png"}


def test_photos_to_memory(tmp_path, monkeypatch):
    """The notebook runs from its first cell to its last, and what memory shows is like the photo."""
    for package in ("nbclient", "ipykernel", "pycolmap", "matplotlib", "viser"):
        pytest.importorskip(package)
    import nbclient
    import nbformat

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "photos_to_memory.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output
    )
    assert "20 photos" in printed
    assert "frames placed; unit: scene units" in printed
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in data for data in shown) == 3
    assert any("<iframe" in data.get("text/html", "") for data in shown)
    (picture,) = tmp_path.glob("*/memory.png")
    assert picture.stat().st_size > 20_000


@pytest.mark.torch
def test_plug_in_a_model():
    pytest.importorskip("torch")
    printed = run_example("plug_in_a_model.py").splitlines()
    assert len(printed) == 2
    assert int(re.search(r"(\d+) memory tokens", printed[0])[1]) > 100


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "scheduler", "dtype"), [("t2v", "unipc", "bfloat16"), ("ti2v", "euler", "float32")])
def test_wan_memory(kind, scheduler, dtype):
    pytest.importorskip("diffusers")
    options = ("--kind", kind, "--scheduler", scheduler, "--dtype", dtype)
    first, *windows = run_example("wan_memory.py", *options).splitlines()
    assert first == "one window: (9, 64, 128, 3)"
    assert len(windows) == 2
    assert all(int(re.search(r"(\d+) memory tokens", line)[1]) > 20 for line in windows)


def test_wan_memory_is_short():
    """What a user writes: all that follows the arguments of the example."""
    code = (EXAMPLES / "wan_memory.py").read_text().partition("parse_args()\n")[2].splitlines()
    assert len([line for line in code if line.strip() and not line.startswith("#")]) <= 40


@pytest.mark.torch
def test_alignment_helps_a_transformer_to_use_memory(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curves.png"
    command = [sys.executable, EXAMPLES / "train_memory_attention.py", "--steps", "60", "--samples", "4"]
    run = subprocess.run([*command, "--plot", plot], capture_output=True, text=True, check=True)
    aligned, plain = (float(loss) for loss in re.findall(r": (\d\.\d+)", run.stdout.splitlines()[-1]))
    assert aligned < 0.9 * plain < 0.9, run.stdout
    assert plot.stat().st_size > 10_000


@pytest.mark.torch
def test_finetune_wan(tmp_path):
    """A few steps on tiny weights; what is saved loads again."""
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    from mosaicmem.models import MemoryHandle

    printed = run_example("finetune_wan.py", "--steps", "3", "--output", tmp_path, "--cache", tmp_path / "cache")
    assert re.findall(r"step (\d): loss \d", printed) == ["1", "2", "3"]
    sys.path.insert(0, str(EXAMPLES))
    from tiny_wan import tiny_wan

    pipe = tiny_wan()
    pipe.load_lora_weights(tmp_path)
    gates = [MemoryHandle.load(pipe.transformer, tmp_path / mode) for mode in ("kv", "canvas")]
    assert any(parameter.abs().max() > 0 for handle in gates for parameter in handle.parameters())
    assert isinstance(pipe, diffusers.WanPipeline)


@pytest.mark.torch
def test_finetune_ti2v_in_two_processes(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    arguments = ("--kind", "ti2v", "--size", "128", "64", "--window", "5", "--steps", "2", "--checkpointing")
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", EXAMPLES / "finetune_wan.py"]
    run = {"capture_output": True, "text": True, "check": True, "env": {**os.environ, "ACCELERATE_USE_CPU": "true"}}
    printed = subprocess.run([*two, *arguments, "--precision", "bf16", "--output", tmp_path], **run).stdout
    assert re.findall(r"step (\d): loss \d", printed) == ["1", "2"]  # one process prints
    assert {"kv", "canvas"} < {path.name for path in tmp_path.iterdir()}


@pytest.mark.torch
def test_train_world_model(tmp_path):
    """Seconds of training show that it runs, not that it remembers."""
    pytest.importorskip("diffusers")
    arguments = ("--minutes", "0.1", "--rooms", "1", "--frames", "12", "--steps", "2", "--seeds", "1")
    printed = run_example("train_world_model.py", *arguments, "--output", tmp_path)
    assert re.search(r"PSNR on return: [+-]\d+\.\d+ dB by memory", printed)
    assert (tmp_path / "scores.json").is_file()

"""Are the GPU figures in BENCHMARKS.md those of the current kernels? If not, the test skips and says so."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "cuda"


def source_hash(*folder):
    spec = importlib.util.spec_from_file_location("source_hash", BENCH / "source_hash.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.source_hash(*folder)


def test_figures_are_of_these_sources():
    measured = BENCH / "measured.json"
    if not measured.exists():
        pytest.skip("the CUDA kernels have not been measured on a GPU yet: python bench/cuda/run.py")
    if json.loads(measured.read_text())["sources"] != source_hash():
        pytest.skip("cuda/ has changed since its figures were measured: python bench/cuda/run.py")


def test_the_hash_is_of_names_and_contents(tmp_path):
    hashes = set()
    for name, content in (("a.cu", "1"), ("a.cu", "2"), ("b.cu", "2")):
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / name).write_text(content)
        hashes.add(source_hash(tmp_path))
    assert len(hashes) == 3
    assert source_hash() == source_hash()

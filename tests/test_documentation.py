"""The Python in the documentation runs as it stands, and what the pages name is there."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/in-python.md"])
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    assert len(blocks(page)) >= 2
    for block in blocks(page):
        if "import torch" in block:
            pytest.importorskip("torch")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, page, "exec"), names)


def test_commands_are_those_that_there_are():
    from mosaicmem.cli import app

    commands = {info.name or info.callback.__name__ for info in app.registered_commands}
    table = set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/command-line.md").read_text(), re.MULTILINE))
    assert table == commands


def test_links_and_files_are_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for name in re.findall(r"`(\w+\.py)`", (ROOT / "README.md").read_text()):
        assert (ROOT / "examples" / name).exists()

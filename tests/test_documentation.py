"""The Python in the documentation runs as it stands, and the files and commands that the pages name exist."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/in-python.md"])
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    assert len(blocks(page)) >= 2
    again = [block for block in blocks(page) if ".save(" in block]  # a reader may run it again in the same folder
    for block in [*blocks(page), *again]:
        if "import torch" in block:
            pytest.importorskip("torch")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, page, "exec"), names)


def documented_commands():
    """Each `mosaicmem` command of the pages, as a list of words."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for block in blocks(page.relative_to(ROOT), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True)
                    if words[:1] == ["mosaicmem"]:
                        yield words[1:]


def test_documented_commands_can_be_run_again():
    from mosaicmem.cli import app

    commands = list(documented_commands())
    assert len(commands) >= 10
    group = typer.main.get_command(app)
    for words in commands:
        command = group.commands[words[0]]
        words = words[: words.index(">")] if ">" in words else words
        values = command.make_context(words[0], words[1:]).params  # fails if an option does not exist
        writes = values.get("output") or values.get("target") if words[0] != "inspect" else None
        assert not writes or words[0] == "build" or values["force"], words  # a build resumes


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

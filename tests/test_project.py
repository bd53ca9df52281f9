"""The scripts of CI that look at what the project declares and depends on."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CI = ROOT / ".ci"
pytestmark = pytest.mark.skipif(not CI.is_dir(), reason="not a checkout")


@pytest.fixture(scope="module")
def licences():
    pytest.importorskip("packaging")
    spec = importlib.util.spec_from_file_location("licences", CI / "licences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("licence", "permitted"),
    [
        ("MIT", True),
        ("ISC License (ISCL)", True),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("Apache-2.0 OR GPL-2.0-only", True),
        ("GPL-3.0-or-later", False),
        ("GNU General Public License v3 or later (GPLv3+)", False),
        ("LGPL-2.1", False),
        ("MIT AND LGPL-3.0-only", False),
        ("MPL-2.0", False),
        ("unknown", False),
        ("Permission is limited", False),
    ],
)
def test_licences_are_judged(licences, licence, permitted):
    assert licences.permits(licence) == permitted


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ("License-Expression: MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("License: see file\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: GPLv3\nClassifier: License :: OSI Approved", "GPLv3"),
        ("Summary: nothing said", "unknown"),
    ],
)
def test_where_licences_are_found(licences, tmp_path, headers, licence):
    folder = tmp_path / "a-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a\nVersion: 1.0\n{headers}\n")
    assert licences.licence_of(licences.Distribution.at(folder)) == licence


def test_every_dependency_declares_its_lowest_version():
    command = [sys.executable, CI / "requirements.py", "lowest", "test", "plot", "depth", "evaluate", "torch"]
    if sys.version_info < (3, 11):
        pytest.importorskip("pip._vendor.tomli")
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) > 15
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = {line.partition("==")[0] for line in lines}
    assert {"numpy", "pydantic", "typer", "pytest", "onnxruntime", "torch"} <= names

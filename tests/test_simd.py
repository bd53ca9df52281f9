"""Which vector instructions the kernels use."""

import os
import subprocess
import sys

import pytest

from mosaicmem import _core


@pytest.mark.parametrize(("name", "wanted"), [("portable", "portable"), ("", None)])
def test_vector_instructions_by_environment(name, wanted):
    command = [sys.executable, "-c", "from mosaicmem import _core; print(_core.simd_level().name)"]
    ended = subprocess.run(command, env={**os.environ, "MOSAICMEM_SIMD": name}, capture_output=True, text=True)
    assert ended.stdout.strip() == (wanted or _core.simd_level().name)


def test_unknown_vector_instructions():
    command = [sys.executable, "-c", "import mosaicmem"]
    ended = subprocess.run(command, env={**os.environ, "MOSAICMEM_SIMD": "sse9"}, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "MOSAICMEM_SIMD: expected one of portable, avx2, avx512, avx512_bf16, avx512_amx, got 'sse9'" in ended.stderr

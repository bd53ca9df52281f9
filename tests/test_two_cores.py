"""The core of the host and that of a device: what both have, both have with the same parameters."""

import re

import pytest

from mosaicmem import _core

STATELESS = [
    "attention",
    "bilinear_sample",
    "bilinear_sample_adjoint",
    "count_valid",
    "median_depth_grid",
    "merge_attention",
    "prope_apply",
    "reproject_grid",
    "rope_apply",
    "rope_table",
    "splat",
    "splat_adjoint",
    "unproject_dense",
    "unproject_valid",
]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not hasattr(_core, "cuda"), reason="built without CUDA"),
]


def parameters(function):
    """Names of the parameters, from the signature that pybind11 writes into the docstring; overloads have the same."""
    signatures = re.findall(rf"{function.__name__}\((.*)\) -> ", function.__doc__)
    names = {tuple(re.findall(r"(\w+): ", re.sub(r"\[.*?\]", "", each))) for each in signatures}
    assert len(names) == 1
    return names.pop()


@pytest.mark.parametrize("name", STATELESS)
def test_one_signature(name):
    *host, threads = parameters(getattr(_core, name))
    *device, execution = parameters(getattr(_core.cuda, name))
    assert host == device
    assert (threads, execution) == ("num_threads", "execution")


def test_every_operator_that_both_have_is_listed():
    both = {name for name in dir(_core) if callable(getattr(_core, name)) and hasattr(_core.cuda, name)}
    assert {name for name in both if not name.startswith("__") and name[0].islower()} == set(STATELESS)

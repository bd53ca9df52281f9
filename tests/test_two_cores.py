"""The host core and the CUDA core: functions that both have take the same parameters."""

import re

import pytest

from mosaicmem import _core

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not hasattr(_core, "cuda"), reason="built without CUDA"),
]


def operators(core):
    return {name for name in dir(core) if name[0].islower() and callable(getattr(core, name))}


def parameters(function):
    """Names of the parameters, from the signature that pybind11 writes into the docstring; overloads have the same."""
    signatures = re.findall(rf"{function.__name__}\((.*)\) -> ", function.__doc__)
    names = {tuple(re.findall(r"(\w+): ", re.sub(r"\[.*?\]", "", each))) for each in signatures}
    assert len(names) == 1
    return names.pop()


@pytest.mark.parametrize("name", sorted(operators(_core) & operators(getattr(_core, "cuda", None))))
def test_one_signature(name):
    *host, threads = parameters(getattr(_core, name))
    *device, execution = parameters(getattr(_core.cuda, name))
    assert host == device
    assert (threads, execution) == ("num_threads", "execution")


def test_operators_are_found():
    both = operators(_core) & operators(_core.cuda)
    assert {"attention", "bilinear_sample", "prope_apply", "splat", "splat_adjoint", "unproject_valid"} <= both

"""Attention on tensors that require gradients: the kernel's numbers, and the right gradients."""

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import PRoPE, WarpedRoPE
from mosaicmem.attention import attention, merge_attention

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

B, HEADS, QUERIES, KEYS, DIM, WIDTH = 2, 4, 5, 7, 16, 6


def inputs(rng, dtype=torch.float32, key_heads=HEADS, keys=KEYS):
    shapes = (B, HEADS, QUERIES, DIM), (B, key_heads, keys, DIM), (B, key_heads, keys, WIDTH)
    return [torch.from_numpy(rng.standard_normal(shape)).to(dtype) for shape in shapes]


def options(rng, which):
    mask = rng.random((B, KEYS)) < 0.6
    mask[1] = False  # all keys are masked
    bias = rng.standard_normal((B, KEYS)).astype(np.float32)
    bias[0, 2] = -np.inf
    positions = rng.uniform(0, 9, (QUERIES + KEYS, 3))
    rope = WarpedRoPE(DIM, pairing="split_half")
    return {
        "nothing": {},
        "scale": {"scale": 0.3},
        "mask": {"mask": mask},
        "tensor mask": {"mask": torch.from_numpy(mask)},
        "bias": {"bias": bias},
        "decay": {"query_time": rng.uniform(0, 9, QUERIES), "key_time": rng.uniform(0, 9, KEYS), "half_life": 2.0},
        "rope": {
            "query_table": rope.table(positions[:QUERIES]),
            "key_table": rope.table(positions[QUERIES:]),
            "pairing": "split_half",
        },
    }[which]


WHICH = ("nothing", "scale", "mask", "tensor mask", "bias", "decay", "rope")


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key_heads", [HEADS, 2, 1])
def test_the_numbers_are_those_of_the_kernel(rng, which, dtype, key_heads):
    q, k, v = inputs(rng, dtype, key_heads)
    given = options(rng, which)
    expected, expected_lse = attention(q, k, v, return_lse=True, **given)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
    v.requires_grad_()
    out = attention(q, k, v, **given)
    assert out.dtype == dtype
    assert out.requires_grad
    torch.testing.assert_close(out.detach(), expected, atol=tolerance, rtol=tolerance)
    out, lse = attention(q, k, v, return_lse=True, **given)
    torch.testing.assert_close(out.detach(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.detach(), expected_lse, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("return_lse", [False, True])
def test_gradients(rng, which, return_lse):
    parts = [x.requires_grad_() for x in inputs(rng, torch.float64, 2)]
    given = options(rng, which)

    def function(*x):
        answer = attention(*x, return_lse=return_lse, **given)
        return (answer[0], answer[1].nan_to_num(neginf=0.0)) if return_lse else answer

    assert torch.autograd.gradcheck(function, parts, atol=1e-4, fast_mode=True)


def test_a_bias_can_be_learnt(rng):
    q, k, v = inputs(rng, torch.float64)
    bias = torch.from_numpy(rng.standard_normal((B, KEYS))).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: attention(q, k, v, bias=b), [bias])


def test_queries_that_no_key_answers_get_no_gradient(rng):
    q, k, v = (x.requires_grad_() for x in inputs(rng))
    attention(q, k, v, mask=np.zeros((B, KEYS), bool)).sum().backward()
    for x in (q, k, v):
        assert (x.grad == 0).all()


def test_memory_of_no_token(rng):
    q, k, v = (x.requires_grad_() for x in inputs(rng, keys=0))
    out, lse = attention(q, k, v, return_lse=True)
    assert out.shape == (B, HEADS, QUERIES, WIDTH)
    assert (out == 0).all()
    assert torch.isneginf(lse).all()
    out.sum().backward()


def test_without_grad_the_kernel_runs(rng):
    q, k, v = (x.requires_grad_() for x in inputs(rng))
    with torch.no_grad():
        assert not attention(q.detach(), k.detach(), v.detach()).requires_grad


def test_cameras_and_attention_together(rng):
    views = np.stack([random_pose(rng).camera_from_world for _ in range(3)])
    encoding = PRoPE(DIM, views, camera=[0, 1, 2, 0, 1], positions=rng.uniform(0, 4, (5, 2)))
    parts = [torch.from_numpy(rng.standard_normal((1, 2, 5, DIM))).requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(encoding.attend, parts, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.ones((B, KEYS + 1), bool)}, r"mask: expected shape \(2, 7\), got \(2, 8\)"),
        ({"mask": np.ones((B, KEYS))}, "mask: expected dtype bool, got float64"),
        ({"half_life": 1.0}, "query_time, key_time, half_life: expected all three or none"),
        ({"pairing": "odd"}, "pairing: expected one of interleaved, split_half"),
    ],
)
def test_bad_input_is_named(rng, change, message):
    q, k, v = inputs(rng)
    with pytest.raises((TypeError, ValueError), match=message):
        attention(q.requires_grad_(), k, v, **change)


def test_parts_of_a_memory_have_no_gradient_yet(rng):
    q, k, v = inputs(rng)
    out, lse = attention(q, k, v.requires_grad_(), return_lse=True)
    with pytest.raises(ValueError, match=r"out_a: .*without gradient.*\.detach\(\)"):
        merge_attention(out, lse, out, lse)

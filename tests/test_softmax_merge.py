"""Attention in parts: log-sum-exps, their gradients, and merges against one softmax over everything."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from mosaicmem.models.softmax import attend, merge  # noqa: E402


@pytest.fixture
def parts():
    torch.manual_seed(0)
    sizes = (37, 50, 50, 20, 20)
    q, k, v, k2, v2 = (torch.randn(2, 3, n, 24, dtype=torch.float64, requires_grad=True) for n in sizes)
    mask = torch.rand(2, 20) > 0.5
    mask[1] = False
    return q, k, v, k2, v2, mask


def merged(q, k, v, k2, v2, mask, gate=None):
    return merge(*attend(q, k, v), *attend(q, k2, v2, mask), gate)


def whole(q, k, v, k2, v2, mask):
    seen = torch.cat([torch.ones(len(mask), k.shape[2], dtype=torch.bool), mask], 1)[:, None, None]
    return scaled_dot_product_attention(q, torch.cat([k, k2], 2), torch.cat([v, v2], 2), attn_mask=seen)


def test_log_sum_exp(parts):
    q, k, v, *_ = parts
    logits = q @ k.mT / 24**0.5
    out, lse = attend(q, k, v)
    torch.testing.assert_close(lse, logits.logsumexp(-1).to(lse.dtype), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out, logits.softmax(-1) @ v)


def test_a_merge_is_one_softmax_with_its_gradients(parts):
    out, expected = merged(*parts), whole(*parts)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(out)
    got = torch.autograd.grad((out * direction).sum(), parts[:5])
    want = torch.autograd.grad((expected * direction).sum(), parts[:5])
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_gradients_by_differences(parts):
    q, k, v, k2, v2, mask = (x[:1, :2, :5, :8] if x.ndim == 4 else x[:1, :5] for x in parts)
    inputs = [x.detach().requires_grad_() for x in (q, k, v, k2, v2, torch.rand(2, dtype=torch.float64))]
    assert torch.autograd.gradcheck(lambda *x: merged(*x[:5], mask, x[5]), inputs, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shut_gate_changes_no_bit(parts, dtype):
    q, k, v, k2, v2, mask = (x.to(dtype) if x.is_floating_point() else x for x in parts)
    expected = scaled_dot_product_attention(q, k, v)
    assert torch.equal(merged(q, k, v, k2, v2, mask, torch.zeros(3, dtype=dtype)), expected)
    assert not torch.equal(merged(q, k, v, k2, v2, mask, torch.ones(3, dtype=dtype)), expected)


def test_without_any_memory_nothing_changes(parts):
    q, k, v, k2, v2, mask = parts
    assert torch.equal(merged(q, k, v, k2, v2, torch.zeros_like(mask), torch.ones(3)), attend(q, k, v)[0])


@pytest.mark.filterwarnings("ignore")  # torch's tracing warns of itself
def test_compiled(parts):
    compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
    out, expected = compiled(*parts), merged(*parts)
    torch.testing.assert_close(out, expected)
    got, want = (torch.autograd.grad(x.square().sum(), parts[:5]) for x in (out, expected))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)

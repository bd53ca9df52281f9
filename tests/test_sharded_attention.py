"""Attention to memory that is spread over ranks equals that to all of it on one, gradients included."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch.multiprocessing as processes  # noqa: E402

from mosaicmem.models import sharded_attention  # noqa: E402
from mosaicmem.models.softmax import attend, merge  # noqa: E402

SHAPE = (2, 3, 10, 16)  # B, H, N, d
TOKENS = 24


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    q = torch.randn(SHAPE, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(*SHAPE[:2], TOKENS, SHAPE[3], dtype=dtype, requires_grad=True) for _ in range(2))
    mask = torch.rand(SHAPE[0], TOKENS) > 0.3
    return q, k, v, mask


def reference(q, k, v, mask):
    logits = (q.double() @ k.double().mT) / SHAPE[3] ** 0.5
    logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
    return logits.softmax(-1) @ v.double(), logits.logsumexp(-1)


def weighted(out, lse):
    """A loss that depends on all of the result."""
    numbers = torch.arange(out.numel(), dtype=torch.float64).reshape(out.shape)
    return (out * torch.sin(numbers)).sum() + (lse * torch.cos(numbers[..., 0])).sum()


def cuts_of(world, uneven):
    even, other = {2: [0, 12, 24], 4: [0, 6, 12, 18, 24]}, {2: [0, 0, 24], 4: [0, 1, 1, 20, 24]}
    return (other if uneven else even)[world]


def work(rank, world, meet):
    """All comparisons, in one process of each rank."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=world)
    for uneven in (False, True):
        compare(rank, world, uneven, torch.float32)
    compare(rank, world, False, torch.bfloat16)
    nothing_anywhere()
    under_autocast(rank)
    torch.distributed.destroy_process_group()


def compare(rank, world, uneven, dtype):
    q, k, v, mask = inputs(dtype)
    out, lse = reference(q, k, v, mask)
    weighted(out, lse).backward()
    expected = [out.detach(), lse.detach(), *(x.grad.clone() for x in (q, k, v))]
    begin, end = cuts_of(world, uneven)[rank : rank + 2]
    own = [x.detach()[:, :, begin:end].clone().requires_grad_() for x in (k, v)]
    q.grad = None
    out, lse = sharded_attention(q, *own, mask[:, begin:end])
    weighted(out, lse).backward()
    expected[3], expected[4] = (x[:, :, begin:end] for x in expected[3:])
    tolerance = 2e-5 if dtype == torch.float32 else 0.03
    results = dict(zip(("out", "lse", "q", "k", "v"), [out, lse, q.grad, *(x.grad for x in own)], strict=True))
    for (name, made), wanted in zip(results.items(), expected, strict=True):
        if made is None:  # of no tokens
            assert wanted.numel() == 0
            continue
        error = (made.double() - wanted.double()).abs().max()
        assert error <= tolerance * max(1.0, float(wanted.abs().max())), f"{name} of rank {rank}, {uneven}: {error}"


def under_autocast(rank):
    q, k, v, _ = inputs()
    tokens = TOKENS if rank == 1 else 0
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = sharded_attention(q, k[:, :, :tokens], v[:, :, :tokens])
    assert out.dtype == torch.bfloat16  # on the ranks without tokens too


def nothing_anywhere():
    q, k, v, _ = inputs()
    for part, mask in ((0, None), (TOKENS, torch.zeros(SHAPE[0], TOKENS, dtype=torch.bool))):
        out, lse = sharded_attention(q, k[:, :, :part], v[:, :, :part], mask)
        assert not out.any()
        assert (lse < -1000).all()
        q.grad = None
        out.sum().backward()
        assert q.grad.isfinite().all()
        assert not q.grad.any()
        # Merged with attention to the frame itself, nothing changes.
        own, own_lse = attend(q, k, v)
        torch.testing.assert_close(merge(own, own_lse, out, lse), own, rtol=0, atol=0)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_are_one(tmp_path, world):
    processes.spawn(work, (world, tmp_path / "meet"), nprocs=world)


def test_without_ranks():
    q, k, v, mask = inputs()
    with pytest.raises(RuntimeError, match="init_process_group first"):
        sharded_attention(q, k, v, mask)

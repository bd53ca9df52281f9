"""The torch module, compared with the layer whose weights it trains."""

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import MemoryCrossAttention, PRoPE, WarpedRoPE

torch = pytest.importorskip("torch")
models = pytest.importorskip("mosaicmem.models")
pytestmark = pytest.mark.torch

DIM, MEMORY_DIM, HEADS, HEAD_DIM = 12, 6, 2, 24


def case(rng, with_cameras=False, half_life=None):
    """The arguments of a call: hidden states, memory, and what goes with them."""
    hidden, memory = rng.standard_normal((2, 5, DIM)), rng.standard_normal((2, 7, MEMORY_DIM))
    where = rng.uniform(0, 5, (5, 3)), rng.uniform(0, 5, (7, 3))
    options = {"mask": rng.random((2, 7)) < 0.7}
    if with_cameras:
        views = np.stack([random_pose(rng).camera_from_world for _ in range(3)])
        options["prope"] = tuple(
            PRoPE(HEAD_DIM, views, camera=rng.integers(0, 3, len(p)), positions=p[:, 1:]) for p in where
        )
    if half_life is not None:
        options |= {"query_time": rng.uniform(0, 9, 5), "memory_time": rng.uniform(0, 9, 7)}
    return hidden.astype(np.float32), memory.astype(np.float32), where, options


@pytest.mark.parametrize("with_cameras", [False, True])
@pytest.mark.parametrize("half_life", [None, 2.0])
def test_equals_the_layer(rng, with_cameras, half_life):
    rope = WarpedRoPE(HEAD_DIM, (8, 8, 8), pairing="split_half")
    layer = MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM, rope=rope, half_life=half_life, gate=0.4, seed=3)
    hidden, memory, where, options = case(rng, with_cameras, half_life)
    expected = layer(hidden, memory, *where, **options)
    module = models.MemoryCrossAttention.from_layer(layer)
    parts = torch.from_numpy(hidden), torch.from_numpy(memory)
    out = module(*parts, *where, **options)
    assert out.requires_grad
    np.testing.assert_allclose(out.detach(), expected, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(module(*parts, *where, **options), expected, atol=1e-5)
    np.testing.assert_array_equal(module.to_layer()(hidden, memory, *where, **options), expected)


def test_the_same_seed_draws_the_same_weights():
    layer = MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM, seed=5)
    module = models.MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM, seed=5)
    assert list(module.state_dict()) == list(layer.weights)
    for name, weight in module.state_dict().items():
        np.testing.assert_array_equal(weight, layer.weights[name])


def test_gradients(rng):
    module = models.MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM, gate=0.3).double()
    hidden, memory, where, options = case(rng, with_cameras=True)
    parts = [torch.from_numpy(x).double().requires_grad_() for x in (hidden, memory)]
    names, weights = zip(*module.named_parameters(), strict=True)

    def function(*given):
        return torch.func.functional_call(
            module, dict(zip(names, given[2:], strict=True)), (*given[:2], *where), options
        )

    assert torch.autograd.gradcheck(function, (*parts, *weights), atol=1e-4, fast_mode=True)


def test_it_begins_as_the_identity_and_learns(rng):
    """A gate of 0 lets nothing of the memory through, but its gradient opens it, and the loss falls."""
    module = models.MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM, gate=0.0)
    hidden, memory, where, options = case(rng)
    parts = torch.from_numpy(hidden), torch.from_numpy(memory)
    assert torch.equal(module(*parts, *where, **options), parts[0])
    target = torch.from_numpy(rng.standard_normal(hidden.shape).astype(np.float32))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = (module(*parts, *where, **options) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_files_go_both_ways(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    module = models.MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM, seed=1)
    safetensors.save_file(module.state_dict(), tmp_path / "module.safetensors")
    layer = MemoryCrossAttention(DIM, MEMORY_DIM, HEADS, HEAD_DIM)
    layer.load_weights(tmp_path / "module.safetensors")
    layer.save_weights(tmp_path / "layer.safetensors")
    for name, weight in safetensors.load_file(tmp_path / "layer.safetensors").items():
        assert torch.equal(weight, module.state_dict()[name])

"""Memory in Wan transformers of diffusers: how often it is computed, gradients, compilers, many processes."""

import pytest

from wan_helpers import (
    CHANNELS,
    FRAMES,
    STRIDE,
    WAYS,
    batch_for,
    filled,
    forward,
    open_gates,
    remembering,
    targets,
    tiny_pipe,
)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

from mosaicmem.models import add_memory  # noqa: E402

TIMES = torch.tensor([500.0, 300.0])


class TestCost:
    def test_inference_mode(self, dit, inputs):
        handle, passed = remembering(dit, gate=1.0), []
        expected = forward(dit, inputs)
        dit.blocks[1].attn1.to_k.register_forward_hook(lambda _m, given, _o: passed.append(given[0].shape[1]))
        with torch.inference_mode():
            latents, text = inputs[0], inputs[1] + 0
            for _ in range(2):
                torch.testing.assert_close(forward(dit, (latents, text)), expected, rtol=0, atol=1e-6)
            assert len(passed) == 3
            text.mul_(2)
            assert not torch.allclose(forward(dit, (latents, text)), expected, atol=1e-4)
        assert handle._batch is not None

    @pytest.mark.filterwarnings("ignore:.*Mismatch dtype between input and weight")  # of the model itself
    def test_autocast_on_and_off(self, dit, inputs):
        remembering(dit, gate=1.0)
        with torch.no_grad():
            expected = forward(dit, inputs)
            with torch.autocast("cpu", torch.bfloat16):
                forward(dit, inputs)
            assert torch.equal(forward(dit, inputs), expected)

    def test_weights_that_come_only_for_the_forward(self, dit, inputs):
        """As offloading does: on another device until the forward itself begins."""
        handle = remembering(dit, gate=1.0)
        expected = forward(dit, inputs)
        rows, inner = [], dit.forward
        real = {name: p.data for name, p in dit.named_parameters()}
        for parameter in dit.parameters():
            parameter.data = torch.full_like(parameter, float("nan"))

        def onload(*given, **named):
            for name, parameter in dit.named_parameters():
                parameter.data = real[name]
            rows.append(0)
            return inner(*given, **named)

        dit.forward = onload
        with torch.no_grad():
            torch.testing.assert_close(forward(dit, inputs), expected, rtol=0, atol=1e-6)
        assert rows
        assert handle._batch is not None

    def test_keys_and_values_once_per_window_and_prompt(self, dit, inputs):
        handle, passed = remembering(dit, gate=1.0), []
        room = batch_for(handle, top_k=20).mask.shape[1]
        dit.blocks[1].attn1.to_k.register_forward_hook(lambda _m, given, _o: passed.append(given[0].shape[1]))
        latents, text = inputs
        with torch.no_grad():
            for step in range(3):
                for prompt in (text, text.flip(1), text.clone()):  # the last is the first, in a tensor of its own
                    dit(latents, TIMES - step, prompt)
            assert passed.count(room) == 2
            assert passed.count(FRAMES * 32) == 9
            handle.set(batch_for(handle, top_k=20))
            dit(latents, TIMES, text)
        assert passed.count(room) == 3

    @pytest.mark.parametrize("what", ["weights", "an adapter", "the prompt", "latents"])
    def test_what_is_kept_follows_changes_of(self, dit, inputs, what):
        peft = pytest.importorskip("peft")
        latents, text = inputs[0], inputs[1].clone()
        dit.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
        handle = remembering(dit, gate=1.0)
        with torch.no_grad():
            before = forward(dit, (latents, text))
            if what == "weights":
                dit.blocks[0].attn1.to_v.weight.mul_(2)
            elif what == "an adapter":
                dit.disable_adapters()
            elif what == "the prompt":
                text.mul_(2)
            else:
                handle._batch.latents.mul_(2)
            got = forward(dit, (latents, text))
            assert not torch.equal(got, before)
            handle._known = []
            assert torch.equal(got, forward(dit, (latents, text)))


class TestTraining:
    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    def test_gradients_reach_gates_and_weights(self, dit, inputs, mode, frame_local):
        handle = remembering(dit, mode, frame_local)
        forward(dit, inputs).square().sum().backward()
        assert all(p.grad.abs().max() > 0 for name, p in handle._state().items() if name.endswith("gate"))
        dit.zero_grad()
        open_gates(handle)
        forward(dit, inputs).square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in handle.parameters())
        assert dit.patch_embedding.weight.grad.abs().max() > 0

    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    def test_checkpointing(self, dit, inputs, mode, frame_local):
        handle = remembering(dit, mode, frame_local, gate=0.7)
        expected = gradients(dit, forward(dit, inputs))
        dit.train()
        dit.enable_gradient_checkpointing()
        out = forward(dit, inputs)
        handle.clear()  # what blocks recompute, they do with the memory of the forward
        for got, want in zip(gradients(dit, out), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)

    @pytest.mark.filterwarnings("ignore")  # torch's tracing warns of itself
    @pytest.mark.parametrize(("mode", "frame_local"), [("kv", True), ("concat", False), ("canvas", True)])
    def test_compiled_as_one_graph(self, dit, inputs, mode, frame_local):
        torch.compiler.reset()
        remembering(dit, mode, frame_local, gate=0.7)
        expected = forward(dit, inputs)
        compiled = torch.compile(dit, fullgraph=True, backend="aot_eager")
        out = forward(compiled, inputs)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
        for got, want in zip(gradients(dit, out), gradients(dit, expected), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:.*Mismatch dtype between input and weight")  # of the model itself
    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    def test_autocast(self, dit, inputs, mode, frame_local):
        remembering(dit, mode, frame_local, gate=1.0)
        expected = forward(dit, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            out = forward(dit, inputs)
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.06)

    def test_in_two_processes(self, tmp_path):
        """Replicated by DDP, and sharded by FSDP."""
        torch.multiprocessing.spawn(train_in_a_group, (str(tmp_path / "group"), str(tmp_path)), nprocs=2)
        one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
        assert one["replicated"].keys() == other["replicated"].keys()
        assert all(torch.equal(one["replicated"][name], other["replicated"][name]) for name in one["replicated"])
        assert one["replicated"]["module.blocks.0.attn1.memory_gate"].abs().max() > 0
        for mode in ("kv", "concat", "canvas"):
            for rank in (one, other):
                torch.testing.assert_close(rank[mode]["sharded"], rank[mode]["whole"], rtol=0, atol=1e-6)
                assert rank[mode]["gradient"] > 0


def gradients(dit, out):
    return torch.autograd.grad(out.square().sum(), list(dit.parameters()), allow_unused=False)


def train_in_a_group(rank, meeting, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    dit = tiny_pipe().transformer
    handle = add_memory(dit)
    handle.set(handle.batch(filled(2 + rank), targets(), vae_stride=STRIDE, top_k=8))
    model = torch.nn.parallel.DistributedDataParallel(dit)
    optimizer = torch.optim.SGD(dit.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for _ in range(2):
        out = model(torch.randn(1, CHANNELS, FRAMES, 8, 16), torch.tensor([500.0]), torch.randn(1, 7, 32)).sample
        out.square().mean().backward()
        optimizer.step()
    done = {"replicated": model.state_dict(), **{mode: shard(mode) for mode in ("kv", "concat", "canvas")}}
    torch.save(done, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def shard(mode):
    """The output before and after the parameters are sharded, and the largest gradient of a gate."""
    dit = tiny_pipe().transformer
    handle = add_memory(dit, mode=mode)
    handle.set(handle.batch(filled(3), targets(), vae_stride=STRIDE, top_k=8))
    given = torch.randn(1, CHANNELS, FRAMES, 8, 16), torch.tensor([500.0]), torch.randn(1, 7, 32)
    whole = dit(*given).sample.detach()
    for block in dit.blocks:
        torch.distributed.fsdp.fully_shard(block)
    torch.distributed.fsdp.fully_shard(dit)
    sharded = dit(*given).sample
    sharded.square().mean().backward()
    gates = [p for name, p in handle._state().items() if name.endswith("gate")]
    gradient = max(p.grad.full_tensor().abs().max().item() for p in gates)
    return {"whole": whole, "sharded": sharded.detach(), "gradient": gradient}

"""Memory in Wan transformers of diffusers: tiny random weights, the real classes."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from mosaicmem import FormatError, MosaicMemoryStore, TemporalLayout, grid_positions
from wan_helpers import CHANNELS, FRAMES, STRIDE, filled, open_gates, path, targets, tiny_pipe

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

from mosaicmem.models import MemoryBatch, MemoryHandle, add_memory, wan_rope  # noqa: E402
from mosaicmem.models.wan_attention import rotate  # noqa: E402

WAYS = [("kv", True), ("kv", False), ("concat", True), ("concat", False), ("canvas", True)]
PROPES = [None, "half", {"layout": "contiguous", "dims_per_camera": 8}]
TIMES = torch.tensor([500.0, 300.0])


@pytest.fixture(scope="module")
def untouched():
    return tiny_pipe(cross_attn_norm=True).transformer


@pytest.fixture
def dit(untouched):
    return copy.deepcopy(untouched)


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, CHANNELS, FRAMES, 8, 16), torch.randn(2, 7, 32)


def forward(dit, inputs, times=TIMES):
    latents, text = inputs
    return dit(latents, times[: len(latents)], text).sample


def batch_for(handle, stores=None, **options):
    return handle.batch([filled(5), filled(1)] if stores is None else stores, targets(), vae_stride=STRIDE, **options)


def remembering(dit, mode="kv", frame_local=True, **options):
    handle = add_memory(dit, mode=mode, frame_local=frame_local, **options)
    handle.set(batch_for(handle, top_k=20))
    return handle


class TestRoPE:
    def test_tables_are_those_of_wan(self, dit, inputs):
        cos, sin = dit.rope(inputs[0])
        own = wan_rope(dit).table(grid_positions(FRAMES, 4, 8)).per_feature()
        for table, theirs in zip(own, (cos, sin), strict=True):
            assert np.array_equal(table.astype(np.float32), theirs[0, :, 0])

    def test_applied(self, dit, inputs):
        cos, sin = dit.rope(inputs[0])
        x = torch.randn(1, cos.shape[1], 2, 24)
        applied = wan_rope(dit).apply(x.transpose(1, 2), grid_positions(FRAMES, 4, 8)).transpose(1, 2)
        torch.testing.assert_close(applied, rotate(x, cos, sin), rtol=0, atol=5e-7)


class TestWithoutEffect:
    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_shut_gate_changes_no_bit(self, dit, inputs, mode, frame_local, dtype):
        dit, inputs = dit.to(dtype), [x.to(dtype) for x in inputs]
        expected = forward(dit, inputs)
        handle = remembering(dit, mode, frame_local)
        assert torch.equal(forward(dit, inputs), expected)
        with torch.no_grad():
            assert torch.equal(forward(dit, inputs), expected)
        open_gates(handle)
        assert not torch.equal(forward(dit, inputs), expected)
        handle.clear()
        assert torch.equal(forward(dit, inputs), expected)

    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    def test_removed_without_a_trace(self, dit, inputs, mode, frame_local):
        before, expected = dict(dit.state_dict()), forward(dit, inputs)
        attributes, hooks = set(dir(dit)), len(dit._forward_pre_hooks) + len(dit.rope._forward_hooks)
        handle = remembering(dit, mode, frame_local, gate=0.5)
        assert set(dit.state_dict()) != set(before)
        handle.remove()
        handle.remove()  # nothing more to do
        after = dit.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert set(dir(dit)) == attributes
        assert len(dit._forward_pre_hooks) + len(dit.rope._forward_hooks) == hooks
        assert not dit.patch_embedding._forward_hooks
        assert all("forward" not in vars(block) for block in dit.blocks)
        assert torch.equal(forward(dit, inputs), expected)

    def test_an_empty_memory_changes_nothing(self, dit, inputs):
        expected = forward(dit, inputs)
        for mode, frame_local in WAYS:
            handle = add_memory(dit, mode=mode, frame_local=frame_local, gate=1.0)
            handle.set(batch_for(handle, [MosaicMemoryStore(2)] * 2))
            torch.testing.assert_close(forward(dit, inputs), expected, rtol=0, atol=1e-6)
            handle.remove()


class TestEqualities:
    def test_concat_at_integer_positions_is_an_extra_latent_frame(self, dit, inputs):
        latents, text = inputs[0][:1], inputs[1][:1]
        extra = torch.randn(1, CHANNELS, 1, 8, 16)
        tokens, per_frame = (FRAMES + 1) * 32, 32
        times = torch.full((1, tokens), 500.0)
        times[:, -per_frame:] = 0
        expected = dit(torch.cat([latents, extra], 2), times, text).sample[:, :, :FRAMES]
        handle = add_memory(dit, mode="concat", frame_local=False, gate=1.0)
        patches = extra[0, :, 0].unfold(1, 2, 2).unfold(2, 2, 2).permute(1, 2, 0, 3, 4).reshape(1, 32, CHANNELS, 2, 2)
        positions = grid_positions(1, 4, 8) + np.array([FRAMES, 0, 0])
        cos, sin = (torch.tensor(x).float()[None, :, None] for x in wan_rope(dit).table(positions).per_feature())
        there = torch.ones(1, 32, dtype=torch.bool)
        memory = MemoryBatch(
            latents=patches,
            filled=there[..., None, None].expand(-1, -1, 2, 2),
            positions=torch.tensor(positions).float()[None],
            cos=cos,
            sin=sin,
            mask=there,
            frame=torch.zeros(1, 32, dtype=torch.long),
            frames=FRAMES,
            rows=4,
            columns=8,
            per_frame=0,
        )
        handle.set(memory)
        got = dit(latents, torch.tensor([500.0]), text).sample
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
        assert not torch.allclose(got, dit(extra.expand_as(latents), torch.tensor([500.0]), text).sample, atol=1e-2)

    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    @pytest.mark.parametrize("prope", PROPES, ids=str)
    def test_a_padded_batch_is_each_sample_alone(self, dit, inputs, mode, frame_local, prope):
        handle = add_memory(dit, mode=mode, frame_local=frame_local, prope=None if mode == "canvas" else prope)
        open_gates(handle)
        stores = [filled(5), filled(1)]
        handle.set(batch_for(handle, stores, top_k=20, pad_to=173))
        together = forward(dit, inputs)
        for i, store in enumerate(stores):
            handle.set(batch_for(handle, store, top_k=20))
            alone = forward(dit, [x[i : i + 1] for x in inputs], TIMES[i:])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1.5e-6)

    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    def test_guidance_in_one_call_is_guidance_in_two(self, dit, inputs, mode, frame_local):
        handle = remembering(dit, mode, frame_local, gate=1.0)
        latents, text = inputs
        other = text.flip(1)
        apart = torch.cat([forward(dit, (latents, text)), forward(dit, (latents, other))])
        with pytest.raises(
            ValueError,
            match=r"got it for \(2, 5, 8, 16\); for several videos or guidance in one call, set\(batch.repeat\(2",
        ):
            dit(torch.cat([latents, latents]), TIMES.repeat(2), torch.cat([text, other]))
        handle.set(batch_for(handle, top_k=20).repeat(2))
        together = dit(torch.cat([latents, latents]), TIMES.repeat(2), torch.cat([text, other])).sample
        torch.testing.assert_close(together, apart, rtol=0, atol=1.5e-6)

    def test_prope_sees_relative_cameras_alone(self, dit, inputs):
        """And a memory that was seen by the target cameras themselves is read as without PRoPE."""
        store = MosaicMemoryStore(2)
        rng = np.random.default_rng(0)
        camera = targets()[0]
        grid = rng.standard_normal((8, 16, CHANNELS), dtype=np.float32)
        store.insert_keyframe(grid, np.full((8, 16), 3, np.float32), path().intrinsics, camera)
        same = type(path())([camera] * FRAMES, path().intrinsics)
        out = {}
        for prope in (None, {"layout": "contiguous", "dims_per_camera": 8}):
            handle = add_memory(dit, prope=prope, gate=1.0)
            handle.set(handle.batch([store, store], same, vae_stride=STRIDE))
            out[prope is None] = forward(dit, inputs)
            handle.remove()
        torch.testing.assert_close(out[True], out[False], rtol=0, atol=2e-5)

    def test_full_layout_with_a_camera_per_frame(self, inputs):
        dit = tiny_pipe(attention_head_dim=64).transformer
        frames = path()[: 4 * (FRAMES - 1) + 1]
        handle = add_memory(dit, prope="full", gate=1.0)
        batch = handle.batch([filled(5)] * 2, frames, vae_stride=STRIDE, temporal=TemporalLayout("causal", 4), top_k=20)
        assert batch.prope.targets.shape == (2, FRAMES, 4, 4, 4)
        assert not np.array_equal(batch.prope.targets[0, 1, 0], batch.prope.targets[0, 1, 3])
        handle.set(batch)
        assert torch.isfinite(forward(dit, inputs)).all()

    def test_frames_of_different_fill(self, dit, inputs):
        """A sample whose frames have room for fewer tokens than those of its neighbour in the batch."""
        few = filled(1).fork()
        few.delete_patches(few.patch_ids[::2])
        for mode in ("kv", "concat"):
            handle = add_memory(dit, mode=mode, gate=1.0)
            assert batch_for(handle, few).per_frame < batch_for(handle, filled(5)).per_frame
            handle.set(batch_for(handle, [filled(5), few]))
            together = forward(dit, inputs)
            for i, store in enumerate((filled(5), few)):
                handle.set(batch_for(handle, store))
                alone = forward(dit, [x[i : i + 1] for x in inputs], TIMES[i:])
                torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1.5e-6)
            handle.remove()

    @pytest.mark.parametrize("mode", ["kv", "concat"])
    def test_frame_by_frame_is_attention_with_a_mask(self, dit, inputs, mode):
        """Against the whole sequence, video and memory, under one mask."""
        latents, text, time = inputs[0][:1], inputs[1][:1], torch.tensor([500.0])
        handle = add_memory(dit, mode=mode, gate=1.0)
        batch = batch_for(handle, filled(5), top_k=8)
        handle.set(batch)
        got = forward(dit, (latents, text), time)
        handle.remove()
        video, frames = FRAMES * 32, torch.arange(FRAMES)
        frame = torch.cat([frames.repeat_interleave(32), batch.frame[0]])
        is_memory = torch.arange(len(frame)) >= video
        same = frame[:, None] == frame[None]
        mask = torch.where(is_memory[:, None] | is_memory[None], same, True)
        if mode == "kv":
            mask &= ~(is_memory[:, None] & ~is_memory[None])
        mask &= torch.cat([torch.ones(video, dtype=torch.bool), batch.mask[0]]) | torch.eye(
            len(frame), dtype=torch.bool
        )
        expected = by_mask(dit, latents, text, batch, mask, video)
        torch.testing.assert_close(got, expected, rtol=0, atol=3e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_no_tokens_change_nothing_in_any_dtype(self, dtype):
        dit = tiny_pipe(attention_head_dim=128, num_layers=1).transformer.to(dtype)
        given = torch.randn(1, CHANNELS, FRAMES, 8, 16, dtype=dtype), torch.randn(1, 7, 32, dtype=dtype)
        expected = forward(dit, given, TIMES[:1])
        handle = add_memory(dit, gate=1.0)
        handle.set(batch_for(handle, MosaicMemoryStore(2)))
        assert torch.equal(forward(dit, given, TIMES[:1]), expected)

    def test_cameras_of_sub_frames(self, dit):
        frames = path()[:9]
        layout = TemporalLayout("causal", 4)
        made = {}
        for prope in ("half", {"layout": "contiguous", "subframes": (0, 1, 2, 3), "dims_per_camera": 4}):
            handle = add_memory(dit, prope=prope)
            name = prope if prope == "half" else "contiguous"
            made[name] = handle.batch(filled(2), frames, vae_stride=STRIDE, temporal=layout, top_k=8).prope.targets[0]
            handle.remove()
        origin = frames[0].world_from_camera
        for latent, used in ((0, [0, 0, 0, 0]), (1, [1, 2, 3, 4]), (2, [5, 6, 7, 8])):
            for subframe, frame in enumerate(used):
                expected = frames[frame].camera_from_world @ origin
                np.testing.assert_allclose(made["contiguous"][latent, subframe], expected, atol=1e-12)
            np.testing.assert_allclose(made["half"][latent, 0], frames[used[-1]].camera_from_world @ origin, atol=1e-12)


def by_mask(dit, latents, text, batch, mask, video):
    """The transformer on the tokens of video and memory in one sequence, with a mask on all of self-attention."""
    cos, sin = dit.rope(latents)
    cos, sin = torch.cat([cos, batch.cos], 1), torch.cat([sin, batch.sin], 1)
    hidden = dit.patch_embedding(latents).flatten(2).transpose(1, 2)
    memory = dit.patch_embedding(batch.latents.transpose(1, 2)).flatten(2).transpose(1, 2)
    hidden = torch.cat([hidden, memory], 1)
    times = torch.full((hidden.shape[1],), 500.0)
    times[video:] = 0
    temb, modulation, text, _ = dit.condition_embedder(times, text, None, timestep_seq_len=len(times))
    modulation = modulation.unflatten(2, (6, -1))
    for block in dit.blocks:
        stock = block.attn1.processor
        block.attn1.processor = lambda attn, x, _e, _m, rotary, stock=stock: stock(attn, x, None, mask, rotary)
        hidden = block(hidden, text, modulation, (cos, sin))
        block.attn1.processor = stock
    shift, scale = (dit.scale_shift_table[:, None] + temb[:, :video, None]).chunk(2, dim=2)
    hidden = dit.proj_out(dit.norm_out(hidden[:, :video]) * (1 + scale[:, :, 0]) + shift[:, :, 0])
    out = hidden.reshape(1, FRAMES, 4, 8, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return out.flatten(6, 7).flatten(4, 5).flatten(2, 3)


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


class TestHandles:
    @pytest.mark.parametrize(("mode", "frame_local"), WAYS)
    def test_saved_and_loaded(self, dit, untouched, inputs, tmp_path, mode, frame_local):
        handle = remembering(dit, mode, frame_local)
        with torch.no_grad():
            for parameter in handle.parameters():
                parameter.copy_(torch.randn_like(parameter))
        handle.save_pretrained(tmp_path / "memory")
        again = MemoryHandle.load(copy.deepcopy(untouched), tmp_path / "memory")
        assert (again.mode, again.frame_local) == (mode, frame_local)
        again.set(batch_for(again, top_k=20))
        assert torch.equal(forward(again.dit, inputs), forward(dit, inputs))

    def test_tuples_of_prope_survive_a_file(self, dit, untouched, inputs, tmp_path):
        prope = {"layout": "contiguous", "subframes": (0,), "dims_per_camera": 8}
        add_memory(dit, prope=prope).save_pretrained(tmp_path)
        again = MemoryHandle.load(copy.deepcopy(untouched), tmp_path)
        again.set(again.batch([filled(2)] * 2, targets(), vae_stride=STRIDE, prope=prope))
        assert torch.isfinite(forward(again.dit, inputs)).all()

    def test_of_another_transformer(self, dit, tmp_path):
        add_memory(dit).save_pretrained(tmp_path)
        other = tiny_pipe(num_attention_heads=4).transformer
        with pytest.raises(FormatError, match=r"blocks.0.attn1.memory_gate: expected shape \(4,\), got \(2,\)"):
            MemoryHandle.load(other, tmp_path)
        with pytest.raises(FormatError, match=r"blocks.1.attn1.memory_gate: expected no tensor of this name"):
            MemoryHandle.load(tiny_pipe(num_layers=1).transformer, tmp_path)
        (tmp_path / "memory.safetensors").write_bytes(b"\xff" * 100)
        with pytest.raises(FormatError, match=r"not a safetensors file"):
            MemoryHandle.load(tiny_pipe().transformer, tmp_path)
        (tmp_path / "memory.json").write_text('{"mode": 1, "frame_local": true, "prope": null}')
        with pytest.raises(FormatError, match=r"mode: not what save_pretrained writes: 1"):
            MemoryHandle.load(tiny_pipe().transformer, tmp_path)
        assert not any("memory" in name for name in other.state_dict())

    def test_canvas_beside_attention(self, dit, inputs):
        both = [remembering(dit, mode, gate=0.5) for mode in ("kv", "canvas")]
        expected = forward(dit, inputs)
        both[0].clear()
        assert not torch.equal(forward(dit, inputs), expected)
        both[1].remove()
        both[0].remove()
        assert not hasattr(dit, "_mosaicmem")

    def test_wrappers_of_others_survive_removal(self, dit, inputs):
        block, calls = dit.blocks[0], []
        inner = block.forward
        block.forward = lambda *given: calls.append("before") or inner(*given)
        expected = forward(dit, inputs)
        handle = remembering(dit, "concat", gate=1.0)
        ours = block.forward
        handle.remove()
        calls.clear()
        assert torch.equal(forward(dit, inputs), expected)
        assert calls == ["before"]
        handle = remembering(dit, gate=1.0)
        ours = block.forward
        block.forward = lambda *given: calls.append("after") or ours(*given)
        handle.remove()
        calls.clear()
        assert torch.equal(forward(dit, inputs), expected)
        assert calls == ["after", "before"]

    def test_adapters_on_the_embedding(self, dit, inputs):
        peft = pytest.importorskip("peft")
        dit.add_adapter(peft.LoraConfig(r=2, target_modules=["patch_embedding", "to_k"], init_lora_weights=False))
        for mode in ("kv", "concat", "canvas"):
            handle = remembering(dit, mode, gate=1.0)
            assert torch.isfinite(forward(dit, inputs)).all()
            handle.remove()

    def test_fused_projections(self, dit, inputs):
        remembering(dit, gate=1.0)
        expected = forward(dit, inputs)
        for block in dit.blocks:
            block.attn1.fuse_projections()
        torch.testing.assert_close(forward(dit, inputs), expected, rtol=0, atol=1e-5)


class TestMistakes:
    @pytest.mark.filterwarnings("ignore:.*torch.jit")
    def test_another_model(self):
        pipe = tiny_pipe()
        with pytest.raises(TypeError, match=r"dit: expected a WanTransformer3DModel.* did you mean pipe.transformer"):
            add_memory(pipe)
        with pytest.raises(TypeError, match=r"dit: expected a WanTransformer3DModel of diffusers, got Linear$"):
            add_memory(torch.nn.Linear(1, 1))
        with pytest.raises(TypeError, match=r"add memory to it before torch.compile"):
            add_memory(torch.compile(pipe.transformer))

    def test_twice(self, dit):
        add_memory(dit, mode="kv")
        with pytest.raises(ValueError, match=r'already has memory of mode "kv"; remove\(\) that handle first'):
            add_memory(dit, mode="concat")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"patch": (1, 1, 1)}, r"patch \(1, 2, 2\).* got \(1, 1, 1\); pass patch=dit.config.patch_size"),
            ({"dtype": torch.bfloat16}, r"dtype torch.float32.* call batch.to\(dtype=dit.dtype\)"),
            ({"distinct": True}, r"tokens for each latent frame, since frame_local is True"),
            ({"prope": "half"}, r"prope None as the handle's, got"),
        ],
    )
    def test_a_batch_for_another_transformer(self, dit, change, message):
        handle = add_memory(dit)
        with pytest.raises(ValueError, match=message):
            handle.set(batch_for(handle, **change))

    def test_channels_of_another_vae(self, dit):
        handle = add_memory(dit)
        with pytest.raises(ValueError, match=r"channels 16.* got 8; were its keyframes encoded by another VAE"):
            handle.set(batch_for(handle, filled(2, channels=8)))

    def test_other_cameras(self, dit, inputs):
        handle = remembering(dit)
        with pytest.raises(
            ValueError, match=r"got it for \(2, 5, 8, 16\); if targets has a camera for each frame.*temporal"
        ):
            forward(dit, (inputs[0][:, :, :3], inputs[1]))
        with pytest.raises(ValueError, match=r"got it for \(2, 5, 8, 16\); pass a store for each sample"):
            dit(inputs[0][:1].expand(3, -1, -1, -1, -1), TIMES[:1].expand(3), inputs[1][:1].expand(3, -1, -1))
        handle.set(replace(batch_for(handle, top_k=20), rows=8))
        with pytest.raises(ValueError, match=r"was it built with another vae_stride, or for images of another size"):
            forward(dit, inputs)
        handle.set(batch_for(handle, top_k=20))
        with pytest.raises(ValueError, match=r"batch: expected dtype torch.bfloat16, got torch.float32"):
            forward(dit.to(torch.bfloat16), [x.bfloat16() for x in inputs])

    def test_prope_of_no_layout_or_another_head(self, dit):
        with pytest.raises(ValueError, match=r"prope: layout: expected one of"):
            add_memory(dit, prope="typo")
        with pytest.raises(ValueError, match=r'prope: head_dim: expected a multiple of 64 for layout "full", got 24'):
            add_memory(dit, prope="full")
        assert not hasattr(dit, "_mosaicmem")

    def test_after_removal(self, dit):
        handle = add_memory(dit)
        batch = batch_for(handle, top_k=20)
        handle.remove()
        for call in (lambda: handle.set(batch), handle.parameters, lambda: handle.save_pretrained("never")):
            with pytest.raises(RuntimeError, match=r"this handle was removed from its transformer"):
                call()

    def test_folders_and_kinds(self, dit, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"folder: expected one that save_pretrained wrote.* without memory.json"
        ):
            MemoryHandle.load(dit, tmp_path)
        with pytest.raises(TypeError, match=r"mode: expected one of kv, concat, canvas.* once for each mode"):
            add_memory(dit, mode=("kv", "canvas"))
        canvas, kv = add_memory(dit, mode="canvas"), add_memory(dit)
        with pytest.raises(
            ValueError, match=r"batch: expected one with a canvas, got one that was built with canvas=False"
        ):
            canvas.set(batch_for(kv))
        with pytest.raises(TypeError, match=r"gate: expected"):
            kv.set(batch_for(kv), gate="1")
        with pytest.raises(TypeError, match=r"targets: expected CameraTrajectory or a list of them, got CameraPose"):
            kv.batch(filled(1), targets()[0], vae_stride=STRIDE)
        with pytest.raises(
            ValueError, match=r"targets\[0\]: expected a camera for each frame.* such as 5 or 9.* got 8"
        ):
            kv.batch(filled(1), path()[:8], vae_stride=STRIDE, temporal=TemporalLayout("causal", 4))
        assert len(repr(batch_for(kv))) < 200

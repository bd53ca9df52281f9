"""Memory in Wan transformers of diffusers: what it is equal to. Tiny random weights, the real classes."""

import numpy as np
import pytest

from mosaicmem import MosaicMemoryStore, TemporalLayout, grid_positions
from wan_helpers import (
    CHANNELS,
    FRAMES,
    STRIDE,
    WAYS,
    batch_for,
    filled,
    forward,
    open_gates,
    path,
    remembering,
    targets,
    tiny_pipe,
)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

from mosaicmem.models import MemoryBatch, add_memory, wan_rope  # noqa: E402
from mosaicmem.models.wan_attention import rotate  # noqa: E402

TIMES = torch.tensor([500.0, 300.0])
PROPES = [None, "half", {"layout": "contiguous", "dims_per_camera": 8}]


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
    @pytest.mark.parametrize("mode", ["kv", "concat", "canvas"])
    def test_channels_beside_the_latents_are_zero_in_memory(self, dit, inputs, mode):
        """Of an image or of rays: where they are zero, the model is the one without them."""
        wide = tiny_pipe(in_channels=CHANNELS + 6).transformer
        weights = dict(dit.state_dict())
        own = wide.patch_embedding.weight.detach().clone()
        own[:, :CHANNELS] = weights["patch_embedding.weight"]
        wide.load_state_dict({**weights, "patch_embedding.weight": own})
        remembering(dit, mode, gate=1.0)
        remembering(wide, mode, gate=1.0)
        latents, text = inputs
        beside = torch.zeros(latents.shape[0], 6, *latents.shape[2:])
        expected = forward(dit, inputs)
        torch.testing.assert_close(forward(wide, (torch.cat([latents, beside], 1), text)), expected, rtol=0, atol=2e-6)
        assert not torch.allclose(forward(wide, (torch.cat([latents, beside + 1], 1), text)), expected, atol=1e-3)

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

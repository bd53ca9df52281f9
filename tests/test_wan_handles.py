"""Handles of memory in Wan transformers: saving, wrappers and adapters of others, mistakes."""

import copy
from dataclasses import replace

import pytest

from mosaicmem import FormatError, TemporalLayout
from wan_helpers import (
    STRIDE,
    WAYS,
    batch_for,
    filled,
    forward,
    path,
    remembering,
    targets,
    tiny_pipe,
)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

from mosaicmem.models import MemoryHandle, add_memory  # noqa: E402

TIMES = torch.tensor([500.0, 300.0])


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
        with pytest.raises(
            FormatError, match=r"blocks.0.attn1.memory_gate: expected shape \(4,\), got \(2,\); are they"
        ):
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

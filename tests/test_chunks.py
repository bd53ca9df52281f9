"""Runs in chunks, as causal models generate: no overlap, state that continues, memory published after a chunk."""

import numpy as np
import pytest

from mosaicmem import AutoregressivePipeline, CameraIntrinsics, PipelineConfig, SyntheticBackbone, SyntheticWorld
from mosaicmem import TemporalLayout as Layout
from mosaicmem.pipeline.windows import WindowPlan

CAMERA = CameraIntrinsics.from_fov(64, 48, fov_x=1.3)
SMALL = {"chunks": True, "window_overlap": 0, "num_inference_steps": 2, "top_k": 32, "keyframe_interval": 2}
CAUSAL = {"temporal_kind": "causal", "temporal_factor": 4, "window_size": 9}  # three latent frames


@pytest.fixture(scope="module")
def path():
    return SyntheticWorld().leave_and_return(CAMERA, 30)


class CausalBackbone:
    """Keeps the latents of the chunks before as a causal model keeps keys and values, and drifts with them."""

    prediction_type = "sample"

    def __init__(self):
        self.cache, self.seen = [], []

    def predict(self, sample, timestep, context):
        if context.window == 0 and not self.seen:
            self.cache = []
        self.seen.append((context.window, sample.shape[2], len(self.cache)))
        drift = np.float32(np.mean(self.cache[-1])) if self.cache else np.float32(0)
        return self.inner.predict(sample, timestep, context) + drift

    def finish_window(self, latents, context):
        self.cache.append(np.array(latents))


def pipeline_of(config=CAUSAL):
    backbone = CausalBackbone()
    pipeline = AutoregressivePipeline(PipelineConfig(**{**SMALL, **config}), backbone=backbone)
    backbone.inner = SyntheticBackbone(pipeline.scheduler)
    return pipeline, backbone


@pytest.mark.parametrize(
    ("layout", "size", "count", "expected"),
    [
        (Layout("causal", 4), 9, 30, [range(9), range(9, 21), range(21, 30)]),
        (Layout("causal", 4), 9, 9, [range(9)]),
        (Layout("causal", 4), 9, 10, [range(9), range(9, 10)]),
        (Layout("causal", 4), 1, 6, [range(1), range(1, 5), range(5, 6)]),
        (Layout("uniform", 4), 8, 20, [range(8), range(8, 16), range(16, 20)]),
        (Layout("uniform", 1), 4, 9, [range(4), range(4, 8), range(8, 9)]),
    ],
)
def test_chunks_hold_whole_latent_frames(path, layout, size, count, expected):
    config = PipelineConfig(chunks=True, window_size=size, window_overlap=0)
    plan = WindowPlan(config, layout, path[:count])
    assert plan.ranges == expected
    latent = 0
    for index, frames in enumerate(plan.ranges):
        own = plan.layout(index)
        for i in range(own.num_latents(len(frames))):
            covered = [frames[k] for k in own.frames_of(i, len(frames))]
            assert covered == list(layout.frames_of(latent, count))
            latent += 1
    assert latent == layout.num_latents(count)


def test_a_cache_that_the_backbone_owns(path):
    pipeline, backbone = pipeline_of()
    assert pipeline.generate(path).frames.shape == (30, 48, 64, 3)
    assert [len(chunk[0]) for chunk in backbone.cache] == [3, 3, 3]
    assert sorted(set(backbone.seen)) == [(0, 3, 0), (1, 3, 1), (2, 3, 2)]


def test_memory_is_published_after_a_chunk(path):
    pipeline, backbone = pipeline_of()
    sizes, finish = [], backbone.finish_window
    backbone.finish_window = lambda *given: sizes.append(len(pipeline.store)) or finish(*given)
    after = [len(pipeline.store) for _ in pipeline.stream(path)]
    assert sizes == [0, *after[:-1]]


def test_resumes_bit_for_bit(path, tmp_path):
    whole = pipeline_of()[0].generate(path, checkpoint=tmp_path / "whole").frames
    np.testing.assert_array_equal(whole, pipeline_of()[0].generate(path).frames)
    stopped, _ = pipeline_of()
    stream = stopped.stream(path, checkpoint=tmp_path / "cut")
    next(stream)
    next(stream)
    del stream
    np.testing.assert_array_equal(pipeline_of()[0].generate(path, checkpoint=tmp_path / "cut").frames, whole)


def test_a_vae_that_continues_resumes_too(path, tmp_path):
    """What it decodes depends on the chunks before, so a resume decodes those again."""

    def run(folder, windows):
        pipeline, _ = pipeline_of()
        decode, state = pipeline.vae.decode_chunk, []

        def continued(latents, frames, *, first):
            state[:] = [] if first else state
            state.append(float(np.abs(latents).mean()))
            return decode(latents, frames, first=first) * np.float32(sum(state) / len(state))

        pipeline.vae.decode_chunk = continued
        stream = pipeline.stream(path, checkpoint=folder)
        return [window.video for _, window in zip(range(windows), stream, strict=False)]

    run(tmp_path / "cut", 2)
    for one, other in zip(run(tmp_path / "cut", 3), run(tmp_path / "whole", 3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_keyframes_of_later_chunks_are_at_their_own_frames(path):
    pipeline, _ = pipeline_of({**CAUSAL, "keyframe_latents": "generated", "remember": "all"})
    poses, insert = [], pipeline.store.insert_keyframe
    pipeline.store.insert_keyframe = lambda *given, **named: poses.append(given[3].timestamp) or insert(*given, **named)
    counts = [window.statistics.keyframes for window in pipeline.stream(path)]
    frames = [next(i for i in range(30) if path[i].timestamp == time) for time in poses]
    assert frames == [0, 4, 8, 12, 16, 20, 24, 28]  # the last frame of a latent frame
    assert sum(counts) == len(frames)


def test_mistakes():
    with pytest.raises(ValueError, match=r"window_overlap: expected 0, since chunks continue each other, got 4"):
        PipelineConfig(chunks=True)

    class Vae:
        stride, channels, temporal = 8, 16, Layout("causal", 4)
        encode = decode = encode_image = lambda self, *given: None

    with pytest.raises(ValueError, match=r"vae: expected a method decode_chunk, .* got Vae without"):
        AutoregressivePipeline(PipelineConfig(**SMALL), vae=Vae())


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["t2v", "ti2v"])
def test_chunks_of_wan_are_the_whole_video(kind):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from mosaicmem.models import WanMemoryVAE
    from wan_helpers import tiny_pipe

    vae = WanMemoryVAE(tiny_pipe(kind).vae)
    torch.manual_seed(0)
    latents = torch.randn(vae.channels, 7, 4, 8)
    whole = vae.decode(latents)
    parts = [vae.decode_chunk(x, first=i == 0) for i, x in enumerate(latents.split((3, 3, 1), dim=1))]
    assert [len(part) for part in parts] == [9, 12, 4]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
    assert not torch.allclose(vae.decode(latents[:, 3:6])[:9], whole[9:18], atol=1e-2)
    with pytest.raises(ValueError, match=r"first: expected True at the beginning of a video"):
        WanMemoryVAE(tiny_pipe(kind).vae).decode_chunk(latents, first=False)

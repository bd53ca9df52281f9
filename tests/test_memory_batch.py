"""Batches of memory for video transformers."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from mosaicmem import (
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    TemporalLayout,
    WarpedRoPE,
)
from mosaicmem.errors import SuspiciousInput
from wan_helpers import CAMERA, CHANNELS, FRAMES, STRIDE, filled, path, targets

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.models import MemoryBatch  # noqa: E402
from mosaicmem.models.dit_tokens import group_cells  # noqa: E402

ROPE = WarpedRoPE(24)
TENSORS = ("latents", "filled", "positions", "cos", "sin", "mask", "frame")


def build(stores, cameras=None, **options):
    options = {"vae_stride": STRIDE, "rope": ROPE, "top_k": 20, "retrieval": {"diversity_radius": 0}, **options}
    return MemoryBatch.build(stores, targets() if cameras is None else cameras, **options)


def with_holes(keyframes=4):
    """A store in which a third of the cells have no depth."""
    store, rng = MosaicMemoryStore(4), np.random.default_rng(0)
    for pose in list(path())[:keyframes]:
        depth = np.where(rng.random((8, 16)) < 0.33, 0, 3).astype(np.float32)
        store.insert_keyframe(rng.standard_normal((8, 16, CHANNELS), dtype=np.float32), depth, CAMERA, pose)
    return store


class TestTokens:
    def test_are_the_mosaic_grouped_by_hand(self):
        store = filled(4)
        mosaic = MemoryRetrieval(top_k=20).retrieve(store, targets(), STRIDE)
        batch = build(store)
        room = batch.per_frame
        assert batch.latents.shape == (1, FRAMES * room, CHANNELS, 2, 2)
        for frame in range(FRAMES):
            for k in range(room):
                cells, i = slice(4 * k, 4 * k + 4), frame * room + k
                assert batch.mask[0, i] == mosaic.valid[frame, cells].all()
                if batch.mask[0, i]:
                    by_hand = mosaic.tokens[frame, cells].reshape(2, 2, CHANNELS).transpose(2, 0, 1)
                    np.testing.assert_array_equal(batch.latents[0, i], by_hand)
                    where = (mosaic.positions[frame, cells, 1:].mean(0) + 0.5) / 2 - 0.5
                    np.testing.assert_allclose(batch.positions[0, i, 1:], where, atol=1e-6)
                    assert batch.positions[0, i, 0] == batch.frame[0, i] == frame
        assert batch.mask.sum() > 50

    def test_positions_are_those_of_a_stride_times_the_patch(self):
        store = filled(4)
        fine = MemoryRetrieval(top_k=20).retrieve(store, targets(), STRIDE)
        coarse = MemoryRetrieval(top_k=20).retrieve(store, targets(), 2 * STRIDE)
        valid = fine.valid
        np.testing.assert_array_equal(fine.patch_ids, coarse.patch_ids)
        np.testing.assert_allclose(
            coarse.positions[valid][:, 1:], (fine.positions[valid][:, 1:] + 0.5) / 2 - 0.5, atol=1e-9
        )
        grouped = group_cells(fine, (2, 2), "drop", False)
        where = coarse.positions.reshape(FRAMES, -1, 4, 3).mean(2)[grouped.valid.numpy()]
        np.testing.assert_allclose(grouped.positions[grouped.valid], where, atol=1e-9)

    @pytest.mark.parametrize("incomplete", ["drop", "fill", "mask"])
    def test_incomplete_ones(self, incomplete):
        batch = build(with_holes(), incomplete=incomplete, top_k=8)
        mosaic = MemoryRetrieval(top_k=8).retrieve(with_holes(), targets(), STRIDE)
        patches = mosaic.patch_ids.shape[1]
        valid = mosaic.valid.reshape(FRAMES, patches, 2, 2, 2, 2).swapaxes(3, 4).reshape(FRAMES, -1, 2, 2)
        tokens = mosaic.tokens.reshape(FRAMES, patches, 2, 2, 2, 2, CHANNELS).swapaxes(3, 4)
        tokens = tokens.reshape(FRAMES, -1, 2, 2, CHANNELS)
        complete, some = valid.all((2, 3)).ravel(), valid.any((2, 3)).ravel()
        assert some.sum() > complete.sum() > 0
        expected = complete if incomplete == "drop" else some
        np.testing.assert_array_equal(batch.mask[0], expected)
        np.testing.assert_array_equal(batch.filled[0], valid.reshape(-1, 2, 2) & expected[:, None, None])
        part = int(np.flatnonzero(some & ~complete)[0])
        cells, has = tokens.reshape(-1, 2, 2, CHANNELS)[part], valid.reshape(-1, 2, 2)[part]
        got = batch.latents[0, part].numpy().transpose(1, 2, 0)
        if incomplete == "drop":
            assert not got.any()
        else:
            np.testing.assert_array_equal(got[has], cells[has])
            rest = cells[has].mean(0) if incomplete == "fill" else np.zeros(CHANNELS)
            np.testing.assert_allclose(got[~has], np.broadcast_to(rest, got[~has].shape), atol=1e-6)

    def test_an_incomplete_one_is_where_the_whole_one_would_be(self):
        whole, holes = MosaicMemoryStore(2), MosaicMemoryStore(2)
        depth = np.full((8, 16), 3, np.float32)
        punched = depth.copy()
        punched[::2, ::2] = 0
        for store, z in ((whole, depth), (holes, punched)):
            store.insert_keyframe(np.ones((8, 16, CHANNELS), np.float32), z, CAMERA, path()[0])
        one, other = (build(store, path()[:1], incomplete="fill", top_k=32) for store in (whole, holes))
        both = {tuple(x) for x in one.positions[one.mask].round(decimals=4).tolist()}
        assert {tuple(x) for x in other.positions[other.mask].round(decimals=4).tolist()} == both

    def test_do_not_show_the_same_place_again_and_again(self):
        """Of five keyframes that see the same, one is enough."""
        cells = {}
        for name, options in {"apart": {"retrieval": None}, "best": {}}.items():
            batch = build(filled(5), **options)
            cells[name] = len({(int(t), *place) for t, *place in batch.positions[batch.mask].round().tolist()})
        assert cells["apart"] > 1.3 * cells["best"]

    def test_distinct_ones_come_once_where_they_score_best(self):
        store = filled(4)
        mosaic = MemoryRetrieval(top_k=20).retrieve(store, targets(), STRIDE)
        best = {}
        for frame, (ids, scores) in enumerate(zip(mosaic.patch_ids, mosaic.patch_scores, strict=True)):
            for patch, score in zip(ids.tolist(), scores.tolist(), strict=True):
                if patch >= 0 and score > best.get(patch, (-1, 0))[0]:
                    best[patch] = (score, frame)
        batch = build(store, distinct=True)
        assert batch.mask.all()
        assert batch.mask.shape[1] == len(best) < int(build(store).mask.sum())
        counts = np.bincount([frame for _, frame in best.values()], minlength=FRAMES)
        np.testing.assert_array_equal(torch.bincount(batch.frame[0], minlength=FRAMES), counts)


class TestBatches:
    @pytest.mark.parametrize("options", [{}, {"distinct": True}, {"prope": "half"}, {"pad_to": 500}])
    def test_hold_each_sample_as_it_is_alone(self, options):
        stores = [filled(5), MosaicMemoryStore(2), filled(1)]
        together = build(stores, **options)
        assert len(together) == 3
        assert together.mask.shape[1] == options.get("pad_to", together.mask.shape[1])
        for i, store in enumerate(stores):
            alone = build(store, **options)
            has, own = together.mask[i], alone.mask[0]
            assert has.sum() == own.sum()
            for name in TENSORS if len(store) else ("mask",):
                assert torch.equal(getattr(together, name)[i][has], getattr(alone, name)[0][own]), name
            if len(store):
                assert torch.equal(together.canvas()[i], alone.canvas()[0])
        assert not together.canvas()[1].any()

    def test_of_nothing_but_empty_memories(self):
        batch = build([MosaicMemoryStore(2), MosaicMemoryStore(2)])
        assert not batch.mask.any()
        assert batch.canvas().shape == (2, 1, FRAMES, 8, 16)

    def test_repeat_and_cat(self):
        batch, more = build([filled(3), filled(1)]), build(filled(2))
        twice = batch.repeat(2)
        for name in TENSORS:
            assert torch.equal(getattr(twice, name), torch.cat([getattr(batch, name)] * 2)), name
        assert torch.equal(twice.canvas(), torch.cat([batch.canvas()] * 2))
        assert len(MemoryBatch.cat([batch, more])) == 3
        with pytest.raises(ValueError, match=r"batches: expected the same frames for all samples, got 5 and 2"):
            MemoryBatch.cat([batch, build(filled(2), path()[:2])])

    def test_cat_of_other_prope_is_refused(self):
        half, contiguous = build(filled(1), prope="half"), build(filled(1), prope="contiguous")
        with pytest.raises(
            ValueError, match=r"batches: expected the same prope and image size in all, got \{'layout': 'half"
        ):
            MemoryBatch.cat([half, contiguous])

    def test_the_canvas_is_that_of_memory_when_the_batch_was_built(self):
        store = filled(3).fork()
        expected = KeyframeRetrieval().retrieve(store, targets(), STRIDE)
        batch = build(store)
        for frame_id in range(3):
            store.delete_frame(frame_id)
        canvas = batch.canvas()
        np.testing.assert_array_equal(canvas[0, :-1].movedim(0, -1), expected.latents)
        np.testing.assert_array_equal(canvas[0, -1], expected.coverage)
        with pytest.raises(ValueError, match=r"built with canvas=False"):
            build(filled(3), canvas=False).canvas()

    def test_dtype_and_pickle(self):
        batch = build(filled(2), dtype=torch.bfloat16)
        assert batch.latents.dtype == batch.canvas().dtype == torch.bfloat16
        assert batch.cos.dtype == batch.positions.dtype == torch.float32
        again = pickle.loads(pickle.dumps(batch))
        for name in TENSORS:
            assert torch.equal(getattr(again, name), getattr(batch, name)), name
        assert torch.equal(again.canvas(), batch.canvas())

    def test_in_the_workers_of_a_data_loader(self):
        loader = torch.utils.data.DataLoader(Samples(), batch_size=2, num_workers=2)
        (numbers, got), (_, last) = loader
        assert numbers.tolist() == [0, 1]
        assert [len(got), len(last)] == [2, 1]
        assert torch.equal(last.latents, build(filled(3)).latents)

    def test_frames_or_latent_frames(self):
        layout = TemporalLayout("causal", 4)
        frames = path()[:9]
        by_frame = build(filled(3), frames, temporal=layout)
        by_latent = build(filled(3), type(frames)([frames[i] for i in (0, 4, 8)], frames.intrinsics))
        for name in TENSORS:
            assert torch.equal(getattr(by_frame, name), getattr(by_latent, name)), name


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return i, build(filled(i + 1))


class TestOnADevice:
    """Tensors without data, which nothing can copy to the host: what a store on a GPU gives stays there."""

    @pytest.mark.parametrize("incomplete", ["drop", "fill", "mask"])
    @pytest.mark.parametrize("distinct", [False, True])
    def test_tokens_are_grouped_there(self, incomplete, distinct):
        mosaic = MemoryRetrieval(top_k=20).retrieve(filled(2), targets(), STRIDE)
        arrays = {name: torch.as_tensor(x).to("meta") for name, x in vars(mosaic).items() if name != "sources"}
        there = group_cells(replace(mosaic, **arrays), (2, 2), incomplete, distinct)
        here = group_cells(mosaic, (2, 2), incomplete, distinct)
        for name, x in vars(there).items():
            assert x.is_meta, name
            assert (x.shape, x.dtype) == (getattr(here, name).shape, getattr(here, name).dtype), name

    def test_batches_are_joined_there(self):
        batch, more = (build(filled(n), canvas=False).to("meta") for n in (1, 3))
        joined = MemoryBatch.cat([batch, more]).repeat(2)._padded(700).to(dtype=torch.bfloat16)
        assert all(getattr(joined, name).is_meta for name in TENSORS)
        assert joined.latents.shape == (4, 700, CHANNELS, 2, 2)


class TestCameras:
    def test_an_edited_keyframe_stays_where_it_is(self):
        store = filled(1).fork()
        SpatialManipulation(store).scale(1.5)
        reference = targets()[0]
        known = build(store, prope="half").prope
        moved = known.sources[0] @ reference.camera_from_world  # camera_from_world again
        np.testing.assert_allclose(moved[..., :3, :3] @ moved[..., :3, :3].swapaxes(-1, -2), [np.eye(3)], atol=1e-9)
        centre = -moved[0, :3, :3].T @ moved[0, :3, 3]
        np.testing.assert_allclose(centre, 1.5 * np.asarray(path()[0].world_from_camera)[:3, 3], atol=1e-9)

    def test_keyframes_of_another_size_are_named(self):
        store, wide = filled(1), CAMERA.scaled(256, 128)
        with pytest.warns(SuspiciousInput, match=r"prope: keyframes seem to be of images of another size"):
            build(store, type(path())(list(targets()), wide), vae_stride=16, prope="half")


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patch": (2, 2, 2)}, r"patch: expected \(1, rows, columns\).* got \(2, 2, 2\)"),
            ({"patch": (1, 3, 3)}, r"targets: expected images of whole patches, in multiples of 24 x 24 pixels"),
            ({"patch": (1, 4, 4)}, r"stores: expected a latent_patch_size in multiples of patch = \(4, 4\).* got 2"),
            ({"pad_to": 7}, r"pad_to: expected at least the \d+ tokens.* got 7; lower top_k, or pass distinct=True"),
            ({"incomplete": "keep"}, r"incomplete: expected"),
            ({"dtype": torch.int32}, r"dtype: expected a floating dtype"),
            ({"rope": 24}, r"rope: expected WarpedRoPE"),
            ({"prope": "whole"}, r"layout"),
        ],
    )
    def test_are_named(self, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            build(filled(2), **options).prope._pair(24)

    def test_one_trajectory_per_store(self):
        with pytest.raises(ValueError, match=r"targets: expected one trajectory per store, got 1 for 2 stores"):
            build([filled(1), filled(2)], [targets()])
        with pytest.raises(TypeError, match=r"stores\[1\]: expected MosaicMemoryStore"):
            build([filled(1), None])

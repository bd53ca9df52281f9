"""Windows of posed RGB-D sequences, each with the memory of other parts of its sequence: samples to train on."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

from mosaicmem._arrays import check_instance, check_integer, check_methods, check_number
from mosaicmem.attention import WarpedRoPE
from mosaicmem.camera import CameraTrajectory
from mosaicmem.datasets import RgbdImage, RgbdSequence
from mosaicmem.diffusion import VAE
from mosaicmem.errors import SuspiciousInput, suspect
from mosaicmem.memory import KeyframeRetrieval, MosaicMemoryStore
from mosaicmem.models.batch_inputs import latent_cameras
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.training.encoded_sequence import EncodedSequence, nearest_size
from mosaicmem.models.training.memory_policy import MemoryPolicy

_MOST_NAMED = 5  # sequences that an error names

_Sequence: TypeAlias = RgbdSequence | EncodedSequence
_Sequences: TypeAlias = _Sequence | Sequence[_Sequence] | Mapping[str, _Sequence]


class RevisitDataset(Dataset[dict[str, Any]]):
    """Windows of posed RGB-D sequences, each with the memory of other parts of its sequence.

    A `torch.utils.data.Dataset`. DataLoader's default collation makes one `MemoryBatch` of the samples' memories. A
    sample depends on the seed, the epoch and its index alone, so neither on workers nor on order.

    Parameters
    ----------
    sequences : RgbdSequence, sequence of them, or mapping of names to them
        `open_sequence` reads those of folders. An `EncodedSequence` is taken as it is, without ``size``, ``cache`` and
        ``dynamic``, which it has itself.
    vae : VAE
        For example `WanMemoryVAE`.
    window : int
        Frames per sample, whole latent frames of the VAE: 1 + 4 k for Wan.
    rope : WarpedRoPE
        Of the transformer: `wan_rope` for Wan.
    patch : (int, int, int)
        The transformer's patch.
    policy : MemoryPolicy
    size : (int, int), optional
        Width and height of the images, pixels, to train at.
    cache : path, optional
        A folder for encoded latents, one folder per sequence. If not given, each process of a DataLoader encodes what
        it needs, and keeps it in memory.
    step : int, optional
        Frames between the beginnings of windows; ``window`` if not given.
    dynamic : callable, optional
        Takes an `RgbdImage`, returns its pixels (H, W) bool that show something moving, which memory does not keep.
    prompts : mapping, optional
        Of sequence names to prompts. Names are those of the mapping, folder names, or "0", "1", ...
    min_coverage : float
        Leave out windows of which the memory of all candidates shows less than this fraction of cells.
    seed : int
    **options
        Of `MemoryBatch.build`: ``top_k``, ``pad_to``, ``prope``, ``distinct``, ``canvas``, ...

    Raises
    ------
    ValueError
        A sequence is shorter than a window or all are without enough revisits; images are not whole tokens; the cache
        is of other latents.

    Attributes
    ----------
    sequences : list of EncodedSequence
    windows : list of (int, range)
        The sequence and the frames of each sample.
    """

    def __init__(
        self,
        sequences: _Sequences,
        vae: VAE,
        *,
        window: int,
        rope: WarpedRoPE,
        patch: tuple[int, int, int] = (1, 2, 2),
        policy: MemoryPolicy | None = None,
        size: tuple[int, int] | None = None,
        cache: str | Path | None = None,
        step: int | None = None,
        dynamic: Callable[[RgbdImage], Any] | None = None,
        prompts: Mapping[str, str] | None = None,
        min_coverage: float = 0.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_methods("vae", vae, VAE)
        self.vae, self.policy = vae, check_instance("policy", policy or MemoryPolicy(), MemoryPolicy)
        self._seed = check_integer("seed", seed, minimum=0)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist see it change
        self._rope, self._patch, self._options = check_instance("rope", rope, WarpedRoPE), patch, options
        _check_options(options)
        frames = check_integer("window", window, minimum=1)
        _check_whole(frames, vae)
        named = _named(sequences)
        self._prompts = dict(prompts or {})
        if unknown := set(self._prompts) - set(named):
            raise ValueError(f"prompts: expected names of sequences, such as {next(iter(named))}, got {min(unknown)!r}")
        self.sequences = [
            one
            if isinstance(one, EncodedSequence)
            else EncodedSequence(
                one,
                vae,
                size=size,
                folder=None if cache is None else Path(cache) / name,
                dynamic=dynamic,
                name=f"sequences[{name!r}]",
            )
            for name, one in named.items()
        ]
        self._names = list(named)
        self._keyframes = [self.policy.keyframes(one.path) for one in self.sequences]
        self.windows = [
            (i, range(start, start + frames))
            for i, one in enumerate(self.sequences)
            for start in range(
                0, len(one) - frames + 1, check_integer("step", frames if step is None else step, minimum=1)
            )
        ]
        self._check_sizes(frames)
        if least := check_number("min_coverage", min_coverage, minimum=0.0, maximum=1.0):
            self._keep_revisits(least)

    @property
    def epoch(self) -> int:
        """Set it before each epoch, for other memories of the same windows."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(check_integer("epoch", epoch, minimum=0))

    def encode(self, on_step: Callable[[int, int], None] | None = None) -> None:
        """Encode all that samples of any epoch can need, and check that depth and poses of each sequence fit.

        With a cache, no worker and no later run needs the VAE for it, except that a later run compares its VAE with the
        one that filled the cache.

        Parameters
        ----------
        on_step : callable, optional
            Called with how many windows and keyframes are done, and how many there are.

        Raises
        ------
        ValueError
            A sequence has no depth.

        Warns
        -----
        SuspiciousInput
            Poses and depth of a sequence do not fit; see `PoseCheck`.
        """
        for number in dict.fromkeys(number for number, _ in self.windows):
            self.sequences[number].check_poses(self._keyframes[number])
        asked: dict[tuple[int, int | range], None] = {}
        for number, frames in self.windows:
            asked[number, frames] = None
            asked.update(((number, i), None) for i in self._candidates(number, frames))
        for done, (number, what) in enumerate(asked, 1):
            one = self.sequences[number]
            if isinstance(what, range):
                one.window(what)
            else:
                one.keyframe(what)
                one.subcell_depth(what)
            if on_step is not None:
                on_step(done, len(asked))

    def _candidates(self, number: int, frames: range) -> list[int]:
        return self.policy.candidates(self._keyframes[number], frames)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample.

        Returns
        -------
        dict
            ``latents`` (C, T, h, w) float32, to learn; ``memory``, a `MemoryBatch` of one sample;
            ``camera_from_world`` (F, 4, 4) float32 of the window's frames, in a world in which the first is the
            identity; ``intrinsics`` (3, 3) float32, pixels; ``prompt``; ``sequence`` and ``start``, ints.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected less than {len(self)}, got {index}")
        number, frames = self.windows[index]
        one = self.sequences[number]
        rng = np.random.default_rng([self._seed, self.epoch, index % len(self)])
        path = one.path[frames.start : frames.stop]
        memory = self.memory(index, self.policy.draw(self._candidates(number, frames), frames, rng), rng)
        return {
            "latents": torch.from_numpy(one.window(frames).copy()),
            "memory": memory,
            "camera_from_world": torch.from_numpy(
                (path.camera_from_world @ path[0].world_from_camera).astype(np.float32)
            ),
            "intrinsics": torch.from_numpy(np.asarray(path.intrinsics.matrix, np.float32)),
            "prompt": self._prompts.get(self._names[number], ""),
            "sequence": number,
            "start": frames.start,
        }

    def memory(self, index: int, remembered: Sequence[int], rng: np.random.Generator | None = None) -> MemoryBatch:
        """What the frames ``remembered`` of its sequence show to a window; disturbed by the policy with ``rng``.

        That memory shows nothing is no reason for a `SuspiciousInput` here: in training it often does.
        """
        number, frames = self.windows[index]
        one = self.sequences[number]
        store = self._store(one, remembered, rng)
        path = one.path[frames.start : frames.stop]
        layout, options = self.vae.temporal, {"patch": self._patch, "rope": self._rope, **self._options}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "targets: nothing is found", SuspiciousInput)
            batch = MemoryBatch.build(store, path, vae_stride=self.vae.stride, temporal=layout, **options)
            if options.get("canvas", True) is not False:
                batch.canvas()  # here, where a worker does it
        return batch

    def _store(
        self, one: EncodedSequence, remembered: Sequence[int], rng: np.random.Generator | None
    ) -> MosaicMemoryStore:
        store = MosaicMemoryStore(latent_patch_size=max(self._patch[1:]))
        level = 0.0 if rng is None else rng.random()
        for i in remembered:
            latents, depth = one.keyframe(i)
            valid = None
            if rng is not None:
                latents, valid = self.policy.noisy(latents, level, rng), self.policy.remaining(depth.shape, rng)
            fine = one.subcell_depth(i)
            store.insert_keyframe(
                latents, depth, one.path.intrinsics, one.path[i], frame_id=i, valid=valid, subcell_depth=fine
            )
        return store

    def _check_sizes(self, frames: int) -> None:
        if not self.windows:
            longest = max(len(one) for one in self.sequences)
            raise ValueError(f"sequences: expected at least window = {frames} frames, got {longest} at most")
        for one in self.sequences:
            camera = one.path.intrinsics
            token = (self.vae.stride * self._patch[2], self.vae.stride * self._patch[1])
            if camera.width % token[0] or camera.height % token[1]:
                raise ValueError(
                    f"{one.name}: expected images of whole tokens of {token[0]}x{token[1]} pixels, got "
                    f"{camera.width}x{camera.height}; pass size={nearest_size(camera, *token)}"
                )
        grids = {(one.path.intrinsics.width, one.path.intrinsics.height) for one in self.sequences}
        if len(grids) > 1:
            raise ValueError(f"sequences: expected images of one size, got {sorted(grids)}; pass size=(width, height)")

    def _keep_revisits(self, least: float) -> None:
        """Leave out windows of which memory shows too little, by depth alone: nothing is encoded for it."""
        kept, best, empty = [], [0.0] * len(self.sequences), set(range(len(self.sequences)))
        for number, frames in self.windows:
            coverage = self._coverage(number, frames)
            best[number] = max(best[number], coverage)
            if number in empty and any((self.sequences[number].depth(i) > 0).any() for i in self._keyframes[number]):
                empty.remove(number)
            if coverage >= least:
                kept.append((number, frames))
        reasons = {i: "no depth" if i in empty else f"{share:.2f} at most" for i, share in enumerate(best)}
        without = [f"{self._names[i]} ({reasons[i]})" for i, share in enumerate(best) if share < least]
        shown = ", ".join(without[:_MOST_NAMED]) + (", ..." if len(without) > _MOST_NAMED else "")
        message = (
            f"sequences: expected windows of which memory shows at least min_coverage = {least:g}, got none in "
            f"{shown}; does the camera come back? A smaller gap or window, remembered='around' or a lower min_coverage "
            "find more"
        )
        if not kept:
            raise ValueError(message)
        if without:
            suspect(f"{message}; {len(without)} of {len(best)} sequences are left out")
        self.windows = kept

    def _coverage(self, number: int, frames: range) -> float:
        one, store = self.sequences[number], MosaicMemoryStore(latent_patch_size=max(self._patch[1:]))
        for i in self._candidates(number, frames):
            depth = one.depth(i)
            store.insert_keyframe(np.zeros((*depth.shape, 1), np.float32), depth, one.path.intrinsics, one.path[i])
        if len(store) == 0:
            return 0.0
        targets: CameraTrajectory = latent_cameras(one.path[frames.start : frames.stop], self.vae.temporal)
        most = self.policy.max_keyframes
        retrieval = KeyframeRetrieval(max_keyframes=most, max_window_keyframes=2 * most)
        return float(np.mean(retrieval.retrieve(store, targets, self.vae.stride).coverage))


def _check_options(options: Mapping[str, Any]) -> None:
    taken = inspect.signature(MemoryBatch.build).parameters
    own = ("stores", "targets", "vae_stride", "patch", "rope", "temporal")
    known = [name for name in taken if name not in own]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f", of {', '.join(known)}"
            raise TypeError(f"options: expected parameters of MemoryBatch.build, got {name!r}{hint}")


def _check_whole(frames: int, vae: VAE) -> None:
    layout = vae.temporal
    latents = layout.num_latents(frames)
    if layout.frames_of(latents - 1, 1 + layout.factor * latents).stop != frames:
        first = 1 if layout.kind == "causal" else layout.factor
        raise ValueError(
            f"window: expected {first} + {layout.factor} k frames, whole latent frames of the VAE, got {frames}"
        )


def _folder_names(sequences: Sequence[Any]) -> list[str]:
    """Distinct names: that of the folder, with as many parents as tell it from others; else the position."""
    parts = [Path(getattr(one, "folder", "")).resolve().parts if hasattr(one, "folder") else () for one in sequences]
    names = []
    for i, own in enumerate(parts):
        others = [other for j, other in enumerate(parts) if j != i]
        depth = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), None)
        names.append(str(i) if depth is None else "-".join(own[-depth:]))
    return names


def _named(sequences: Any) -> dict[str, RgbdSequence | EncodedSequence]:
    if isinstance(sequences, (RgbdSequence, EncodedSequence)):
        sequences = [sequences]
    if isinstance(sequences, Mapping):
        named = dict(sequences)
    elif isinstance(sequences, Sequence) and not isinstance(sequences, (str, bytes)):
        named = dict(zip(_folder_names(sequences), sequences, strict=True))
    else:
        raise TypeError(
            f"sequences: expected RgbdSequence, a list or a mapping of them, got {type(sequences).__name__}"
        )
    if not named:
        raise ValueError("sequences: expected at least one")
    for name, one in named.items():
        hint = "; open_sequence(folder) reads one" if isinstance(one, (str, Path)) else ""
        if not isinstance(one, (RgbdSequence, EncodedSequence)):
            raise TypeError(f"sequences[{name!r}]: expected an RgbdSequence, got {type(one).__name__}{hint}")
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError(f"sequences: expected names that can be those of folders, got {name!r}")
    return named

"""Fuzz targets for saved stores and checkpoints: most inputs get valid checksums, so that their content is parsed."""

import contextlib
import hashlib
import json

import numpy as np
from fuzz_loop import Target

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
)
from mosaicmem.memory.storage import Manifest, read_manifest, verify
from mosaicmem.pipeline import Checkpoint
from mosaicmem.pipeline.checkpoint import RUN, STORE, KeptWindow
from mosaicmem.pipeline.results import WindowStatistics

CAMERA = CameraIntrinsics(20.0, 21.0, 8.0, 6.0, 16, 12)
POSE = CameraPose.look_at([0.1, 0.2, -0.3], [0.2, 0.1, 5], timestamp=0.5)
TENSORS = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"dtype"', b'"F32"', b'"U16"', b'"U64"', b'"F64"', b'"shape"'),
    *(b'"data_offsets"', b'"0.latents"', b'"0.depth"', b'"slot"', b'"alive"', b'"gone"', b"\xff" * 8, b"\0" * 8),
    *(b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"9999999999999999999"),
)


def small_store():
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(latent_patch_size=2)
    for number in range(3):
        latents, depth = rng.standard_normal((3, 4, 2)), rng.uniform(1, 4, (3, 4))
        confidence = rng.uniform(0, 1, (3, 4)) if number else None
        store.insert_keyframe(latents, depth, CAMERA, POSE, confidence=confidence, frame_id=number)
    store.delete_patches(store.patch_ids[:1])
    return store


def save(folder, window=None):
    """Save a store, with ``window`` attached, under file names that are the same in every run."""
    store = small_store()
    store.save(folder, label="a label", attachment=window)
    store.close()
    manifest = read_manifest(folder)
    renamed = {}
    for group in ("keyframes", "states", "attachments"):
        entries = []
        for entry in getattr(manifest, group):
            name = entry.name.rpartition("-")[0] + "-00000000.safetensors"
            (folder / entry.name).rename(folder / name)
            entries.append(entry.model_copy(update={"name": name}))
        renamed[group] = entries
    (folder / "manifest.json").write_bytes(sealed(manifest.model_copy(update=renamed)))
    return read_manifest(folder)


def sealed(manifest: Manifest) -> bytes:
    return json.dumps({**manifest._content(), "checksum": manifest.checksum}).encode()


def seal_text(content: bytes) -> bytes:
    """The manifest with a valid checksum; unchanged if it is not a JSON object."""
    try:
        value = json.loads(content)
        value.pop("checksum", None)
        body = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, AttributeError, RecursionError):
        return content
    return json.dumps({**value, "checksum": hashlib.sha256(body.encode()).hexdigest()}).encode()


def use(folder):
    """Everything that reads a store."""
    verify(folder)
    store = MosaicMemoryStore.open(folder)
    store.retrieve(CAMERA, POSE, top_k=4)
    store.describe_patches(store.patch_ids)
    if len(store):
        stride = CAMERA.width // 4
        MemoryRetrieval().retrieve(store, CameraTrajectory([POSE], CAMERA), stride)
        KeyframeRetrieval().retrieve(store, CameraTrajectory([POSE], CAMERA), stride)
    store.statistics()
    store.delete_patches(store.patch_ids[:1])
    with contextlib.suppress(ValueError):  # the limits of the store may refuse it
        store.insert_keyframe(np.ones((3, 4, store.channels or 2)), np.ones((3, 4)), CAMERA, POSE)


def reseal(path, group):
    """Update the manifest with the size and checksums of a changed file."""
    folder, content = path.parent, path.read_bytes()
    manifest = read_manifest(folder)
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    entry = getattr(manifest, group)[0].model_copy(
        update={
            "nbytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "header_sha256": hashlib.sha256(header).hexdigest(),
        }
    )
    (folder / "manifest.json").write_bytes(sealed(manifest.model_copy(update={group: [entry]})))


def file_target(group, name):
    def prepare(folder):
        save(folder)
        return [(folder / name).read_bytes()]

    def read(path):
        reseal(path, group)
        use(path.parent)

    return Target(f"store-{group}", name, prepare, read, tokens=TENSORS, speed=0.5)


def manifest_target():
    def prepare(folder):
        save(folder)
        return [(folder / "manifest.json").read_bytes()]

    tokens = (b"{", b"}", b"[", b"]", b",", b'"version"', b"1", b"-1", b"4611686018427387904", b"null", b"1e300", b'""')
    return Target(
        "store-manifest", "manifest.json", prepare, lambda path: use(path.parent), tokens, wrap=seal_text, speed=0.5
    )


def window_arrays():
    rng = np.random.default_rng(1)
    mask = np.ones((1, 3, 4), np.uint8)
    return {
        "decoded": rng.random((1, 24, 32, 3), np.float32),
        "canvas": rng.random((1, 3, 4, 2), np.float32),
        "depth": rng.random((1, 3, 4), np.float32),
        "coverage": mask,
        "observed": mask,
    }


def window_target():
    """A window of a checkpoint."""
    statistics = WindowStatistics(0, 0, 3, 5, 6, 0.5, 0.25, 0.25, 1, 7, {"decode": 0.5})
    name = f"{STORE}/attachment-00000003-00000000.safetensors"

    def prepare(folder):
        text = json.dumps(statistics.__dict__)
        (folder / RUN).write_text("{}")
        save(folder / STORE, (window_arrays(), {"window": "0", "statistics": text}))
        manifest = read_manifest(folder / STORE)
        label = Checkpoint(folder)._label()
        (folder / STORE / "manifest.json").write_bytes(sealed(manifest.model_copy(update={"label": label})))
        return [(folder / name).read_bytes()]

    def read(path):
        reseal(path, "attachments")
        assert isinstance(Checkpoint(path.parent.parent).load(0), KeptWindow)

    return Target(
        "run-window",
        name,
        prepare,
        read,
        tokens=(*TENSORS, b'"canvas"', b'"statistics"', b'\\"coverage\\":'),
        speed=0.5,
    )


STORES = [
    manifest_target(),
    file_target("states", "state-00000002-00000000.safetensors"),
    file_target("keyframes", "keyframes-00000001-00000000.safetensors"),
    window_target(),
]

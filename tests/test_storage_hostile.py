"""Saved stores whose files are damaged, missing, or lie."""

import contextlib
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import (
    CameraPose,
    FormatError,
    MosaicMemoryStore,
    SpatialManipulation,
)
from mosaicmem.memory import storage

POSE = CameraPose.look_at([0.2, 0.1, -1.0], [0, 0, 2], timestamp=50.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The files of a saved store, by name."""
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("saved") / "store"
    store, _ = filled_store(rng, 5)
    store.save(folder)
    store.delete_patches(store.patch_ids[::3])
    SpatialManipulation(store).flip([1, 0, 0], where=store.patch_ids[::2])
    store.insert_keyframe(*random_keyframe(rng, 5.0)[:2], K, POSE, confidence=rng.random((6, 10)))
    store.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lay_out(folder, content):
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def sealed(manifest):
    """The manifest with its own checksum made valid, whatever it says."""
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "checksum": storage.manifest.hashlib.sha256(text.encode()).hexdigest()}


def reseal(content, manifest):
    """The files, with sizes and checksums in the manifest that match them."""
    for entry in manifest["keyframes"] + manifest["states"]:
        data = content[entry["name"]]
        end = 8 + int.from_bytes(data[:8], "little")
        digest = storage.manifest.hashlib.sha256
        entry.update(nbytes=len(data), sha256=digest(data).hexdigest(), header_sha256=digest(data[:end]).hexdigest())
    return {**content, "manifest.json": json.dumps(sealed(manifest)).encode()}


def first(content, kind):
    return min(name for name in content if name.startswith(kind))


@pytest.mark.kernel
class TestHostileFiles:
    @pytest.mark.parametrize("kind", ["manifest", "state", "keyframes"])
    def test_cut_off(self, saved, tmp_path, kind):
        name = first(saved, kind)
        for i, length in enumerate((0, 1, 7, 8, 9, 100, len(saved[name]) // 2, len(saved[name]) - 2)):
            folder = lay_out(tmp_path / str(i), {**saved, name: saved[name][:length]})
            with pytest.raises(FormatError, match=name):
                MosaicMemoryStore.open(folder)

    @pytest.mark.parametrize("kind", ["manifest", "state", "keyframes"])
    def test_missing(self, saved, tmp_path, kind):
        name = first(saved, kind)
        folder = lay_out(tmp_path / "store", {n: data for n, data in saved.items() if n != name})
        with pytest.raises(FileNotFoundError if kind == "manifest" else FormatError, match=name):
            MosaicMemoryStore.open(folder)

    def test_no_store(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder of a store"):
            MosaicMemoryStore.open(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=r"has no manifest.json"):
            MosaicMemoryStore.open(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "npz"}, "expected the manifest of a mosaicmem store, got format 'npz'"),
            ({"version": 5}, r"of format version 5; this mosaicmem reads up to 4: update it"),
            ({"version": 10**400}, "newer|version|digits"),
            ({"next_id": -1}, "next_id"),
            ({"next_id": 2**70}, "next_id"),
            ({"next_id": 3}, "an id that was not given yet"),
            ({"next_slot": 3}, "slots overlap"),
            ({"next_file": 1}, "a number that was not given yet"),
            ({"channels": 10**12}, "latents: expected F32"),
            ({"channels": 0}, "latents: expected F32"),
            ({"patches": 10**15}, "counts other patches"),
            ({"origin": [0.0, 0.0, 1e300]}, "origin out of reach"),
            ({"origin": [0.0, 0.0]}, "origin"),
            ({"extra": 1}, "extra"),
            ({"keyframes": []}, "none of the store's"),
            ({"states": []}, "counts other patches"),
            ({"attachments": [0] * 100_001}, "expected at most 100000 files of a kind, got 100001"),
        ],
    )
    def test_impossible_manifests(self, saved, tmp_path, change, message):
        manifest = json.loads(saved["manifest.json"])
        text = json.dumps(sealed({**manifest, **change}) if change != {"version": 10**400} else manifest)
        if change == {"version": 10**400}:
            text = text.replace('"version": 4', f'"version": {"9" * 400}')
        folder = lay_out(tmp_path / "store", {**saved, "manifest.json": text.encode()})
        with pytest.raises(FormatError, match=message) as caught:
            MosaicMemoryStore.open(folder)
        assert str(folder) in str(caught.value)

    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "keyframes-00000001.safetensors/../x", "lock", ""])
    def test_names_that_lead_elsewhere(self, saved, tmp_path, name):
        manifest = json.loads(saved["manifest.json"])
        manifest["keyframes"][0]["name"] = name
        folder = lay_out(tmp_path / "store", {**saved, "manifest.json": json.dumps(sealed(manifest)).encode()})
        with pytest.raises(FormatError, match=r"keyframes\.0\.name"):
            MosaicMemoryStore.open(folder)

    def test_links_and_pipes_are_not_followed(self, saved, tmp_path):
        name = first(saved, "keyframes")
        folder = lay_out(tmp_path / "a", saved)
        (tmp_path / "elsewhere").write_bytes(saved[name])
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FormatError, match=name):
            MosaicMemoryStore.open(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(FormatError, match=f"{name}: expected a regular file"):
            MosaicMemoryStore.open(folder)

    def test_a_manifest_that_is_no_file(self, saved, tmp_path):
        for i, make in enumerate((os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path))):
            folder = lay_out(tmp_path / str(i), {n: data for n, data in saved.items() if n != "manifest.json"})
            make(folder / "manifest.json")
            with pytest.raises(FormatError, match=r"manifest.json: expected a regular file"):
                MosaicMemoryStore.open(folder)

    @pytest.mark.parametrize("shape", [[0, 2**70, 4], [0, 2**62, 4], [2**39, 0, 4], [-1, 10, 4]])
    def test_absurd_shapes(self, saved, tmp_path, shape):
        name = first(saved, "keyframes")
        end = 8 + int.from_bytes(saved[name][:8], "little")
        header = json.loads(saved[name][8:end])
        header["0.latents"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        text = json.dumps(header).encode()
        content = {**saved, name: len(text).to_bytes(8, "little") + text + saved[name][end:]}
        with pytest.raises(FormatError, match=name):
            MosaicMemoryStore.open(lay_out(tmp_path / "store", reseal(content, json.loads(saved["manifest.json"]))))

    def test_a_manifest_without_end(self, saved, tmp_path):
        folder = lay_out(tmp_path / "store", saved)
        with open(folder / "manifest.json", "wb") as file:
            file.truncate(10**12)
        with pytest.raises(FormatError, match="expected at most 16777216 bytes"):
            MosaicMemoryStore.open(folder)

    @pytest.mark.parametrize("kind", ["state", "keyframes"])
    @pytest.mark.parametrize("length", [0, 2**31, 2**62, 2**64 - 1])
    def test_absurd_headers(self, saved, tmp_path, kind, length):
        name = first(saved, kind)
        manifest = json.loads(saved["manifest.json"])
        data = length.to_bytes(8, "little") + saved[name][8:]
        content = {**saved, name: data}
        for entry in manifest["keyframes"] + manifest["states"]:
            entry["sha256"] = storage.manifest.hashlib.sha256(content[entry["name"]]).hexdigest()
        content["manifest.json"] = json.dumps(sealed(manifest)).encode()
        with pytest.raises(FormatError, match="not a safetensors file"):
            MosaicMemoryStore.open(lay_out(tmp_path / "store", content))

    def test_a_header_that_is_another_one(self, saved, tmp_path):
        """It still parses, but gives a keyframe the latents of another: noticed without reading the tensors."""
        name = first(saved, "keyframes")
        damaged = saved[name].replace(b'"0.latents"', b'"0.latentt"').replace(b'"1.latents"', b'"0.latents"')
        assert len(damaged) == len(saved[name])
        with pytest.raises(FormatError, match="header does not match the manifest's checksum"):
            MosaicMemoryStore.open(lay_out(tmp_path / "store", {**saved, name: damaged}))

    def test_patches_beyond_the_keyframe(self, saved, tmp_path):
        """A keyframe has 15 patches; bits for more would be counted but never found."""
        name = first(saved, "state")
        manifest = json.loads(saved["manifest.json"])
        end = 8 + int.from_bytes(saved[name][:8], "little")
        begin, stop = json.loads(saved[name][8:end])["alive"]["data_offsets"]
        words = np.frombuffer(saved[name][end + begin : end + stop], dtype=np.uint64) | np.uint64(1 << 63)
        manifest["states"] = manifest["states"][:1]
        manifest["patches"] = int(np.unpackbits(words.view(np.uint8)).sum())
        manifest["observations"] = len(words)
        content = {**saved, name: saved[name][: end + begin] + words.tobytes() + saved[name][end + stop :]}
        with pytest.raises(FormatError, match="living patches beyond the keyframe"):
            MosaicMemoryStore.open(lay_out(tmp_path / "store", reseal(content, manifest)))

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_damage_is_noticed_by_verify(self, saved, tmp_path_factory, data):
        name = data.draw(st.sampled_from(sorted(n for n in saved if n != "lock")))
        content = bytearray(saved[name])
        kind = data.draw(st.sampled_from(["flip", "cut", "grow", "swap"]))
        at = data.draw(st.integers(0, len(content) - 1))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at:]
        elif kind == "grow":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
        if bytes(content) == saved[name]:
            return
        folder = lay_out(tmp_path_factory.mktemp("damaged") / "store", {**saved, name: bytes(content)})
        same = name == "manifest.json" and _same_json(bytes(content), saved[name])
        with contextlib.suppress(FormatError):  # without verify, damage of a tensor may go unnoticed, but does no harm
            fingerprint(MosaicMemoryStore.open(folder), POSE)
        if same:
            storage.verify(folder)
        else:
            with pytest.raises(FormatError):
                storage.verify(folder)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_lies_with_good_checksums_do_no_harm(self, saved, tmp_path_factory, data):
        """An attacker can compute checksums: whatever still opens can be used without a crash."""
        content = dict(saved)
        manifest = json.loads(saved["manifest.json"])
        for _ in range(data.draw(st.integers(1, 3))):
            name = data.draw(st.sampled_from(sorted(n for n in saved if n.endswith(".safetensors"))))
            damaged = bytearray(content[name])
            end = 8 + int.from_bytes(damaged[:8], "little")
            in_header = data.draw(st.booleans())
            at = data.draw(st.integers(8, end - 1) if in_header else st.integers(end, len(damaged) - 1))
            if in_header:
                damaged[at] = data.draw(st.sampled_from(b'0123456789"[]{},:FUI-'))
            else:
                at -= (at - end) % 8
                value = data.draw(
                    st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**62, 64, 0x7FF0000000000000, 0x7FF8000000000001])
                )
                damaged[at : at + 8] = value.to_bytes(8, "little")
            content[name] = bytes(damaged[: len(saved[name])])
        for field, values in (
            ("next_id", [0, 2**62 - 1]),
            ("next_slot", [0, 2**62 - 1]),
            ("channels", [0, 1, 2**61]),
            ("patches", [0, 2**61]),
        ):
            if data.draw(st.integers(0, 9)) == 0:
                manifest[field] = data.draw(st.sampled_from(values))
        folder = lay_out(tmp_path_factory.mktemp("lies") / "store", reseal(content, manifest))
        try:
            opened = MosaicMemoryStore.open(folder)
        except FormatError:
            return
        opened.retrieve(K, POSE, top_k=1000)
        opened.query_nearest(np.zeros((2, 3)), 7)
        opened.project_tokens(opened.patch_ids, K, POSE)
        opened.delete_patches(opened.patch_ids[::2])


def _same_json(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False

"""Compaction: the folder of a store as small as its content, which stays the same, also for those who read it."""

import os
import threading

import numpy as np
import pytest

from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import CameraPose, FormatError, MosaicMemoryStore, StoreLockedError
from mosaicmem.memory.storage import compact, linked_copy, plain_names, read_attachment, read_manifest, verify

POSE = CameraPose.look_at([0.2, 0.1, -1.0], [0, 0, 2], timestamp=50.0)


def data_files(folder):
    return {path.name for path in folder.iterdir() if path.suffix == ".safetensors"}


def insert(store, rng, frame_id):
    latents, depth, pose = random_keyframe(rng, float(frame_id))
    store.insert_keyframe(latents, depth, K, pose, frame_id=frame_id)


@pytest.fixture
def lived_in(rng, tmp_path):
    """A folder with erased keyframes, many small files, and leftovers; and what it should hold."""
    store, _ = filled_store(rng, 6)
    folder = tmp_path / "store"
    for i in range(4):
        if i:
            insert(store, rng, 100 + i)
        store.delete_frame(i)
        store.save(folder, label="mine", attachment=({"x": np.full(3, i)}, {}))
    store.close()
    return folder, store


class TestCompact:
    def test_content_stays_and_the_dead_goes(self, lived_in):
        folder, store = lived_in
        expected, manifest = fingerprint(store, POSE), read_manifest(folder)
        (folder / "keyframes-00000099-0123abcd.safetensors").write_bytes(b"left by a killed save")
        made = compact(folder)
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == expected
        verify(folder)
        after = read_manifest(folder)
        assert (len(after.keyframes), len(after.states)) == (1, 1)
        assert sum(entry.rows for entry in after.keyframes) == store.statistics().keyframes
        assert data_files(folder) == {entry.name for entry in after.files}
        assert made.files_before == len(manifest.files) + 1
        assert made.files_after == len(after.files) == 2 + 4
        assert made.nbytes_after == sum((folder / name).stat().st_size for name in data_files(folder))
        assert made.nbytes_after < made.nbytes_before
        assert after.label == "mine"
        np.testing.assert_array_equal(read_attachment(folder, after, 3).get("x", ("I64",), (3,)), [3, 3, 3])

    def test_again_it_writes_nothing(self, lived_in):
        folder, _ = lived_in
        compact(folder)
        before = data_files(folder)
        made = compact(folder)
        assert data_files(folder) == before
        assert made.nbytes_before == made.nbytes_after

    def test_readers_go_on(self, lived_in):
        folder, store = lived_in
        expected = fingerprint(store, POSE)
        reader, failures, stop = MosaicMemoryStore.open(folder), [], threading.Event()

        def read():
            try:
                while not stop.is_set():
                    assert fingerprint(MosaicMemoryStore.open(folder), POSE) == expected
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(5):
            compact(folder)
        stop.set()
        thread.join()
        assert failures == []
        assert fingerprint(reader, POSE) == expected

    def test_the_store_goes_on_saving_there(self, lived_in, rng):
        folder, _ = lived_in
        compact(folder)
        store = MosaicMemoryStore.open(folder)
        insert(store, rng, 900)
        store.save(folder)
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(store, POSE)

    def test_not_where_another_one_writes(self, lived_in):
        folder, _ = lived_in
        writer = MosaicMemoryStore.open(folder)
        writer.delete_patches([0])
        writer.save(folder)
        before = data_files(folder)
        with pytest.raises(StoreLockedError):
            compact(folder)
        assert data_files(folder) == before
        writer.close()

    def test_damage_is_kept(self, lived_in):
        folder, _ = lived_in
        entry = next(entry for entry in read_manifest(folder).keyframes if entry.rows > 1)
        content = bytearray((folder / entry.name).read_bytes())
        content[-1] ^= 1
        (folder / entry.name).write_bytes(content)
        with pytest.warns(UserWarning, match="it is kept as it is"):
            compact(folder)
        with pytest.raises(FormatError, match="does not match"):
            verify(folder)

    def test_no_store(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            compact(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestCopies:
    def test_a_linked_copy_is_a_store_of_its_own(self, lived_in, tmp_path):
        folder, store = lived_in
        expected = fingerprint(store, POSE)
        linked_copy(folder, tmp_path / "copy")
        for name in data_files(folder):
            assert (folder / name).samefile(tmp_path / "copy" / name)
        compact(folder)
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "copy"), POSE) == expected
        verify(tmp_path / "copy")

    def test_it_is_durable_also_of_a_save_that_was_not(self, rng, tmp_path, monkeypatch):
        store, _ = filled_store(rng, 2)
        store.save(tmp_path / "store", durable=False)
        store.close()
        synced, fsync = set(), os.fsync

        def logged(descriptor):
            synced.add(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", logged)
        linked_copy(tmp_path / "store", tmp_path / "copy")
        assert {path.stat().st_ino for path in (tmp_path / "copy").iterdir()} <= synced

    def test_without_links_it_copies(self, lived_in, tmp_path, monkeypatch):
        folder, store = lived_in

        def refuse(*_, **__):
            raise PermissionError(1, "no links here")

        monkeypatch.setattr("os.link", refuse)
        linked_copy(folder, tmp_path / "copy")
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "copy"), POSE) == fingerprint(store, POSE)

    def test_plain_names_make_equal_stores_equal_files(self, lived_in, tmp_path):
        folder, store = lived_in
        expected = fingerprint(store, POSE)
        for name in ("one", "two"):
            store.fork().save(tmp_path / name)
            (tmp_path / name / "lock").unlink()
            plain_names(tmp_path / name)
        contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
        assert contents[0] == contents[1]
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "one"), POSE) == expected
        assert folder.exists()

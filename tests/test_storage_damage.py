"""Damage on the disk is never hidden: it is reported and kept as it is, and nothing else is lost with it."""

import os

import numpy as np
import pytest

from memory_helpers import K, fingerprint, random_keyframe
from mosaicmem import CameraPose, FormatError, MosaicMemoryStore, SuspiciousInput
from mosaicmem.memory import storage
from mosaicmem.memory.storage import folder as module
from mosaicmem.memory.storage import keyframe_files

POSE = CameraPose.look_at([0.2, 0.1, -1.0], [0, 0, 2], timestamp=50.0)


def saved(rng, path, saves=(4, 4)):
    """A store in two files of keyframes; keyframes are frames 0, 1, 2, ..."""
    store = MosaicMemoryStore()
    for count in saves:
        for _ in range(count):
            latents, depth, pose = random_keyframe(rng, float(len(store)))
            store.insert_keyframe(latents, depth, K, pose)
        store.save(path)
    store.close()
    return store


def rot(path, number):
    """Flip a bit of the latents in a keyframe file: file 0 holds the first four frames, file 1 the next four."""
    file = path / storage.read_manifest(path).keyframes[number].name
    content = bytearray(file.read_bytes())
    content[-1000] ^= 8
    file.write_bytes(content)
    return file


class TestCompaction:
    def test_does_not_launder_damage(self, rng, tmp_path):
        saved(rng, tmp_path / "store")
        file = rot(tmp_path / "store", 0)
        content = file.read_bytes()
        store = MosaicMemoryStore.open(tmp_path / "store")
        for frame in (0, 1, 2, 4, 5, 6):
            store.delete_frame(frame)  # so that both files would be rewritten
        with pytest.warns(SuspiciousInput, match=rf"{file.name}: damaged: .* kept as it is") as said:
            store.save(tmp_path / "store")
        assert len(said) == 1
        assert file.read_bytes() == content
        with pytest.raises(FormatError, match=rf"{file.name}: damaged"):
            storage.verify(tmp_path / "store")
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == fingerprint(store, POSE)
        store.delete_frame(7)
        store.save(tmp_path / "store")  # warns only once

    def test_what_is_not_damaged_is_rewritten(self, rng, tmp_path):
        saved(rng, tmp_path / "store")
        before = storage.read_manifest(tmp_path / "store").keyframes
        store = MosaicMemoryStore.open(tmp_path / "store")
        for frame in (0, 1, 2, 4, 5, 6):
            store.delete_frame(frame)
        store.save(tmp_path / "store")
        after = storage.verify(tmp_path / "store").keyframes
        assert not set(before) & set(after)
        assert sum(entry.nbytes for entry in after) < sum(entry.nbytes for entry in before) / 2

    def test_damage_goes_when_nothing_needs_it(self, rng, tmp_path):
        saved(rng, tmp_path / "store")
        file = rot(tmp_path / "store", 0)
        store = MosaicMemoryStore.open(tmp_path / "store")
        for frame in range(4):
            store.delete_frame(frame)
        store.save(tmp_path / "store")
        assert not file.exists()
        storage.verify(tmp_path / "store")

    def test_many_small_files_are_joined_but_for_the_damaged(self, rng, tmp_path, monkeypatch):
        monkeypatch.setattr(keyframe_files, "_MOST_SMALL", 3)
        saved(rng, tmp_path / "store", (1, 1, 1))
        file = rot(tmp_path / "store", 1)
        store = MosaicMemoryStore.open(tmp_path / "store")
        store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        store.save(tmp_path / "store")
        store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        with pytest.warns(SuspiciousInput, match=file.name):
            store.save(tmp_path / "store")
        names = [entry.name for entry in storage.read_manifest(tmp_path / "store").keyframes]
        assert file.name in names
        assert len(names) <= 3
        with pytest.raises(FormatError, match=file.name):
            storage.verify(tmp_path / "store")

    def test_a_store_that_wrote_the_file_itself_heals_it(self, rng, tmp_path):
        """Its keyframes are in memory, not in the file."""
        store = saved(rng, tmp_path / "store")
        rot(tmp_path / "store", 0)
        for frame in (0, 1, 2, 4, 5, 6):
            store.delete_frame(frame)
        store.save(tmp_path / "store")
        storage.verify(tmp_path / "store")


class TestAnotherFolder:
    def test_damage_comes_along_as_it_is(self, rng, tmp_path):
        saved(rng, tmp_path / "store")
        file = rot(tmp_path / "store", 0)
        store = MosaicMemoryStore.open(tmp_path / "store")
        store.delete_frame(1)
        with pytest.warns(SuspiciousInput, match=file.name):
            store.save(tmp_path / "other")
        with pytest.raises(FormatError, match=r"keyframes-.*damaged: its content does not match"):
            storage.verify(tmp_path / "other")
        store.close()
        opened = MosaicMemoryStore.open(tmp_path / "other")
        assert fingerprint(opened, POSE) == fingerprint(store, POSE)
        for frame in (0, 2, 3):
            opened.delete_frame(frame)
        opened.save(tmp_path / "other")
        storage.verify(tmp_path / "other")

    def test_once_it_is_there_it_is_not_copied_again(self, rng, tmp_path):
        saved(rng, tmp_path / "store")
        rot(tmp_path / "store", 0)
        store = MosaicMemoryStore.open(tmp_path / "store")
        for frame in (0, 1, 2):
            store.delete_frame(frame)
        with pytest.warns(SuspiciousInput):
            store.save(tmp_path / "other")
        names = {entry.name for entry in storage.read_manifest(tmp_path / "other").keyframes}
        store.delete_frame(5)
        store.save(tmp_path / "other")
        assert {entry.name for entry in storage.read_manifest(tmp_path / "other").keyframes} == names

    def test_of_a_file_that_is_gone_from_the_disk(self, rng, tmp_path):
        """A mapped file stays readable after its removal, and so does its damage."""
        saved(rng, tmp_path / "store")
        file = rot(tmp_path / "store", 1)
        store = MosaicMemoryStore.open(tmp_path / "store")
        file.unlink()
        with pytest.warns(SuspiciousInput, match=file.name):
            store.save(tmp_path / "other")
        with pytest.raises(FormatError, match="damaged"):
            storage.verify(tmp_path / "other")

    def test_a_sound_store_is_sound_there(self, rng, tmp_path):
        saved(rng, tmp_path / "store")
        MosaicMemoryStore.open(tmp_path / "store").save(tmp_path / "other")
        storage.verify(tmp_path / "other")


class TestOddNeighbours:
    @pytest.mark.parametrize(
        "name",
        [".manifest.json.0123abcd", ".keyframes-00000001-01234567.safetensors.writing", "state-00000009.safetensors"],
    )
    def test_folders_with_the_names_of_files_are_left_alone(self, rng, tmp_path, name):
        store = saved(rng, tmp_path / "store")
        (tmp_path / "store" / name).mkdir()
        store.delete_frame(0)
        store.save(tmp_path / "store")
        assert (tmp_path / "store" / name).is_dir()
        storage.verify(tmp_path / "store")
        (tmp_path / "new" / name).mkdir(parents=True)
        with pytest.raises(FileExistsError, match="expected a new or empty folder"):
            store.save(tmp_path / "new")

    @pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
    def test_permissions_are_those_of_the_umask(self, rng, tmp_path, umask):
        before = os.umask(umask)
        try:
            saved(rng, tmp_path / "store")
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()}
        assert len(modes) > 4
        assert set(modes.values()) == {0o666 & ~umask}
        assert (tmp_path / "store").stat().st_mode & 0o777 == 0o777 & ~umask

    def test_two_writers_that_no_lock_keeps_apart_write_to_different_files(self, rng, tmp_path, monkeypatch):
        saved(rng, tmp_path / "store")
        monkeypatch.setattr(module.FolderLock, "take", lambda path: FreeLock())
        one, other = MosaicMemoryStore.open(tmp_path / "store"), MosaicMemoryStore.open(tmp_path / "store")
        for store in (one, other):
            store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        one.save(tmp_path / "store")
        expected = fingerprint(one, POSE)
        with pytest.raises(OSError, match="another process has saved here"):
            other.save(tmp_path / "store")
        storage.verify(tmp_path / "store")
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == expected

    def test_nor_do_they_where_both_are_at_it(self, rng, tmp_path, monkeypatch):
        """The second saves after the first has written its files, and before it names them in the manifest."""
        saved(rng, tmp_path / "store")
        monkeypatch.setattr(module.FolderLock, "take", lambda path: FreeLock())
        one, other = MosaicMemoryStore.open(tmp_path / "store"), MosaicMemoryStore.open(tmp_path / "store")
        write_state = module.StoreFolder._write_state

        def meanwhile(*arguments):
            entry = write_state(*arguments)
            monkeypatch.setattr(module.StoreFolder, "_write_state", write_state)
            other.save(tmp_path / "store")
            return entry

        for store in (one, other):
            store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        monkeypatch.setattr(module.StoreFolder, "_write_state", meanwhile)
        with pytest.raises(OSError, match="another process has saved here"):
            one.save(tmp_path / "store")
        storage.verify(tmp_path / "store")
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == fingerprint(other, POSE)


class FreeLock:
    """A lock that excludes nobody, as on a network file system without locks."""

    def is_own(self):
        return True

    def is_at(self, path):
        return True

    def release(self):
        pass


class TestExtremes:
    @pytest.mark.parametrize("frame_id", [2**62, -(2**62)])
    def test_ids_that_are_allowed_can_be_saved(self, rng, tmp_path, frame_id):
        store = MosaicMemoryStore()
        store.insert_keyframe(*random_keyframe(rng, 0.0)[:2], K, POSE, frame_id=frame_id)
        store.save(tmp_path / "store")
        opened = MosaicMemoryStore.open(tmp_path / "store")
        assert fingerprint(opened, POSE) == fingerprint(store, POSE)

    def test_ids_have_an_end(self, rng, tmp_path):
        store = MosaicMemoryStore()
        store.insert_keyframe(*random_keyframe(rng, 0.0)[:2], K, POSE, frame_id=2**62)
        with pytest.raises(ValueError, match="frame_id: expected one to be given"):
            store.insert_keyframe(*random_keyframe(rng, 0.0)[:2], K, POSE)
        store.save(tmp_path / "store")
        assert len(MosaicMemoryStore.open(tmp_path / "store")) == len(store)

    def test_a_label_too_long_is_refused_in_our_words(self, rng, tmp_path):
        store = saved(rng, tmp_path / "store")
        with pytest.raises(ValueError, match="label: expected at most 1000 characters, got 1001") as caught:
            store.save(tmp_path / "store", label="x" * 1001)
        assert type(caught.value) is ValueError

    def test_a_lock_that_cannot_be_let_go_of_is_closed(self, rng, tmp_path, monkeypatch):
        store = saved(rng, tmp_path / "store")
        store.save(tmp_path / "store")
        descriptor = store._home._folder._lock.descriptor

        def fail(descriptor, operation):
            raise OSError("no locks")

        monkeypatch.setattr("mosaicmem.memory.storage.lock.fcntl.flock", fail)
        with pytest.raises(OSError, match="no locks"):
            store.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        monkeypatch.undo()
        MosaicMemoryStore.open(tmp_path / "store").save(tmp_path / "store")

    @pytest.mark.parametrize("what", ["manifest.json", "keyframes", "state"])
    def test_what_may_not_be_read_is_named(self, rng, tmp_path, monkeypatch, what):
        saved(rng, tmp_path / "store")
        real = os.open

        def forbidden(path, *arguments, **options):
            if os.path.basename(path).startswith(what):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", forbidden)
        with pytest.raises(FormatError, match=f"{what}.*cannot be read: Permission denied"):
            MosaicMemoryStore.open(tmp_path / "store")

    @pytest.mark.parametrize(
        "pose", [np.zeros((3, 4)), np.diag([1.0, 1, 1, 0])[:3] * 0.0 + 1e-300], ids=["zero", "tiny"]
    )
    def test_a_singular_pose_in_a_file_is_named(self, rng, tmp_path, monkeypatch, pose):
        write = module.write_tensors

        def lie(path, tensors, *arguments, **options):
            if path.name.startswith("state"):
                tensors = {**tensors, "world_from_camera": np.tile(pose, (len(tensors["slot"]), 1, 1))}
            return write(path, tensors, *arguments, **options)

        monkeypatch.setattr(module, "write_tensors", lie)
        saved(rng, tmp_path / "store", (2,))
        with pytest.raises(FormatError, match="damaged: an observation whose pose"):
            MosaicMemoryStore.open(tmp_path / "store")

"""Who may write to the folder of a store, and who may read it."""

import itertools
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import (
    FormatError,
    MosaicMemoryStore,
    StoreLockedError,
)
from mosaicmem.memory import storage
from test_storage import POSE, run


class TestWhoMayWrite:
    def test_other_places_are_left_alone(self, rng, tmp_path):
        store, _ = filled_store(rng, 2)
        store.save(tmp_path / "a")
        other, _ = filled_store(rng, 3)
        with pytest.raises(FileExistsError, match="another store is saved here"):
            other.save(tmp_path / "a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "thesis.txt").write_text("five years")
        with pytest.raises(FileExistsError, match=r"expected a new or empty folder, got one with 'thesis.txt'"):
            store.save(tmp_path / "b")
        assert len(MosaicMemoryStore.open(tmp_path / "a")) == len(store)
        store.save(tmp_path / "c")  # a store may move
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "c"), POSE) == fingerprint(store, POSE)
        store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        with pytest.raises(FileExistsError, match="another store is saved here"):
            store.save(tmp_path / "a")

    def test_a_second_writer_gets_an_error(self, rng, tmp_path):
        folder = tmp_path / "store"
        store, _ = filled_store(rng, 2)
        store.save(folder)
        second = MosaicMemoryStore.open(folder)
        message = rf"another store writes here \(process {os.getpid()}\)"
        with pytest.raises(StoreLockedError, match=message):
            second.save(folder)
        script = """
            store = MosaicMemoryStore.open(sys.argv[1])
            try:
                store.save(sys.argv[1])
            except StoreLockedError as error:
                print(error)
        """
        assert f"another store writes here (process {os.getpid()})" in run(script, folder).communicate()[0]
        store.close()
        second.save(folder)  # now it may
        store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        with pytest.raises(StoreLockedError, match="another store writes here"):
            store.save(folder)

    def test_what_somebody_else_saved_is_not_overwritten(self, rng, tmp_path):
        folder = tmp_path / "store"
        store, _ = filled_store(rng, 2)
        store.save(folder)
        store.close()
        second = MosaicMemoryStore.open(folder)
        second.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        second.save(folder)
        second.close()
        store.delete_frame(0)
        with pytest.raises(StoreLockedError, match="another process has saved here since"):
            store.save(folder)
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(second, POSE)

    def test_several_threads_save_one_store(self, rng, tmp_path):
        store, _ = filled_store(rng, 2)
        keyframes = [random_keyframe(rng, float(i)) for i in range(30)]

        def work(part):
            for latents, depth, pose in keyframes[part::3]:
                store.insert_keyframe(latents, depth, K, pose)
                store.save(tmp_path / "store")

        threads = [threading.Thread(target=work, args=(part,)) for part in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == fingerprint(store, POSE)
        frames = np.unique(store.describe_patches(store.patch_ids)["frame_id"])
        assert len(frames) == 32  # each keyframe has an id of its own

    def test_a_relative_path_after_chdir_is_another_folder(self, rng, tmp_path, monkeypatch):
        store, _ = filled_store(rng, 2)
        other, _ = filled_store(rng, 3)
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / "b")
        other.save("memory")
        monkeypatch.chdir(tmp_path / "a")
        store.save("memory")
        monkeypatch.chdir(tmp_path / "b")
        store.delete_frame(0)
        with pytest.raises(FileExistsError, match="another store is saved here"):
            store.save("memory")
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "b" / "memory"), POSE) == fingerprint(other, POSE)

    def test_a_folder_that_was_removed_or_replaced(self, rng, tmp_path):
        folder = tmp_path / "store"
        store, _ = filled_store(rng, 2)
        store.save(folder)
        shutil.rmtree(folder)
        store.save(folder)  # all of it, once more
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(store, POSE)
        folder.rename(tmp_path / "elsewhere")
        other, _ = filled_store(rng, 3)
        other.save(folder)
        store.delete_frame(0)
        with pytest.raises(FileExistsError, match="another store is saved here"):
            store.save(folder)
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(other, POSE)

    def test_a_forked_process_is_a_second_writer(self, rng, tmp_path):
        script = """
            store, _ = filled_store(np.random.default_rng(0), 3)
            store.save(sys.argv[1])
            child = os.fork()
            if child == 0:
                try:
                    store.delete_frame(0)
                    store.save(sys.argv[1])
                except StoreLockedError:
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            store.delete_frame(1)
            store.save(sys.argv[1])
            sleeper = os.fork()  # keeps the descriptor open
            if sleeper == 0:
                signal.pause()
            try:
                store.close()
                MosaicMemoryStore.open(sys.argv[1]).save(sys.argv[1])
            finally:
                os.kill(sleeper, signal.SIGKILL)
            print(len(store))
        """
        output, errors = run(script, tmp_path / "store").communicate()
        assert not errors
        assert len(MosaicMemoryStore.open(tmp_path / "store")) == int(output)

    def test_a_fork_is_no_second_writer(self, rng, tmp_path):
        store, _ = filled_store(rng, 2)
        store.save(tmp_path / "a")
        fork = store.fork()
        with pytest.raises(FileExistsError):
            fork.save(tmp_path / "a")
        fork.save(tmp_path / "b")
        store.save(tmp_path / "a")

    def test_a_crashed_writer_does_not_block_the_next(self, rng, tmp_path):
        folder = tmp_path / "store"
        script = """
            store, _ = filled_store(np.random.default_rng(0), 3)
            store.save(sys.argv[1])
            os.kill(os.getpid(), signal.SIGKILL)
        """
        process = run(script, folder)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        opened = MosaicMemoryStore.open(folder)
        opened.delete_frame(0)
        opened.save(folder)
        assert len(MosaicMemoryStore.open(folder)) == len(opened)

    def test_two_read_while_one_writes(self, tmp_path):
        """Whatever instant a reader opens at, it finds one whole state; later ones never shrink here."""
        folder = tmp_path / "store"
        writer = """
            rng = np.random.default_rng(0)
            store = MosaicMemoryStore(max_patches=200)
            for i in range(150):
                latents, depth, pose = random_keyframe(rng, float(i))
                store.insert_keyframe(latents, depth, K, pose)
                store.save(sys.argv[1])
        """
        reader = """
            import time
            last, opens, finished = -1.0, 0, False
            while not finished:
                finished = os.path.exists(sys.argv[1] + ".finished")  # before opening: what is opened then is the last
                try:
                    store = MosaicMemoryStore.open(sys.argv[1])
                except FileNotFoundError:
                    time.sleep(0.01)
                    continue
                time_now = store.statistics().last_time
                assert time_now >= last, (time_now, last)
                store.project_tokens(store.patch_ids, K, CameraPose())
                last, opens = time_now, opens + 1
            assert last == 149
            print(opens)
        """
        processes = [run(writer, folder), run(reader, folder), run(reader, folder)]
        for process in processes:
            _, errors = process.communicate()
            Path(f"{folder}.finished").touch()  # the writer comes first
            assert process.returncode == 0, errors

    def test_a_reader_that_is_always_late(self, rng, tmp_path, monkeypatch):
        """Each manifest that it reads names a file that is gone when it looks."""
        store = MosaicMemoryStore()
        for i in range(40):
            store.insert_keyframe(*random_keyframe(rng, float(i))[:2], K, POSE)
            store.save(tmp_path)
        late = iter(range(30))
        read = storage.reading.read_manifest

        def read_and_save(path):
            manifest = read(path)
            for frame in itertools.islice(late, 1):
                store.delete_frame(frame)
                store.save(path)
                assert manifest.keyframes[0].name not in os.listdir(path)
            return manifest

        monkeypatch.setattr(storage.reading, "read_manifest", read_and_save)
        assert fingerprint(MosaicMemoryStore.open(tmp_path), POSE) == fingerprint(store, POSE)
        assert next(late, None) is None

        late = itertools.count(30)
        monkeypatch.setattr(storage.reading, "_PATIENCE", 0.0)
        with pytest.raises(FormatError, match="is being saved to too often to be read"):
            MosaicMemoryStore.open(tmp_path)

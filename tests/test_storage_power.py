"""A store that is being saved survives kills and power cuts."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from memory_helpers import K, filled_store, fingerprint, four_saves, random_keyframe
from mosaicmem import (
    MosaicMemoryStore,
)
from mosaicmem.memory import storage
from test_storage import POSE, run

# Runs a script for each line of input, a folder and a number, in a fork of a process that has imported all it needs.
FORKING = """
    script = sys.argv[1]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.argv[1:] = line.split()
            os.dup2(os.open(sys.argv[1] + ".out", os.O_WRONLY | os.O_CREAT), 1)
            exec(script)
            sys.stdout.flush()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


# Saves step by step, and says after each that it is acknowledged. Dies at the `at`-th call that touches files.
SAVING = """
    from disk import Disk
    from pytest import MonkeyPatch

    folder, at = sys.argv[1], int(sys.argv[2])

    class Deadly(Disk):
        def step(self, what, *details):
            super().step(what, *details)
            if len(self.steps) == at:
                os.kill(os.getpid(), signal.SIGKILL)

    disk = Deadly(MonkeyPatch())
    for step, store in enumerate(four_saves()):
        store.save(folder)
        print(step, flush=True)
    print("calls", len(disk.steps))
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Fingerprints of the states that SAVING saves, and how many calls it makes."""
    folder = tmp_path_factory.mktemp("saving") / "store"
    output, errors = run(SAVING, folder, -1).communicate()
    assert not errors
    states = [fingerprint(store, POSE) for store in four_saves()]
    return states, int(output.split()[-1])


def expect_one_of_the_saved(folder, acknowledged, states):
    """The folder holds the last acknowledged state, or the one that was just being saved; a next save works."""
    if acknowledged == 0 and not (folder / "manifest.json").exists():
        fresh, _ = filled_store(np.random.default_rng(0), 2)
        fresh.save(folder)  # what is left of a first save is no obstacle
        assert len(MosaicMemoryStore.open(folder)) == len(fresh)
        return
    opened = MosaicMemoryStore.open(folder)
    storage.verify(folder)
    assert fingerprint(opened, POSE) in states[max(0, acknowledged - 1) : acknowledged + 1]
    opened.delete_frame(0)
    opened.insert_keyframe(*random_keyframe(np.random.default_rng(3), 0.0)[:2], K, POSE)
    opened.save(folder)
    assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(opened, POSE)
    names = {name for name in os.listdir(folder) if name != "lock"}
    manifest = storage.read_manifest(folder)
    assert names == {"manifest.json"} | {entry.name for entry in manifest.files}


class TestPowerCut:
    @pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
    def test_killed_at_calls_that_touch_files(self, tmp_path, steps, every):
        states, calls = steps
        assert calls > 60
        with run(FORKING, textwrap.dedent(SAVING), stdin=subprocess.PIPE) as forking:
            for at in range(1, calls + 1, every):
                folder = tmp_path / str(at)
                print(folder, at, file=forking.stdin, flush=True)
                assert int(forking.stdout.readline()) == -signal.SIGKILL
                acknowledged = Path(f"{folder}.out").read_text().count("\n")
                expect_one_of_the_saved(folder, acknowledged, states)

    def test_what_a_killed_safetensors_leaves_is_swept_up(self, tmp_path):
        """It writes under a name of its own first, which a kill can leave behind."""
        store, _ = filled_store(np.random.default_rng(0), 2)
        (tmp_path / ".tmpDlGQgj").write_bytes(b"half")
        store.save(tmp_path)  # no obstacle to a first save either
        (tmp_path / ".tmpAb3dE9").write_bytes(b"half")
        (tmp_path / ".tmpfs").write_bytes(b"somebody else's")
        store.delete_frame(0)
        store.save(tmp_path)
        assert {name for name in os.listdir(tmp_path) if name.startswith(".")} == {".tmpfs"}

    def test_killed_at_any_time(self, tmp_path, steps):
        """By the clock, so that also what happens inside of calls is met."""
        self.kill_by_the_clock(tmp_path, steps, 12)

    @pytest.mark.slow
    def test_killed_five_hundred_times(self, tmp_path, steps):
        self.kill_by_the_clock(tmp_path, steps, 520)

    def kill_by_the_clock(self, tmp_path, steps, kills):
        states, _ = steps
        rng = random.Random(1)
        looked_at = 0
        for number in range(kills):
            folder = tmp_path / str(number)
            process = run(SAVING, folder, -1)
            while not folder.exists() and process.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            output, _ = process.communicate()
            acknowledged = len([line for line in output.split("\n") if line and line[0].isdigit()])
            if folder.exists():
                expect_one_of_the_saved(folder, acknowledged, states)
                shutil.rmtree(folder)
                looked_at += 1
        assert looked_at >= 0.8 * kills

    def test_files_are_durable_before_they_are_named(self, rng, tmp_path, monkeypatch):
        """A power cut, other than a kill, forgets what was not synced: names may only point to what was."""
        log = []
        fsync, replace = os.fsync, os.replace

        def logged_fsync(descriptor):
            log.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
            fsync(descriptor)

        def logged_replace(source, target):
            log.append(("name", Path(source).name, Path(target).name))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", logged_fsync)
        monkeypatch.setattr(os, "replace", logged_replace)
        store, _ = filled_store(rng, 3)
        store.save(tmp_path / "store")
        store.delete_patches(store.patch_ids[:1])
        store.insert_keyframe(*random_keyframe(rng, 9.0)[:2], K, POSE)
        store.save(tmp_path / "store")
        named = [i for i, entry in enumerate(log) if entry[0] == "name"]
        assert [log[i][2].split("-")[0] for i in named] == ["keyframes", "state", "manifest.json"] * 2
        for i in named:
            assert log[i - 1] == ("sync", log[i][1])
            assert log[i + 1] == ("sync", "store")

    @pytest.mark.parametrize("first_save", [True, False])
    def test_a_failure_after_all_was_done(self, rng, tmp_path, monkeypatch, first_save):
        """The manifest is in place, and then syncing the folder fails: later saves neither overwrite nor refuse."""
        folder = tmp_path / "store"
        store, _ = filled_store(rng, 2)
        if not first_save:
            store.save(folder)
            store.delete_frame(0)
        replace, fsync = os.replace, os.fsync
        failing = []

        def replace_and_remember(source, target):
            replace(source, target)
            if Path(target).name == "manifest.json":
                failing.append(1)

        def fsync_or_fail(descriptor):
            if failing:
                raise OSError(errno.EIO, "broken")
            fsync(descriptor)

        monkeypatch.setattr(os, "replace", replace_and_remember)
        monkeypatch.setattr(os, "fsync", fsync_or_fail)
        with pytest.raises(OSError, match="broken"):
            store.save(folder)
        after = fingerprint(store, POSE)
        store.insert_keyframe(*random_keyframe(rng, 7.0)[:2], K, POSE)
        with pytest.raises(OSError, match="broken"):
            store.save(folder)  # fails before its manifest
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == after
        monkeypatch.undo()
        store.save(folder)
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(store, POSE)

    def test_a_full_disk(self, rng, tmp_path):
        """Files may not grow beyond a limit: the save fails, says so, loses nothing, and works when there is room."""
        folder = tmp_path / "store"
        store, _ = filled_store(rng, 4)
        store.save(folder)
        before = fingerprint(store, POSE)
        for i in range(10):
            store.insert_keyframe(*random_keyframe(rng, 5.0 + i)[:2], K, POSE)
        failures = 0
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            for limit in (0, 100, 500, 900, 2000, 5000, 11000):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
                try:
                    with pytest.raises(OSError, match=r"File too large|os error 27") as caught:
                        store.save(folder)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
                assert caught.value.errno in (errno.EFBIG, None)
                failures += 1
                assert fingerprint(MosaicMemoryStore.open(folder), POSE) == before
                assert not [name for name in os.listdir(folder) if name.startswith(".")]
        finally:
            signal.signal(signal.SIGXFSZ, handler)
        assert failures == 7
        store.save(folder)
        assert fingerprint(MosaicMemoryStore.open(folder), POSE) == fingerprint(store, POSE)

"""A disk that fails at any call, or a power cut at any moment, loses nothing that was acknowledged."""

import os
import random
import shutil

import numpy as np
import pytest

from disk import Disk
from memory_helpers import filled_store, fingerprint, four_saves
from mosaicmem import CameraPose, FormatError, MosaicMemoryStore
from mosaicmem.memory import storage

POSE = CameraPose.look_at([0.2, 0.1, -1.0], [0, 0, 2], timestamp=50.0)


@pytest.fixture(scope="module")
def states():
    return [fingerprint(store, POSE) for store in four_saves()]


def save_all(folder, disk=None):
    """Save step by step; a save that fails is retried once."""
    failures = 0
    for number, store in enumerate(four_saves()):
        for _ in range(2):
            try:
                store.save(folder)
            except (OSError, FormatError):
                failures += 1
            else:
                if disk is not None:
                    disk.journal.append(("acknowledged", number))
                break
    store.close()
    return failures, store


class TestFailures:
    @pytest.fixture(scope="class")
    @classmethod
    def calls(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("whole") / "store"
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            save_all(folder)
        return len(disk.steps)

    @pytest.mark.parametrize("forever", [False, True])
    def test_of_every_call_lose_nothing(self, tmp_path, states, calls, forever):
        assert calls > 100
        for at in range(0, calls, 1 if not forever else 7):
            folder = tmp_path / str(at)
            with pytest.MonkeyPatch.context() as patch:
                disk = Disk(patch, at, forever=forever)
                failures, store = save_all(folder)
                assert failures >= 1, f"nobody heard of the failure of call {at}"
                disk.repair()
                if (folder / "manifest.json").exists():
                    assert fingerprint(MosaicMemoryStore.open(folder), POSE) in states
                store.save(folder)
            storage.verify(folder)
            assert fingerprint(MosaicMemoryStore.open(folder), POSE) == states[-1]
            named = {entry.name for entry in storage.read_manifest(folder).files}
            assert set(os.listdir(folder)) == named | {"manifest.json", "lock"}
            store.close()
            shutil.rmtree(folder)


class TestPower:
    def expect_no_loss(self, disk, states, root, at, rng, copy):
        disk.after_power_cut(at, rng, root, copy)
        acknowledged = [number for what, number, *_ in disk.journal[:at] if what == "acknowledged"]
        last = acknowledged[-1] if acknowledged else None
        if not (copy / "store" / "manifest.json").exists():
            assert last is None, "a store that was acknowledged is gone"
            fresh, _ = filled_store(np.random.default_rng(0), 2)
            fresh.save(copy / "store")
            return
        storage.verify(copy / "store")
        assert fingerprint(MosaicMemoryStore.open(copy / "store"), POSE) in states[last or 0 :]

    def check(self, monkeypatch, tmp_path, states, fail_at, count, rng):
        """Check ``count`` states after a power cut, half of them after the last call. Returns the kinds of calls."""
        with monkeypatch.context() as patch:
            disk = Disk(patch, fail_at)
            save_all(tmp_path / "root" / "store", disk)
        entries = len(disk.journal)
        for number in range(count):
            copy = tmp_path / f"{fail_at}-{number}"
            at = rng.randrange(1, entries + 1) if number % 2 else entries
            self.expect_no_loss(disk, states, tmp_path / "root", at, rng, copy)
            shutil.rmtree(copy)
        shutil.rmtree(tmp_path / "root")
        return disk.steps

    def test_goes_at_any_moment(self, monkeypatch, tmp_path, states):
        self.check(monkeypatch, tmp_path, states, None, 150, random.Random(0))

    def test_goes_after_a_sync_has_failed(self, monkeypatch, tmp_path, states):
        """What a failed sync did not write, a later sync may not write either."""
        rng = random.Random(1)
        calls = self.check(monkeypatch, tmp_path, states, None, 0, rng)
        for at in [i for i, what in enumerate(calls) if what.startswith("sync")]:
            self.check(monkeypatch, tmp_path, states, at, 6, rng)

    def test_a_durable_save_makes_up_for_those_that_were_not(self, monkeypatch, tmp_path, states):
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            for number, store in enumerate(four_saves()):
                store.save(tmp_path / "root" / "store", durable=False)
                assert not any(what.startswith("sync") for what in disk.steps[-5:])
                store.save(tmp_path / "root" / "store")
                disk.journal.append(("acknowledged", number))
            store.close()
        rng = random.Random(3)
        ends = [at + 1 for at, entry in enumerate(disk.journal) if entry[0] == "acknowledged"]
        for number, at in enumerate(ends):
            for trial in range(10):
                copy = tmp_path / f"{number}-{trial}"
                disk.after_power_cut(at, rng, tmp_path / "root", copy)
                storage.verify(copy / "store")
                assert fingerprint(MosaicMemoryStore.open(copy / "store"), POSE) == states[number]

    @pytest.mark.slow
    def test_goes_very_often(self, monkeypatch, tmp_path, states):
        rng = random.Random(2)
        calls = self.check(monkeypatch, tmp_path, states, None, 400, rng)
        for at in range(len(calls)):
            self.check(monkeypatch, tmp_path, states, at, 8, rng)

"""A checkpoint is verified before it is used, and a run resumed on another version or processor warns."""

import json
import os
import shutil
import time
import warnings

import numpy as np
import pytest

from mosaicmem import FormatError, PipelineConfig, SuspiciousInput, WindowError, _core
from mosaicmem.memory.storage import read_manifest, verify
from mosaicmem.memory.storage.manifest import new_name
from mosaicmem.memory.storage.tensors import write_tensors
from mosaicmem.pipeline import Checkpoint
from mosaicmem.pipeline import checkpoint as module
from scene_helpers import observed
from test_checkpoint import SETTINGS


@pytest.fixture(scope="module")
def path(world, small_camera):
    return world.leave_and_return(small_camera, 16)[:8]


@pytest.fixture(scope="module")
def kept(world, path, tmp_path_factory):
    """A finished run of three windows."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    run(world, path, folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def run(world, path, folder):
    return observed(world, PipelineConfig(**SETTINGS), path, range(3)).generate(path, checkpoint=folder)


def window_of(folder, index):
    return folder / "store" / read_manifest(folder / "store").attachments[index].name


def reseal(folder, index, change):
    """Replace a window by one whose arrays and statistics ``change`` has modified, with valid checksums."""
    store = folder / "store"
    manifest = read_manifest(store)
    window = Checkpoint(folder).load(index)
    arrays = {
        "decoded": window.decoded.copy(),
        "canvas": window.canvas.copy(),
        "depth": window.depth.copy(),
        "coverage": window.coverage.astype(np.uint8),
        "observed": window.observed.astype(np.uint8),
    }
    statistics = json.loads(json.dumps(window.statistics.__dict__))
    change(arrays, statistics)
    text = statistics if isinstance(statistics, str) else json.dumps(statistics)
    name = new_name("attachment", manifest.attachments[index].number)
    entry = write_tensors(store / name, arrays, {"window": str(index), "statistics": text}, rows=0)
    attachments = [entry if i == index else other for i, other in enumerate(manifest.attachments)]
    manifest.model_copy(update={"attachments": attachments}).write(store)


class TestChecksums:
    def test_any_flipped_bit_is_noticed(self, folder):
        file = window_of(folder, 1)
        content = file.read_bytes()
        rng = np.random.default_rng(0)
        for at in rng.integers(0, 8 * len(content), 1000).tolist():
            damaged = bytearray(content)
            damaged[at // 8] ^= 1 << at % 8
            file.write_bytes(damaged)
            with pytest.raises(FormatError, match=file.name):
                Checkpoint(folder).load(1)
        file.write_bytes(content)
        Checkpoint(folder).load(1)

    def test_a_run_does_not_go_on_from_damage(self, world, path, folder):
        file = window_of(folder, 1)
        content = bytearray(file.read_bytes())
        content[-3] ^= 4
        file.write_bytes(content)
        with pytest.raises(WindowError, match=r"stage 'checkpoint': FormatError: .*attachment-.*checksum"):
            run(world, path, folder)
        with pytest.raises(FormatError, match=file.name):
            verify(folder / "store")

    def test_windows_that_were_exchanged(self, folder):
        one, other = window_of(folder, 0), window_of(folder, 1)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        for index in (0, 1):
            with pytest.raises(FormatError):
                Checkpoint(folder).load(index)

    @pytest.mark.parametrize("damage", ["missing", "cut", "other", "pipe", "link", "folder"])
    def test_what_is_no_such_file(self, folder, tmp_path, damage):
        file = window_of(folder, 1)
        content = file.read_bytes()
        file.unlink()
        if damage == "cut":
            file.write_bytes(content[:-7])
        elif damage == "other":
            file.write_bytes(b"what")
        elif damage == "pipe":
            os.mkfifo(file)
        elif damage == "link":
            (tmp_path / "window").write_bytes(content)
            file.symlink_to(tmp_path / "window")
        elif damage == "folder":
            file.mkdir()
        begin = time.monotonic()
        with pytest.raises(FormatError, match=file.name):
            Checkpoint(folder).load(1)
        assert time.monotonic() - begin < 60  # opening the pipe does not wait for a writer

    def test_the_file_of_the_run(self, world, path, folder):
        text = (folder / "run.json").read_text()
        (folder / "run.json").write_text(text.replace('"window_size": 4', '"window_size": 6'))
        with pytest.raises(FormatError, match=r"run\.json: damaged: it does not match the checksum"):
            run(world, path, folder)


def set_value(name, value):
    def change(arrays, statistics):
        arrays[name].flat[3] = value

    return change


def set_statistic(name, value):
    def change(arrays, statistics):
        statistics[name] = value

    return change


def replace_array(name, replacement):
    def change(arrays, statistics):
        arrays[name] = replacement(arrays[name])

    return change


class TestLiesWithGoodChecksums:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (set_value("canvas", np.nan), "finite"),
            (set_value("decoded", np.inf), "finite"),
            (set_value("depth", np.nan), "finite"),
            (set_value("coverage", 2), "masks of 0 and 1"),
            (replace_array("canvas", lambda a: a.astype(np.float64)), "canvas: expected F32"),
            (replace_array("coverage", lambda a: a.astype(np.int64)), "coverage: expected U8"),
            (replace_array("decoded", lambda a: a[..., :2]), "decoded: expected F32"),
            (replace_array("depth", lambda a: a[:, :-1]), "depth: expected F32"),
            (set_statistic("coverage", 7.0), "impossible statistics of window 1"),
            (set_statistic("window", 0), "impossible statistics of window 1"),
            (set_statistic("patches", -1), "impossible statistics"),
            (set_statistic("patches", "many"), "statistics: patches"),
            (set_statistic("seconds", {"decode": -1.0}), "impossible statistics"),
            (set_statistic("last_frame", -5), "impossible statistics"),
        ],
    )
    def test_are_named(self, folder, change, message):
        reseal(folder, 1, change)
        with pytest.raises(FormatError, match=message):
            Checkpoint(folder).load(1)

    def test_a_window_of_another_shape(self, world, path, folder):
        reseal(folder, 1, replace_array("decoded", lambda a: a[:, :-8]))
        with pytest.raises(WindowError, match="decoded"):
            run(world, path, folder)

    def test_what_is_resealed_unchanged_is_the_same(self, folder):
        before = Checkpoint(folder).load(1)
        reseal(folder, 1, lambda arrays, statistics: None)
        after = Checkpoint(folder).load(1)
        np.testing.assert_array_equal(before.decoded, after.decoded)
        assert before.statistics == after.statistics


class TestElsewhere:
    def test_the_same_machine_is_silent(self, world, path, folder):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", SuspiciousInput)
            result = run(world, path, folder)
        assert not said
        assert len(result.frames) == len(path)

    @pytest.mark.parametrize("part", ["mosaicmem", "simd"])
    def test_another_version_or_processor_is_said(self, world, path, folder, monkeypatch, part):
        monkeypatch.setattr(module, "_this_machine", lambda: {"mosaicmem": "1", "simd": "avx2", part: "other"})
        with pytest.warns(SuspiciousInput, match=r"begun by mosaicmem .*, and resumes with .* last bits"):
            run(world, path, folder)

    def test_what_is_recorded(self, folder):
        assert json.loads((folder / "run.json").read_text())["begun_by"]["simd"] == _core.simd_level().name

    def test_a_run_of_before_is_refused(self, world, path, folder):
        manifest = read_manifest(folder / "store")
        manifest.model_copy(update={"label": "windows done: 2", "attachments": []}).write(folder / "store")
        with pytest.raises(FormatError, match="whose windows have no checksums"):
            run(world, path, folder)

"""Builds of many sequences: equal bytes whoever makes them, and nothing lost or made twice whatever dies."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from build_helpers import CONFIG, content, write_scenes  # noqa: E402
from import_helpers import write_photos  # noqa: E402
from mosaicmem import MosaicMemoryStore, StoreLockedError, SyntheticVAE  # noqa: E402
from mosaicmem.datasets import open_sequence  # noqa: E402
from mosaicmem.models.training import RevisitDataset  # noqa: E402
from mosaicmem.scale import ShardDataset, build, estimate  # noqa: E402
from mosaicmem.scale.builder import OutputError  # noqa: E402
from mosaicmem.scale.places import open_place  # noqa: E402

OF_OTHERS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # within libraries


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 4)


@pytest.fixture(scope="module")
def built(scenes, tmp_path_factory):
    """A build by one process."""
    output = tmp_path_factory.mktemp("builds") / "one"
    report = build(scenes, output, CONFIG, workers=1)
    assert (report.sequences, report.failed, report.done_before) == (4, [], 0)
    return output


def changed(**settings):
    return CONFIG.model_copy(update=settings)


class TestContent:
    def test_bytes_do_not_depend_on_the_number_of_processes(self, scenes, built, tmp_path):
        build(scenes, tmp_path / "two", CONFIG, workers=2, threads=2)
        assert content(tmp_path / "two") == content(built)

    @OF_OTHERS
    def test_nor_on_ray(self, scenes, built, tmp_path):
        ray = pytest.importorskip("ray")
        try:
            report = build(scenes, tmp_path / "ray", CONFIG, backend="ray", workers=1)
        finally:
            ray.shutdown()
        assert (report.sequences, report.failed) == (4, [])
        assert content(tmp_path / "ray") == content(built)

    def test_nor_on_where_it_goes(self, scenes, built, tmp_path):
        pytest.importorskip("fsspec")
        build(scenes, f"local://{tmp_path}/far", CONFIG, workers=1, work=tmp_path / "work")
        assert content(tmp_path / "far") == content(built)

    def test_object_stores_that_remove_anything(self, tmp_path, monkeypatch):
        """They do not say that there was nothing to remove, so asking them until they do would never end."""
        fsspec = pytest.importorskip("fsspec")
        files = type(fsspec.filesystem("local"))
        remove = files.rm_file
        monkeypatch.setattr(files, "rm_file", lambda self, path: remove(self, path) if os.path.exists(path) else None)
        place = open_place(f"local://{tmp_path}/far")
        assert not place.remove("shards/000000-000.tar")
        place.write("shards/000000-000.tar", b"")
        assert [place.remove("shards/000000-000.tar") for _ in range(2)] == [True, False]

    def test_samples_are_those_of_a_revisit_dataset(self, scenes, built):
        dataset = RevisitDataset(
            open_sequence(scenes[2]),
            SyntheticVAE(),
            window=8,
            rope=CONFIG.rope(),
            policy=CONFIG.policy(),
            seed=seed_of(2),
            **CONFIG.batch_options(),
        )
        samples = [sample for sample in ShardDataset(built, shuffle=False) if sample["sequence"] == 2]
        assert len(samples) == len(dataset) == 2
        for sample, expected in zip(samples, dataset, strict=True):
            assert sample["start"] == expected["start"]
            for name in ("latents", "camera_from_world", "intrinsics"):
                torch.testing.assert_close(sample[name], expected[name], rtol=0, atol=0)
            memory, theirs = sample["memory"], expected["memory"]
            for name in ("latents", "filled", "positions", "mask", "frame"):
                torch.testing.assert_close(getattr(memory, name), getattr(theirs, name), rtol=0, atol=0)
            for name in ("cos", "sin"):  # of positions in float32
                own, other = (getattr(batch, name)[batch.mask] for batch in (memory, theirs))
                torch.testing.assert_close(own, other, rtol=0, atol=1e-5)
            torch.testing.assert_close(memory.canvas(), theirs.canvas(), rtol=0, atol=0)
        assert samples[1]["memory"].mask.any()

    def test_stores_hold_the_keyframes(self, scenes, built, tmp_path):
        shutil.unpack_archive(built / "stores" / "0000001.tar", tmp_path)
        store, sequence = MosaicMemoryStore.open(tmp_path / "0000001"), open_sequence(scenes[1])
        expected = CONFIG.policy().keyframes(sequence.trajectory(range(len(sequence))))
        assert store.statistics().keyframes == len(expected)

    def test_cameras_of_prope_and_half_latents_survive(self, scenes, tmp_path):
        build(scenes[:1], tmp_path / "out", changed(prope="half", dtype="float16", epochs=2, stores=False), workers=1)
        samples = list(ShardDataset(tmp_path / "out", shuffle=False))
        assert [sample["start"] for sample in samples] == [0, 0, 8, 8]
        q = torch.ones(1, 2, int(np.prod((8, 4, 6))), 24)
        for sample in samples:
            assert sample["latents"].dtype == sample["memory"].latents.dtype == torch.float32
            assert sample["memory"].prope.on_queries(q).shape == q.shape
        assert not (tmp_path / "out" / "stores").exists()

    @OF_OTHERS
    def test_webdataset_reads_the_shards(self, built):
        webdataset = pytest.importorskip("webdataset")
        shards = sorted(str(path) for path in (built / "shards").glob("*.tar"))
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
        assert len(samples) == 8
        own = next(iter(ShardDataset(built, shuffle=False)))
        np.testing.assert_array_equal(samples[0]["latents.npy"], own["latents"])

    def test_footage_is_imported_first(self, tmp_path):
        pytest.importorskip("pycolmap")
        pytest.importorskip("cv2")
        photos = write_photos(tmp_path / "photos")
        settings = changed(window=4, size=(96, 64), imports=True)
        report = build([photos], tmp_path / "out", settings, workers=1)
        assert (report.sequences, report.failed) == (1, [])
        samples = list(ShardDataset(tmp_path / "out"))
        assert len(samples) >= 3
        assert any(sample["memory"].mask.any() for sample in samples)
        assert not (tmp_path / "out" / ".work").exists()
        report = build([photos], tmp_path / "without", changed(window=4, size=(96, 64)), workers=1)
        assert "mosaicmem import makes a sequence of photos" in report.failed[0]["error"]

    def test_small_shards_are_continued_and_short_sequences_share_one(self, scenes, tmp_path):
        small = changed(shard_bytes=1024, sequences_per_shard=3, stores=False)
        build(scenes, tmp_path / "out", small, workers=1)
        names = sorted(path.name for path in (tmp_path / "out" / "shards").glob("*.tar"))
        assert names == [*(f"000000-{i:03d}.tar" for i in range(6)), "000001-000.tar", "000001-001.tar"]
        assert len(list(ShardDataset(tmp_path / "out"))) == 8


def cut_short(*_):
    raise KeyboardInterrupt


def seed_of(number):
    return int.from_bytes(hashlib.sha256(f"{CONFIG.seed} {number}".encode()).digest()[:7], "little")


class TestFailures:
    def test_a_sequence_that_fails_is_reported_and_the_others_are_built(self, scenes, tmp_path):
        broken = shutil.copytree(scenes[0], tmp_path / "broken")
        (broken / "frame-000016.color.png").write_bytes(b"no image")
        sources = [scenes[0], broken, tmp_path / "missing", scenes[1]]
        report = build(sources, tmp_path / "out", changed(sequences_per_shard=4), workers=1)
        assert report.sequences == 2
        assert [each["number"] for each in report.failed] == [1, 2]
        assert "frame-000016.color.png" in report.failed[0]["error"]
        assert "missing: no such" in report.failed[1]["error"]
        assert {sample["sequence"] for sample in ShardDataset(tmp_path / "out")} == {0, 3}

    def test_failed_ones_are_tried_again_only_when_asked(self, scenes, tmp_path):
        sources = [scenes[0], tmp_path / "late"]
        assert len(build(sources, tmp_path / "out", CONFIG, workers=1).failed) == 1
        shutil.copytree(scenes[1], tmp_path / "late")
        report = build(sources, tmp_path / "out", CONFIG, workers=1)
        assert (len(report.failed), report.done_before) == (1, 2)
        report = build(sources, tmp_path / "out", CONFIG, workers=1, retry_failed=True)
        assert (report.failed, report.done_before, report.sequences) == ([], 1, 2)

    def test_one_that_kills_its_process_is_given_up(self, scenes, tmp_path):
        deadly = shutil.copytree(scenes[0], tmp_path / "deadly")
        for path in deadly.glob("*.color.png"):
            Image.fromarray(np.full((64, 96, 3), (255, 0, 0), np.uint8)).save(path)
        config = changed(vae="build_helpers:DeadlyVAE")
        report = build([scenes[0], deadly, scenes[1]], tmp_path / "out", config, workers=1)
        assert report.sequences == 2
        (failed,) = report.failed
        assert failed["number"] == 1
        assert "3 processes that worked on it have died, the last of signal 9" in failed["error"]

    def test_others_of_its_group_are_built(self, scenes, tmp_path):
        deadly = shutil.copytree(scenes[0], tmp_path / "deadly")
        for path in deadly.glob("*.color.png"):
            Image.fromarray(np.full((64, 96, 3), (255, 0, 0), np.uint8)).save(path)
        config = changed(vae="build_helpers:DeadlyVAE", sequences_per_shard=3)
        report = build([scenes[0], deadly, scenes[1]], tmp_path / "out", config, workers=1)
        assert [failed["number"] for failed in report.failed] == [1]
        assert {sample["sequence"] for sample in ShardDataset(tmp_path / "out")} == {0, 2}

    def test_processes_that_never_begin_end_the_build(self, scenes, tmp_path):
        with pytest.raises(
            RuntimeError, match=r"3 processes of the build in turn died before it was ready.*exit code 3"
        ):
            build(scenes, tmp_path / "out", changed(vae="build_helpers:fatal_vae"), workers=1)

    def test_a_retry_that_is_cut_short_leaves_nothing_that_misleads(self, scenes, tmp_path, monkeypatch):
        sources, output = [tmp_path / "late", scenes[0]], tmp_path / "out"
        settings = changed(sequences_per_shard=2, shard_bytes=1024)
        build(sources, output, settings, workers=1)
        before = sorted(path.name for path in (output / "shards").iterdir())
        shutil.copytree(scenes[1], tmp_path / "late")
        with monkeypatch.context() as patch:
            patch.setattr("mosaicmem.scale.building.run_in_processes", cut_short)
            with pytest.raises(KeyboardInterrupt):
                build(sources, output, settings, workers=1, retry_failed=True)
        with pytest.raises(FileNotFoundError, match="is the build finished"):
            ShardDataset(output)
        report = build(sources, output, settings, workers=1)
        assert (report.failed, report.done_before) == ([], 0)
        assert len(list(ShardDataset(output))) == 4
        (tmp_path / "late").rename(tmp_path / "later")
        (output / "shards" / "000000.json").unlink()
        build(sources, output, settings, workers=1)
        assert sorted(path.name for path in (output / "shards").iterdir()) == before  # no shard of before is left

    @pytest.mark.parametrize(
        ("vae", "message"),
        [
            ("build_helpers:broken_vae", "vae: build_helpers:broken_vae fails: OSError: no weights here"),
            ("nowhere:vae", "vae: nowhere:vae fails: ModuleNotFoundError"),
        ],
    )
    def test_a_vae_that_cannot_be_made_ends_the_build(self, scenes, tmp_path, vae, message):
        with pytest.raises(ValueError, match=message):
            build(scenes, tmp_path / "out", changed(vae=vae), workers=2)

    def test_so_does_one_that_is_none(self, scenes, tmp_path):
        with pytest.raises(ValueError, match="what build_helpers:no_vae returns: expected the methods of VAE, got int"):
            build(scenes, tmp_path / "out", changed(vae="build_helpers:no_vae"), workers=1)

    def test_an_output_that_cannot_be_written_ends_the_build(self, scenes, tmp_path):
        build(scenes[:1], tmp_path / "out", CONFIG, workers=1)
        (tmp_path / "out" / "shards" / "000000.json").unlink()
        (tmp_path / "out" / "stores" / "0000000.tar").unlink()
        (tmp_path / "out" / "stores" / "0000000.tar" / "in the way").mkdir(parents=True)
        with pytest.raises(OutputError, match="the output cannot be written"):
            build(scenes[:1], tmp_path / "out", CONFIG, workers=1)

    def test_another_build_is_refused(self, scenes, built):
        with pytest.raises(ValueError, match=r"holds another build: window was 8, now 4; .*use another output"):
            build(scenes, built, changed(window=4))
        with pytest.raises(ValueError, match="its sources were 4 others, now 3"):
            build(scenes[:3], built, CONFIG)

    def test_files_of_others_stay(self, scenes, tmp_path):
        build(scenes[:1], tmp_path / "out", CONFIG, workers=1)
        (tmp_path / "out" / ".gitignore").write_text("shards")
        (tmp_path / "out" / "shards" / ".000000-000.tar.0123abcd").write_text("left by a kill")
        build(scenes[:1], tmp_path / "out", CONFIG, workers=1)
        assert (tmp_path / "out" / ".gitignore").exists()
        assert not (tmp_path / "out" / "shards" / ".000000-000.tar.0123abcd").exists()

    def test_foreign_folders_are_left_alone(self, scenes, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(FileExistsError, match=r"thesis\.txt"):
            build(scenes, tmp_path, CONFIG)

    @pytest.mark.parametrize(
        ("sources", "error", "message"),
        [
            ([], ValueError, "expected at least one sequence"),
            ("scene", TypeError, "expected a list of paths, got str"),
            (["a", "b", "a"], ValueError, "expected each sequence once"),
            (["a", "s3://bucket/b"], ValueError, "folders that this machine reaches, got s3://bucket/b"),
        ],
    )
    def test_sources_are_checked(self, tmp_path, sources, error, message):
        with pytest.raises(error, match=message):
            build(sources, tmp_path / "out", CONFIG)


class TestInterruptions:
    def command(self, scenes, output):
        tests, config = Path(__file__).parent, output.with_suffix(".json")
        config.write_text(changed(vae="build_helpers:SlowVAE").model_dump_json())
        arguments = ["build", *map(str, scenes), "--output", str(output), "--config", str(config), "--workers", "2"]
        environment = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        return [sys.executable, "-m", "mosaicmem", *arguments], environment

    def kill_on_the_way(self, run, output, before, pause, of_workers_first):
        """Kill a build after it has done one more group, and a pause; and a worker before that."""
        wait_for(lambda: run.poll() is not None or len(records(output)) > before)
        time.sleep(pause)
        if of_workers_first and run.poll() is None:
            for worker in children(run.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
            wait_for(lambda: run.poll() is not None or len(records(output)) > before + 1)

    def test_whatever_is_killed_nothing_is_lost_or_made_twice(self, tmp_path):
        scenes = write_scenes(tmp_path, 4)
        output, chance = tmp_path / "out", random.Random(3)
        command, environment = self.command(scenes, output)
        done, kills = {}, 0
        while True:
            run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            try:
                self.kill_on_the_way(run, output, len(done), 0.3 * chance.random(), kills % 2 == 1)
                kills += 1
            finally:
                run.kill()
                _, said = run.communicate()
            now = records(output)
            assert {name: now.get(name) for name in done} == done  # none made again
            done = now
            if run.returncode == 0:
                break
            assert run.returncode == -signal.SIGKILL, said
        assert kills >= 3
        reference = build(scenes, tmp_path / "reference", changed(vae="build_helpers:SlowVAE"), workers=1)
        assert reference.failed == []
        assert content(output) == content(tmp_path / "reference")
        assert not (output / ".work").exists()

    def test_workers_end_with_the_first_process(self, tmp_path):
        scenes = write_scenes(tmp_path, 4)
        command, environment = self.command(scenes, tmp_path / "out")
        run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        wait_for(lambda: run.poll() is not None or records(tmp_path / "out"))
        workers = children(run.pid)
        run.kill()
        run.wait()
        assert workers
        wait_for(lambda: not any(is_running(worker) for worker in workers))

    def test_two_builds_at_once_are_refused(self, scenes, built):
        from mosaicmem.memory.storage.lock import FolderLock

        lock = FolderLock.take(built)
        try:
            with pytest.raises(StoreLockedError, match="another process builds in"):
                build(scenes, built, CONFIG)
        finally:
            lock.release()

    def test_a_damaged_record_counts_as_missing(self, scenes, tmp_path, built):
        copy = shutil.copytree(built, tmp_path / "copy")
        (copy / "shards" / "000002.json").write_text('{"group": 2, "sequ')
        report = build(scenes, copy, CONFIG, workers=1)
        assert report.done_before == 3
        assert content(copy) == content(built)


def wait_for(happened, seconds=120):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def records(output):
    """When each group was done."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "shards").glob("*.json")}


def children(pid):
    """Processes of a build's workers, without those that multiprocessing itself starts."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(path.name))
    return found


def is_running(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestEstimate:
    def test_it_counts_and_measures(self, scenes, built):
        made = estimate(scenes, CONFIG)
        assert (made.sequences, made.opened, made.frames, made.samples) == (4, 4, 20 + 21 + 22 + 23, 8)
        assert 0 < made.seconds < 60
        shards = sum(path.stat().st_size for path in (built / "shards").glob("*.tar"))
        assert 0.7 < made.nbytes / shards < 1.5

    def test_it_names_what_cannot_be_read(self, scenes, tmp_path):
        made = estimate([*scenes, tmp_path / "missing"], CONFIG)
        assert list(made.unreadable) == [str(tmp_path / "missing")]

    def test_sequences_that_are_too_short(self, scenes):
        with pytest.raises(ValueError, match="expected at least window = 64 frames, got 23 at most"):
            estimate(scenes, changed(window=64))


class TestCommand:
    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "mosaicmem", "build", *map(str, arguments)], capture_output=True, text=True
        )

    def test_it_builds_and_says_what_failed(self, scenes, tmp_path):
        listed = tmp_path / "scenes.txt"
        listed.write_text(f"{scenes[1]}\n# a comment\n{tmp_path}/missing\n")
        settings = ["--set", "window=8", "--set", "head_dim=24", "--set", "interval=2"]
        done = self.run(scenes[0], "--list", listed, "--output", tmp_path / "out", *settings, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["sequences"], len(report["failed"]), report["samples"]) == (2, 1, 4)
        again = self.run(scenes[0], "--list", listed, "--output", tmp_path / "out", *settings)
        assert "2 sequences, 3 by earlier runs, 4 samples" in again.stdout
        assert "mosaicmem: failed:" in again.stderr

    def test_a_dry_run_writes_nothing(self, scenes, tmp_path):
        done = self.run(*scenes, "--output", tmp_path / "out", "--set", "window=8", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "4 sequences of 86 frames; 4 of them were opened.\n8 samples" in done.stdout
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--output", "x"], "SOURCES: expected sequences"),
            (["a"], "--output: expected a folder or a URI"),
            (["a", "--output", "x", "--set", "windo=8"], "windo: no such setting; did you mean window?"),
            (["a", "--output", "x", "--set", "rope_axes=[1,2,3]"], "axes_dims: expected three even numbers"),
            (["a", "--output", "x", "--gpus", "1"], "--gpus: expected --backend ray with it"),
            (["a", "--output", "x", "--vae", "words"], "--vae: string should match pattern"),
        ],
    )
    def test_wrong_usage(self, arguments, message):
        done = self.run(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1

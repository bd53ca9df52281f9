"""Files and folders appear whole or not at all, durably, and with the permissions that their owner wants."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mosaicmem import _files
from mosaicmem._files import atomic_write, make_folder, put_folder_in_place, write_json
from mosaicmem.cli._common import output_folder
from mosaicmem.cli._staging import Staging


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def events(monkeypatch):
    """The syncs and renames, in order, with base names."""
    happened = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def logged(what, function):
        def call(source, target):
            function(source, target)
            happened.append((what, os.path.basename(target)))

        return call

    def logged_fsync(descriptor):
        happened.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged("rename", replace))
    monkeypatch.setattr(os, "rename", logged("rename", rename))
    return happened


def make_output(path, text):
    with output_folder(path, True, "demo") as folder:
        (folder / "summary.json").write_text("{}")
        (folder / "text").write_text(text)


class TestPermissions:
    def test_new_files_have_those_of_the_umask(self, tmp_path, umask):
        write_json(tmp_path / "new", {})
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask

    def test_a_file_that_is_replaced_keeps_its_own(self, tmp_path, umask):
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        write_json(tmp_path / "old", {})
        assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640

    def test_new_folders_have_those_of_the_umask(self, tmp_path, umask):
        make_output(tmp_path / "out", "text")
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask


class TestDurability:
    def test_the_folders_that_are_made_are_made_durable(self, tmp_path, events):
        make_folder(tmp_path / "a" / "b" / "c")
        assert [name for _, name in events] == [tmp_path.parent.name, tmp_path.name, "a", "b"]

    def test_so_is_the_innermost_that_is_there_should_it_have_failed_before(self, tmp_path, events):
        make_folder(tmp_path)
        assert events == [("fsync", tmp_path.parent.name)]

    def test_a_file_is_durable_before_it_has_its_name_and_the_name_after_that(self, tmp_path, events):
        with atomic_write(tmp_path / "file") as file:
            file.write(b"x")
        (first, temporary), *rest = events
        assert first == "fsync"
        assert temporary.startswith(".file.")
        assert rest == [("rename", "file"), ("fsync", tmp_path.name)]

    @pytest.mark.parametrize("replaces", [False, True])
    @pytest.mark.parametrize("exchanges", [False, True])
    def test_so_is_a_folder(self, tmp_path, events, monkeypatch, replaces, exchanges):
        if not exchanges:
            monkeypatch.setattr(_files, "_exchange", lambda one, other: False)
        if replaces:
            (tmp_path / "out").mkdir()
        (tmp_path / ".out").mkdir()
        (tmp_path / ".out" / "frame").write_text("new")
        put_folder_in_place(tmp_path / ".out", tmp_path / "out")
        assert events[:2] == [("fsync", "frame"), ("fsync", ".out")]
        assert events[-1] == ("fsync", tmp_path.name)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out" / "frame").read_text() == "new"


class TestOneOfTheTwoIsAlwaysThere:
    def test_between_any_two_calls(self, tmp_path, monkeypatch):
        """A kill before any call that touches names would leave a whole folder."""
        seen = []
        for name in ("rename", "replace", "unlink", "rmdir", "fsync", "open"):
            function = getattr(os, name)

            def look(*arguments, function=function, **options):
                seen.append((tmp_path / "out" / "text").is_file())
                return function(*arguments, **options)

            monkeypatch.setattr(os, name, look)
        for text in ("old", "new"):
            make_output(tmp_path / "out", text)
            if text == "old":
                seen.clear()
        assert len(seen) > 5
        assert all(seen)
        assert (tmp_path / "out" / "text").read_text() == "new"

    def test_a_kill_in_the_middle(self, tmp_path):
        """A process that keeps replacing one folder is killed again and again."""
        script = (
            "import sys, itertools\n"
            "from pathlib import Path\n"
            "from mosaicmem.cli._staging import Staging\n"
            "for i in itertools.count():\n"
            "    staging = Staging(Path(sys.argv[1]))\n"
            "    staging.begin()\n"
            "    for name in 'ab': (staging.folder / name).write_text(str(i))\n"
            "    staging.finish()\n"
            "    print(i, flush=True)\n"
        )
        for attempt in range(8):
            process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE)
            process.stdout.readline()
            time.sleep(0.003 * attempt)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text()
        with output_folder(tmp_path / "out", True, "demo", mark="a") as folder:
            (folder / "a").touch()  # another kind of output, so that no signature of the command is needed
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


class TestLeftovers:
    def test_of_killed_runs_are_swept_and_those_at_work_are_not(self, tmp_path):
        path = tmp_path / "out"
        dead, alive, other = Staging(path), Staging(path), Staging(tmp_path / "out2")
        for staging in (dead, alive, other):
            staging.begin()
            (staging.folder / "frame").touch()
        dead._unlock()
        (tmp_path / ".out.notours").mkdir()
        with output_folder(path, False, "demo") as folder:
            (folder / "summary.json").write_text("{}")
            assert not dead.folder.exists()
            assert (alive.folder / "frame").exists()
            assert (other.folder / "frame").exists()
        assert (tmp_path / ".out.notours").exists()
        assert path.is_dir()

    def test_an_old_output_without_a_successor_comes_back(self, tmp_path):
        """A kill leaves this between two renames, on a file system that cannot exchange two names."""
        (tmp_path / ".out.0123456789ab").mkdir()
        (tmp_path / ".out.0123456789ab.old").mkdir()
        (tmp_path / ".out.0123456789ab.old" / "text").write_text("old")
        Staging(tmp_path / "out").begin()
        assert (tmp_path / "out" / "text").read_text() == "old"
        assert not (tmp_path / ".out.0123456789ab").exists()

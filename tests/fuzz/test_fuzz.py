"""Every reader gets some hundreds of mutated files; with ``-m slow``, more than a million in all."""

import tempfile
from pathlib import Path

import pytest
from fuzz_loop import Target, execute, fuzz, scratch_folder
from fuzz_targets import TARGETS

from mosaicmem import FormatError

EXECUTIONS = 500
MANY = 1_100_000 // len(TARGETS)


@pytest.fixture
def scratch():
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", TARGETS)
def test_only_promised_errors_come_out(name, scratch, tmp_path):
    check(name, scratch, tmp_path, 0, EXECUTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_million_inputs(name, scratch, tmp_path):
    check(name, scratch, tmp_path, 1, MANY)


def check(name, scratch, tmp_path, seed, executions):
    target = TARGETS[name]
    wanted = max(1, int(executions * target.speed))
    done, failures = fuzz(target, scratch, seed, wanted)
    assert not failures, "\n".join(f"{failure.save(tmp_path)}: {failure.what}" for failure in failures)
    assert done == wanted


class TestTheLoopItself:
    """Readers that break each promise are found out."""

    @staticmethod
    def breaks(read, tmp_path, content=b"abc"):
        return execute(Target("a", "a", lambda folder: [b"abc"], read), tmp_path / "a", content)

    def test_what_is_promised_passes(self, tmp_path):
        def refuse(path):
            raise FormatError(path, "no")

        assert self.breaks(refuse, tmp_path) is None
        assert self.breaks(lambda path: None, tmp_path) is None

    def test_other_errors(self, tmp_path):
        assert "IndexError" in self.breaks(lambda path: [][1], tmp_path)

    def test_time(self, tmp_path):
        def spin(path):
            while True:
                pass

        assert "TooSlow" in self.breaks(spin, tmp_path)

    def test_memory(self, tmp_path):
        assert "MB of memory" in self.breaks(lambda path: bytes(range(256)) * (1 << 21), tmp_path)

    def test_the_same_seed_gives_the_same_inputs(self, tmp_path):
        def read_with(seed):
            seen = []
            target = Target("a", "a", lambda folder: [b"1 2\n3"], lambda path: seen.append(path.read_bytes()), (b"x",))
            fuzz(target, tmp_path, seed, 50)
            return seen

        assert read_with(1) == read_with(1) != read_with(2)
        assert len(set(read_with(1))) > 25

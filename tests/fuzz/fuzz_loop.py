"""A mutational fuzzing loop: readers get nearly valid inputs, and may only do what they promise."""

import contextlib
import faulthandler
import hashlib
import os
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz_mutations import mutate

from memory_peak import forget_peak, peak_bytes, resident_bytes
from mosaicmem import FormatError, SuspiciousInput

CPU_SECONDS = 2.0  # per input; all inputs are small
HANG_SECONDS = 120  # then the process prints its stack and exits
SPARE_BYTES = 64 * 10**6
LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class Target:
    """A reader, and the inputs that it gets.

    To add one, append a `Target` to the list of a module that `fuzz_targets` collects.

    Attributes
    ----------
    name : str
    file : str
        Name of the input, in a folder of its own.
    prepare : function
        Writes what must lie beside the input into the given folder, and returns valid inputs, made by our own writers
        or by hand.
    read : function
        Reads the file whose path it is given.
    tokens : tuple of bytes
        Words of the format.
    wrap : function, optional
        Makes a mutated input pass the first checks, such as checksums. Half of all inputs go through it.
    errors : tuple of classes
        Errors that are promised, besides `FormatError`.
    speed : float
        Number of executions, relative to other targets.
    """

    name: str
    file: str
    prepare: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    tokens: tuple[bytes, ...] = ()
    wrap: Callable[[bytes], bytes] | None = None
    errors: tuple[type[BaseException], ...] = ()
    speed: float = 1.0


class TooSlow(BaseException):
    """An input took more processor time than allowed."""


@dataclass
class Failure:
    """An input that made a reader break a promise."""

    target: str
    content: bytes
    what: str

    def save(self, folder: Path) -> Path:
        """Save the input and what it did; return the path of the input."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{hashlib.sha256(self.content).hexdigest()[:12]}"
        path.write_bytes(self.content)
        path.with_suffix(".txt").write_text(self.what)
        return path


def fuzz(
    target: Target, folder: Path, seed: int, executions: int, seconds: float | None = None, most_failures: int = 3
) -> tuple[int, list[Failure]]:
    """Read mutated inputs in ``folder``, up to a number and a time; return how many were read, and the failures.

    The same seed and number of executions give the same inputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = target.prepare(folder)
    random_numbers = random.Random(f"{target.name} {seed}")
    path = folder / target.file
    failures: list[Failure] = []
    end = None if seconds is None else time.monotonic() + seconds
    for whole in seeds:
        if (what := execute(target, path, whole)) is not None:
            failures.append(Failure(target.name, whole, what))
    done = 0
    while done < executions and (end is None or time.monotonic() < end) and len(failures) < most_failures:
        content = mutate(random_numbers, seeds, target.tokens, target.wrap)
        done += 1
        if (what := execute(target, path, content)) is not None:
            failures.append(Failure(target.name, content, what))
    return done, failures


def execute(target: Target, path: Path, content: bytes) -> str | None:
    """Read one input; return what it did if that breaks a promise, else None."""
    path.write_bytes(content)
    before = resident_bytes()
    forget_peak()
    started = time.process_time()
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    what = None
    try:
        with limited_time(CPU_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", SuspiciousInput)
            target.read(path)
    except (FormatError, *target.errors) as error:
        if len(str(error)) > LONGEST_MESSAGE:
            what = f"a message of {len(str(error))} letters: {str(error)[:200]}"
    except (Exception, TooSlow):
        what = traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    if what is None and (took := time.process_time() - started) > CPU_SECONDS:
        what = f"{took:.1f} s of processor time"
    grown = peak_bytes() - before
    if what is None and grown > SPARE_BYTES + 4 * len(content):
        what = f"{grown / 1e6:.0f} MB of memory for {len(content)} bytes"
    return what


@contextlib.contextmanager
def limited_time(seconds):
    """Raise `TooSlow` once the block has used ``seconds`` of processor time."""

    def stop(number, frame):
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def scratch_folder() -> str | None:
    """Where inputs are written: in memory if possible, since writing to disk would take most of the time."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

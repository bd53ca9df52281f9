"""Fuzz the readers for longer: ``python tests/fuzz/run.py --seconds 600 --seed 7 [TARGET ...]``.

Prints how many inputs each target has read, and keeps those that failed in a folder. Exit code 1 if there are any.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from fuzz_loop import execute, fuzz, scratch_folder
from fuzz_targets import TARGETS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is given")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for inputs that failed")
    parser.add_argument("--again", type=Path, help="read this one input, which failed, with the one target")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    unknown = set(names) - set(TARGETS)
    if unknown:
        parser.error(f"no target {min(unknown)}; there are {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
        if arguments.again is not None:
            target = TARGETS[names[0]]
            target.prepare(Path(scratch))
            sys.exit(execute(target, Path(scratch) / target.file, arguments.again.read_bytes()) or 0)
        total = failed = 0
        for name in names:
            seconds = arguments.seconds / len(names)
            done, failures = fuzz(TARGETS[name], Path(scratch) / name, arguments.seed, 10**9, seconds)
            print(f"{name:40} {done:9} inputs, {len(failures)} failures", flush=True)
            for failure in failures:
                print(f"  {failure.save(arguments.failures)}: {failure.what.strip().splitlines()[-1]:.200}", flush=True)
            total, failed = total + done, failed + len(failures)
    print(f"{total} inputs, {failed} failures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Mutations of valid inputs: bytes, numbers, lines and words of the format."""

import contextlib
import random
import re
import struct
from collections.abc import Callable, Sequence

LARGEST_INPUT = 1 << 16
INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS = (
    *(
        b"0",
        b"-1",
        b"1",
        b"1e308",
        b"-1e308",
        b"1e400",
        b"nan",
        b"inf",
        b"-0.0",
        b"1e-320",
        b"0x10",
        b"1_0",
        b"1.5",
        b"",
    ),
    *(b"4294967296", b"18446744073709551616", b"9" * 40, b"9" * 400, b"9" * 5000),
)
NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?")


def mutate(
    random_numbers: random.Random,
    seeds: Sequence[bytes],
    tokens: Sequence[bytes],
    wrap: Callable[[bytes], bytes] | None,
) -> bytes:
    """A nearly valid input: one of the seeds after a few mutations."""
    content = bytearray(random_numbers.choice(seeds))
    for _ in range(random_numbers.choice((1, 1, 1, 2, 3, 5, 8))):
        mutation = random_numbers.choice(MUTATIONS)
        mutation(random_numbers, content, tokens, seeds)
        del content[LARGEST_INPUT:]
    if wrap is not None and random_numbers.random() < 0.5:
        with contextlib.suppress(Exception):  # what cannot be wrapped is tried as it is
            return wrap(bytes(content))
    return bytes(content)


def _range(random_numbers, content, most=64):
    start = random_numbers.randrange(len(content) + 1)
    length = random_numbers.choice((1, 2, 4, 8, random_numbers.randrange(1, most)))
    return start, min(len(content), start + length)


def _flip(random_numbers, content, tokens, seeds):
    if content:
        content[random_numbers.randrange(len(content))] ^= 1 << random_numbers.randrange(8)


def _set(random_numbers, content, tokens, seeds):
    if content:
        content[random_numbers.randrange(len(content))] = random_numbers.choice((0, 1, 9, 10, 32, 48, 127, 128, 255))


def _set_integer(random_numbers, content, tokens, seeds):
    size = random_numbers.choice((1, 2, 4, 8))
    start = random_numbers.randrange(max(1, len(content) - size + 1))
    value = random_numbers.choice(INTERESTING) % 256**size
    content[start : start + size] = value.to_bytes(size, random_numbers.choice(("little", "big")))


def _set_float(random_numbers, content, tokens, seeds):
    kind = random_numbers.choice(("<f", "<d", ">f"))
    value = random_numbers.choice((0.0, -1.0, 1e30, -1e30, float("inf"), float("nan"), 1e-40))
    start = random_numbers.randrange(max(1, len(content)))
    content[start : start + struct.calcsize(kind)] = struct.pack(kind, value)


def _cut(random_numbers, content, tokens, seeds):
    del content[random_numbers.randrange(len(content) + 1) :]


def _remove(random_numbers, content, tokens, seeds):
    start, stop = _range(random_numbers, content, 512)
    del content[start:stop]


def _repeat(random_numbers, content, tokens, seeds):
    start, stop = _range(random_numbers, content, 256)
    content[start:start] = content[start:stop] * random_numbers.choice((1, 2, 3, 100))


def _splice(random_numbers, content, tokens, seeds):
    other = random_numbers.choice(seeds)
    start, stop = _range(random_numbers, other, 512)
    where = random_numbers.randrange(len(content) + 1)
    content[where : where + random_numbers.choice((0, stop - start))] = other[start:stop]


def _insert_token(random_numbers, content, tokens, seeds):
    where = random_numbers.randrange(len(content) + 1)
    content[where:where] = random_numbers.choice((*tokens, b"\0", b"\n", b" ", b"\xff\xfe", b"\xf0\x9f\x98\x80"))


def _exchange_token(random_numbers, content, tokens, seeds):
    there = [token for token in tokens if token in content]
    if there:
        token = random_numbers.choice(there)
        found = [match.start() for match in re.finditer(re.escape(token), bytes(content))]
        start = random_numbers.choice(found)
        content[start : start + len(token)] = random_numbers.choice(tokens)


def _exchange_number(random_numbers, content, tokens, seeds):
    found = list(NUMBER.finditer(bytes(content)))
    if found:
        start, stop = random_numbers.choice(found).span()
        content[start:stop] = random_numbers.choice(NUMBERS)


def _exchange_line(random_numbers, content, tokens, seeds):
    lines = bytes(content).split(b"\n")
    lines[random_numbers.randrange(len(lines))] = random_numbers.choice(random_numbers.choice(seeds).split(b"\n"))
    content[:] = b"\n".join(lines)


MUTATIONS = (
    *(_flip, _set, _set_integer, _set_float, _cut, _remove, _repeat, _splice),
    *(_insert_token, _exchange_token, _exchange_number, _exchange_number, _exchange_line),
)

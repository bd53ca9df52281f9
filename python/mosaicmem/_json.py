"""Untrusted JSON: the memory it needs is estimated before it is parsed, as objects are up to 30 times as large."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mosaicmem._opening import allowed_bytes, check_growth, foreign_parser
from mosaicmem.errors import FormatError

_MOST_LEVELS = 64  # of nested lists and objects
_MOST_DIGITS = 300  # of an integer that float64 can hold
_MANY_DIGITS = re.compile(f"[0-9]{{{_MOST_DIGITS + 1}}}")
_MOST_KEYS = 10_000  # distinct keys that are counted; beyond this, each key counts as distinct
# Worst-case bytes of memory that each of these characters costs in CPython 3.10 to 3.13.
_COSTS = {
    b"[": 64,  # a list
    b"{": 112,  # a dict
    b",": 44,  # a slot in a list that is about to grow, and a number
    b'"': 20,  # half the overhead of a string, which has two quotes
    b":": 64,  # a slot in a dict that is about to grow
    b"\\": 40,  # strings with escapes are joined from parts
}
_NEW_KEY = 160  # a key seen for the first time: its string, and its entry in the parser's memo
_MOST_PER_BYTE = 9 + max(_COSTS.values()) + _NEW_KEY
_KEY = re.compile(rb'"([^"\\]{0,64})"\s*:')


def decode_json(path: str | Path, content: bytes, size: int | None = None) -> str:
    """Decode the JSON bytes of a file of ``size`` (default: their length), if its value takes little enough memory.

    This is a separate step so that the caller can free the bytes before parsing the text.

    Raises
    ------
    FormatError
        It cannot be decoded, or its objects would need more memory than a file of its size may.
    """
    nbytes = len(content) if size is None else size
    if _MOST_PER_BYTE * len(content) > allowed_bytes(nbytes):
        check_growth(path, nbytes, _memory(content), "JSON of many small parts")
    with foreign_parser(path, "not JSON"):
        return content.decode(json.detect_encoding(content))


def parse_json(path: str | Path, text: str) -> Any:
    """Parse a JSON text that `decode_json` accepted. Integers beyond float64 become infinite.

    Raises
    ------
    FormatError
        It is not JSON, or is nested too deeply.
    """
    try:
        with foreign_parser(path, "not JSON"):
            value = json.loads(text, parse_int=_integer if _MANY_DIGITS.search(text) else None)
    except FormatError as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError):
            raise FormatError(path, f"not JSON: {cause.msg}", cause.lineno) from cause
        raise
    _check_levels(path, value)
    return value


def _memory(content: bytes) -> int:
    """Upper bound of the memory that parsing takes: the text, and the objects."""
    narrow = content.isascii() and b"\\u" not in content
    signs = {sign: content.count(sign) for sign in _COSTS}
    parts = sum(count * _COSTS[sign] for sign, count in signs.items())
    return len(content) * (2 if narrow else 9) + parts + _NEW_KEY * _different_keys(content, signs[b":"])


def _different_keys(content: bytes, colons: int) -> int:
    """Upper bound of the number of distinct keys."""
    seen: set[bytes] = set()
    for key in _KEY.finditer(content):
        seen.add(key[1])
        colons -= 1
        if len(seen) > _MOST_KEYS:
            break
    return len(seen) + colons


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _check_levels(path: str | Path, value: Any) -> None:
    """Reject values nested so deeply that walking them could overflow Python's stack."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_MOST_LEVELS):
        parts: list[Any] = []
        for each in level:
            parts += each.values() if type(each) is dict else each
        level = [part for part in parts if type(part) is dict or type(part) is list]
        if not level:
            return
    raise FormatError(path, f"not JSON that is understood: expected at most {_MOST_LEVELS} levels, got more")

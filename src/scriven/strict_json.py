"""JSON that every reader takes: finite numbers only, whole characters only.

What is read may be from anybody: it is bounded, and has each key once.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

# What opens an array or an object, or follows a key. An index of 60,000 checkpoints has fewer, and so many of them
# cost about 100 MB of memory; without a bound a few megabytes of text could ask for much more.
STRUCTURE = 500_000

# Made once: an encoder costs as much as a row of a table.
_encode = json.JSONEncoder(allow_nan=False).encode
_encode_compact = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
# An escape in JSON text: a character as two halves, a half of one without the other, or any other escape.
_ESCAPE = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(?P<half>ud[89a-f]..)|.)")


def write(value: Any, *, compact: bool = False) -> str:
    """JSON text of a value: ASCII, on one line; without spaces where it is to be `compact`.

    Half a character (a lone surrogate) becomes U+FFFD: many readers refuse JSON that has one.
    Raises ValueError when a number in it is not finite.
    """
    text = (_encode_compact if compact else _encode)(value)
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape["half"] else escape[0], text) if r"\ud" in text else text


def parse(text: str, structure: int = STRUCTURE, values: int | None = None) -> Any:
    """The value of JSON text, of so many parts at most; a byte order mark at its start is left out.

    With `values`, it has so many texts, numbers and others at most in its arrays and objects, and other threads of
    Python run while it is read: a call of Python reads each number, between which they have their turns.
    Raises ValueError when it is no JSON, has a key twice in one object, numbers that are not finite, or is deeper or
    larger than anything that Scriven writes.
    """
    _check_size(text, structure, values)
    try:
        return json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_number,
            parse_int=None if values is None else _integer,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _check_size(text: str, structure: int, values: int | None) -> None:
    """Raise ValueError where JSON text has too many parts or values, which is known before it is read."""
    parts, commas = _counts(text)
    if parts <= structure and (values is None or commas < values):
        return
    # In JSON a quote that begins or ends a text follows no backslash, but for a text that ends with one.
    if values is not None and text.count('"') - text.count(r"\"") > 2 * structure:
        raise ValueError(f"it has more than {structure:,} texts")
    parts, commas = _counts("".join(text.replace(r"\\", "").replace(r"\"", "").split('"')[::2]))  # outside of texts
    if parts > structure:
        raise ValueError(f"it has more than {structure:,} parts")
    if values is not None and commas >= values:
        raise ValueError(f"it has more than {values:,} values")


def _counts(text: str) -> tuple[int, int]:
    """How often arrays and objects begin or keys end, and how many commas there are."""
    return sum(map(text.count, "[{:")), text.count(",")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(one for one, other in pairwise(keys) if one == other)
        raise ValueError(f"it has the key {twice[:40]!a} twice")
    return values


def _constant(name: str) -> Any:
    raise ValueError(f"it has the number {name}")


def _integer(text: str) -> int:
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _constant(text[:40])

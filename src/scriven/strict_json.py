"""Writes JSON that every reader accepts, and reads JSON that anybody may have sent.

Only finite numbers and no lone surrogates are written. Reading is bounded, and refuses an object with a key twice.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

# Counts each "[", "{" and ":". An index of 60,000 checkpoints has fewer, and this number takes about 100 MB of memory.
# Without a limit, a few megabytes of text could take much more.
MOST_PARTS = 500_000

# Made once: making an encoder takes as long as encoding a row of a table.
_encode = json.JSONEncoder(allow_nan=False).encode
_encode_compact = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
# An escape in JSON text: a pair of surrogates, a lone surrogate (`half`), or any other escape.
_ESCAPE = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(?P<half>ud[89a-f]..)|.)")


def write(value: Any, *, compact: bool = False) -> str:
    """Returns the JSON text of a value: ASCII, on one line, without spaces if `compact`.

    A lone surrogate becomes U+FFFD, as many readers refuse JSON that has one. Raises ValueError if a number is not
    finite.
    """
    text = (_encode_compact if compact else _encode)(value)
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape["half"] else escape[0], text) if r"\ud" in text else text


def parse(text: str, structure: int = MOST_PARTS, values: int | None = None) -> Any:
    """Returns the value of JSON text. A byte order mark at its start is left out.

    `structure` is the largest number of parts: arrays, objects and keys. `values` is the largest number of values in
    arrays and objects. With `values`, a Python function reads each number, so that other Python threads get their turn.
    Raises ValueError if it is not JSON, has a key twice in one object or a number that is not finite, is nested too
    deeply, or has more parts or values than allowed.
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
    """Raises ValueError if JSON text has too many parts or values; counts them before anything is parsed."""
    parts, commas = _counts(text)
    if parts <= structure and (values is None or commas < values):
        return
    # A quote that begins or ends a string follows a backslash only if the string ends with an escaped backslash.
    if values is not None and text.count('"') - text.count(r"\"") > 2 * structure:
        raise ValueError(f"it has more than {structure:,} texts")
    parts, commas = _counts("".join(text.replace(r"\\", "").replace(r"\"", "").split('"')[::2]))  # outside of strings
    if parts > structure:
        raise ValueError(f"it has more than {structure:,} parts")
    if values is not None and commas >= values:
        raise ValueError(f"it has more than {values:,} values")


def _counts(text: str) -> tuple[int, int]:
    """Returns the number of arrays, objects and keys, and the number of commas."""
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

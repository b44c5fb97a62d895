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


def parse(text: str, structure: int = STRUCTURE) -> Any:
    """The value of JSON text, of so many parts at most; a byte order mark at its start is left out.

    Raises ValueError when it is no JSON, has a key twice in one object, numbers that are not finite, or is deeper or
    larger than anything that Scriven writes.
    """
    if sum(map(text.count, "[{:")) > structure:
        raise ValueError(f"it has more than {structure:,} parts")
    try:
        return json.loads(
            text.removeprefix("\ufeff"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_number
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(one for one, other in pairwise(keys) if one == other)
        raise ValueError(f"it has the key {twice[:40]!a} twice")
    return values


def _constant(name: str) -> Any:
    raise ValueError(f"it has the number {name}")


def _number(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _constant(text[:40])

"""JSON from files that anybody may have written: bounded, each key once, finite numbers only."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

# What opens an array or an object, or follows a key. An index of 60,000 checkpoints has fewer, and so many of them
# cost about 100 MB of memory; without a bound a few megabytes of text could ask for much more.
STRUCTURE = 500_000


def parse(text: str, structure: int = STRUCTURE) -> Any:
    """The value of JSON text, of so many parts at most.

    Raises ValueError when it is no JSON, has a key twice in one object, numbers that are not finite, or is deeper or
    larger than anything that Scriven writes.
    """
    if sum(map(text.count, "[{:")) > structure:
        raise ValueError(f"it has more than {structure:,} parts")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number)
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

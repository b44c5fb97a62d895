"""Answers in JSON; long ones are made in another thread, piece by piece, so that streams go on meanwhile.

A thread holds the interpreter's lock while it makes one piece of JSON, and streams wait for the lock: so a piece is
short, a few milliseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

PIECE = 2048  # values of a list that are made JSON of at once
# What a backslash begins in JSON: a pair of half characters, one alone, or anything else.
ESCAPED = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(?P<half>ud[89a-f]..)|.)")
BRIEF = 1 << 16  # characters or values, below which nobody waits for what is made of them

Result = TypeVar("Result")


def answer(values: Any, status: int = 200) -> Response:
    """JSON, in ASCII."""
    return _response("".join(pieces(values)), status)


async def long_answer(size: int, make: Callable[[], Any]) -> Response:
    """JSON of what `make` gives, in ASCII; where the `size` of what it is made of is not brief, by another thread."""
    return _response(await apart(size, lambda: "".join(pieces(make()))), 200)


async def apart(size: int, make: Callable[[], Result]) -> Result:
    """What `make` gives; where the `size` of what it is made of is not brief, another thread calls it."""
    return make() if size < BRIEF else await run_in_threadpool(make)


def pieces(values: Any) -> Iterator[str]:
    """JSON of dictionaries, lists, arrays and all that `json` knows; of a long list so many values at a time."""
    if isinstance(values, dict):
        for number, (name, value) in enumerate(values.items()):
            yield f"{',' if number else '{'}{json_text(name)}:"
            yield from pieces(value)
        yield "}" if values else "{}"
    elif isinstance(values, np.ndarray) or (isinstance(values, list) and len(values) > PIECE):
        yield "["
        for begin in range(0, len(values), PIECE):
            piece = values[begin : begin + PIECE]
            yield ("," if begin else "") + json_text(piece.tolist() if isinstance(piece, np.ndarray) else piece)[1:-1]
        yield "]"
    elif isinstance(values, list) and any(isinstance(each, dict) for each in values):
        for number, value in enumerate(values):
            yield "," if number else "["
            yield from pieces(value)
        yield "]"
    else:
        yield json_text(values)


def json_text(values: Any) -> str:
    """JSON in ASCII, without NaN and Infinity, which are no JSON, and without half characters, which are no text.

    Half characters, as a byte that was not UTF-8 is read as one, are shown as U+FFFD. Raises ValueError for a number
    that is not finite.
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return ESCAPED.sub(_shown, text) if "\\ud" in text else text


def _shown(match: re.Match[str]) -> str:
    return "\\ufffd" if match["half"] else match[0]


def _response(text: str, status: int) -> Response:
    return Response(text, status, media_type="application/json")


__all__ = ["answer", "apart", "json_text", "long_answer", "pieces"]

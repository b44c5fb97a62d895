"""Answers in JSON; long ones are made in another thread, piece by piece, so that streams go on meanwhile.

A thread holds the interpreter's lock while it makes one piece of JSON, and streams wait for the lock: so a piece is
short, a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from starlette.responses import Response

from scriven import strict_json

PIECE = 2048  # values of a list that are made JSON of at once
BRIEF = 1 << 10  # characters or values that the loop makes answers of in one turn: about a millisecond
LEAST = BRIEF // 4  # what the shortest answer counts as: sending it takes time too
# Each thread more may keep the loop from the interpreter's lock for a few milliseconds; the second one lets short
# answers pass long ones.
MAKERS = ThreadPoolExecutor(2, "answers")

Result = TypeVar("Result")


def answer(values: Any, status: int = 200) -> Response:
    """JSON, in ASCII."""
    return _response("".join(pieces(values)), status)


async def long_answer(size: int, make: Callable[[], Any]) -> Response:
    """JSON of what `make` gives, in ASCII; where the `size` of what it is made of is not brief, by another thread."""
    return _response(await apart(size, lambda: "".join(pieces(make()))), 200)


async def apart(size: int, make: Callable[[], Result]) -> Result:
    """What `make` gives; where the `size` of what it is made of is not brief, another thread calls it.

    What is brief shares the turns of the loop with what else is: 64 streams that have news at once take their turns.
    """
    loop = asyncio.get_running_loop()
    if size >= BRIEF:
        return await loop.run_in_executor(MAKERS, make)
    if loop not in _TURNS:
        _TURNS[loop] = Turns()
    await _TURNS[loop].take(max(size, LEAST))
    return make()


class Turns:
    """The turns of a loop, in each of which only `BRIEF` values are made answers of; who asked first is first."""

    def __init__(self) -> None:
        """Of the loop that runs; nobody waits."""
        self._left = BRIEF  # values of this turn
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait for a turn that has room for so many values."""
        loop = asyncio.get_running_loop()
        if self._left == BRIEF:
            loop.call_soon(self._begin_turn)
        if self._left >= size and not self._waiting:
            self._left -= size
            return
        turn = loop.create_future()
        self._waiting.append((size, turn))
        await turn

    def _begin_turn(self) -> None:
        self._left = BRIEF
        while self._waiting and self._waiting[0][0] <= self._left:
            size, turn = self._waiting.popleft()
            if not turn.done():  # as it is where nobody wants it any more
                self._left -= size
                turn.set_result(None)
        if self._left < BRIEF:
            asyncio.get_running_loop().call_soon(self._begin_turn)


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


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

    Raises ValueError for a number that is not finite.
    """
    return strict_json.write(values, compact=True)


def _response(text: str, status: int) -> Response:
    return Response(text, status, media_type="application/json")


__all__ = ["answer", "apart", "json_text", "long_answer", "pieces"]

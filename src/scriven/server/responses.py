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
from scriven.errors import shortage

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
    return _response(await run_apart(size, lambda: "".join(pieces(make()))), 200)


async def run_apart(size: int, make: Callable[[], Result]) -> Result:
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


__all__ = ["answer", "json_text", "long_answer", "pieces", "run_apart"]


TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
RETRY_SECONDS = 1  # after which a client that was turned away may come again


class ApiError(Exception):
    """A request that is not done: its status, what is wrong and the way out, the field, and a word for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    @property
    def body(self) -> bytes:
        """The JSON that says so."""
        kind = TYPES.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json_text({"error": error}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {"retry-after": str(RETRY_SECONDS)} if self.status in {429, 503} else {}


def too_many_requests(what: str) -> ApiError:
    """Too much is going on for one more request."""
    return ApiError(429, f"{what}; try again in a moment", code="queue_full")


def payload_too_large(what: str, most: float) -> ApiError:
    """Something comes that has more bytes than it may."""
    return ApiError(413, f"the {what} has more than {most:,} bytes; send less at once", code="body_too_large")


def internal_error(error: BaseException) -> ApiError:
    """What we did wrong ourselves; where the system lacked something, that."""
    if lacking := shortage(error):
        return ApiError(
            503, f"this machine has not enough {lacking} for this now; ask for less, or later", code=lacking
        )
    return ApiError(500, "a mistake in the server itself; its log shows where", code="internal")


def overflow() -> ApiError:
    """The model computes numbers that are not finite."""
    return ApiError(
        500,
        "this model's numbers overflow: its weights are finite, but too large to compute with; "
        "serve another checkpoint of its run, or train it again with a lower learning rate",
        code="model_overflows",
    )


def timed_out(seconds: float) -> ApiError:
    """A request took longer than requests may."""
    return ApiError(503, f"the request took longer than {seconds:g} s; ask for less, or later", code="timeout")

"""Makes answers in JSON and describes errors.

Long answers are made in another thread, piece by piece. A thread holds the interpreter's lock while it makes a piece,
and streams wait for the lock, so each piece takes a few milliseconds at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from starlette.responses import Response

from scriven import strict_json
from scriven.errors import shortage

JSON, LINES = "application/json", "application/x-ndjson"  # media types of bodies and answers
EVENTS, PLAIN, FILE = "text/event-stream", "text/plain", "application/octet-stream"
OPENMETRICS = "application/openmetrics-text"
UTF8 = "; charset=utf-8"
VALUES_PER_PIECE = 2048  # values of a list that become JSON at once
LONG_ANSWER = 1 << 10  # characters or values; the loop makes only shorter answers, and this much of them in one turn
SHORTEST_ANSWER = LONG_ANSWER // 4  # what the shortest answer counts as, since sending it takes time too
# Each more thread may keep the interpreter's lock from the loop for a few milliseconds. The second thread lets short
# answers overtake long ones.
ANSWER_THREADS = ThreadPoolExecutor(2, "answers")

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
RETRY_SECONDS = 1  # after which a refused client may try again

Result = TypeVar("Result")


def answer(values: Any, status: int = 200) -> Response:
    """An answer with these values as JSON."""
    return _response(json_in_pieces(values), status)


async def long_answer(size: int, make: Callable[[], Any]) -> Response:
    """An answer with the values of `make()` as JSON, made in another thread if `size` is at least LONG_ANSWER."""
    return _response(await run_apart(size, lambda: json_in_pieces(make())), 200)


async def run_apart(size: int, make: Callable[[], Result]) -> Result:
    """The result of `make()`, which runs in another thread if `size` is at least LONG_ANSWER.

    Shorter work runs in the loop, but only LONG_ANSWER values in each of its turns: 64 streams with updates take turns.
    """
    loop = asyncio.get_running_loop()
    if size >= LONG_ANSWER:
        return await loop.run_in_executor(ANSWER_THREADS, make)
    if loop not in _TURNS:
        _TURNS[loop] = Turns()
    await _TURNS[loop].take(max(size, SHORTEST_ANSWER))
    return make()


class Turns:
    """Shares the turns of an event loop: at most LONG_ANSWER values in each turn, first come, first served."""

    def __init__(self) -> None:
        """For the running loop; nobody waits yet."""
        self._left = LONG_ANSWER  # values left for this turn
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits for a turn with room for `size` values."""
        loop = asyncio.get_running_loop()
        if self._left == LONG_ANSWER:
            loop.call_soon(self._begin_turn)
        if self._left >= size and not self._waiting:
            self._left -= size
            return
        turn = loop.create_future()
        self._waiting.append((size, turn))
        await turn

    def _begin_turn(self) -> None:
        self._left = LONG_ANSWER
        while self._waiting and self._waiting[0][0] <= self._left:
            size, turn = self._waiting.popleft()
            if not turn.done():  # it is done if its task was cancelled
                self._left -= size
                turn.set_result(None)
        if self._left < LONG_ANSWER:
            asyncio.get_running_loop().call_soon(self._begin_turn)


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def json_in_pieces(values: Any) -> str:
    """JSON as `json_text`, also of arrays. Other threads run between its pieces of VALUES_PER_PIECE values each."""
    return "".join(_pieces(values))


def _pieces(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for number, (name, value) in enumerate(values.items()):
            yield f"{',' if number else '{'}{json_text(name)}:"
            yield from _pieces(value)
        yield "}" if values else "{}"
    elif isinstance(values, np.ndarray) or (isinstance(values, list) and len(values) > VALUES_PER_PIECE):
        yield "["
        for begin in range(0, len(values), VALUES_PER_PIECE):
            piece = values[begin : begin + VALUES_PER_PIECE]
            yield ("," if begin else "") + json_text(piece.tolist() if isinstance(piece, np.ndarray) else piece)[1:-1]
        yield "]"
    elif isinstance(values, list) and any(isinstance(each, dict) for each in values):
        for number, value in enumerate(values):
            yield "," if number else "["
            yield from _pieces(value)
        yield "]"
    else:
        yield json_text(values)


def json_text(values: Any) -> str:
    """Compact JSON in ASCII. A lone surrogate becomes U+FFFD.

    Raises ValueError for a number that is not finite.
    """
    return strict_json.write(values, compact=True)


def media_type_of(header: str) -> str:
    """Returns the media type in a header content-type, without its parameters."""
    return header.partition(";")[0].strip().lower()


def _response(text: str, status: int) -> Response:
    return Response(text, status, media_type=JSON)


class ApiError(Exception):
    """An error answer: HTTP status, message with the way out, the field at fault, and a code for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    @property
    def body(self) -> bytes:
        """The error as JSON, in OpenAI's format."""
        kind = ERROR_TYPES.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json_text({"error": error}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {"retry-after": str(RETRY_SECONDS)} if self.status in {429, 503} else {}


def too_many_requests(what: str) -> ApiError:
    """An error 429: the server is too busy for another request."""
    return ApiError(429, f"{what}; try again in a moment", code="queue_full")


class LimitedCount:
    """Counts what happens at the same time, and refuses more than `most` of it; `what` it is stands in the refusal."""

    def __init__(self, most: int, what: str) -> None:
        self.now = 0
        self._most, self._what = most, what

    def check(self) -> None:
        """Raises ApiError, 429, if one more would be too many."""
        if self.now >= self._most:
            raise too_many_requests(f"{self.now} {self._what} already")

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Counts one more until the context is left. Raises as `check` does."""
        self.check()
        self.now += 1
        try:
            yield
        finally:
            self.now -= 1


async def finish_events(
    events: AsyncGenerator[bytes], usage: Callable[[], dict[str, Any]] | None
) -> AsyncGenerator[bytes]:
    """Yields the events of a streamed completion, then one with the `usage` if that is wanted, and the end.

    An error ends the events instead. They are closed as soon as nobody wants more.
    """
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                yield event
    except ApiError as refused:
        yield b"data: " + refused.body + b"\n\n"
        return
    if usage is not None:
        yield f"data: {json_text(usage())}\n\n".encode()
    yield b"data: [DONE]\n\n"


def payload_too_large(what: str, most: float) -> ApiError:
    """An error 413: a body or text is too large."""
    return ApiError(413, f"the {what} has more than {most:,} bytes; send a smaller one", code="body_too_large")


def internal_error(error: BaseException) -> ApiError:
    """An error 500, or 503 if the system ran out of memory or another resource."""
    if lacking := shortage(error):
        return ApiError(
            503, f"this machine does not have enough {lacking} for this now; ask for less, or try later", code=lacking
        )
    return ApiError(500, "an internal error of the server; its log has the details", code="internal")


def overflow() -> ApiError:
    """An error 500: the model computes numbers that are not finite."""
    return ApiError(
        500,
        "this model's numbers overflow, because its weights are too large to compute with; "
        "serve another checkpoint of its run, or train it again with a lower learning rate",
        code="model_overflows",
    )


def stopping() -> ApiError:
    """An error 503: the server is being stopped."""
    return ApiError(503, "the server is stopping; try again later", code="stopping")


def timed_out(seconds: float) -> ApiError:
    """An error 503: a request took too long."""
    return ApiError(503, f"the request took longer than {seconds:g} s; ask for less, or try later", code="timeout")

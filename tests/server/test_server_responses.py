"""Work for one request never holds up the loop that answers all others."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from live_server import serving
from scriven.server import completions, responses
from scriven.server.client_tokens import Tokens
from scriven.server.responses import (
    ANSWER_THREADS,
    LONG_ANSWER,
    SHORTEST_ANSWER,
    ApiError,
    LimitedCount,
    _pieces,
    finish_events,
    run_apart,
)
from served_models import guarded_app, text_model


def test_what_is_not_brief_is_made_in_another_thread() -> None:
    async def here(size: int) -> bool:
        return await run_apart(size, threading.get_ident) == threading.get_ident()

    assert asyncio.run(here(LONG_ANSWER - 1))
    assert not asyncio.run(here(LONG_ANSWER))


def test_what_is_brief_shares_the_turns_of_the_loop() -> None:
    """64 streams that had news at once took one turn of 30 ms, in which nobody else was answered."""
    made, turns = list[tuple[int, int, int]](), 0

    async def tell(number: int, size: int) -> None:
        await run_apart(size, lambda: made.append((turns, number, max(size, SHORTEST_ANSWER))))

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask() -> None:
        counting = asyncio.create_task(count())
        asking = [asyncio.create_task(tell(number, number % 7 * 150)) for number in range(64)]
        await asyncio.sleep(0)
        asking[40].cancel()
        await asyncio.wait(asking)
        counting.cancel()

    asyncio.run(ask())
    sizes = Counter[int]()
    for turn, _, size in made:
        sizes[turn] += size
    assert max(sizes.values()) <= LONG_ANSWER
    assert [number for _, number, _ in made] == [number for number in range(64) if number != 40]
    assert len(sizes) >= sum(sizes.values()) / LONG_ANSWER


def test_no_piece_is_long() -> None:
    """A thread holds the interpreter's lock while it makes one piece."""
    values = {"tokens": ["x"] * 100_000, "nats": np.zeros(100_000), "rows": [{"a": [1.5] * 5000}] * 3}
    assert max(map(len, _pieces(values))) <= 12 * responses.VALUES_PER_PIECE


def test_log_probabilities_of_streams_are_made_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 64 streams held up every other request for up to 1.6 s."""
    made, prefix = list[tuple[int, bool]](), str(ANSWER_THREADS._thread_name_prefix)
    add, tell = Tokens.add, completions._event_bytes

    def adding(self: Tokens, surprisals: Any) -> None:
        made.append((len(surprisals.ids), threading.current_thread().name.startswith(prefix)))
        add(self, surprisals)

    def telling(asked: Any, choices: Any, *more: Any) -> bytes:
        symbols = sum(len(choice.text) for choice in choices)
        made.append((symbols, threading.current_thread().name.startswith(prefix)))
        return tell(asked, choices, *more)

    monkeypatch.setattr(Tokens, "add", adding)
    monkeypatch.setattr(completions, "_event_bytes", telling)
    body = {"prompt": "the", "max_tokens": 200, "logprobs": 20, "stream": True}
    with serving(guarded_app({"text": text_model()})) as place:
        told = httpx.post(f"{place.url}/v1/completions", json=body, timeout=60).text
    events = [json.loads(line.removeprefix("data: ")) for line in told.split("\n\n")[:-2]]
    assert sum(len(event["choices"][0]["logprobs"]["tokens"]) for event in events) == 200
    assert {apart for symbols, apart in made if symbols * 210 >= LONG_ANSWER} == {True}


def test_a_body_of_many_parts_is_refused_before_they_are_made() -> None:
    body = b'{"prompt": "a", "metadata": {"x": [' + b",".join([b"{}"] * 200_000) + b"]}}"
    with serving(guarded_app({"text": text_model()})) as place:
        answer = httpx.post(f"{place.url}/v1/completions", content=body, timeout=60)
    assert answer.status_code == 400
    assert "more than 10,000 parts" in answer.text


@pytest.mark.parametrize("usage", [None, lambda: {"usage": 1}])
def test_events_end_with_the_usage_that_is_wanted(usage: Callable[[], dict[str, Any]] | None) -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"

    async def read() -> list[bytes]:
        return [event async for event in finish_events(events(), usage)]

    last = [b'data: {"usage": 1}\n\n'] if usage else []
    assert [each.replace(b":1", b": 1") for each in asyncio.run(read())] == [b"data: 1\n\n", *last, b"data: [DONE]\n\n"]


def test_events_end_with_an_error() -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        raise ApiError(503, "the server is stopping")

    async def read() -> list[bytes]:
        return [event async for event in finish_events(events(), dict)]

    first, last = asyncio.run(read())
    assert first == b"data: 1\n\n"
    assert b"the server is stopping" in last


def test_events_that_nobody_wants_any_more_hold_no_place() -> None:
    """A client may leave in the middle of a stream: its place is free at once, and not when memory is collected."""
    count = LimitedCount(1, "events are made")

    async def events() -> AsyncGenerator[bytes]:
        with count.hold():
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

    async def leave() -> None:
        stream = finish_events(events(), None)
        async for _ in stream:
            break
        assert count.now == 1
        with pytest.raises(ApiError, match="1 events are made already"):
            count.check()
        await stream.aclose()
        assert count.now == 0

    asyncio.run(leave())

"""Connections that dawdle, never end or make no sense, over a real socket."""

import asyncio
import dataclasses
import gc
import inspect
import json
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from live_server import Place, everything, serving
from scriven.server.http_limits import SWITCH_SECONDS, Connection, Serving, configuration
from scriven.server.limits import LIMITS
from scriven.server.security import Guard, policy

LIMITED = dataclasses.replace(
    LIMITS, connections=3, idle_seconds=0.4, stall_seconds=0.4, head_bytes=20_000, body_seconds=0.4, body_bytes=1000
)
HEAD = b"Host: localhost\r\n"
LAST = HEAD + b"Connection: close\r\n\r\n"


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def flood(request: Request) -> Response:
    """An answer without end, until nobody reads it."""

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 10_000
                await asyncio.sleep(0)
        finally:
            request.app.state.ended += 1

    return StreamingResponse(pieces())


APP = Starlette(routes=[Route("/echo", echo, methods=["GET", "POST"]), Route("/flood", flood)])


@pytest.fixture
def place() -> Iterator[Place]:
    APP.state.ended = 0
    with serving(Guard(APP, policy("127.0.0.1", limits=LIMITED)), LIMITED) as place:
        yield place


@pytest.fixture
def patient() -> Iterator[Place]:
    """A place where nobody is too slow, for tests of what is too large or wrong on a machine of any speed."""
    limits = dataclasses.replace(LIMITED, idle_seconds=60, stall_seconds=60, body_seconds=60)
    with serving(Guard(APP, policy("127.0.0.1", limits=limits)), limits) as place:
        yield place


def wait_for_end(client: socket.socket) -> bytes:
    """What comes until the server ends the connection, which it does soon."""
    client.settimeout(10)
    return everything(client)


def statuses(told: bytes) -> list[int]:
    """The status of each answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", told)]


def test_an_ordinary_request_is_answered(place: Place) -> None:
    told = place.say(b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n" + LAST + b"hello")
    assert statuses(told) == [200]
    assert told.endswith(b"hello")
    assert b"server:" not in told.lower()


@pytest.mark.parametrize("said", [b"", b"G", b"GET /echo HTTP/1.1\r\nHost: local", b"\r\n" * 30])
def test_a_client_that_asks_nothing_is_let_go(place: Place, said: bytes) -> None:
    with place.connection() as client:
        client.sendall(said)
        assert wait_for_end(client) == b""


def test_a_head_in_small_pieces_is_not_waited_for(place: Place) -> None:
    """Each piece comes in time, all of them never would: the attack that is called slow loris."""
    with place.connection() as client:
        begun = time.monotonic()
        client.sendall(b"GET /echo HTTP/1.1\r\n")
        with pytest.raises(OSError):
            while time.monotonic() < begun + 10:
                client.sendall(b"X-A: b\r\n")
                time.sleep(0.05)


def test_a_client_may_ask_again_on_its_connection() -> None:
    limits = dataclasses.replace(LIMITED, idle_seconds=2)
    with serving(Guard(APP, policy("127.0.0.1", limits=limits)), limits) as place, place.connection() as client:
        for _ in range(4):
            client.sendall(b"GET /echo HTTP/1.1\r\n" + HEAD + b"\r\n")
            assert statuses(client.recv(65536)) == [200]
            time.sleep(0.6)  # after the last one longer than a connection may be idle
        assert wait_for_end(client) == b""


def test_requests_sent_at_once_are_answered_in_order(place: Place) -> None:
    asked = [b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\n" + HEAD + b"\r\n" + b"%d" % n for n in range(9)]
    told = place.say(b"".join(asked) + b"GET /nothing HTTP/1.1\r\n" + LAST)
    assert statuses(told) == [200] * 9 + [404]
    assert [piece[:1] for piece in told.split(b"\r\n\r\n")[1:10]] == [b"%d" % n for n in range(9)]


def test_what_follows_an_answer_is_not_awaited_for_ever(place: Place) -> None:
    """The answer to a path that is not there comes before its body, which then never ends."""
    with place.connection() as client:
        begun = time.monotonic()
        client.sendall(b"POST /nothing HTTP/1.1\r\nContent-Length: 1000\r\n" + HEAD + b"\r\n")
        with pytest.raises(OSError):
            while time.monotonic() < begun + 10:
                client.sendall(b"x")
                time.sleep(0.05)


def test_a_body_that_comes_slowly_is_refused(place: Place) -> None:
    with place.connection() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 1000\r\n" + HEAD + b"\r\nx")
        assert statuses(wait_for_end(client)) == [408]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 6000\r\n", b"Content-Length: 90000000\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_a_body_that_is_too_large_is_told_so(patient: Place, framing: bytes) -> None:
    """Also to a client that sends all of it before it reads, as long as it is not many times too large."""
    piece = b"7d0\r\n" + b"x" * 2000 + b"\r\n" if b"chunked" in framing else b"x" * 2000
    told = patient.say(b"POST /echo HTTP/1.1\r\n" + framing + HEAD + b"\r\n", piece, piece, piece)
    assert statuses(told) == [413]


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /echo HTTP/1.1\r\n" + b"X-A: b\r\n" * 10_000,
        b"GET /echo HTTP/1.1\r\nX-A: " + b"b" * 80_000,
        b"GET /echo HTTP/1.1\r\n" + b"b" * 80_000,
        b"GET /" + b"b" * 80_000,
        b"\r\n" * 40_000,
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD + b"\r\n0\r\n" + b"X-A: b\r\n" * 10_000,
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD + b"\r\n1;" + b"x" * 80_000,
    ],
    ids=["headers", "header", "name", "url", "empty lines", "trailers", "chunk extension"],
)
def test_what_is_no_body_is_bounded(patient: Place, endless: bytes) -> None:
    with patient.connection() as client:
        try:
            for start in range(0, len(endless), 10_000):
                client.sendall(endless[start : start + 10_000])
        except OSError:
            pass
        assert statuses(wait_for_end(client)) in ([400], [])  # the answer is lost where we still send when it ends


def test_chunks_of_one_byte_are_a_body(patient: Place) -> None:
    head = b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + LAST
    assert statuses(patient.say(head, *[b"1\r\nx\r\n" * 300] * 3, b"0\r\n\r\n")) == [200]


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n" + LAST,
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" + LAST + b"0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + LAST + b"xx",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + LAST + b"zz\r\n",
        b"GET /echo HTTP/1.1\r\nX-A : b\r\n" + LAST,
        b"GET http://localhost HTTP/1.1\r\n" + LAST,
        b"CONNECT localhost:80 HTTP/1.1\r\n" + LAST,
        b"GET /echo HTTP/9.9\r\n" + LAST,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_so_in_the_shape_of_all_errors(patient: Place, said: bytes) -> None:
    head, _, body = patient.say(said).partition(b"\r\n\r\n")
    assert statuses(head) == [400]
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert b"content-security-policy" in head


def test_an_upgrade_is_not_made(place: Place) -> None:
    head = b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nConnection: close, Upgrade\r\n" + HEAD + b"\r\n"
    assert set(statuses(place.say(head))) <= {200, 400}


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_with_an_upgrade_is_refused_in_a_true_sentence(place: Place, framing: bytes) -> None:
    """The parser drops such a body, and the client once read that its JSON was none."""
    told = place.say(b"POST /echo HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n" + framing + HEAD + b'\r\n{"a":')
    assert statuses(told) == [400]
    assert "without the header Upgrade" in json.loads(told.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_an_upgrade_of_a_request_without_a_body_is_left_out(place: Place) -> None:
    head = b"GET /echo HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 0\r\nConnection: close, Upgrade\r\n" + HEAD
    assert statuses(place.say(head + b"\r\n")) == [200]


def test_a_streamed_body_comes_fast_enough_as_a_whole() -> None:
    """Each piece came in time; a few such uploads once kept all others away for ever."""
    fast = dataclasses.replace(LIMITED, body_rate=1000, body_seconds=2)
    with serving(Guard(APP, policy("127.0.0.1", limits=fast, streamed=["/echo"])), fast) as place:
        head = b"POST /echo HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
        with place.connection() as client:
            client.sendall(head % 100_000 + HEAD + b"\r\n")
            begun = time.monotonic()
            with pytest.raises(OSError):
                while time.monotonic() < begun + 10:
                    client.sendall(b"x")
                    time.sleep(0.05)
        with place.connection() as client:
            client.sendall(head % 6000 + LAST)
            for _ in range(6):
                client.sendall(b"x" * 1000)
                time.sleep(0.4)
            assert statuses(wait_for_end(client)) == [200]


def test_a_client_that_no_longer_reads_is_cut(place: Place) -> None:
    with place.connection() as client:
        client.sendall(b"GET /flood HTTP/1.1\r\n" + HEAD + b"\r\n")
        client.recv(100)
        until = time.monotonic() + 10
        while not APP.state.ended and time.monotonic() < until:
            time.sleep(0.05)
        assert APP.state.ended == 1


def test_too_many_connections_are_told_to_come_back(patient: Place) -> None:
    with patient.connection() as first, patient.connection() as second, patient.connection() as third:
        for client in (first, second, third):
            client.sendall(b"GET /echo HTTP/1.1\r\n" + HEAD + b"\r\n")
            assert statuses(client.recv(65536)) == [200]
        told = patient.say(b"GET /echo HTTP/1.1\r\n" + LAST)
        assert statuses(told) == [503]
        assert b"retry-after: 1" in told
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
    until = time.monotonic() + 10
    while statuses(patient.say(b"GET /echo HTTP/1.1\r\n" + LAST)) != [200]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_clients_that_vanish_leave_nothing(place: Place) -> None:
    for _ in range(20):
        with place.connection() as client:
            client.sendall(b"GET /flood HTTP/1.1\r\n" + HEAD + b"\r\n")
            client.recv(10)
        time.sleep(0.05)
    until = time.monotonic() + 10
    while APP.state.ended < 20 and time.monotonic() < until:
        time.sleep(0.05)
    assert APP.state.ended >= 18  # some may have been one too many


def test_a_head_that_comes_at_once_is_bounded_too(place: Place) -> None:
    """It had ended before its size was looked at."""
    large = b"GET /echo HTTP/1.1\r\nX: " + b"x" * LIMITED.head_bytes + b"\r\n" + LAST
    assert statuses(place.say(large)) == [400]


@pytest.mark.parametrize(
    "line", [b"1.1\r\nTransfer-Encoding: gzip, chunked", b"1.0\r\nTransfer-Encoding: chunked"], ids=str
)
def test_a_body_in_a_coding_that_is_not_known_is_refused(place: Place, line: bytes) -> None:
    told = place.say(b"POST /echo HTTP/" + line + b"\r\n" + LAST + b"1\r\nx\r\n0\r\n\r\n")
    assert statuses(told) == [400]
    assert b"supports no Transfer-Encoding but chunked" in told


def test_what_is_built_on_of_uvicorn_is_there() -> None:
    """Names that uvicorn may change in any version: then this says so first."""
    own = {name for name, value in vars(Connection).items() if callable(value) and not name.startswith("_")}
    assert own - {"send_400_response"} <= set(dir(HttpToolsProtocol))
    source = inspect.getsource(httptools_impl)
    for name in ("headers", "url", "parser", "cycle", "connections", "transport", "app"):
        assert f"self.{name}" in source
    assert {"response_started", "response_complete"} <= set(
        re.findall(r"self\.(\w+)", inspect.getsource(RequestResponseCycle))
    )
    assert STATUS_LINE[400].startswith(b"HTTP/1.1 400")
    assert inspect.iscoroutinefunction(uvicorn.Server.shutdown)
    assert callable(HttpToolsProtocol.send_400_response)


def test_no_other_thread_keeps_the_lock_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at all that torch has made at its import takes 100 ms, in which nobody was answered.

    Nor does the loop wait 5 ms for each other thread that computes.
    """
    done = list[Any]()

    async def start(*_: object) -> None:
        done.append("start")

    monkeypatch.setattr(uvicorn.Server, "startup", start)
    monkeypatch.setattr(gc, "collect", lambda: done.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: done.append("freeze"))
    monkeypatch.setattr(sys, "setswitchinterval", done.append)
    asyncio.run(Serving(configuration(APP, LIMITED), lambda: None).startup())
    assert done == [SWITCH_SECONDS, "collect", "freeze", "start"]

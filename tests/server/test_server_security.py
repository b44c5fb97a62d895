"""Who may ask, and how much: against a small application that is not ours."""

import asyncio
import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Scope

from scriven.errors import UsageError
from scriven.server.app import OPEN, make_app
from scriven.server.limits import LIMITS
from scriven.server.security import Guard, Policy, is_loopback, policy
from served_models import text_model

TOKEN = "correct-horse-battery"
SMALL = dataclasses.replace(LIMITS, body_bytes=100, body_seconds=0.2)
OWN = ("Host", "localhost:8000")


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error, whose shape is checked."""
        error = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return str(error["code"])


async def echo(request: Request) -> Response:
    """The number of bytes of the body, which the application reads whole."""
    return PlainTextResponse(str(len(await request.body())))


async def count(request: Request) -> Response:
    """The number of bytes of the body, which the application reads piece by piece."""
    return PlainTextResponse(str(sum([len(piece) async for piece in request.stream()])))


APP = Starlette(
    routes=[
        Route("/", echo, methods=["GET", "POST", "DELETE"]),
        Route("/echo", echo, methods=["GET", "POST", "DELETE"]),
        Route("/count", count, methods=["POST"]),
    ]
)


def ask(
    guard: ASGIApp,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (OWN,),
    body: Iterable[bytes] = (b"",),
    server: tuple[str, int] | None = ("127.0.0.1", 8000),
) -> Told:
    """The answer to one request, whose body comes in these parts; what comes no more is waited for."""
    parts = list(body)
    told: list[Message] = []
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }
    scope |= {"headers": raw, "server": server, "http_version": "1.1", "root_path": "", "raw_path": path.encode()}

    async def receive() -> Message:
        if not parts:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": parts.pop(0), "more_body": parts != []}

    async def send(message: Message) -> None:
        told.append(message)

    async def run() -> None:
        await asyncio.wait_for(guard(scope, receive, send), 20)

    asyncio.run(run())
    starts = [message for message in told if message["type"] == "http.response.start"]
    assert len(starts) == 1
    found = {name.decode(): value.decode() for name, value in starts[0]["headers"]}
    return Told(starts[0]["status"], found, b"".join(message.get("body", b"") for message in told))


def make_guard(**given: Any) -> Guard:
    return Guard(APP, policy("127.0.0.1", **given))


# --- where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "2001:db8::1"])
def test_other_machines_may_ask_only_with_a_token(host: str) -> None:
    with pytest.raises(UsageError, match=r"--host .* opens the server to other machines; add --token"):
        policy(host)
    assert policy(host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert policy(host).token is None


@pytest.mark.parametrize("token", ["", "short", "x" * 257, "with spaces in it, many", "newline-is-no-part\n", "é" * 20])
def test_a_token_is_long_and_plain(token: str) -> None:
    with pytest.raises(UsageError, match="--token: use 16 to 256"):
        policy("127.0.0.1", token=token)


# --- Host


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert ask(make_guard(), headers=[("Host", host)]).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.2", "localhost.", "169.254.1.1:8000", "[::2]", "0.0.0.0"],
)
@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
def test_other_names_are_refused(host: str, listens: str) -> None:
    """A page of evil.example that gives its name our address (DNS rebinding) is of the same origin as what it asks."""
    told = ask(Guard(APP, policy(listens, token=TOKEN)), headers=[("Host", host), bearer(TOKEN)])
    assert (told.status, told.code) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Host", "")],
        [OWN, OWN],
        [("Host", "localhost:port")],
        [("Host", "user@localhost")],
        [("Host", "localhost/")],
    ],
)
def test_a_request_names_one_host(headers: list[tuple[str, str]]) -> None:
    told = ask(make_guard(), headers=headers)
    assert (told.status, told.code) == (400, "invalid_host")


def test_listed_names_and_the_address_that_was_reached_are_answered() -> None:
    guard = Guard(APP, policy("0.0.0.0", token=TOKEN, allow_host=["Models.example.org", "2001:db8::1"]))
    for name in ["models.example.org:443", "[2001:db8::1]:8000", "192.0.2.7:8000"]:
        assert ask(guard, headers=[("Host", name), bearer(TOKEN)], server=("192.0.2.7", 8000)).status == 200
    assert ask(guard, headers=[("Host", "192.0.2.8"), bearer(TOKEN)], server=("192.0.2.7", 8000)).status == 403
    assert ask(guard, headers=[("Host", "192.0.2.8"), bearer(TOKEN)], server=None).status == 403
    assert ask(guard, headers=[("Host", "a.sock"), bearer(TOKEN)], server=("a.sock", 0)).status == 403


@pytest.mark.parametrize("name", ["", "*", "http://example.org", "example.org:80", "a b", "ex\nample"])
def test_a_listed_host_is_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="--allow-host"):
        policy("127.0.0.1", allow_host=[name])


# --- Origin


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://localhost", "http://localhost:3000", "http://127.0.0.1:8000"]
)
def test_pages_elsewhere_may_not_ask(origin: str, method: str) -> None:
    told = ask(make_guard(), method, headers=[OWN, ("Origin", origin)])
    assert (told.status, told.code) == (403, "origin_not_allowed")


def test_our_page_and_programs_may_ask() -> None:
    assert ask(make_guard(), "POST", headers=[OWN, ("Origin", "http://localhost:8000")]).status == 200
    assert ask(make_guard(), "POST").status == 200


def test_no_page_elsewhere_reads_an_answer_unless_it_is_listed() -> None:
    told = ask(make_guard(), "POST", headers=[OWN, ("Origin", "http://localhost:8000")])
    assert not [name for name in told.headers if name.startswith("access-control")]
    guard = make_guard(allow_origin=["http://localhost:3000"])
    told = ask(guard, "POST", headers=[OWN, ("Origin", "http://localhost:3000")])
    assert (told.status, told.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
    assert told.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in told.headers
    assert ask(guard, "POST", headers=[OWN, ("Origin", "http://localhost:3001")]).status == 403


def test_a_listed_page_may_first_ask_whether_it_may_ask() -> None:
    guard = make_guard(allow_origin=["http://localhost:3000"], token=TOKEN)
    asked = [OWN, ("Origin", "http://localhost:3000"), ("Access-Control-Request-Method", "POST")]
    told = ask(guard, "OPTIONS", headers=asked)
    assert (told.status, told.body) == (204, b"")
    assert told.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "authorization" in told.headers["access-control-allow-headers"]
    assert ask(make_guard(), "OPTIONS", headers=asked).status == 403


@pytest.mark.parametrize(
    "origin", ["*", "null", "", "localhost:3000", "http://localhost:3000/", "file://x", "http://*"]
)
def test_a_listed_origin_is_an_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        policy("127.0.0.1", allow_origin=[origin])


# --- token


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", TOKEN)],
        [("Authorization", f"Basic {TOKEN}")],
        [bearer("")],
        [bearer(TOKEN[:-1])],
        [bearer(TOKEN + "x")],
        [bearer(TOKEN.upper())],
        [bearer("\xff" * 20)],
        [bearer(TOKEN), bearer(TOKEN)],
        [bearer(TOKEN), bearer("another")],
    ],
)
def test_without_the_token_nothing_is_done(headers: list[tuple[str, str]]) -> None:
    told = ask(make_guard(token=TOKEN), headers=[OWN, *headers])
    assert (told.status, told.code, told.headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")


def test_with_the_token_it_is_done() -> None:
    assert ask(make_guard(token=TOKEN), headers=[OWN, bearer(TOKEN)]).status == 200
    assert ask(make_guard(token=TOKEN), headers=[OWN, ("authorization", f"bearer {TOKEN}")]).status == 200


def test_only_open_paths_need_no_token() -> None:
    guard = make_guard(token=TOKEN, open_paths=["/"])
    assert ask(guard, path="/").status == 200
    for path in ["/echo", "//", "/nothing", "", "/./", "/%2e"]:
        assert ask(guard, path=path).status == 401
    assert ask(guard, path="/", headers=[("Host", "evil.example")]).status == 403


def test_no_route_but_the_open_ones_answers_without_the_token() -> None:
    """Whatever routes there are, or come: each is asked, by every method that it has."""
    app = make_app({"text": text_model()})
    guard = Guard(app, policy("127.0.0.1", token=TOKEN, open_paths=OPEN))
    walked = set()
    for path, methods in walk(app.routes):
        for method in methods:
            walked.add((method, path))
            for headers in ([OWN], [OWN, bearer("another-token-than-that")]):
                told = ask(guard, method, path, headers)
                assert (told.status == 401) == (path not in OPEN), (method, path)
            assert ask(guard, method, path, [("Host", "evil.example"), bearer(TOKEN)]).status == 403
            assert ask(guard, method, path, [OWN, bearer(TOKEN), ("Origin", "http://evil.example")]).status == 403
    assert {("POST", "/v1/completions"), ("DELETE", "/states/{handle}"), ("GET", "/health/live")} <= walked


def walk(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, Iterable[str]]]:
    """The path and the methods of each route, as they are written."""
    for route in routes:
        if isinstance(route, Mount):
            yield from ((route.path + path, methods) for path, methods in walk(route.routes))
            yield route.path + "/nothing", ["GET", "POST"]
        else:
            assert isinstance(route, Route)
            yield route.path, sorted(route.methods or [])


# --- bodies


@pytest.mark.parametrize("path", ["/echo", "/count"])
def test_a_body_has_so_many_bytes_at_most(path: str) -> None:
    guard = make_guard(limits=SMALL)
    parts = [b"x" * 40, b"x" * 40, b"x" * 20]
    assert ask(guard, "POST", path, body=parts).body == b"100"
    told = ask(guard, "POST", path, body=[*parts, b"x"])
    assert (told.status, told.code, told.headers["connection"]) == (413, "body_too_large", "close")


def test_a_body_that_says_it_is_too_large_is_refused_at_once() -> None:
    headers = [OWN, ("Content-Length", "101"), ("Expect", "100-continue")]
    assert ask(make_guard(limits=SMALL), "POST", "/echo", headers, body=[]).code == "body_too_large"
    told = ask(make_guard(limits=SMALL), "POST", "/echo", [OWN, ("Content-Length", "9" * 5000)], body=[b"x" * 101])
    assert told.status == 413


def ask_endlessly(path: str, piece: bytes, pause: float = 0.0) -> tuple[list[int], int]:
    """The statuses answered to a body without end, and how many bytes of it were read."""
    told, read = [], 0

    async def receive() -> Message:
        nonlocal read
        await asyncio.sleep(pause)
        read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Message) -> None:
        told.append(message.get("status"))

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"localhost")]}
    scope |= {"query_string": b"", "root_path": "", "server": None}
    asyncio.run(make_guard(limits=SMALL)(scope, receive, send))
    return [status for status in told if status], read


@pytest.mark.parametrize("path", ["/echo", "/count"])
def test_a_body_without_end_is_not_read_for_ever(path: str) -> None:
    """Some of it is, since a client that still sends may never see the answer."""
    statuses, read = ask_endlessly(path, b"x" * 10)
    assert statuses == [413]
    assert read < 20 * SMALL.body_bytes


@pytest.mark.parametrize("path", ["/echo", "/count"])
def test_a_body_comes_in_time(path: str) -> None:
    assert ask_endlessly(path, b"x", pause=0.05)[0] == [408]


def declare(size: int | None) -> list[tuple[str, str]]:
    return [OWN] if size is None else [OWN, ("Content-Length", str(size))]


@pytest.mark.parametrize("size", [None, 450])
def test_bodies_that_were_refused_take_no_room(size: int | None) -> None:
    """Whether the client said how large they are or not. Nine uploads of over 32 MiB closed the server for ever."""
    guard = make_guard(limits=dataclasses.replace(SMALL, all_body_bytes=150))
    for _ in range(20):
        assert ask(guard, "POST", "/echo", declare(size), body=[b"x" * 90] * 5).status == 413
    assert ask(guard, "POST", "/echo", declare(100), body=[b"x" * 100]).status == 200


@pytest.mark.parametrize("size", [None, 8000])
def test_a_body_takes_no_room_while_it_is_thrown_away(size: int | None) -> None:
    guard = make_guard(limits=dataclasses.replace(SMALL, all_body_bytes=150))
    statuses: list[int] = []

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def request(headers: list[tuple[str, str]], receive: Any) -> None:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/echo", "headers": raw, "server": None}
        await guard({**scope, "query_string": b"", "root_path": ""}, receive, send)

    async def receive_small() -> Message:
        return {"type": "http.request", "body": b"y" * 90}

    async def run() -> None:
        parts = 0

        async def receive_large() -> Message:
            nonlocal parts
            parts += 1
            if parts == 5:
                await request([OWN], receive_small)
            return {"type": "http.request", "body": b"x" * 90, "more_body": True}

        await request(declare(size), receive_large)

    asyncio.run(run())
    assert statuses == [200, 413]


def test_a_streamed_body_has_any_length() -> None:
    guard = make_guard(limits=SMALL, streamed=["/count"])
    plain = [OWN, ("Content-Type", "Text/Plain; charset=utf-8")]
    assert ask(guard, "POST", "/count", plain, body=[b"x" * 90] * 50).body == b"4500"
    assert (
        ask(guard, "POST", "/count", [OWN, ("Content-Type", "application/json")], body=[b"x" * 90] * 50).status == 413
    )
    assert ask(guard, "POST", "/echo", plain, body=[b"x" * 90] * 50).status == 413


# --- answers


@pytest.mark.parametrize("headers", [[OWN], [("Host", "evil.example")], [OWN, ("Origin", "null")]])
def test_every_answer_forbids_what_a_page_does_not_need(headers: list[tuple[str, str]]) -> None:
    found = ask(make_guard(), headers=headers).headers
    assert found["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in found["content-security-policy"]
    assert "frame-ancestors 'none'" in found["content-security-policy"]
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "no-referrer"
    assert found["cross-origin-resource-policy"] == "same-origin"
    assert found["cache-control"] == "no-store"


def test_what_goes_wrong_in_the_application_is_not_hidden() -> None:
    async def broken(scope: Scope, receive: Any, send: Any) -> None:
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        ask(Guard(broken, Policy()))


def test_what_is_no_request_for_an_answer_ends() -> None:
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    asyncio.run(make_guard()({"type": "websocket", "headers": []}, receive, send))
    assert told == [{"type": "websocket.close"}]


def test_the_bodies_of_all_requests_together_are_bounded() -> None:
    """Each within its own bound: 150 of 4 MB took 590 MB."""
    limits = dataclasses.replace(SMALL, all_body_bytes=150, body_seconds=20)
    guard, gate, answers = make_guard(limits=limits), asyncio.Event(), list[Message]()

    async def request(last: bytes) -> None:
        parts = [b"x" * 80, last]

        async def receive() -> Message:
            if len(parts) == 1:
                await gate.wait()
            return {"type": "http.request", "body": parts.pop(0), "more_body": parts != []}

        async def send(message: Message) -> None:
            answers.append(message)

        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/echo", "query_string": b""}
        scope |= {"headers": [(b"host", b"localhost:8000")], "server": ("127.0.0.1", 8000), "http_version": "1.1"}
        await guard(scope, receive, send)

    async def run() -> list[int]:
        first = asyncio.create_task(request(b"y"))
        await asyncio.sleep(0)
        await request(b"y")
        gate.set()
        await first
        await request(b"y")  # there is room again
        return [message["status"] for message in answers if message["type"] == "http.response.start"]

    assert asyncio.run(run()) == [503, 200, 200]

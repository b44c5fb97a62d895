"""Guards the whole application: checks who sends a request, and how large its body is.

It refuses everything that is not explicitly allowed: an unknown Host (another site could point its name at this
address), an unknown Origin (another site could send requests in the user's name), a request without the token if there
is one, and a body that is too large or too slow. `docs/server-safety.md` lists the threat that each check is against.
The guard is plain ASGI, so that the application behind it can notice when a client disconnects.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scriven.errors import UsageError
from scriven.server.limits import LIMITS, Limits
from scriven.server.responses import JSON, PLAIN, ApiError, media_type_of

HERE = ("localhost", "127.0.0.1", "[::1]")  # names of this machine that do not depend on a name server
EVERY_ADDRESS = ("0.0.0.0", "::")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")  # characters allowed by RFC 6750, too many to guess
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(?::\d{1,5})?")
ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(?::\d{1,5})?")

DRAIN_FACTOR = 8  # times the bound: how much of a body that is too large is read before the answer
DRAIN_SECONDS = 2.0  # how long it is read
EXTRA_HEADERS = {401: {"www-authenticate": "Bearer"}, 408: {"connection": "close"}, 413: {"connection": "close"}}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "authorization, *",
    "access-control-max-age": "600",
}


@dataclass(frozen=True)
class Policy:
    """Which requests are allowed. `policy` makes one from the user's choices.

    `hosts` are names without ports. `origins` are other sites whose pages may send requests. `open_paths` require no
    token. `streamed` paths accept text/plain of any length, since they hold only a piece of it in memory. `uploads` are
    paths that accept a file.
    """

    hosts: frozenset[str] = frozenset(HERE)
    origins: frozenset[str] = frozenset()
    token: str | None = None
    open_paths: frozenset[str] = frozenset()
    streamed: frozenset[str] = frozenset()
    uploads: frozenset[str] = frozenset()
    limits: Limits = LIMITS

    def check(self, scope: Scope) -> None:
        """Raises ApiError if the request is not allowed."""
        headers = Headers(scope=scope)
        self._check_host(headers, scope.get("server"))
        self._check_origin(headers)
        self._check_site(scope, headers)
        if self.token is not None and scope["path"] not in self.open_paths and not is_preflight(scope, headers):
            self._check_token(self.token, headers.getlist("authorization"))

    def body_bound(self, scope: Scope) -> int | None:
        """How many bytes the body may have; None means any number."""
        if scope["path"] in self.uploads:
            return self.limits.file_bytes
        kind = media_type_of(Headers(scope=scope).get("content-type", ""))
        return None if scope["path"] in self.streamed and kind == PLAIN else self.limits.body_bytes

    def _check_host(self, headers: Headers, server: tuple[str, int | None] | None) -> None:
        given = headers.getlist("host")
        match = HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        if match is None:
            raise ApiError(
                400, "a request must have exactly one Host header, such as Host: localhost:8000", code="invalid_host"
            )
        if match[1] not in self.hosts and match[1] != host_of_address(server[0] if server else ""):
            raise ApiError(
                403,
                f"this server does not accept Host {match[1]}; start it with --allow-host {match[1]} to allow it",
                code="host_not_allowed",
            )

    def _check_origin(self, headers: Headers) -> None:
        given = headers.getlist("origin")
        own = {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}
        if not set(given) <= own | self.origins:
            raise ApiError(
                403,
                f"pages of {given[0][:80]!a} may not send requests; start the server with --allow-origin to allow it",
                code="origin_not_allowed",
            )

    def _check_site(self, scope: Scope, headers: Headers) -> None:
        """Checks Sec-Fetch-Site, which browsers send even without an Origin, such as for images and event sources.

        Pages of other sites may link to the page, but not use anything else of this server.
        """
        elsewhere = not {*headers.getlist("sec-fetch-site")} <= {"same-origin", "none"}
        link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        followed = link and scope["method"] == "GET" and scope["path"] in self.open_paths
        if elsewhere and not followed and headers.get("origin") not in self.origins:
            raise ApiError(
                403,
                "pages of other sites may not send requests; start the server with --allow-origin to allow one",
                code="origin_not_allowed",
            )

    def _check_token(self, token: str, given: list[str]) -> None:
        scheme, _, word = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        same = hmac.compare_digest(word.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not same:
            raise ApiError(
                401,
                "this server requires its token; send it as Authorization: Bearer TOKEN",
                code="invalid_api_key",
            )


def policy(
    host: str,
    *,
    token: str | None = None,
    allow_host: Iterable[str] = (),
    allow_origin: Iterable[str] = (),
    open_paths: Iterable[str] = (),
    streamed: Iterable[str] = (),
    uploads: Iterable[str] = (),
    limits: Limits = LIMITS,
) -> Policy:
    """Returns the policy of a server that listens at `host`.

    Raises UsageError if other machines could send requests without a token, or if a token, host or origin is invalid.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} opens the server to other machines; add --token, or leave out --host and use ssh -L"
        )
    if token is not None and not TOKEN.fullmatch(token):
        raise UsageError(
            "--token: use 16 to 256 letters, digits or any of ._~+/=-, for example the output of openssl rand -hex 16"
        )
    names = [bracket_ipv6(each.lower()) for each in allow_host]
    for name in names:
        if not (match := HOST.fullmatch(name)) or match[1] != name:
            raise UsageError(
                f"--allow-host {name}: give a name or an address without a port, such as models.example.org"
            )
    origins = [each.lower() for each in allow_origin]
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise UsageError(
                f"--allow-origin {origin}: give a page's scheme, name and port, such as http://localhost:3000"
            )
    own = () if host in EVERY_ADDRESS else (bracket_ipv6(host.lower()),)
    return Policy(
        frozenset([*HERE, *own, *names]),
        frozenset(origins),
        token,
        frozenset(open_paths),
        frozenset(streamed),
        frozenset(uploads),
        limits,
    )


class Guard:
    """ASGI middleware that applies a policy to every request."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        """`app` gets only the requests that `policy` allows."""
        self.app = app
        self.policy = policy
        self._held = [0]  # bytes of the bodies of all current requests together

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, or the start and end of the application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._http(scope, receive, Answer(scope, send, self.policy))

    async def _http(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        try:
            self.policy.check(scope)
        except ApiError as refused:
            return await answer.refuse(refused)
        headers = Headers(scope=scope)
        if is_preflight(scope, headers):
            return await Response(status_code=204, headers=PREFLIGHT)(scope, receive, answer)
        body = Body(receive, answer, self.policy.body_bound(scope), self.policy.limits, self._held)
        length = headers.get("content-length", "")
        try:
            if body.bound is not None and length.isdecimal() and float(length) > body.bound:
                await body.refuse_size()
            else:
                await self.app(scope, body, answer)
        except Exception as error:  # errors of the application after the request was already refused do not matter
            if not (answer.over or isinstance(error, ClientDisconnect)):
                raise
        finally:
            body.release()


@dataclass
class Answer:
    """The answer to one request, with the security headers. After a refusal the application can no longer add to it."""

    scope: Scope
    send: Send
    policy: Policy
    started: bool = False
    over: bool = False

    async def __call__(self, message: Message) -> None:
        """Sends a part of the answer."""
        if self.over:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self._add_headers(MutableHeaders(scope=message))
        await self.send(message)

    async def refuse(self, refused: ApiError) -> None:
        """Sends an error answer if no answer has started yet, and ends the request."""
        if not self.started:
            headers = {**refused.headers, **EXTRA_HEADERS.get(refused.status, {}), "content-type": JSON}
            await Response(refused.body, refused.status, headers)(self.scope, _nothing, self)
        self.over = True

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers.update(HEADERS)
        headers.setdefault("cache-control", "no-store")
        if self.policy.origins:
            headers.add_vary_header("Origin")
            origin = Headers(scope=self.scope).get("origin", "")
            if origin in self.policy.origins:
                headers["access-control-allow-origin"] = origin


@dataclass
class Body:
    """The body of one request, counted as it arrives. A body that is too large or too slow ends the request."""

    receive: Receive
    answer: Answer
    bound: int | None
    limits: Limits
    all_held: list[int]  # one number, shared by all bodies
    read: int = 0
    complete: bool = False
    waited: float = field(default=0.0, init=False)  # seconds

    async def __call__(self) -> Message:
        """The next part of the body; after the last one, the message that the client has disconnected."""
        if self.complete and not self.answer.over:
            return await self.receive()
        if not self.answer.over:
            message = self._count(await self._part())
            if self.bound is None:
                return message
            if self.read > self.bound:
                await self.refuse_size()
            elif self.all_held[0] > self.limits.all_body_bytes:
                await self.refuse_crowd()
            else:
                return message
        return {"type": "http.disconnect"}

    def release(self) -> None:
        """Stops counting the body's bytes as held, when the request is over."""
        if self.bound is not None:
            self.all_held[0] -= self.read
            self.read = 0

    async def refuse_crowd(self) -> None:
        """Refuses the body because all current bodies together are too large."""
        self.release()
        words = (
            f"all current bodies together are larger than {self.limits.all_body_bytes:,} bytes; try again in a moment"
        )
        await self.answer.refuse(ApiError(503, words, code="too_many_bytes"))

    async def refuse_size(self) -> None:
        """Refuses the body because it is too large. Reads some more of it first, as many clients only then listen."""
        waits = "expect" in Headers(scope=self.answer.scope)  # for a word from us, before it sends the body
        left = -1 if waits else DRAIN_FACTOR * (self.bound or 1) - self.read
        self.release()  # what is read from here on is not held
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while left >= 0 and not self.complete:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        await self.answer.refuse(
            ApiError(413, f"the body is too large; send at most {self.bound:,} bytes", code="body_too_large")
        )

    async def _part(self) -> Message:
        """The next part. Counts only the time spent waiting for the client, not our own."""
        clock, seconds = asyncio.get_running_loop().time, self.limits.body_seconds
        earned = self.read / self.limits.body_rate if self.bound is None else 0.0
        begun = clock()
        try:
            async with asyncio.timeout(min(seconds, seconds + earned - self.waited)):
                return await self.receive()
        except TimeoutError:
            await self.answer.refuse(ApiError(408, self._slow(), code="body_too_slow"))
            return {"type": "http.disconnect"}
        finally:
            self.waited += clock() - begun

    def _slow(self) -> str:
        if self.bound is not None:
            return f"the body did not arrive within {self.limits.body_seconds:g} seconds"
        return (
            f"the body was too slow; send it without pauses of {self.limits.body_seconds:g} seconds, "
            f"and at least {self.limits.body_rate:,} bytes per second"
        )

    def _count(self, message: Message) -> Message:
        size = len(message.get("body", b""))
        self.read += size
        if self.bound is not None:
            self.all_held[0] += size
        self.complete = not message.get("more_body", False)
        return message


def is_preflight(scope: Scope, headers: Headers) -> bool:
    """Whether this is a CORS preflight request."""
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach this address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of_address(address: str) -> str:
    """An IP address as it is written in a Host header; "" if it is not an IP address.

    The address that the client connected to is always allowed: another site can point its own name at our address, but
    cannot make a browser send the address itself as the Host.
    """
    try:
        return bracket_ipv6(str(ip_address(address)))
    except ValueError:
        return ""


def bracket_ipv6(host: str) -> str:
    """A name or address as it is written in a Host header: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


async def _nothing() -> Message:
    return {"type": "http.disconnect"}

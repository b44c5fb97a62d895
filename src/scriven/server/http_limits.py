"""One connection of a client, cut where it dawdles or never ends: what uvicorn leaves without a bound.

uvicorn ends a connection that says nothing after an answer, but waits for ever for the first request, for the rest of
a head, and for a client that no longer reads; and it keeps heads, trailers and empty lines of any length.
"""

from __future__ import annotations

import gc
import math
import socket
import sys
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from scriven.server.limits import Limits
from scriven.server.responses import ApiError
from scriven.server.security import HEADERS

SWITCH_SECONDS = 0.0005  # after which a thread gives up the interpreter's lock to another: 5 ms by default, of each one
SEPARATORS = len(": \r\n")  # bytes of a head's line beside its name and its value


class Alarm:
    """Something to be done once a while has passed, unless it is stopped before."""

    def __init__(self, loop: AbstractEventLoop, seconds: float, action: Callable[[], None]) -> None:
        """Not yet started."""
        self._loop, self._seconds, self._action = loop, seconds, action
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Count from now."""
        self.stop()
        self._timer = self._loop.call_later(self._seconds, self._action)

    def stop(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()


class Connection(HttpToolsProtocol):
    """The protocol of each connection: uvicorn's, with limits."""

    def __init__(self, limits: Limits, **given: Any) -> None:
        """`given` is what uvicorn gives each protocol."""
        super().__init__(**given)
        self.limits = limits
        self._idle = Alarm(self.loop, limits.idle_seconds, self._end)
        self._stalled = Alarm(self.loop, limits.stall_seconds, self._disconnect)
        self._refusal = ""  # why the parser was ended, where we ended it
        self._unused = 0  # bytes since the parser last made something of them

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many, whatever is asked is answered with 503."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.app = busy
        self._idle.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._idle.stop()
        self._stalled.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that never become a head or a body are bounded."""
        self._unused += len(data)
        super().data_received(data)
        if self._unused > self.limits.head_bytes and not self.transport.is_closing():
            self.send_400_response(self._head_too_large())

    def on_headers_complete(self) -> None:
        """A request begins."""
        self._unused = 0
        self._idle.stop()
        self._refusal = self._refusal_of_head()
        if self._refusal:
            raise ValueError("ends the parser")
        super().on_headers_complete()

    def _refusal_of_head(self) -> str:
        """Why a request with this head is refused; empty where it is not."""
        size = len(self.url) + sum(len(name) + len(value) + SEPARATORS for name, value in self.headers)
        if size > self.limits.head_bytes:  # which may have come at once, with its end
            return self._head_too_large()
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            return "a body is sent as it is or, in HTTP/1.1, with Transfer-Encoding: chunked; no other coding is known"
        if self._has_upgrade_and_body():
            return "this server speaks HTTP/1.1 alone; send a body without the header Upgrade"
        return ""

    def _head_too_large(self) -> str:
        return f"the head of a request has {self.limits.head_bytes:,} bytes at most"

    def _has_upgrade_and_body(self) -> bool:
        """Whether another protocol is asked for with a request that has a body: the parser would lose that."""
        framing = {name for name, value in self.headers if name != b"content-length" or value.strip(b"0")}
        return self.parser.should_upgrade() and not framing.isdisjoint({b"content-length", b"transfer-encoding"})

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unused = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """An answer is given; unless another request waits already, the client has its time for the next one."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._idle.start()

    def pause_writing(self) -> None:
        """The client has stopped reading."""
        super().pause_writing()
        self._stalled.start()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stalled.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Say that this was no request, in the shape of all errors, unless an answer is under way; then end."""
        msg = self._refusal or msg
        if not (self.cycle and self.cycle.response_started and not self.cycle.response_complete):
            refused = ApiError(400, msg, code="invalid_http")
            lines = [b"%s: %s\r\n" % line for line in raw_headers(refused)]
            self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", refused.body]))
        self.transport.close()

    def _disconnect(self) -> None:
        self.transport.abort()

    def _end(self) -> None:
        """Close, once the client has read what was sent; it has its time for that too."""
        self._stalled.start()
        self.transport.close()


class Serving(uvicorn.Server):
    """uvicorn's server, which ends what is under way before it waits for its end."""

    def __init__(self, config: Config, end: Callable[[], None]) -> None:
        """`end` is called when it begins to stop."""
        super().__init__(config)
        self._at_end = end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin. What was made so far stays, so the garbage collector need not look at it again.

        It holds the lock of the interpreter for 100 ms where it looks at all that torch has made at its import.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._at_end()
        await super().shutdown(sockets)


def configuration(app: ASGIApp, limits: Limits) -> Config:
    """How uvicorn serves an application: with such connections, no WebSockets, and no trust in what proxies say."""
    return Config(
        app,
        http=cast(Any, partial(Connection, limits)),
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="error",
        timeout_keep_alive=math.ceil(limits.idle_seconds),
        timeout_graceful_shutdown=5,
    )


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of connections that are too many."""
    refused = ApiError(503, "too many clients are connected; try again in a moment", code="too_many_connections")
    await send({"type": "http.response.start", "status": refused.status, "headers": raw_headers(refused)})
    await send({"type": "http.response.body", "body": refused.body})


def raw_headers(refused: ApiError) -> list[tuple[bytes, bytes]]:
    """The headers of an answer to a connection that is refused as a whole."""
    named = {**refused.headers, **HEADERS, "content-type": "application/json", "connection": "close"}
    named["content-length"] = str(len(refused.body))
    return [(name.encode(), value.encode()) for name, value in named.items()]

"""Adds the time and size limits to HTTP connections that uvicorn does not have.

uvicorn closes a connection that is idle after an answer. But it waits forever for the first request, for the rest of a
head, and for a client that does not read; and it accepts heads, trailers and empty lines of any length.
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
from scriven.server.responses import JSON, ApiError
from scriven.server.security import HEADERS

SWITCH_SECONDS = (
    0.0005  # after which a thread hands the interpreter's lock to another one; the default is 5 ms for each thread
)
SEPARATOR_BYTES = len(": \r\n")  # bytes of a header line besides its name and value


class Alarm:
    """Calls a function after some time, unless it is stopped before."""

    def __init__(self, loop: AbstractEventLoop, seconds: float, action: Callable[[], None]) -> None:
        """The alarm does not run before `start`."""
        self._loop, self._seconds, self._action = loop, seconds, action
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Starts the time, again if it already runs."""
        self.stop()
        self._timer = self._loop.call_later(self._seconds, self._action)

    def stop(self) -> None:
        """Stops the alarm."""
        if self._timer is not None:
            self._timer.cancel()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol for a connection, with limits."""

    def __init__(self, limits: Limits, **arguments: Any) -> None:
        """`arguments` are those that uvicorn passes to each protocol."""
        super().__init__(**arguments)
        self.limits = limits
        self._idle = Alarm(self.loop, limits.idle_seconds, self._close)
        self._stalled = Alarm(self.loop, limits.stall_seconds, self._disconnect)
        self._refusal = ""  # why we stopped the parser, if we did
        self._unused = 0  # bytes received since the parser last recognised a head or a body

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Starts the connection. If there are too many, all its requests get a 503."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.app = refuse_connection
        self._idle.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection."""
        self._idle.stop()
        self._stalled.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Passes bytes to the parser; bounds those that never become a head or a body."""
        self._unused += len(data)
        super().data_received(data)
        if self._unused > self.limits.head_bytes and not self.transport.is_closing():
            self.send_400_response(self._head_too_large())

    def on_headers_complete(self) -> None:
        """Handles the end of a request's head, which starts the request."""
        self._unused = 0
        self._idle.stop()
        self._refusal = self._refusal_of_head()
        if self._refusal:
            raise ValueError("stops the parser")
        super().on_headers_complete()

    def _refusal_of_head(self) -> str:
        """Why a request with this head is refused; "" if it is not."""
        size = len(self.url) + sum(len(name) + len(value) + SEPARATOR_BYTES for name, value in self.headers)
        if size > self.limits.head_bytes:  # it may have arrived at once, with its end
            return self._head_too_large()
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            return "this server supports no Transfer-Encoding but chunked, with HTTP/1.1"
        if self._has_upgrade_and_body():
            return "this server supports HTTP/1.1 only; send the body without the header Upgrade"
        return ""

    def _head_too_large(self) -> str:
        return f"the head of the request is too large; send at most {self.limits.head_bytes:,} bytes"

    def _has_upgrade_and_body(self) -> bool:
        """Whether the request has a body and asks for another protocol, since the parser would lose such a body."""
        framing = {name for name, value in self.headers if name != b"content-length" or value.strip(b"0")}
        return self.parser.should_upgrade() and not framing.isdisjoint({b"content-length", b"transfer-encoding"})

    def on_body(self, body: bytes) -> None:
        """Handles a piece of a body."""
        self._unused = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Handles the end of an answer. The client now has `idle_seconds` to send the next request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._idle.start()

    def pause_writing(self) -> None:
        """Handles a client that has stopped reading."""
        super().pause_writing()
        self._stalled.start()

    def resume_writing(self) -> None:
        """Handles a client that reads again."""
        self._stalled.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Sends an error in the usual JSON format, unless an answer has started, and closes the connection."""
        msg = self._refusal or msg
        if not (self.cycle and self.cycle.response_started and not self.cycle.response_complete):
            refused = ApiError(400, msg, code="invalid_http")
            lines = [b"%s: %s\r\n" % line for line in raw_headers(refused)]
            self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", refused.body]))
        self.transport.close()

    def _disconnect(self) -> None:
        self.transport.abort()

    def _close(self) -> None:
        """Closes the connection once the client has read the answer, or after `stall_seconds`."""
        self._stalled.start()
        self.transport.close()


class Serving(uvicorn.Server):
    """uvicorn's server, which makes current requests end before it waits for them."""

    def __init__(self, config: Config, end: Callable[[], None]) -> None:
        """`end` is called when the server starts to stop."""
        super().__init__(config)
        self._at_end = end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the server, and excludes all existing objects from garbage collection.

        Collecting the objects of the imported torch would hold the interpreter's lock for 100 ms each time.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops the server."""
        self._at_end()
        await super().shutdown(sockets)


def configuration(app: ASGIApp, limits: Limits) -> Config:
    """uvicorn's configuration: connections with limits, no WebSockets, and no trust in proxy headers."""
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


async def refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI application that answers with a 503 because too many connections are open."""
    refused = ApiError(503, "too many clients are connected; try again in a moment", code="too_many_connections")
    await send({"type": "http.response.start", "status": refused.status, "headers": raw_headers(refused)})
    await send({"type": "http.response.body", "body": refused.body})


def raw_headers(refused: ApiError) -> list[tuple[bytes, bytes]]:
    """The headers of an error answer that closes the connection."""
    named = {**refused.headers, **HEADERS, "content-type": JSON, "connection": "close"}
    named["content-length"] = str(len(refused.body))
    return [(name.encode(), value.encode()) for name, value in named.items()]

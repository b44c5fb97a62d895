"""An application behind a real socket, and clients that speak to it byte by byte."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from starlette.types import ASGIApp

from scriven.server.http_limits import configuration
from scriven.server.limits import LIMITS, Limits

SECONDS = 20  # after which a test that waits for an answer has failed


@dataclass(frozen=True)
class Place:
    """Where a server listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as client:
            yield client

    def say(self, *parts: bytes) -> bytes:
        """What the server answers to these bytes, up to the end of the connection."""
        with self.connection() as client:
            for part in parts:
                client.sendall(part)
            return everything(client)


def everything(client: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    told = b""
    try:
        while piece := client.recv(65536):
            told += piece
    except ConnectionResetError:
        pass
    return told


def post_and_leave(url: str, body: object, begun: Callable[[], bool]) -> None:
    """Sends a request whose client is gone as soon as the work for it has begun."""

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=SECONDS) as client, asyncio.timeout(SECONDS):
            asking = asyncio.create_task(client.post(url, json=body))
            while not begun():
                assert not asking.done()
                await asyncio.sleep(0.005)
            asking.cancel()

    asyncio.run(leave())


@contextmanager
def serving(app: ASGIApp, limits: Limits = LIMITS) -> Iterator[Place]:
    """The application behind a socket of 127.0.0.1, as `scriven serve` puts it there."""
    server = uvicorn.Server(configuration(app, limits))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield Place(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()
        listener.close()

"""Work and answers that end when their client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")


async def run_unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled if the client disconnects. The request's body must have been read.

    Raises ClientDisconnect in that case.
    """
    gone, task = asyncio.ensure_future(_wait_for_disconnect(request.receive)), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        await _cancel(gone, task)


class DisconnectAwareResponse(Response):
    """A streamed response that stops when its client disconnects."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        media_type: str,
        *,
        watch: bool = True,
        within: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """`watch` is False if the pieces are made while the request still arrives: reading it notices a disconnect.

        `within` is entered before the first piece and always left, even if the client disconnects before that.
        """
        super().__init__(media_type=media_type, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._pieces = pieces
        self._watch = watch
        self._within = within or contextlib.nullcontext()
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        async with self._within:
            await self._send_to(receive, send)

    async def _send_to(self, receive: Receive, send: Send) -> None:
        if not self._watch:
            with contextlib.suppress(ClientDisconnect):
                await self._send(send)
            return
        gone, task = asyncio.ensure_future(_wait_for_disconnect(receive)), asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({gone, task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            await _cancel(gone, task)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks that still run and waits for all of them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""What the routes share: the models being served, requests on their way, and answers that end with their client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from scriven.arrays import Ids
from scriven.inference.predictor import Context
from scriven.server.engine import Engine
from scriven.server.jobs import Job, JobUpdate, PendingRequest
from scriven.server.limits import LIMITS, Limits
from scriven.server.requests import AnyBody, parse_body
from scriven.server.responses import (
    ApiError,
    internal_error,
    payload_too_large,
    run_apart,
    timed_out,
    too_many_requests,
)
from scriven.server.saved_states import SavedStates
from scriven.session import Model
from scriven.vocabulary import Vocabulary

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds


class Histogram:
    """Durations in seconds, counted apart by a label."""

    def __init__(self) -> None:
        """Of nothing yet."""
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, label: str, seconds: float) -> None:
        """Count one more."""
        counts = self._counts.setdefault(label, [0] * (len(BOUNDS) + 1))
        counts[bisect_left(BOUNDS, seconds)] += 1
        self._sums[label] = self._sums.get(label, 0.0) + seconds

    def __iter__(self) -> Iterator[tuple[str, list[tuple[float, int]], float]]:
        """Yields each label, its counts of durations up to each bound (the last one is infinite), and their sum."""
        for label, counts in self._counts.items():
            yield label, list(zip((*BOUNDS, math.inf), accumulate(counts), strict=True)), self._sums[label]


Result = TypeVar("Result")


def fingerprint(model: Model) -> str:
    """What tells a model from others: made of its weights, symbols and settings, and of how it computes."""
    predictor, digest = model.predictor, hashlib.sha256()
    settings = model.settings.model_dump_json(include={"model", "corpus", "reader"})
    for part in (version("scriven"), settings, predictor.vocabulary.to_json(), predictor.precision, predictor.writing):
        digest.update(f"{part}\0".encode("utf-8", "surrogatepass"))
    for name, weights in sorted(predictor.model.state_dict().items()):
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}\0".encode())
        digest.update(weights.detach().cpu().flatten().view(torch.uint8).numpy())
    return f"fp_{digest.hexdigest()[:16]}"


class ServedModel:
    """A checkpoint of a model that is served, and the engine that owns it."""

    def __init__(self, name: str, model: Model, limits: Limits) -> None:
        self.name = name
        self.model = model
        self.since = time.time()
        self.fingerprint = fingerprint(model)
        self.key = f"{self.fingerprint} {name}"  # whose states are whose
        self._holders = 0  # requests that may come to the engine again
        self._retired = False
        with np.errstate(over="ignore", invalid="ignore"):  # of weights that are too large: requests are told
            self.start = model.predictor.start()  # what texts begin from; made, as packed weights are, before requests
            model.predictor.sampler()
        self.engine = Engine(name, model.predictor, limits)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While a request may come to the engine again and again."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._end()

    def retire(self) -> None:
        """Serve the requests that are under way, and no others."""
        self._retired = True
        self._end()

    def _end(self) -> None:
        if self._retired and not self._holders:
            self.engine.retire()


@dataclass
class ServerState:
    """Everything that requests need: the models by name, the states kept, and what was counted."""

    models: dict[str, ServedModel]
    limits: Limits = LIMITS
    begun: float = field(default_factory=time.time)
    scores: int = 0  # texts that are scored now
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # begun, by method and status
    seconds: Histogram = field(default_factory=Histogram)  # of answers, by path
    first: Histogram = field(default_factory=Histogram)  # to the first symbol, by model
    retired: list[ServedModel] = field(
        default_factory=list
    )  # checkpoints that still serve what came before the next one
    written: Counter[str] = field(default_factory=Counter)  # symbols by model, of engines that have ended
    read: Counter[str] = field(default_factory=Counter)

    @cached_property
    def states(self) -> SavedStates:
        """The states kept."""
        return SavedStates(self.limits)

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """What cuts long texts into ids, and waits for what has not come of them."""
        return ThreadPoolExecutor(self.limits.scores, "scoring")

    @contextlib.contextmanager
    def scoring(self) -> Iterator[None]:
        """While a text is scored.

        Raises Refused, 429, where that are too many.
        """
        if self.scores >= self.limits.scores:
            raise too_many_requests(f"{self.scores} texts are scored already")
        self.scores += 1
        try:
            yield
        finally:
            self.scores -= 1

    def model_named(self, name: str) -> ServedModel:
        """The model of this name; the only one where the name is empty.

        Raises Refused, 404, where there is none, and 400 where it must be named.
        """
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        known = ", ".join(self.models)
        if not name:
            raise ApiError(400, f"model: name one of {known}", "model", "missing_field")
        if name not in self.models:
            raise ApiError(404, f"model {name[:80]!r} is not served; there is {known}", "model", "model_not_found")
        return self.models[name]

    def alphabet(self, name: str) -> ServedModel:
        """As `named`, for what depends on the vocabulary alone: the first model where all have the same one."""
        first, *others = self.models.values()
        alike = all(each.model.vocabulary == first.model.vocabulary for each in others)
        return first if not name and alike else self.model_named(name)

    def context(self, served: ServedModel, handle: str) -> tuple[Context, int]:
        """The context of a handle and how many characters it has read; that of a text's start where it is empty."""
        if not handle:
            return served.start, 0
        saved = self.states.get(served.key, handle)
        return saved.context, saved.characters

    def keep(self, served: ServedModel, context: Context, characters: int) -> str | None:
        """Keep a context that has read so many characters; its handle.

        None where a newer checkpoint was taken up meanwhile: nothing can go on from it any more.
        """
        if self.models[served.name].key != served.key:
            return None
        return self.states.add(served.key, context, characters)

    def engines(self, name: str) -> list[Engine]:
        """The engines of a model: that of what is served now, and those of earlier checkpoints that are still busy."""
        return [each.engine for each in (self.models[name], *self.retired) if each.name == name]

    def take_up(self, served: ServedModel) -> None:
        """Serve this one from now on. Requests that are under way keep the one before; states kept of it are gone.

        Raises RuntimeError, and changes nothing, where the system starts no thread for it.
        """
        served.engine.start()
        before, self.models[served.name] = self.models[served.name], served
        self.retired.append(before)
        self.states.forget(before.key)
        before.retire()

    def let_go(self) -> None:
        """Forget earlier checkpoints that nobody uses any more."""
        for each in [each for each in self.retired if not each.engine.running]:
            self.retired.remove(each)
            self.written[each.name] += each.engine.written
            self.read[each.name] += each.engine.read


class RequestHandle:
    """Jobs on their way: iterate over what becomes of them; leaving drops what is not done."""

    def __init__(self, server: ServerState, served: ServedModel, jobs: Sequence[Job]) -> None:
        """Raises Refused, 429, where too much waits already."""
        self._arrived = asyncio.Event()
        self._engine = served.engine
        self._seconds = server.limits.seconds
        self._ticket = PendingRequest(jobs, asyncio.get_running_loop(), self._arrived.set)
        self._engine.submit(self._ticket)

    async def __aenter__(self) -> RequestHandle:
        self._deadline = asyncio.get_running_loop().time() + self._seconds
        return self

    async def __aexit__(self, *_: object) -> None:
        self._engine.cancel(self._ticket)

    async def news(self) -> list[JobUpdate]:
        """All that has come since the last time; waits for something.

        Raises Refused: 503 where the request takes too long, the server stops or memory is out, 500 for a mistake of
        the engine.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                await self._arrived.wait()
        if asyncio.get_running_loop().time() >= self._deadline:  # also for who reads so slowly that we never wait
            raise timed_out(self._seconds)
        self._arrived.clear()
        error = self._ticket.error
        if error is not None:
            raise error if isinstance(error, ApiError) else internal_error(error) from error
        news, self._ticket.news = self._ticket.news, []
        return news


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises Refused, 413, where it is longer than the limit.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise payload_too_large("body", limit)
    return bytes(data)


async def body_of(request: Request, kind: type[AnyBody]) -> AnyBody:
    """The body of a request, checked. Raises Refused where it is not what it must be."""
    data = await read_body(request, server_of(request).limits.body_bytes)
    return await run_apart(len(data), lambda: parse_body(kind, data))


def server_of(request: Request) -> ServerState:
    """The server that a request came to."""
    server: ServerState = request.app.state.server
    return server


def beginning(vocabulary: Vocabulary) -> int | None:
    """The id that stands for the beginning of a text, as the first one of a prompt; it is no symbol, and never written.

    None where texts are made of documents: there the boundary begins one.
    """
    return vocabulary.ids if vocabulary.boundary is None else None


def known_ids(model: Model, ids: list[int], param: str) -> Ids:
    """Ids as an array (T,). Raises Refused, 400, for one that the model does not have."""
    array = np.array(ids, np.int64)
    if array.size and array.max() >= model.vocabulary.ids:
        message = f"{param}: id {array.max()} is not known; ids are below {model.vocabulary.ids:,}"
        raise ApiError(400, message, param, "invalid_value")
    return array


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work gives; it is cancelled where the client goes away, whose request must have been read.

    Raises ClientDisconnect then.
    """
    gone, task = asyncio.ensure_future(_wait_for_disconnect(request.receive)), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        await _end(gone, task)


class DisconnectAwareResponse(Response):
    """An answer in pieces, as they come; it ends where its client goes away."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        media_type: str,
        *,
        watch: bool = True,
        within: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """`watch` is False where the pieces are made of what still comes in: that tells of the client, too.

        `within` is left also where the client goes before the first piece: what makes pieces has not begun then.
        """
        super().__init__(media_type=media_type, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._pieces = pieces
        self._watch = watch
        self._within = within or contextlib.nullcontext()
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
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
            await _end(gone, task)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for its end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""What all routes share: served models, the state of the server, pending requests, and bodies of requests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from itertools import accumulate
from typing import TypeVar

import numpy as np
from starlette.requests import Request

from scriven.arrays import Float64s, Ids, as_numpy
from scriven.errors import InputError, UsageError
from scriven.inference.context import AdaptiveContext, Context
from scriven.server.engine import Engine
from scriven.server.indexes import TrainingIndexes
from scriven.server.jobs import Job, JobUpdate, PendingRequest
from scriven.server.limits import LIMITS, Limits
from scriven.server.requests import AnyBody, parse_body
from scriven.server.responses import (
    ApiError,
    LimitedCount,
    internal_error,
    overflow,
    payload_too_large,
    run_apart,
    timed_out,
    too_many_requests,
)
from scriven.server.saved_states import SavedState, SavedStates, no_state
from scriven.trained_model import Model

NO_MODEL = "this server has no model yet; train one on its page, or with POST /trainings"
LEARNED_AT_ONCE = 256  # symbols that a text learns from at once, so that requests that are gone end soon
NO_TRAINING_TEXT = (
    "this model's counts go on from its training text, which this server does not have; served with --counts none, the "
    "network alone can learn, and scriven evaluate RUN makes its corpus again, if the text is there"
)
BUCKET_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

log = logging.getLogger(__name__)


class Histogram:
    """Histograms of durations in seconds, one for each label."""

    def __init__(self) -> None:
        """The histogram is empty."""
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, label: str, seconds: float) -> None:
        """Adds one duration."""
        counts = self._counts.setdefault(label, [0] * (len(BUCKET_SECONDS) + 1))
        counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
        self._sums[label] = self._sums.get(label, 0.0) + seconds

    def __iter__(self) -> Iterator[tuple[str, list[tuple[float, int]], float]]:
        """Yields each label, its counts of durations up to each bound (the last one is infinite), and their sum."""
        for label, counts in self._counts.items():
            yield label, list(zip((*BUCKET_SECONDS, math.inf), accumulate(counts), strict=True)), self._sums[label]


Result = TypeVar("Result")


def fingerprint(model: Model) -> str:
    """A hash of everything that decides what a model generates: weights, symbols, settings, precision and version."""
    predictor, digest = model.predictor, hashlib.sha256()
    settings = model.settings.model_dump_json(include={"model", "corpus", "reader"})
    for part in (version("scriven"), settings, predictor.vocabulary.to_json(), predictor.precision, predictor.writing):
        digest.update(f"{part}\0".encode("utf-8", "surrogatepass"))
    mixtures = [each for each in (predictor.counts, predictor.writing_counts) if each]
    arrays = [(f"weights {each.longest} {each.discount}", each.weights) for each in mixtures]
    arrays += sorted(mixtures[0].table.arrays.items()) if mixtures else []  # they share one table
    for name, array in arrays:
        digest.update(f"{name} {array.shape} {array.dtype}\0".encode())
        digest.update(array.tobytes())
    for name, values in sorted(predictor.weights.items()):
        weights = as_numpy(values)
        digest.update(f"{name} {weights.shape} {weights.dtype}\0".encode())
        digest.update(weights.tobytes())
    return f"fp_{digest.hexdigest()[:16]}"


class ServedModel:
    """A checkpoint that is served, and the engine that runs it."""

    def __init__(self, name: str, model: Model, limits: Limits) -> None:
        self.name = name
        self.model = model
        self.since = time.time()
        self.fingerprint = fingerprint(model)
        self.key = f"{self.fingerprint} {name}"  # identifies the states that this checkpoint can use
        self.learned: AdaptiveContext | None = None  # whose weights the engine has, if they are not the model's
        self._holders = 0  # requests that may submit more jobs
        self._retired = False
        with np.errstate(over="ignore", invalid="ignore"):  # requests get an error if weights are too large
            self.start = (
                model.predictor.start()
            )  # the context of an empty text; made before the first request, as are packed weights
            model.predictor.sampler()
        self.engine = Engine(name, model.predictor, limits)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps the engine running while a request may submit more jobs."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._retire_if_unused()

    def retire(self) -> None:
        """Finishes the current requests and accepts no others."""
        self._retired = True
        self._retire_if_unused()

    def _retire_if_unused(self) -> None:
        if self._retired and not self._holders:
            self.engine.retire()


@dataclass
class ServerState:
    """Everything that requests need: the models by name, the saved states, and the counters."""

    models: dict[str, ServedModel]
    limits: Limits = LIMITS
    novelty_refusal: str = ""  # why nobody may ask what is copied from training texts
    begun: float = field(default_factory=time.time)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # started, by method and status
    seconds: Histogram = field(default_factory=Histogram)  # of answers, by path
    first: Histogram = field(default_factory=Histogram)  # to the first symbol, by model
    adapted: list[ServedModel] = field(default_factory=list)  # that write with weights of a state's own
    retired: list[ServedModel] = field(default_factory=list)  # older checkpoints that still finish their requests
    written: Counter[str] = field(default_factory=Counter)  # symbols by model, of engines that have stopped
    read: Counter[str] = field(default_factory=Counter)  # by these engines, and by texts that learn

    @property
    def served(self) -> list[ServedModel]:
        """All that has an engine: the models, their older checkpoints, and states that learned."""
        return [*self.models.values(), *self.retired, *self.adapted]

    @cached_property
    def states(self) -> SavedStates:
        """The saved states."""
        return SavedStates(self.limits)

    @cached_property
    def indexes(self) -> TrainingIndexes:
        """The indexes of training texts."""
        return TrainingIndexes(self.limits, self.novelty_refusal)

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """Threads that turn texts to score into ids, and wait for text that has not arrived."""
        return ThreadPoolExecutor(self.limits.scores, "scoring")

    @cached_property
    def scores(self) -> LimitedCount:
        """The texts that are being scored."""
        return LimitedCount(self.limits.scores, "texts are being scored")

    @cached_property
    def files(self) -> LimitedCount:
        """The files whose text is being extracted."""
        return LimitedCount(self.limits.files, "files are being read")

    def model_named(self, name: str) -> ServedModel:
        """The model of this name, or the only model if the name is empty.

        Raises ApiError: 404 if there is no such model, 400 if there are several and `name` is empty.
        """
        if not self.models:
            raise ApiError(404, NO_MODEL, "model", "model_not_found")
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        known = ", ".join(self.models)
        if not name:
            raise ApiError(400, f"model: this server has several models; name one of {known}", "model", "missing_field")
        if name not in self.models:
            raise ApiError(
                404, f"model {name[:80]!r}: no such model; this server has {known}", "model", "model_not_found"
            )
        return self.models[name]

    def model_for_vocabulary(self, name: str) -> ServedModel:
        """The model whose vocabulary is meant. No name is needed if all models have the same vocabulary."""
        served = [*self.models.values()]
        same = all(each.model.vocabulary == served[0].model.vocabulary for each in served)
        return served[0] if served and same and not name else self.model_named(name)

    def context(self, served: ServedModel, handle: str) -> tuple[Context, int]:
        """The context of a saved state and its number of characters; those of an empty text if `handle` is empty."""
        if not handle:
            return served.start, 0
        saved = self.states.get(served.key, handle)
        return saved.context, saved.characters

    def last_text(self, served: ServedModel, handle: str) -> str:
        """The text of the last symbol of a saved state; "?" if it is not known, and "" if `handle` is empty."""
        last = self.states.get(served.key, handle).last if handle else ""
        return "?" if last is None else last

    def saved_state(self, handle: str) -> tuple[ServedModel, SavedState]:
        """The saved state of a handle, and the model that it is of. Raises ApiError, 404, if there is none."""
        keys = {served.key: served for served in self.models.values()}
        saved = self.states.get(self.states.model_of(handle), handle)
        if saved.model not in keys:
            raise no_state(handle)
        return keys[saved.model], saved

    def starting_context(self, served: ServedModel, handle: str, *, adapt: bool, saves: bool) -> tuple[Context, int]:
        """Returns what `context` does. With `adapt` it learns from what it reads.

        Raises ApiError: 400 if that is not possible, 429 if the state after the text is to be saved (`saves`), and no
        more states that learn may be.
        """
        context, characters = self.context(served, handle)
        if adapt and not isinstance(context, AdaptiveContext):
            if handle:
                words = "adapt: the state did not learn while it was read; begin without a state, or leave out adapt"
                raise ApiError(400, words, "adapt", "invalid_value")
            try:
                context = served.model.adaptive.start(history=saves)
            except UsageError as error:
                raise ApiError(400, f"adapt: {error}", "adapt", "invalid_value") from None
        if saves and isinstance(context, AdaptiveContext):
            self.states.check_adaptive()
        return context, characters

    def save_state(self, served: ServedModel, context: Context, characters: int, last: str | None = None) -> str | None:
        """Saves the context after this many characters, which end with `last`, and returns its handle.

        If a newer checkpoint was loaded in the meantime, returns None, since that cannot continue from it.
        """
        if self.models[served.name].key != served.key:
            return None
        return self.states.add(served.key, context, characters, last)

    def engines(self, name: str) -> list[Engine]:
        """The engines of a model: of the current checkpoint, of older ones, and of states that learned."""
        return [each.engine for each in self.served if each.name == name]

    def replace(self, served: ServedModel) -> None:
        """Serves this checkpoint from now on. Current requests keep the old one, whose saved states are deleted.

        Raises RuntimeError, and changes nothing, if the system cannot start a thread for it.
        """
        served.engine.start()
        before, self.models[served.name] = self.models.get(served.name), served
        if before is not None:
            self.retired.append(before)
            self.states.delete_all(before.key)
            before.retire()

    def forget_stopped(self) -> None:
        """Forgets older checkpoints, and states that learned, whose engines have stopped, but not what they counted."""
        for served in (self.retired, self.adapted):
            for each in [each for each in served if not each.engine.running]:
                served.remove(each)
                self.written[each.name] += each.engine.written
                self.read[each.name] += each.engine.read

    async def learn(
        self, served: ServedModel, context: AdaptiveContext, ids: Ids
    ) -> AsyncGenerator[tuple[Ids, Float64s, AdaptiveContext]]:
        """Reads ids (T,) and learns from them. Yields pieces with their surprisals, and the context after each.

        The given context may be a saved state's, and can be read from again. Raises ApiError: 503 if it takes longer
        than a request may, 500 if the model's numbers overflow, 400 if counts need a training text that is gone.
        """
        loop, reader, left = asyncio.get_running_loop(), served.model.adaptive, threading.Event()
        until = loop.time() + self.limits.seconds

        def check_stop() -> None:
            if left.is_set() or loop.time() > until:
                raise timed_out(self.limits.seconds)

        try:
            for begin in range(0, len(ids), LEARNED_AT_ONCE):
                piece = ids[begin : begin + LEARNED_AT_ONCE]
                read = partial(reader.read, reuse=begin > 0, check_stop=check_stop)
                try:
                    nats, _, context = await loop.run_in_executor(self.threads, read, context, piece)
                except InputError as error:
                    log.warning("a text cannot be learned from: %s", error)
                    raise ApiError(400, f"adapt: {NO_TRAINING_TEXT}", "adapt", "invalid_value") from None
                self.read[served.name] += len(piece)
                if not np.isfinite(nats).all():
                    raise overflow()
                check_stop()
                yield piece, nats, context
        finally:
            left.set()  # so that a history is not read to its end for nobody

    @contextlib.contextmanager
    def run_adapted(self, served: ServedModel) -> Iterator[None]:
        """Starts an engine of a state's own, which stops after the requests that are submitted in this context.

        Raises ApiError, 429, if as many of them run as texts may be scored.
        """
        self.forget_stopped()
        if len(self.adapted) >= self.limits.scores:
            raise too_many_requests(f"{len(self.adapted)} texts are being written with weights of their own already")
        served.engine.start()
        self.adapted.append(served)
        try:
            yield
        finally:
            served.engine.retire()


class RequestHandle:
    """The pending jobs of a request. Leaving the context drops those that are not done."""

    def __init__(self, server: ServerState, served: ServedModel, jobs: Sequence[Job]) -> None:
        """Submits the jobs. Raises ApiError, 429, if too much is waiting already."""
        self._notified = asyncio.Event()
        self._engine = served.engine
        self._seconds = server.limits.seconds
        self._pending = PendingRequest(jobs, asyncio.get_running_loop(), self._notified.set)
        self._engine.submit(self._pending)

    async def __aenter__(self) -> RequestHandle:
        self._deadline = asyncio.get_running_loop().time() + self._seconds
        return self

    async def __aexit__(self, *_: object) -> None:
        self._engine.cancel(self._pending)

    async def updates(self) -> list[JobUpdate]:
        """All updates since the last call; waits until there is one.

        Raises ApiError: 503 if the request takes too long, the server stops or memory runs out, 500 for an internal
        error.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                await self._notified.wait()
        if asyncio.get_running_loop().time() >= self._deadline:  # also if the client reads so slowly that we never wait
            raise timed_out(self._seconds)
        self._notified.clear()
        error = self._pending.error
        if error is not None:
            raise error if isinstance(error, ApiError) else internal_error(error) from error
        updates, self._pending.updates = self._pending.updates, []
        return updates


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises ApiError, 413, if it is longer than `limit` bytes.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise payload_too_large("body", limit)
    return bytes(data)


async def parse_request(request: Request, kind: type[AnyBody]) -> AnyBody:
    """The validated body of a request. Raises ApiError if it is not valid."""
    data = await read_body(request, server_of(request).limits.body_bytes)
    return await run_apart(len(data), lambda: parse_body(kind, data))


def server_of(request: Request) -> ServerState:
    """The state of the server that received a request."""
    server: ServerState = request.app.state.server
    return server

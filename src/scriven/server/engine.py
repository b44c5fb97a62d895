"""Continuous batching: one thread owns a model, and all requests are rows of what it reads and generates.

In each turn the thread handles the calls of other threads, runs at most one of their functions, reads a bounded piece
of the prompts, generates a block of every text, and then sends all updates at once. So requests join and leave between
two blocks, and neither a long prompt nor a search holds up the texts that are being generated. Requests share the rows
fairly: a generation of a request that has more than its share is paused and continues later. A text depends only on its
own request; see `scriven.inference.generation` and `scriven.server.prefill`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import groupby, islice
from typing import TypeVar

import numpy as np

from scriven.arrays import Float64s
from scriven.inference.generation import LIVE, BlockLength, Emitted, Generation, GenerationBatch
from scriven.inference.predictor import Predictor
from scriven.server.jobs import Job, JobUpdate, PendingRequest, _Owner, _PausedGeneration, fair_shares
from scriven.server.limits import Limits
from scriven.server.prefill import Prefill, PrefillQueue, SymbolSurprisals, surprisals_from_logits
from scriven.server.responses import ApiError, overflow, too_many_requests

SYMBOLS_PER_PIECE = 1024  # symbols of all prompts together that are read at once
PREFILL_SECONDS = 0.01  # of reading, after which a turn starts no further piece
UPDATE_SECONDS = 0.01  # between two deliveries, unless something is urgent: each wakes the thread of the requests

log = logging.getLogger(__name__)
Value = TypeVar("Value")

NOTHING = np.empty(0, np.int64)


class Engine:
    """Reads and generates with one model, in a thread of its own, for many requests at the same time."""

    def __init__(self, name: str, predictor: Predictor, limits: Limits) -> None:
        """The thread does not run before `start`."""
        self.limits = limits
        self.waiting_jobs = self.waiting_symbols = 0  # changed under the lock
        self.written = self.read = 0  # symbols since the start
        self._predictor = predictor
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()  # for the engine's thread
        self._functions: deque[Callable[[], None]] = deque()  # of `call`, one for each turn
        self._lock = threading.Lock()
        self._requests: dict[PendingRequest, None] = {}  # those not done, in order of arrival
        self._updates: list[tuple[PendingRequest, JobUpdate]] = []
        self._next_delivery, self._urgent = 0.0, False
        self._overflowed: set[PendingRequest] = set()  # requests whose numbers are not finite
        self._retired = self._last_requests = False  # whether it refuses new requests, and has all others
        self._reset()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    def _reset(self) -> None:
        """Forgets everything that is being read or generated."""
        self._prefilling: dict[Prefill, _Owner] = {}
        self._generating: dict[Generation, _Owner] = {}  # also the paused ones
        self._prefill_queue = PrefillQueue(self._predictor)
        self._batches: list[_DecodeBatch] = []

    @property
    def rows(self) -> int:
        """How many texts are being read or generated now."""
        return sum(request.rows for request in list(self._requests))

    @property
    def running(self) -> bool:
        """Whether the engine serves requests."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread after its current turn and waits for it."""
        self._calls.put(None)
        self._thread.join()

    def retire(self) -> None:
        """Refuses new requests, and stops the thread once the others are done."""
        with self._lock:
            self._retired = True
            self._calls.put(self._stop_when_idle)

    def submit(self, request: PendingRequest) -> None:
        """Accepts a request.

        Raises ApiError: 429 if too much is waiting, 503 if the engine is retired.
        """
        jobs, symbols = len(request.waiting), sum(len(job.ids) for _, job in request.waiting)
        with self._lock:
            if self._retired:
                raise _retired_error()
            waiting = self.waiting_jobs, self.waiting_symbols
            if any(waiting) and (
                waiting[0] + jobs > self.limits.queue or waiting[1] + symbols > self.limits.queue_characters
            ):
                raise too_many_requests(f"{waiting[0]} texts are already waiting")
            self.waiting_jobs += jobs
            self.waiting_symbols += symbols
            self._calls.put(lambda: self._requests.update({request: None}))

    def call(self, function: Callable[[], Value]) -> Future[Value]:
        """Runs a function in the engine's thread, at the start of a turn, and no other in that turn.

        Raises ApiError, 503, if the engine is retired.
        """
        future: Future[Value] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

        with self._lock:
            if self._retired:
                raise _retired_error()
            self._calls.put(lambda: self._functions.append(run))
        return future

    def cancel(self, request: PendingRequest) -> None:
        """Drops a request. It gets no updates after the current turn."""
        self._calls.put(lambda: self._drop(request))

    def refuse(self, error: Exception) -> None:
        """Drops all requests. Each gets this error."""
        self._calls.put(lambda: self._fail(error, [*self._requests]))

    # All methods below run in the engine's thread.

    @np.errstate(over="ignore", invalid="ignore")  # a request whose numbers overflow gets an error
    def _run(self) -> None:
        while self._handle_calls():
            if self._functions:
                self._functions.popleft()()  # only one: whoever waits for it may have another ready by now
            try:
                self._assign_rows()
                self._prefill()
                self._assign_rows()  # to generations whose prompts are read now
                self._decode()
            except Exception as error:
                log.exception("a turn of the engine failed")
                self._fail(error)
            self._refuse_overflowed()
            self._deliver()

    def _handle_calls(self) -> bool:
        """Handles the calls of other threads, and waits for one if there is no work. False if the thread shall stop."""
        while True:
            idle = not (self._requests or self._updates or self._functions)
            if idle and self._last_requests:
                return False
            try:
                call = self._calls.get(block=idle)
            except queue.Empty:
                return True
            if call is None:
                return False
            call()

    def _stop_when_idle(self) -> None:
        self._last_requests = True

    def _assign_rows(self) -> None:
        """Gives each request its share of the rows. Generations beyond the share are paused; prompts are read on."""
        requests = list(islice(self._requests, self.limits.rows))
        if not any(request.wanted for request in requests):
            return
        shares = fair_shares([request.rows + request.wanted for request in requests], self.limits.rows)
        for request, share in zip(requests, shares, strict=True):
            self._pause(request, request.rows - share)
        free = self.limits.rows - self.rows
        started: list[Prefill] = []
        for request, share in zip(requests, shares, strict=True):
            before = request.rows
            started += self._fill_rows(request, min(share - before, free))
            free -= request.rows - before
        self._prefill_queue.add([prefill for prefill in started if len(prefill.ids)])
        for prefill in started:
            if not len(prefill.ids):
                self._begin_generations(prefill)

    def _pause(self, request: PendingRequest, count: int) -> None:
        """Pauses up to `count` generations of a request, which frees their rows."""
        for batch in self._batches:
            chosen = [each for each in batch.generations if each in request.generating][: max(0, count)]
            if chosen:
                count -= len(chosen)
                request.paused.extendleft(batch.take(chosen))
                request.generating.difference_update(chosen)

    def _fill_rows(self, request: PendingRequest, rows: int) -> list[Prefill]:
        """Gives a request up to `rows` rows, first for its paused generations. Returns the texts to read."""
        resumed = [request.paused.popleft() for _ in range(min(rows, len(request.paused)))]
        for _, group in groupby(resumed, lambda each: id(each.context)):
            self._resume(request, list(group))
        started = []
        for _ in range(min(rows - len(resumed), len(request.waiting))):
            number, job = request.waiting.popleft()
            self._count_out(job)
            started.append(prefill := Prefill(job.ids, job.context, job.prompt_logprobs))
            self._prefilling[prefill] = _Owner(request, job, number)
            request.prefilling.add(prefill)
        return started

    def _resume(self, request: PendingRequest, paused: list[_PausedGeneration]) -> None:
        """Continues generations from rows of one context."""
        stepwise = self._generating[paused[0].generation].job.logprobs is not None
        batch = _DecodeBatch(self._predictor, stepwise)
        generations = [each.generation for each in paused]
        batch.add(generations, paused[0].context.rows([each.row for each in paused]))
        self._batches.append(batch)
        request.generating.update(generations)

    def _forget_if_done(self, request: PendingRequest) -> None:
        if not request.rows and not request.wanted:
            self._requests.pop(request, None)

    def _count_out(self, job: Job) -> None:
        """Counts a job as no longer waiting."""
        with self._lock:
            self.waiting_jobs -= 1
            self.waiting_symbols -= len(job.ids)

    def _prefill(self) -> None:
        until = time.monotonic() + PREFILL_SECONDS
        while self._prefilling and time.monotonic() < until:
            self._prefill_piece()

    def _prefill_piece(self) -> None:
        results = self._prefill_queue.read(SYMBOLS_PER_PIECE)
        for prefill, surprisals, length in results:
            self.read += length
            if surprisals is not None:
                owner = self._prefilling[prefill]
                self._check(owner.request, bool(np.isfinite(surprisals.nats).all()))
                self._updates.append((owner.request, JobUpdate(owner.number, None, surprisals=surprisals)))
        for prefill, *_ in results:
            if not len(prefill.ids):
                self._begin_generations(prefill)

    def _begin_generations(self, prefill: Prefill) -> None:
        """Reports that a prompt is read, and queues the generations after it."""
        owner = self._prefilling.pop(prefill)
        request, job = owner.request, owner.job
        self._check(request, bool(np.isfinite(prefill.context.logits).all()))
        self._updates.append((request, JobUpdate(owner.number, None, done=True, context=prefill.context)))
        self._urgent = True
        for number, generation in enumerate(job.generations):
            self._generating[generation] = owner._replace(generation=number)
            if generation.left:
                request.paused.append(_PausedGeneration(generation, prefill.context, 0))
            else:
                generation.end = prefill.context if generation.keep else None
                self._report(Emitted(generation, "", NOTHING), None)
        request.prefilling.discard(prefill)
        self._forget_if_done(request)

    def _merge_batches(self) -> None:
        """Merges the batches that can be generated together, and removes those that are empty."""
        batches, self._batches = self._batches, []
        for batch in batches:
            hosts = (each for each in self._batches if each.stepwise == batch.stepwise)
            host = next((each for each in hosts if batch.context is not None and each.takes(batch.context)), None)
            if host is not None and batch.context is not None:
                host.add(batch.generations, batch.context)
            elif batch.generations:
                self._batches.append(batch)

    def _decode(self) -> None:
        """Generates a block of every text that has a row."""
        self._merge_batches()
        for batch in self._batches:
            with batch.pace as most:
                length = min(most, max(each.left for each in batch.generations))
                if batch.stepwise:
                    self._decode_stepwise(batch, length)
                else:
                    for emitted in batch.generate(length):
                        self._report(emitted, None)

    def _decode_stepwise(self, batch: _DecodeBatch, length: int) -> None:
        """Generates `length` symbols one by one, with the surprisal of each."""
        for _ in range(length):
            if batch.context is None:
                return
            logits: Float64s = self._predictor.next_logits(batch.context, writing=True).astype(np.float64)  # (N, V)
            emitted = batch.generate(1)
            counts = [self._generating[each.generation].job.logprobs or 0 for each in emitted]
            # (N,), one for each row; an end by a rule is none, and gets no surprisal
            ids = np.array([each.ids[0] if len(each.ids) else self._predictor.vocabulary.unknown for each in emitted])
            surprisals = surprisals_from_logits(logits, ids, max(counts), self._predictor)
            for row, (each, count) in enumerate(zip(emitted, counts, strict=True)):
                self._report(each, surprisals.row(row, count) if len(each.ids) else None)

    def _report(self, emitted: Emitted, surprisals: SymbolSurprisals | None) -> None:
        """Notes an update about a generation, and removes the generation if it is done."""
        generation, text, ids, finite = emitted
        request, _, job_number, number = self._generating[generation]
        self._check(request, finite)
        done = generation.done or not generation.left
        self.written += len(ids)
        update = JobUpdate(job_number, number, text, len(ids), surprisals, done, generation.end)
        self._updates.append((request, update))
        if done:
            del self._generating[generation]
            request.generating.discard(generation)
            self._forget_if_done(request)
            self._urgent = True

    def _drop(self, request: PendingRequest) -> None:
        """Removes everything that belongs to a request."""
        for _, job in request.waiting:
            self._count_out(job)
        request.waiting.clear()
        request.paused.clear()
        self._prefill_queue.drop(request.prefilling)
        for batch in self._batches:
            batch.drop(request.generating)
        request.prefilling.clear()
        request.generating.clear()
        self._prefilling = {each: owner for each, owner in self._prefilling.items() if owner.request is not request}
        self._generating = {each: owner for each, owner in self._generating.items() if owner.request is not request}
        self._requests.pop(request, None)
        self._updates = [(other, update) for other, update in self._updates if other is not request]

    def _fail(self, error: Exception, others: Sequence[PendingRequest] = ()) -> None:
        """Drops the requests that have rows or paused generations, and `others`. Each gets the error."""
        failed = {owner.request for owner in (*self._prefilling.values(), *self._generating.values())}
        self._reset()  # first: anything left half done could fail again and end the thread
        for request in {*failed, *others}:
            self._refuse(request, error)

    def _refuse(self, request: PendingRequest, error: Exception) -> None:
        """Drops a request, which gets the error."""
        request.error = error
        self._drop(request)
        self._updates.append((request, JobUpdate(0, None)))
        self._urgent = True

    def _check(self, request: PendingRequest, finite: bool) -> None:
        if not finite:
            self._overflowed.add(request)

    def _refuse_overflowed(self) -> None:
        """Drops the requests whose numbers overflowed: after the turn, which iterates over what is dropped here."""
        for request in self._overflowed:
            self._refuse(request, overflow())
        self._overflowed.clear()

    def _deliver(self) -> None:
        """Hands all updates over to the thread of the requests, if some are urgent or the last delivery is old."""
        now = time.monotonic()
        if not self._updates or (now < self._next_delivery and not self._urgent):
            return
        updates, self._updates = self._updates, []
        self._next_delivery, self._urgent = now + UPDATE_SECONDS, False
        loop = updates[0][0].loop  # all requests have the same one
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(_hand_over, updates)


class _DecodeBatch(GenerationBatch):
    """Generations that advance together: in blocks, or one symbol at a time."""

    def __init__(self, predictor: Predictor, stepwise: bool) -> None:
        super().__init__(predictor)
        self.stepwise = stepwise
        self.pace = BlockLength(LIVE)

    def take(self, generations: Collection[Generation]) -> list[_PausedGeneration]:
        """Removes generations from the batch; returns them as paused."""
        if self.context is None:
            return []
        rows = [row for row, each in enumerate(self.generations) if each in generations]
        context = self.context.rows(rows)
        paused = [_PausedGeneration(self.generations[row], context, place) for place, row in enumerate(rows)]
        self.drop(generations)
        return paused


def _retired_error() -> ApiError:
    return ApiError(503, "a newer checkpoint of this model was just loaded; try again", code="replaced")


def _hand_over(updates: list[tuple[PendingRequest, JobUpdate]]) -> None:
    """Adds the updates to their requests and notifies these. Runs in the loop's thread."""
    requests = dict.fromkeys(request for request, _ in updates)
    for request, update in updates:
        request.updates.append(update)
    for request in requests:
        request.notify()


__all__ = ["Engine", "Job", "JobUpdate", "PendingRequest"]

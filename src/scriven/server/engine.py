"""Continuous batching: one thread owns a model, and all requests are rows of what it reads and writes.

In each turn the thread takes in what has come, reads a bounded piece of the prompts, writes a block of every text, and
tells what there is to tell, all at once. So requests join and leave between two blocks, and a long prompt does not hold
up the texts that are being written. Rows are shared: where requests want more than there are, none has many more than
another that wants them too, and what has to give way is set aside, to go on later. A text depends on its own request
alone: see `scriven.inference.generation` and `scriven.server.prefill`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from itertools import groupby, islice

import numpy as np

from scriven.arrays import Float64s
from scriven.inference.generation import LIVE, BlockLength, Emitted, Generation, GenerationBatch
from scriven.inference.predictor import Predictor
from scriven.server.jobs import Job, JobUpdate, PendingRequest, _Owner, _Ready, fair_shares
from scriven.server.limits import Limits
from scriven.server.prefill import Details, Prefill, PrefillQueue, details_of
from scriven.server.responses import ApiError, overflow, too_many_requests

READ = 1024  # symbols read at once, of all texts together
READ_SECONDS = 0.01  # after which no more are read in a turn
NEWS_SECONDS = 0.01  # between two tellings, but for what is done or has begun: each wakes the thread of the requests

log = logging.getLogger(__name__)

NOTHING = np.empty(0, np.int64)


class Engine:
    """Reads and writes with one model, in a thread of its own, for as many requests at a time as the limits say."""

    def __init__(self, name: str, predictor: Predictor, limits: Limits) -> None:
        """The thread begins with `start`."""
        self.limits = limits
        self.waiting_jobs = self.waiting_symbols = 0  # changed under the lock
        self.written = self.read = 0  # symbols since the start
        self._predictor = predictor
        self._come: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._tickets: dict[PendingRequest, None] = {}  # not done yet, in the order in which they came
        self._news: list[tuple[PendingRequest, JobUpdate]] = []
        self._next_news, self._urgent = 0.0, False
        self._overflowed: set[PendingRequest] = set()  # requests that met numbers which are not finite
        self._retired = self._ending = False  # whether requests are refused, and whether the last ones have come
        self._rest()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    def _rest(self) -> None:
        """As at the start: nothing is read or written."""
        self.rows = 0  # texts that are read or written now
        self._reading: dict[Prefill, _Owner] = {}
        self._writing: dict[Generation, _Owner] = {}
        self._readings = PrefillQueue(self._predictor)
        self._batches: list[_DecodeBatch] = []

    @property
    def running(self) -> bool:
        """Whether requests are served."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, and wait for the last block."""
        self._come.put(None)
        self._thread.join()

    def retire(self) -> None:
        """Serve the requests that have come, and end."""
        with self._lock:
            self._retired = True
            self._come.put(self._end)

    def submit(self, ticket: PendingRequest) -> None:
        """Serve a request.

        Raises Refused: 429 where too much waits, 503 where the engine is retired.
        """
        jobs, symbols = len(ticket.waiting), sum(len(job.ids) for _, job in ticket.waiting)
        with self._lock:
            if self._retired:
                raise ApiError(503, "a newer checkpoint of this model was just taken up; ask again", code="replaced")
            waiting = self.waiting_jobs, self.waiting_symbols
            if any(waiting) and (
                waiting[0] + jobs > self.limits.queue or waiting[1] + symbols > self.limits.queue_characters
            ):
                raise too_many_requests(f"{waiting[0]} texts wait already")
            self.waiting_jobs += jobs
            self.waiting_symbols += symbols
            self._come.put(lambda: self._tickets.update({ticket: None}))

    def cancel(self, ticket: PendingRequest) -> None:
        """Do no more for a request; nothing becomes of it from the next block on."""
        self._come.put(lambda: self._drop(ticket))

    def refuse(self, error: Exception) -> None:
        """Do no more for any request; each hears of this error."""
        self._come.put(lambda: self._fail(error, [*self._tickets]))

    # What follows runs in the engine's thread.

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is told to those who asked
    def _run(self) -> None:
        while self._take_in():
            try:
                self._admit()
                self._read_on()
                self._admit()  # what was read, and shall be written now
                self._write_on()
            except Exception as error:
                log.exception("a turn of the engine failed")
                self._fail(error)
            self._refuse_overflowed()
            self._tell_all()

    def _take_in(self) -> bool:
        """Take in what has come, waiting for it where there is nothing to do; whether to go on."""
        while True:
            idle = not (self._tickets or self._news)
            if idle and self._ending:
                return False
            try:
                change = self._come.get(block=idle)
            except queue.Empty:
                return True
            if change is None:
                return False
            change()

    def _end(self) -> None:
        self._ending = True

    def _admit(self) -> None:
        """Give each request its share of the rows; who has more makes room, but for what is being read."""
        tickets = list(islice(self._tickets, self.limits.rows))
        if not any(ticket.wanted for ticket in tickets):
            return
        given = fair_shares([ticket.rows + ticket.wanted for ticket in tickets], self.limits.rows)
        for ticket, share in zip(tickets, given, strict=True):
            self._set_aside(ticket, ticket.rows - share)
        begun = []
        for ticket, share in zip(tickets, given, strict=True):
            begun += self._give(ticket, min(share - ticket.rows, self.limits.rows - self.rows))
        self._readings.add([reading for reading in begun if len(reading.ids)])
        for reading in begun:
            if not len(reading.ids):
                self._begin(reading)

    def _set_aside(self, ticket: PendingRequest, count: int) -> None:
        """Write so many lines of a request no further for now."""
        for batch in self._batches:
            lines = [line for line in batch.lines if self._writing[line].ticket is ticket][: max(0, count)]
            if lines:
                count -= len(lines)
                ticket.ready.extendleft(batch.take(lines))
                self._hold(ticket, -len(lines))

    def _give(self, ticket: PendingRequest, rows: int) -> list[Prefill]:
        """Give a request some rows more, at first to lines of its own that can be written; what it may read now."""
        going = [ticket.ready.popleft() for _ in range(min(rows, len(ticket.ready)))]
        for _, group in groupby(going, lambda each: id(each.context)):
            self._go_on(list(group))
        begun = []
        for _ in range(min(rows - len(going), len(ticket.waiting))):
            number, job = ticket.waiting.popleft()
            self._count_wait(job)
            begun.append(reading := Prefill(job.ids, job.context, job.told))
            self._reading[reading] = _Owner(ticket, number, None, job)
        self._hold(ticket, len(going) + len(begun))
        return begun

    def _go_on(self, ready: list[_Ready]) -> None:
        """Write lines from rows of one context on."""
        batch = _DecodeBatch(self._predictor, self._writing[ready[0].line].asked.likeliest is not None)
        batch.add([each.line for each in ready], ready[0].context.rows([each.row for each in ready]))
        self._batches.append(batch)

    def _hold(self, ticket: PendingRequest, rows: int) -> None:
        """A request has so many rows more, or fewer; it is done where it has none and wants none."""
        self.rows += rows
        ticket.rows += rows
        if not ticket.rows and not ticket.wanted:
            self._tickets.pop(ticket, None)

    def _count_wait(self, job: Job) -> None:
        with self._lock:
            self.waiting_jobs -= 1
            self.waiting_symbols -= len(job.ids)

    def _read_on(self) -> None:
        until = time.monotonic() + READ_SECONDS
        while self._reading and time.monotonic() < until:
            self._read_piece()

    def _read_piece(self) -> None:
        told = self._readings.read(READ)
        for reading, details, length in told:
            self.read += length
            if details is not None:
                place = self._reading[reading]
                self._check(place.ticket, bool(np.isfinite(details.nats).all()))
                self._news.append((place.ticket, JobUpdate(place.job, None, details=details)))
        for reading, *_ in told:
            if not len(reading.ids):
                self._begin(reading)

    def _begin(self, reading: Prefill) -> None:
        """A text is read: tell so, and begin to write after it."""
        ticket, number, _, job = self._reading.pop(reading)
        self._check(ticket, bool(reading.context.logits.isfinite().all()))
        self._news.append((ticket, JobUpdate(number, None, done=True, context=reading.context)))
        self._urgent = True
        for n, line in enumerate(job.lines):
            self._writing[line] = _Owner(ticket, number, n, job)
            if line.left:
                ticket.ready.append(_Ready(line, reading.context, 0))
            else:
                line.end = reading.context if line.keep else None
                self._hold(ticket, 1)
                self._wrote(Emitted(line, "", NOTHING), None)
        self._hold(ticket, -1)

    def _merge(self) -> None:
        """Write all lines side by side that can be."""
        batches, self._batches = self._batches, []
        for batch in batches:
            hosts = (each for each in self._batches if each.stepwise == batch.stepwise)
            host = next((each for each in hosts if batch.context is not None and each.takes(batch.context)), None)
            if host is not None and batch.context is not None:
                host.add(batch.lines, batch.context)
            elif batch.lines:
                self._batches.append(batch)

    def _write_on(self) -> None:
        self._merge()
        for batch in self._batches:
            with batch.pace as most:
                length = min(most, max(line.left for line in batch.lines))
                if batch.stepwise:
                    self._step(batch, length)
                else:
                    for wrote in batch.generate(length):
                        self._wrote(wrote, None)

    def _step(self, batch: _DecodeBatch, length: int) -> None:
        """Write a symbol at a time, and tell what each costs."""
        for _ in range(length):
            if batch.context is None:
                return
            logits: Float64s = batch.context.logits.cpu().double().numpy()  # (N, V)
            wrote = batch.generate(1)
            asked = [self._writing[each.line].asked.likeliest or 0 for each in wrote]
            ids = np.concatenate([each.ids for each in wrote])  # (N,), one of each line
            details = details_of(logits, ids, max(asked), self._predictor)
            for row, (each, likeliest) in enumerate(zip(wrote, asked, strict=True)):
                self._wrote(each, details.row(row, likeliest))

    def _wrote(self, wrote: Emitted, details: Details | None) -> None:
        line, text, ids, finite = wrote
        place = self._writing[line]
        self._check(place.ticket, finite)
        done = line.done or not line.left
        self.written += len(ids)
        self._news.append((place.ticket, JobUpdate(place.job, place.line, text, len(ids), details, done, line.end)))
        if done:
            del self._writing[line]
            self._hold(place.ticket, -1)
            self._urgent = True

    def _drop(self, ticket: PendingRequest) -> None:
        """Forget a request, wherever it is."""
        for _, job in ticket.waiting:
            self._count_wait(job)
        ticket.waiting.clear()
        ticket.ready.clear()
        readings = {reading for reading, place in self._reading.items() if place.ticket is ticket}
        self._readings.drop(readings)
        for reading in readings:
            del self._reading[reading]
        lines = {line for line, place in self._writing.items() if place.ticket is ticket}
        for line in lines:
            del self._writing[line]
        self._hold(ticket, -ticket.rows)
        for batch in self._batches:
            batch.drop(lines)
        self._news = [(other, news) for other, news in self._news if other is not ticket]

    def _fail(self, error: Exception, waiting: Sequence[PendingRequest] = ()) -> None:
        """Those who were being served hear of an error, and so do these who wait; the others go on."""
        served = {place.ticket for place in (*self._reading.values(), *self._writing.values())}
        self._rest()  # at first: what was left half done might be the next mistake, which would end the thread
        for ticket in {*served, *waiting}:
            ticket.rows = 0
            self._refuse(ticket, error)

    def _refuse(self, ticket: PendingRequest, error: Exception) -> None:
        """Do no more for a request, and tell it why."""
        ticket.error = error
        self._drop(ticket)
        self._news.append((ticket, JobUpdate(0, None)))
        self._urgent = True

    def _check(self, ticket: PendingRequest, finite: bool) -> None:
        if not finite:
            self._overflowed.add(ticket)

    def _refuse_overflowed(self) -> None:
        """Once a turn is over: those that are refused leave everything that it goes through."""
        for ticket in self._overflowed:
            self._refuse(ticket, overflow())
        self._overflowed.clear()

    def _tell_all(self) -> None:
        """Hand over what has become of all requests, at once; not in every turn, but where somebody waits for it."""
        now = time.monotonic()
        if not self._news or (now < self._next_news and not self._urgent):
            return
        news, self._news = self._news, []
        self._next_news, self._urgent = now + NEWS_SECONDS, False
        loop = news[0][0].loop  # there is one
        with contextlib.suppress(RuntimeError):  # it is closed already: nobody listens any more
            loop.call_soon_threadsafe(_hand_over, news)


class _DecodeBatch(GenerationBatch):
    """Lines that are written at one pace: in blocks, or a symbol at a time."""

    def __init__(self, predictor: Predictor, stepwise: bool) -> None:
        super().__init__(predictor)
        self.stepwise = stepwise
        self.pace = BlockLength(LIVE)

    def take(self, lines: Collection[Generation]) -> list[_Ready]:
        """Write these no further here; what they go on from."""
        if self.context is None:
            return []
        rows = [row for row, line in enumerate(self.lines) if line in lines]
        context = self.context.rows(rows)
        ready = [_Ready(self.lines[row], context, place) for place, row in enumerate(rows)]
        self.drop(lines)
        return ready


def _hand_over(news: list[tuple[PendingRequest, JobUpdate]]) -> None:
    tickets = dict.fromkeys(ticket for ticket, _ in news)
    for ticket, each in news:
        ticket.news.append(each)
    for ticket in tickets:
        ticket.arrived()


__all__ = ["Engine", "Job", "JobUpdate", "PendingRequest"]

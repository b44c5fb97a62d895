"""The indexes of training texts, which say what of a text is copied: found or built apart from requests.

An index is checked, or built if it is missing, in a thread of its own, once for each model; requests wait for it. One
is built at a time, and a long training text is left to `scriven novelty`. Texts are looked up one after another, in one
more thread, so that neither streams nor other answers wait for them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from scriven.arrays import Ids
from scriven.errors import ScrivenError
from scriven.inference.novelty import Progress, TrainingIndex, measure_novelty
from scriven.kernels import native_library
from scriven.server.limits import Limits
from scriven.server.responses import ApiError, internal_error, stopping, timed_out, too_many_requests
from scriven.vocabulary import Vocabulary

WAY_OUT = "scriven novelty RUN FILE builds it on the server"

Values = dict[str, Any]  # of a novelty, for JSON

log = logging.getLogger(__name__)


class IndexedModel(Protocol):
    """A model that knows its training text: `scriven.session.Model` is one."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the model knows."""

    def find_index(self, *, build: bool = True, progress: Progress | None = None) -> TrainingIndex | None:
        """Returns the index of the training text, built if it is missing and may be built."""

    def read_ids(self, text: str) -> Ids:
        """Returns the ids (T,) of a text, which is prepared as the training text was."""


class TrainingIndexes:
    """Finds the indexes of the training texts of models, and measures by them what texts copy."""

    def __init__(self, limits: Limits, refusal: str = "") -> None:
        """`refusal` says why nobody may ask what is copied; empty if all may."""
        self.refusal = refusal
        self._limits = limits
        self._found: WeakKeyDictionary[IndexedModel, Future[TrainingIndex]] = WeakKeyDictionary()
        self._turn = threading.Lock()  # held while one is built
        self._ending = False
        self.measured = 0  # requests whose texts are looked up, or wait for that
        self._thread = ThreadPoolExecutor(1, "novelty")

    def stop(self) -> None:
        """Gives up the index that is being built, at its next block, and texts that are looked up, or wait."""
        self._ending = True
        self._thread.shutdown(wait=False)

    async def find(self, model: IndexedModel, param: str) -> TrainingIndex:
        """Returns the index of a model's training text, built first if it is missing.

        Raises ApiError about the field `param`: 403 if nobody may ask, 400 if the training text is gone or too long
        for this server to index, 503 if it takes longer than a request may.
        """
        if self.refusal:
            raise ApiError(403, f"{param}: {self.refusal}", param, "not_allowed")
        future = self._found.get(model)
        if future is None or (future.done() and future.exception() is not None):
            future = self._start(model)
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_look_at_error)
        done, _ = await asyncio.wait({waiting}, timeout=self._limits.seconds)
        if not done:
            raise timed_out(self._limits.seconds)
        try:
            return waiting.result()
        except ApiError as error:
            raise ApiError(error.status, f"{param}: {error}", param, error.code) from None

    async def measure(self, model: IndexedModel, texts: Sequence[str], param: str, stretches: int = 1) -> list[Values]:
        """Returns for each text what of it is copied, as `scriven novelty --json` says it.

        A text of the training is named without its folder. Whoever no longer waits ends it. Raises ApiError as `find`:
        429 if too many wait, 503 if it takes longer than a request may, or the server stops.
        """
        index, loop, left = await self.find(model, param), asyncio.get_running_loop(), threading.Event()
        self.check_queue()
        until = loop.time() + self._limits.seconds

        def check_stop() -> None:
            if self._ending:
                raise stopping()
            if left.is_set() or loop.time() > until:
                raise timed_out(self._limits.seconds)

        self.measured += 1
        try:
            measured = partial(_measure_all, model, index, texts, stretches, check_stop)
            return await loop.run_in_executor(self._thread, measured)
        finally:
            left.set()
            self.measured -= 1

    def check_queue(self) -> None:
        """Raises ApiError: 429 if as many requests look for what is copied as may, 503 if the server stops."""
        if self._ending:
            raise stopping()
        if self.measured >= self._limits.novelties:
            raise too_many_requests(f"{self.measured} requests are looking for what is copied already")

    def _start(self, model: IndexedModel) -> Future[TrainingIndex]:
        future: Future[TrainingIndex] = Future()
        threading.Thread(target=self._search, args=(model, future), name="index", daemon=True).start()
        self._found[model] = future
        return future

    def _search(self, model: IndexedModel, future: Future[TrainingIndex]) -> None:
        try:
            index = model.find_index(build=False)
            if index is None:
                with self._turn:
                    index = model.find_index(progress=self._check)
            assert index is not None  # it was built
            future.set_result(index)
        except ApiError as error:
            future.set_exception(error)
        except ScrivenError as error:
            log.warning("no index of a training text: %s", error)
            words = f"the training text has no index here, and none can be built of it; {WAY_OUT}, or says why not"
            future.set_exception(ApiError(400, words, code="no_index"))
        except Exception as error:
            log.exception("an index of a training text failed")
            future.set_exception(internal_error(error))

    def _check(self, _: int, total: int | None) -> None:
        """Raises ApiError to give up an index that is being built."""
        most = self._limits.index_characters
        if self._ending:
            raise stopping()
        if total is not None and total > most:
            words = f"the training text has no index here, and with {total:,} characters, more than {most:,}; {WAY_OUT}"
            raise ApiError(400, words, code="no_index")


def _look_at_error(waiting: asyncio.Future[TrainingIndex]) -> None:
    """Marks an error as seen, which may come when nobody waits any more."""
    if not waiting.cancelled():
        waiting.exception()


def _measure_all(
    model: IndexedModel, index: TrainingIndex, texts: Sequence[str], stretches: int, check_stop: Callable[[], None]
) -> list[Values]:
    with native_library.native_threads(1):  # the others are for texts that are generated
        return [_measure(model, index, text, stretches, check_stop) for text in texts]


def _measure(
    model: IndexedModel, index: TrainingIndex, text: str, stretches: int, check_stop: Callable[[], None]
) -> Values:
    check_stop()
    ids = model.read_ids(text)
    values = measure_novelty(index, model.vocabulary, ids, stretches, check_stop=check_stop).values()
    known = index.header.file
    for each in values["stretches"] if known else ():
        each["source"] = Path(known).name + each["source"].removeprefix(known)
    return values

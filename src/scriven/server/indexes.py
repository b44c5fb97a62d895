"""The indexes of training texts, which say what of a text is copied: found or built apart from requests.

An index is checked, or built if it is missing, in a thread of its own, once for each training text; requests wait for
it, a bounded number of them, and take no places of texts that are scored. One is built at a time. A long training text,
and one whose corpus is gone, are left to `scriven novelty`. Texts are looked up one after another, in one more thread,
so that neither streams nor other answers wait for them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from scriven.arrays import Ids
from scriven.errors import ScrivenError
from scriven.inference.novelty import Progress, TrainingIndex, measure_novelty
from scriven.kernels import native_library
from scriven.server.limits import Limits
from scriven.server.responses import ApiError, LimitedCount, internal_error, stopping, timed_out
from scriven.vocabulary import Vocabulary

WAY_OUT = "scriven novelty RUN FILE builds it on the server"

REFUSAL_SECONDS = 10.0  # for which an index that could not be found is not looked for again

Values = dict[str, Any]  # of a novelty, for JSON

log = logging.getLogger(__name__)


class IndexedModel(Protocol):
    """A model that knows its training text: `scriven.trained_model.Model` is one."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the model knows."""

    @property
    def text_hash(self) -> str:
        """The hash of the training text; empty if it is unknown."""

    def find_index(
        self, *, build: bool = True, progress: Progress | None = None, read_texts: bool = True
    ) -> TrainingIndex | None:
        """Returns the index of the training text, built if it is missing and may be built."""

    def read_ids(self, text: str) -> Ids:
        """Returns the ids (T,) of a text, which is prepared as the training text was."""


@dataclass
class _Search:
    """A search for the index of a model's training text, and when it failed, if it did."""

    future: Future[TrainingIndex] = field(default_factory=Future)
    failed: float | None = None

    def is_over(self, now: float) -> bool:
        """Whether another search may find what this one did not, or the index that it found was cut short."""
        if self.failed is not None:
            return now >= self.failed + REFUSAL_SECONDS
        return self.future.done() and self.future.result().is_cut

    def fail(self, error: Exception, now: float) -> None:
        """Ends it with an error, at a time of the clock."""
        self.failed = now  # first, as those who wait look at it
        self.future.set_exception(error)


class TrainingIndexes:
    """Finds the indexes of the training texts of models, and measures by them what texts copy."""

    def __init__(self, limits: Limits, refusal: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """`refusal` says why nobody may ask what is copied; empty if all may. `clock` gives seconds."""
        self.refusal = refusal
        self._clock = clock
        self._waiting = LimitedCount(limits.index_waiters, "requests wait for the index of a training text")
        self._limits = limits
        self._searches: WeakKeyDictionary[IndexedModel, _Search] = WeakKeyDictionary()
        self._shared: dict[str, TrainingIndex] = {}  # by the text's hash; few, as new runs are bounded
        self._checking = threading.Lock()  # held while the files of one are checked
        self._turn = threading.Lock()  # held while one is built
        self._ending = False
        self.measured = LimitedCount(limits.novelties, "requests are looking for what is copied")  # or wait for that
        self._thread = ThreadPoolExecutor(1, "novelty")

    def stop(self) -> None:
        """Gives up the index that is being built, at its next block, and texts that are looked up, or wait."""
        self._ending = True
        self._thread.shutdown(wait=False)

    async def find(self, model: IndexedModel, param: str) -> TrainingIndex:
        """Returns the index of a model's training text, built first if it is missing.

        Raises ApiError about the field `param`: 403 if nobody may ask, 400 if the training text is gone or too long
        for this server to index, 429 if too many requests wait for one, 503 if it takes longer than a request may. A
        refusal holds for REFUSAL_SECONDS.
        """
        if self.refusal:
            raise ApiError(403, f"{param}: {self.refusal}", param, "not_allowed")
        future = self._search_of(model).future
        if not future.done():
            await self._wait(future)
        try:
            return future.result()
        except ApiError as error:
            raise ApiError(error.status, f"{param}: {error}", param, error.code) from None

    async def _wait(self, future: Future[TrainingIndex]) -> None:
        """Waits until a search has ended. Raises ApiError: 429 if too many wait, 503 if it takes too long."""
        with self._waiting.hold():
            waiting = asyncio.wrap_future(future)
            waiting.add_done_callback(_look_at_error)
            done, _ = await asyncio.wait({waiting}, timeout=self._limits.seconds)
        if not done:
            raise timed_out(self._limits.seconds)

    async def measure(self, model: IndexedModel, texts: Sequence[str], param: str, stretches: int = 1) -> list[Values]:
        """Returns for each text what of it is copied, as `scriven novelty --json` says it.

        A text of the training is named without its folder. Whoever no longer waits ends it. Raises ApiError as `find`:
        429 if too many wait, 503 if it takes longer than a request may, or the server stops.
        """
        index, loop, left = await self.find(model, param), asyncio.get_running_loop(), threading.Event()
        self._check_running()
        until = self._clock() + self._limits.seconds

        def check_stop() -> None:
            self._check_running()
            if left.is_set() or self._clock() > until:
                raise timed_out(self._limits.seconds)

        with self.measured.hold():
            try:
                measure = partial(_measure_all, model, index, texts, stretches, check_stop)
                return await loop.run_in_executor(self._thread, measure)
            finally:
                left.set()

    def check_queue(self) -> None:
        """Raises ApiError: 429 if as many requests look for what is copied as may, 503 if the server stops."""
        self._check_running()
        self.measured.check()

    def _check_running(self) -> None:
        if self._ending:
            raise stopping()

    def _search_of(self, model: IndexedModel) -> _Search:
        """Returns the search for a model's index: the one there is, or a new one if that is over."""
        search = self._searches.get(model)
        if search is None or search.is_over(self._clock()):
            search = self._searches[model] = _Search()
            threading.Thread(target=self._search, args=(model, search), name="index", daemon=True).start()
        return search

    def _search(self, model: IndexedModel, search: _Search) -> None:
        """Ends a search with the index, or with an ApiError."""
        try:
            search.future.set_result(self._open(model))
        except ApiError as error:
            search.fail(error, self._clock())
        except ScrivenError as error:
            log.warning("no index of a training text: %s", error)
            words = f"the training text has no index here, and none can be built of it; {WAY_OUT}, or says why not"
            search.fail(ApiError(400, words, code="no_index"), self._clock())
        except Exception as error:
            log.exception("an index of a training text failed")
            search.fail(internal_error(error), self._clock())

    def _open(self, model: IndexedModel) -> TrainingIndex:
        """Returns the index of a model's training text: that of another checkpoint, else from its files, else built.

        A corpus that is gone is not built again, as that could take any time. Raises ApiError, and as `find_index`.
        """
        text = model.text_hash
        with self._checking:
            index = self._shared_index(text) or model.find_index(build=False)
        if index is None:
            with self._turn:
                index = self._shared_index(text) or model.find_index(progress=self._check, read_texts=False)
        assert index is not None  # it was built
        if text:
            self._shared[text] = index
        return index

    def _shared_index(self, text: str) -> TrainingIndex | None:
        """Returns the index of a text that another checkpoint uses, unless it was cut short."""
        index = self._shared.get(text)
        return None if index is None or index.is_cut else index

    def _check(self, _: int, total: int | None) -> None:
        """Raises ApiError to give up an index that is being built."""
        most = self._limits.index_characters
        self._check_running()
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

"""Batches prepared in a thread while the step before runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator

from scriven.batches.batch import Batch, Cursor
from scriven.batches.readers import next_batch
from scriven.corpus.store import Part
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

AHEAD = 4  # batches; enough for now and then one that takes much longer to read than the others


def prefetched(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: Cursor, lanes: range, epochs: int = 0
) -> Generator[tuple[Batch, Cursor]]:
    """Endless (batch, cursor after it) from `cursor` on, prepared in a thread while the step before runs.

    `epochs` is `next_batch`'s. The thread holds nothing that needs saving: what it has read ahead is read again after a
    resume. Its errors are raised where the batch is asked for.
    """
    ready: queue.Queue[tuple[Batch, Cursor] | Exception] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def _offer(item: tuple[Batch, Cursor] | Exception) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _read_ahead(cursor: Cursor) -> None:
        try:
            while not stopped.is_set():
                batch, cursor = next_batch(text, vocabulary, settings, cursor, lanes, epochs)
                _offer((batch, cursor))
        except Exception as error:
            _offer(error)

    thread = threading.Thread(target=_read_ahead, args=(cursor,), name="scriven-batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()

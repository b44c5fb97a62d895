"""Makes batches by the reader that the settings name, and counts what an epoch reads."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from scriven.batches.batch import Batch, Cursor
from scriven.batches.documents import check_places, document_count, next_documents
from scriven.batches.stream import next_stream, ring_size
from scriven.batches.windows import next_windows, window_count
from scriven.corpus.store import Part
from scriven.errors import describe_steps, format_bytes
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

MOST_BATCHES = 1 << 40  # that a cursor may count; products with it must fit 64 bits
READERS: dict[str, Callable[..., tuple[Batch, Cursor]]] = {
    "stream": next_stream,
    "documents": next_documents,
    "windows": next_windows,
}


def next_batch(
    text: Part,
    vocabulary: Vocabulary,
    settings: ReaderSettings,
    cursor: Cursor,
    lanes: range | None = None,
    epochs: int = 0,
) -> tuple[Batch, Cursor]:
    """Returns the batch at `cursor` for some lanes (all by default), and the cursor after it.

    The cursor is a plain value; 0 is the start. After `epochs` epochs (if not 0) the documents reader starts no more
    documents; the other readers never stop. Raises InputError if the text is too short for the reader, or lacks the
    documents that it needs.
    """
    lanes = range(settings.batch) if lanes is None else lanes
    ending = {"epochs": epochs} if settings.kind == "documents" else {}
    return READERS[settings.kind](text, vocabulary, settings, cursor, lanes, **ending)


def check_cursor(text: Part, settings: ReaderSettings, value: Any) -> Cursor:
    """Checks a cursor that was read from a file. Raises ValueError if no reader of this text can have made it."""
    if settings.kind == "documents" and value != 0:
        return check_places(text, settings, value)
    if type(value) is not int or not 0 <= value < MOST_BATCHES:
        raise ValueError("its cursor is not a number of batches")
    return value


def epoch_predictions(text: Part, settings: ReaderSettings) -> int:
    """Returns the number of predictions that count in one pass over the text.

    Raises InputError like `next_batch`.
    """
    if settings.kind == "stream":
        return ring_size(text)
    if settings.kind == "windows":
        return window_count(text, settings) * (settings.length if settings.loss == "every" else 1)
    return text.characters + document_count(text)


def epoch_reads(text: Part, settings: ReaderSettings) -> int:
    """Returns the number of characters and starts of documents read in one pass over the text, without padding.

    Raises InputError like `next_batch`.
    """
    if settings.kind == "windows":
        return window_count(text, settings) * settings.length
    return epoch_predictions(text, settings)


BATCHES_AHEAD = 4  # enough for an occasional batch that takes much longer to read than the others


def prefetch(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: Cursor, lanes: range, epochs: int = 0
) -> Generator[tuple[Batch, Cursor]]:
    """Yields batches without end, each with the cursor after it, from `cursor` on. A thread prepares them in advance.

    `epochs` is as in `next_batch`. The thread has no state to save: a resumed run reads again what was read ahead. Its
    errors are raised when the batch is due.
    """
    ready: queue.Queue[tuple[Batch, Cursor] | Exception] = queue.Queue(maxsize=BATCHES_AHEAD)
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


@dataclass(frozen=True)
class EpochCounts:
    """Counts of one pass over a text. The sizes of arrays are for booleans of one byte."""

    predictions: int  # those that count
    windows: int  # 0 for other readers
    window_length: int
    documents: int  # 0 for other readers
    steps: float  # of the optimizer; 0 if unknown without reading the text
    input_bytes: int  # of the one-hot arrays of the characters of all windows: (windows, T, known characters)
    target_bytes: int  # of the one-hot arrays of the characters to predict


def count_epoch(text: Part, vocabulary: Vocabulary, reader: ReaderSettings, accumulate: int = 1) -> EpochCounts:
    """Returns the counts of one pass over a text by a reader, with `accumulate` batches per step.

    Raises InputError like `next_batch`.
    """
    predictions = epoch_predictions(text, reader)
    windows = window_count(text, reader) if reader.kind == "windows" else 0
    documents = document_count(text) if reader.kind == "documents" else 0
    known, targets = len(vocabulary.symbols), predictions if windows else 0
    return EpochCounts(
        predictions,
        windows,
        reader.length,
        documents,
        _batches(text, reader, predictions, windows) / accumulate,
        windows * reader.length * known,
        targets * known,
    )


def _batches(text: Part, reader: ReaderSettings, predictions: int, windows: int) -> float:
    """Returns the number of batches of an epoch; 0 if unknown, as long documents are cut unless they are packed."""
    if windows:
        return math.ceil(windows / reader.batch)
    if reader.kind == "stream" or reader.pack:
        return predictions / (reader.batch * reader.length)
    longest = text.document_lengths()[2]
    return text.documents / reader.batch if longest < reader.length else 0.0


def describe_epoch(counts: EpochCounts) -> str:
    """Returns the counts as the end of a sentence, without the full stop."""
    if counts.windows:
        what = f"{counts.windows:,} windows of {counts.window_length:,}"
    elif counts.documents:
        what = f"{counts.documents:,} documents"
    else:
        what = f"{counts.predictions:,} predictions"
    return what + (f" in {describe_steps(counts.steps)}" if counts.steps else "") + _describe_arrays(counts)


def _describe_arrays(counts: EpochCounts) -> str:
    if not counts.windows:
        return ""
    inputs, targets = format_bytes(counts.input_bytes), format_bytes(counts.target_bytes)
    return f"; as one-hot arrays that would be {inputs}, and {targets} to predict"

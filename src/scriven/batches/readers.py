"""Makes batches by the reader that the settings name, and counts what an epoch reads.

The `stream` reader reads the text as a ring.
Lane n of N starts at character n * M / N of M and reads forever, T characters per batch, carrying its state along.
After M / N characters it reaches the place where lane n + 1 started. So an epoch has M predictions, each character is
predicted exactly once, and no lane ever jumps. The borders of chunks are at other places in every epoch unless T
divides M / N. Texts shorter than N * T need no special case. A few chunks start with a zero state: every prompt and
every scored text does too, and a model that never trains on such a start is poor at it.

The `windows` reader reads independent windows of the text at a stride, in a new random order in every epoch.
A window has L + 1 characters: L to read from a zero state, and the one after each of them to predict. There is no list
of windows and no copy: the order is computed, and ids are read from the text on disk. An epoch reads every window
exactly once: surplus rows of its last batch have weight 0.

The `documents` reader is in `scriven.batches.documents`.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scriven.arrays import Float64s, Ids
from scriven.batches.batch import Batch, Cursor
from scriven.batches.documents import check_places, document_count, next_documents
from scriven.corpus.store import Part
from scriven.counter_rng import GOLDEN, mix, permute, seeds
from scriven.errors import InputError, describe_steps, format_bytes
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

MINIMUM_CHARACTERS = 2  # of a stream: one to read and one to predict
MOST_BATCHES = 1 << 40  # that a cursor may count; products with it must fit 64 bits


# --- stream


def next_stream(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: int, lanes: range
) -> tuple[Batch, int]:
    """Returns the batch at `cursor` (the number of batches before it) for some lanes, and the cursor after it.

    Raises InputError if the text has fewer than two characters.
    """
    size, length = ring_size(text), settings.length
    starts = [(lane * size // settings.batch + cursor * length) % size for lane in lanes]
    stretches = [stretch for start in starts for stretch in _split_at_ring_end(size, start, length + 1)]
    ids = text.read_all(*zip(*stretches, strict=True)).reshape(len(lanes), length + 1)
    rows = vocabulary.clamp(np.ascontiguousarray(ids.T))  # (T + 1, N)
    numbers = np.array(lanes, np.int64)  # (N,)
    fresh = np.zeros((length, len(lanes)), np.bool_)
    fresh[0] = chances(numbers, cursor) < settings.restart
    return Batch(rows[:-1], rows[1:], numbers, fresh=fresh if fresh.any() else None), cursor + 1


def ring_size(text: Part) -> int:
    """Returns the number of characters of the text; each is predicted once per epoch.

    Raises InputError if it has fewer than two.
    """
    if text.characters < MINIMUM_CHARACTERS:
        raise InputError(
            f"the training text has {text.characters or 'no'} character or token, and at least "
            f"{MINIMUM_CHARACTERS} are needed; give a longer text"
        )
    return text.characters


def chances(lanes: Ids, cursor: int) -> Float64s:
    """Returns random numbers in [0, 1), one per lane (N,), that depend only on the lane and the cursor."""
    words = lanes.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(cursor * 0xBF58476D1CE4E5B9 % 2**64)
    return (mix(words) >> np.uint64(11)).astype(np.float64) / 2**53


def _split_at_ring_end(size: int, start: int, length: int) -> Iterator[tuple[int, int]]:
    """Yields the start and length of each piece that `length` characters from `start` on take in a ring of `size`."""
    while length:
        taken = min(length, size - start)
        yield start, taken
        start, length = 0, length - taken


# --- windows


def next_windows(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: int, lanes: range
) -> tuple[Batch, int]:
    """Returns the batch at `cursor` (the number of batches before it) for some lanes, and the cursor after it.

    Raises InputError if a window is longer than the text.
    """
    length, count = settings.length, window_count(text, settings)
    numbers = np.array(lanes, np.int64)  # (N,)
    epoch, batch = divmod(cursor, -(-count // settings.batch))
    places = batch * settings.batch + numbers  # (N,) in the order of the epoch
    starts = permute(places % count, count, seeds(settings.seed, np.full(numbers.size, epoch))) * settings.stride
    ids = text.read_all(starts.tolist(), [length + 1] * len(lanes)).reshape(len(lanes), length + 1)
    rows = vocabulary.clamp(np.ascontiguousarray(ids.T))  # (L + 1, N)
    fresh = np.zeros((length, len(lanes)), np.bool_)
    fresh[0] = True
    weights = np.zeros((length, len(lanes)), np.float32)
    weights[-1 if settings.loss == "last" else 0 :, places < count] = 1
    return Batch(rows[:-1], rows[1:], numbers, None if weights.all() else weights, fresh), cursor + 1


def window_count(text: Part, settings: ReaderSettings) -> int:
    """Returns the number of windows of the text; each is read once per epoch.

    Raises InputError if a window is longer than the text.
    """
    rest = text.characters - settings.length - 1
    if rest < 0:
        shorter = f"a --reader.length below {text.characters}, or " if text.characters > 1 else ""
        raise InputError(
            f"a window of {settings.length} characters and the next one do not fit into the text, which has "
            f"{text.characters}; give {shorter}a longer text"
        )
    return rest // settings.stride + 1


# --- all readers

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

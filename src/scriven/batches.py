"""Corpus + settings + cursor -> Batch + next cursor: pure, so that resuming is restoring a small value.

The `stream` reader takes the text as a ring. Lane n of N starts at character n * M / N of M and reads on for ever,
T characters a batch, its state carried along. After M / N characters it stands where lane n + 1 began, so an epoch is
M predictions, each character predicted exactly once, and no lane ever jumps. Chunk borders fall elsewhere in every
epoch unless T divides M / N. Texts shorter than N * T need no special case. A few chunks begin with an empty memory:
every text that is scored or gone on with does too, and a model that never sees one in training is poor at it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scriven.corpus.store import Part
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]
MINIMUM_CHARACTERS = 2  # one to read and one to predict


@dataclass(frozen=True)
class Batch:
    """What one step reads and predicts, whichever reader made it."""

    ids: Ids  # (T, N) what the model reads
    targets: Ids  # (T, N) what it should predict: the character after each
    lanes: Ids  # (N,) the global numbers of these rows
    weights: npt.NDArray[np.float32] | None = None  # (T, N) what each prediction counts; None is 1
    fresh: npt.NDArray[np.bool_] | None = None  # (T, N) rows whose state is zeroed before reading; None is nowhere

    @property
    def characters(self) -> int:
        """Predictions that count."""
        return self.ids.size if self.weights is None else int(self.weights.sum())


def next_batch(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: int, lanes: range | None = None
) -> tuple[Batch, int]:
    """The batch at `cursor` (batches read before it) and the cursor after it; of some `lanes` only, where given.

    Raises InputError when the text has fewer than two characters.
    """
    size, length = text.characters, settings.length
    if size < MINIMUM_CHARACTERS:
        raise InputError(f"a text of {size} characters cannot be trained on: it takes {MINIMUM_CHARACTERS} at least")
    lanes = range(settings.batch) if lanes is None else lanes
    starts = [(lane * size // settings.batch + cursor * length) % size for lane in lanes]
    rows = np.stack([_read_ring(text, start, length + 1) for start in starts], axis=1)  # (T + 1, N)
    rows = vocabulary.clamp(rows)
    numbers = np.array(lanes, np.int64)  # (N,)
    fresh = np.zeros((length, len(lanes)), np.bool_)
    fresh[0] = mixed(numbers, cursor) < settings.restart
    return Batch(rows[:-1], rows[1:], numbers, fresh=fresh if fresh.any() else None), cursor + 1


def mixed(lanes: Ids, cursor: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), one a lane (N,), that look random and depend on lane and cursor alone (splitmix64's mixer)."""
    x = lanes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(cursor * 0xBF58476D1CE4E5B9 % 2**64)
    for factor, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


def _read_ring(text: Part, start: int, length: int) -> Ids:
    """`length` ids from `start` on, the text beginning again where it ends."""
    if start + length <= text.characters:
        return text.read(start, length)
    pieces = [text.read(start, text.characters - start)]
    missing = length - len(pieces[0])
    while missing:
        pieces.append(text.read(0, min(missing, text.characters)))
        missing -= len(pieces[-1])
    return np.concatenate(pieces)


def prefetched(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: int, lanes: range
) -> Generator[tuple[Batch, int]]:
    """Endless (batch, cursor after it) from `cursor` on, prepared in a thread while the step before runs.

    The thread holds nothing that needs saving: what it has read ahead is read again after a resume. Its errors are
    raised where the batch is asked for.
    """
    ready: queue.Queue[tuple[Batch, int] | Exception] = queue.Queue(maxsize=2)
    stopped = threading.Event()

    def _offer(item: tuple[Batch, int] | Exception) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _read_ahead(cursor: int) -> None:
        try:
            while not stopped.is_set():
                batch, cursor = next_batch(text, vocabulary, settings, cursor, lanes)
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

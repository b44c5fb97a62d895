"""The `stream` reader reads the text as a ring.

Lane n of N starts at character n * M / N of M and reads forever, T characters per batch, carrying its state along.
After M / N characters it reaches the place where lane n + 1 started. So an epoch has M predictions, each character is
predicted exactly once, and no lane ever jumps. The borders of chunks are at other places in every epoch unless T
divides M / N. Texts shorter than N * T need no special case. A few chunks start with a zero state: every prompt and
every scored text does too, and a model that never trains on such a start is poor at it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scriven.arrays import Float64s, Ids
from scriven.batches.batch import Batch
from scriven.corpus.store import Part
from scriven.counter_rng import GOLDEN, mix
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

MINIMUM_CHARACTERS = 2  # one to read and one to predict


def next_stream(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: int, lanes: range
) -> tuple[Batch, int]:
    """Returns the batch at `cursor` (the number of batches before it) for some lanes, and the cursor after it.

    Raises InputError if the text has fewer than two characters.
    """
    size, length = ring_size(text), settings.length
    starts = [(lane * size // settings.batch + cursor * length) % size for lane in lanes]
    stretches = [stretch for start in starts for stretch in _around(size, start, length + 1)]
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
            f"a text of {text.characters} characters cannot be trained on: at least {MINIMUM_CHARACTERS} are needed"
        )
    return text.characters


def chances(lanes: Ids, cursor: int) -> Float64s:
    """Returns random numbers in [0, 1), one per lane (N,), that depend only on the lane and the cursor."""
    words = lanes.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(cursor * 0xBF58476D1CE4E5B9 % 2**64)
    return (mix(words) >> np.uint64(11)).astype(np.float64) / 2**53


def _around(size: int, start: int, length: int) -> Iterator[tuple[int, int]]:
    """Yields the start and length of each piece that `length` characters from `start` on take in a ring of `size`."""
    while length:
        taken = min(length, size - start)
        yield start, taken
        start, length = 0, length - taken

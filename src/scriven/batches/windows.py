"""The `windows` reader: independent windows of the text at a stride, shuffled anew in every epoch.

A window is L + 1 characters: L that are read from an empty memory, and the one after each of them to predict. Nothing
is listed and nothing is copied ahead: what window comes when is computed, and its ids are read from the text on disk.
An epoch is every window exactly once: the rows that its last batch has too many weigh nothing.
"""

from __future__ import annotations

import numpy as np

from scriven.batches.batch import Batch
from scriven.corpus.store import Part
from scriven.counter_rng import permute, seeds
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary


def next_windows(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: int, lanes: range
) -> tuple[Batch, int]:
    """The batch at `cursor` (batches read before it), of some lanes, and the cursor after it.

    Raises InputError when a window is longer than the text.
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
    """How many windows the text has; each is read once an epoch.

    Raises InputError when a window is longer than the text.
    """
    rest = text.characters - settings.length - 1
    if rest < 0:
        shorter = f"a --reader.length below {text.characters}, or " if text.characters > 1 else ""
        raise InputError(
            f"a window of {settings.length} characters and the one after it are more than the text, which has "
            f"{text.characters}; give {shorter}a longer text"
        )
    return rest // settings.stride + 1

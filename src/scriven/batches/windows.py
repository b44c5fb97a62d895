"""The `windows` reader: independent windows of the text at a stride, in a new random order in every epoch.

A window has L + 1 characters: L to read from a zero state, and the one after each of them to predict. There is no list
of windows and no copy: the order is computed, and ids are read from the text on disk. An epoch reads every window
exactly once: surplus rows of its last batch have weight 0.
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

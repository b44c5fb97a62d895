"""The endless order in which documents are read: a seeded permutation of all of them in every epoch.

It is random over lengths, so each step sees the same mixture of short and long documents, and a function of the
position alone: there is nothing to remember.
"""

from __future__ import annotations

import functools

import numpy as np

from scriven.corpus.store import Part
from scriven.counter_rng import permuted, seeds
from scriven.settings import ReaderSettings
from scriven.vocabulary import Ids

BLOCK = 4096  # positions of the order that are worked out together: a few cost as much as many


def documents_at(text: Part, settings: ReaderSettings, first: int, count: int) -> Ids:
    """The numbers of the documents (count,) from that position of the order on; the text has one at least."""
    pieces = [np.empty(0, np.int64)]
    while count:
        number, place = divmod(first, BLOCK)
        piece = _block(text.documents, settings.seed, number)[place : place + count]
        pieces.append(piece)
        first, count = first + piece.size, count - piece.size
    return np.concatenate(pieces)


@functools.lru_cache(maxsize=4)  # one is read for many batches
def _block(documents: int, seed: int, number: int) -> Ids:
    epochs, places = np.divmod(np.arange(number * BLOCK, (number + 1) * BLOCK), documents)
    return permuted(places, documents, seeds(seed, epochs))

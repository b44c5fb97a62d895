"""The endless order in which documents are read: shuffled anew in every epoch, documents of like length together.

Each epoch is a seeded permutation of all documents, cut into pools of many documents. A pool is sorted by length and
cut into groups, each enough for all rows several times, and the groups are taken in a shuffled order. So what is read
side by side is alike in length and yet another mixture in every epoch, each document comes once an epoch, and all is a
function of the position in the order: there is nothing to remember.
"""

from __future__ import annotations

import functools

import numpy as np

from scriven.batches.permutation import permuted, seeds
from scriven.corpus.store import Part
from scriven.settings import ReaderSettings
from scriven.vocabulary import Ids

GROUP_ROWS = 4  # documents of a group, a row; fewer pad more, where two groups meet
POOL_ROWS = 64  # documents of a pool, a row
POOL_DOCUMENTS = 1 << 18  # of a pool, at most, unless that is less than a group


def documents_at(text: Part, settings: ReaderSettings, first: int, count: int) -> Ids:
    """The numbers of the documents (count,) from that position of the order on; the text has one at least."""
    pieces = [np.empty(0, np.int64)]
    while count:
        epoch, place = divmod(first, text.documents)
        pools = _pools(text.documents, settings.batch)
        number = ((place + 1) * pools - 1) // text.documents
        start = number * text.documents // pools
        piece = _pool(text, settings.batch, settings.seed, epoch, number)[place - start :][:count]
        pieces.append(piece)
        first, count = first + piece.size, count - piece.size
    return np.concatenate(pieces)


def _pools(documents: int, rows: int) -> int:
    """How many pools an epoch is cut into, all of the same size."""
    size = rows * min(max(POOL_DOCUMENTS // rows, GROUP_ROWS), POOL_ROWS)
    return max(1, round(documents / size))


@functools.lru_cache(maxsize=2)  # one is read for many batches
def _pool(text: Part, rows: int, seed: int, epoch: int, number: int) -> Ids:
    """The documents of a pool in the order in which they are taken."""
    total, pools = text.documents, _pools(text.documents, rows)
    places = np.arange(number * total // pools, (number + 1) * total // pools)
    keys = seeds(seed, np.array([epoch]))  # (1,)
    documents = permuted(places, total, keys)
    documents = documents[np.argsort(text.bounds(documents)[1], kind="stable")]
    size = GROUP_ROWS * rows
    groups = -(-documents.size // size)
    shuffled = permuted(np.arange(groups), groups, keys + np.uint64(number + 1))
    return np.concatenate([documents[group * size : (group + 1) * size] for group in shuffled.tolist()])

"""The `documents` reader: documents of any length, one after another in each row, each from its start to its end.

A row reads the boundary and the n characters of a document, and predicts the n characters and the boundary. Where a
document ends within a chunk, the row begins the next one of the order at once, with an empty state: nothing is padded.
What is not read to its end goes on in the next chunk, its state carried. With `reader.pack` off a chunk holds one
document a row and is as long as the longest of them needs, up to `reader.length`; the rest is padding.
See docs/decisions/0008-how-documents-share-a-batch.md.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scriven.arrays import Ids
from scriven.batches.batch import ORDER, Batch, Cursor, Places
from scriven.corpus.store import Part
from scriven.counter_rng import permute, seeds
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

BLOCK = 4096  # positions of the order that are worked out together: a few cost as much as many


def locate_documents(text: Part, settings: ReaderSettings, first: int, count: int) -> Ids:
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
    return permute(places, documents, seeds(seed, epochs))


MOST_DOCUMENTS = 1 << 53  # that a cursor may have taken


@dataclass(frozen=True)
class Pieces:
    """What some rows (M,) read of one document each; of one chunk."""

    rows: Ids  # (M,) the row of each
    places: Ids  # (M,) where in the chunk it begins
    firsts: Ids  # (M,) the document's first character
    lengths: Ids  # (M,) its characters
    read: Ids  # (M,) predictions made of it before; it begins here where that is 0
    sizes: Ids  # (M,) predictions made of it here


def next_documents(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: Cursor, lanes: range, epochs: int = 0
) -> tuple[Batch, Places]:
    """The batch at `cursor`, of some lanes, and the cursor after it.

    After that many `epochs`, where given, no row begins a document: those after its last one weigh nothing, so that an
    epoch is each document exactly once. Raises InputError when the text has no documents.
    """
    end = document_count(text) * epochs or MOST_DOCUMENTS
    pieces, filled, after = _chunk(text, settings, cursor, end)
    length = max(1, int(filled.max()))  # T
    rows = np.full((len(lanes), length + 1), vocabulary.boundary, np.int64)
    fresh = np.zeros((length, len(lanes)), np.bool_)
    taken = list(_values(pieces, lanes))
    spans = [(int(read == 0), min(count, size - read) + 1) for _, _, _, size, read, count in taken]  # beside a boundary
    starts = [first + read + begin - 1 for (_, _, first, _, read, _), (begin, _) in zip(taken, spans, strict=True)]
    characters, at = text.read_all(starts, [end - begin for begin, end in spans]), 0
    for (row, place, _, _, read, _), (begin, end) in zip(taken, spans, strict=True):
        rows[row, place + begin : place + end] = characters[at : at + end - begin]
        at += end - begin
        fresh[place, row] = read == 0
    ids = vocabulary.clamp(np.ascontiguousarray(rows.T))  # (T + 1, N): an end is followed by a start, one boundary
    counted = np.arange(length)[:, None] < filled[lanes.start : lanes.stop]  # (T, N)
    weights = None if counted.all() else counted.astype(np.float32)
    own = np.array(lanes, np.int64)
    return Batch(ids[:-1], ids[1:], own, weights, fresh if fresh.any() else None), after


def check_places(text: Part, settings: ReaderSettings, value: Any) -> Places:
    """A cursor after the start, as it was read from a file. Raises ValueError when it is none of that text."""
    if isinstance(value, dict) and value.get("order") != ORDER:
        raise ValueError("it reads documents in the order of another version of Scriven")
    try:
        taken, documents, read = value["taken"], np.array(value["documents"]), np.array(value["read"])
        known = type(taken) is int and 0 <= taken < MOST_DOCUMENTS and len(value) == len(Places.__annotations__)
        for each in (documents, read):
            known = known and each.shape == (settings.batch,) and each.dtype == np.dtype(np.int64)
        lengths = np.zeros_like(documents)  # (N,) none of what comes next was read
        lengths[documents >= 0] = text.bounds(documents[documents >= 0])[1]
        known = known and bool((documents >= -1).all() and (read >= 0).all() and (read <= lengths).all())
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"its cursor is none of documents ({error!r})") from None
    if not known:
        raise ValueError("its cursor is not in the text")
    return Places(order=ORDER, taken=taken, documents=documents.tolist(), read=read.tolist())


def document_count(text: Part) -> int:
    """How many documents the text has; each is read once an epoch.

    Raises InputError when it has none.
    """
    if not text.documents:
        raise InputError(
            f"a text of {text.characters} characters and no documents cannot be read by documents: say what a "
            "document is with --corpus.documents, or give a text that is not empty"
        )
    return text.documents


def _chunk(text: Part, settings: ReaderSettings, cursor: Cursor, end: int) -> tuple[list[Pieces], Ids, Places]:
    """The pieces of all rows' next chunk, how far each row (N,) is filled with them, and the cursor after it.

    Rows that are free take documents in rounds, in the order of rows, as long as fewer than `end` were taken.
    """
    if isinstance(cursor, int):
        cursor = Places(order=ORDER, taken=0, documents=[-1] * settings.batch, read=[0] * settings.batch)
    taken, pieces = cursor["taken"], list[Pieces]()
    documents, read = np.array(cursor["documents"], np.int64), np.array(cursor["read"], np.int64)  # (N,)
    filled = np.zeros_like(documents)  # (N,)
    while True:
        going_on = filled < settings.length if settings.pack else filled == 0
        free = np.flatnonzero(going_on & (documents < 0))[: max(0, end - taken)]
        documents[free] = locate_documents(text, settings, taken, free.size)
        taken += free.size
        rows = np.flatnonzero(going_on & (documents >= 0))  # (M,)
        if not rows.size:
            return pieces, filled, Places(order=ORDER, taken=taken, documents=documents.tolist(), read=read.tolist())
        firsts, lengths = text.bounds(documents[rows])  # (M,)
        sizes = np.minimum(lengths + 1 - read[rows], settings.length - filled[rows])
        pieces.append(Pieces(rows, filled[rows], firsts, lengths, read[rows], sizes))
        filled[rows] += sizes
        read[rows] += sizes
        ended = rows[read[rows] > lengths]
        documents[ended], read[ended] = -1, 0


def _values(pieces: list[Pieces], lanes: range) -> Iterator[tuple[int, ...]]:
    """The values of the pieces of some lanes, row by row in these."""
    for each in pieces:
        own = (each.rows >= lanes.start) & (each.rows < lanes.stop)
        values = (each.rows - lanes.start, each.places, each.firsts, each.lengths, each.read, each.sizes)
        yield from zip(*(value[own].tolist() for value in values), strict=True)

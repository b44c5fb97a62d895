"""The `documents` reader: each row reads documents of any length one after another, each from its start to its end.

A row reads the boundary and the n characters of a document, and predicts the n characters and the boundary. If a
document ends within a chunk, the row at once begins the next one in the order, with a zero state, so nothing is padded.
A document that does not end in a chunk continues in the next one, with its state. With `reader.pack` off, a chunk holds
one document per row. It is as long as the longest of them needs, up to `reader.length`; the rest is padding.
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

POSITIONS_PER_BLOCK = 4096  # of the order, computed together, since a few take as long as many


def locate_documents(text: Part, settings: ReaderSettings, first: int, count: int) -> Ids:
    """Returns the numbers of `count` documents (count,), from position `first` of the order on, in a text with some."""
    pieces = [np.empty(0, np.int64)]
    while count:
        number, place = divmod(first, POSITIONS_PER_BLOCK)
        piece = _block(text.documents, settings.seed, number)[place : place + count]
        pieces.append(piece)
        first, count = first + piece.size, count - piece.size
    return np.concatenate(pieces)


@functools.lru_cache(maxsize=4)  # a block serves many batches
def _block(documents: int, seed: int, number: int) -> Ids:
    positions = np.arange(number * POSITIONS_PER_BLOCK, (number + 1) * POSITIONS_PER_BLOCK)
    epochs, places = np.divmod(positions, documents)
    return permute(places, documents, seeds(seed, epochs))


MOST_DOCUMENTS = 1 << 53  # that a cursor may count


@dataclass(frozen=True)
class Pieces:
    """The pieces that some rows (M,) read in one chunk; each piece is of one document."""

    rows: Ids  # (M,) the row
    places: Ids  # (M,) the step of the chunk at which the piece begins
    firsts: Ids  # (M,) the document's first character
    lengths: Ids  # (M,) the document's number of characters
    read: Ids  # (M,) predictions made in the document before; 0 if it begins here
    sizes: Ids  # (M,) predictions made in this piece


def next_documents(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: Cursor, lanes: range, epochs: int = 0
) -> tuple[Batch, Places]:
    """Returns the batch at `cursor` for some lanes, and the cursor after it.

    After `epochs` epochs (if not 0) no row starts another document, and its later predictions have weight 0. So an
    epoch reads each document exactly once. Raises InputError if the text has no documents.
    """
    end = document_count(text) * epochs or MOST_DOCUMENTS
    pieces, filled, after = _chunk(text, settings, cursor, end)
    length = max(1, int(filled.max()))  # T
    rows = np.full((len(lanes), length + 1), vocabulary.boundary, np.int64)
    fresh = np.zeros((length, len(lanes)), np.bool_)
    taken = list(_values(pieces, lanes))
    spans = [
        (int(read == 0), min(count, size - read) + 1) for _, _, _, size, read, count in taken
    ]  # without boundaries
    starts = [first + read + begin - 1 for (_, _, first, _, read, _), (begin, _) in zip(taken, spans, strict=True)]
    characters, at = text.read_all(starts, [end - begin for begin, end in spans]), 0
    for (row, place, _, _, read, _), (begin, end) in zip(taken, spans, strict=True):
        rows[row, place + begin : place + end] = characters[at : at + end - begin]
        at += end - begin
        fresh[place, row] = read == 0
    ids = vocabulary.clamp(np.ascontiguousarray(rows.T))  # (T + 1, N); one boundary is both an end and the next start
    counted = np.arange(length)[:, None] < filled[lanes.start : lanes.stop]  # (T, N)
    weights = None if counted.all() else counted.astype(np.float32)
    own = np.array(lanes, np.int64)
    return Batch(ids[:-1], ids[1:], own, weights, fresh if fresh.any() else None), after


def check_places(text: Part, settings: ReaderSettings, value: Any) -> Places:
    """Checks a cursor (other than 0) that was read from a file. Raises ValueError if it does not fit the text."""
    if isinstance(value, dict) and value.get("order") != ORDER:
        raise ValueError("it reads documents in the order of another version of Scriven")
    try:
        taken, documents, read = value["taken"], np.array(value["documents"]), np.array(value["read"])
        known = type(taken) is int and 0 <= taken < MOST_DOCUMENTS and len(value) == len(Places.__annotations__)
        for each in (documents, read):
            known = known and each.shape == (settings.batch,) and each.dtype == np.dtype(np.int64)
        lengths = np.zeros_like(documents)  # (N,); nothing was read yet in documents to come
        lengths[documents >= 0] = text.bounds(documents[documents >= 0])[1]
        known = known and bool((documents >= -1).all() and (read >= 0).all() and (read <= lengths).all())
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"its cursor is not one of a documents reader ({error!r})") from None
    if not known:
        raise ValueError("its cursor is not in the text")
    return Places(order=ORDER, taken=taken, documents=documents.tolist(), read=read.tolist())


def document_count(text: Part) -> int:
    """Returns the number of documents of the text; each is read once per epoch.

    Raises InputError if it has none.
    """
    if not text.documents:
        raise InputError(
            f"a text of {text.characters} characters has no documents to read: say what a "
            "document is with --corpus.documents, or give a text that is not empty"
        )
    return text.documents


def _chunk(text: Part, settings: ReaderSettings, cursor: Cursor, end: int) -> tuple[list[Pieces], Ids, Places]:
    """Returns the pieces of the next chunk of all rows, the steps that they fill in each row (N,), and the next cursor.

    Free rows take documents in rounds, in the order of rows, until `end` documents are taken.
    """
    if isinstance(cursor, int):
        cursor = Places(order=ORDER, taken=0, documents=[-1] * settings.batch, read=[0] * settings.batch)
    taken, pieces = cursor["taken"], list[Pieces]()
    documents, read = np.array(cursor["documents"], np.int64), np.array(cursor["read"], np.int64)  # (N,)
    filled = np.zeros_like(documents)  # (N,)
    while True:
        unfinished = filled < settings.length if settings.pack else filled == 0
        free = np.flatnonzero(unfinished & (documents < 0))[: max(0, end - taken)]
        documents[free] = locate_documents(text, settings, taken, free.size)
        taken += free.size
        rows = np.flatnonzero(unfinished & (documents >= 0))  # (M,)
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
    """Yields the fields of each piece of some lanes, with rows counted from the first lane."""
    for each in pieces:
        own = (each.rows >= lanes.start) & (each.rows < lanes.stop)
        values = (each.rows - lanes.start, each.places, each.firsts, each.lengths, each.read, each.sizes)
        yield from zip(*(value[own].tolist() for value in values), strict=True)

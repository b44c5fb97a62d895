"""The `documents` reader: documents of any length side by side, each from its start to its end.

A row reads the boundary and the n characters of a document, and predicts the n characters and the boundary. Its state
is carried through the document, chunk after chunk, and zeroed where it begins the next one, which is always at the
start of a chunk. How long a chunk is, the rows decide anew for every batch: long enough to end most documents that
can be ended, short enough to leave little padding. See docs/decisions/0008-how-documents-share-a-batch.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scriven.batches.batch import Batch, Cursor, Places
from scriven.batches.order import documents_at
from scriven.corpus.store import Part
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Ids, Vocabulary

STEP_COST = 2  # what a batch costs besides its characters, in characters a row
CUT_COST = 4  # what it costs to cut a short document once more than necessary, in characters; a longer one, less
MOST_DOCUMENTS = 1 << 53  # that a cursor may have taken
MOST_PADDING = 0.2  # of a batch; corpora have far less on the whole


def next_documents(
    text: Part, vocabulary: Vocabulary, settings: ReaderSettings, cursor: Cursor, lanes: range
) -> tuple[Batch, Places]:
    """The batch at `cursor`, of some lanes, and the cursor after it.

    Raises InputError when the text has no documents.
    """
    taken, documents, read = _places(text, settings, cursor)
    firsts, lengths = text.bounds(documents)  # (N,)
    left = lengths + 1 - read  # (N,) predictions
    length = chunk_length(left, settings.length)  # T
    own = np.array(lanes, np.int64)
    rows = _rows(text, vocabulary, firsts[own], lengths[own], read[own], length)  # (T + 1, N)
    fresh = np.zeros((length, own.size), np.bool_)
    fresh[0] = read[own] == 0
    counted = np.arange(length)[:, None] < left[own]  # (T, N)
    weights = None if counted.all() else counted.astype(np.float32)
    ended = left <= length
    after = Places(
        taken=taken,
        documents=np.where(ended, -1, documents).tolist(),
        read=np.where(ended, 0, read + length).tolist(),
    )
    return Batch(rows[:-1], rows[1:], own, weights, fresh if fresh.any() else None), after


def known_places(text: Part, settings: ReaderSettings, value: Any) -> Places:
    """A cursor after the start, as it was read from a file. Raises ValueError when it is none of that text."""
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
    return Places(taken=taken, documents=documents.tolist(), read=read.tolist())


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


def chunk_length(left: Ids, longest: int) -> int:
    """How many characters T, `longest` at most, rows should read at once that have so many predictions left (N,).

    It is what some row needs to read its document in the fewest chunks, all equally long, and of those lengths the one
    that makes the most predictions for its cost, where cutting documents more often than necessary costs too. Lengths
    that would leave too much padding are out of the question.
    """
    chunks = -(-left // longest)  # (N,) the fewest that end each document
    more = left.size - np.cumsum(np.bincount(np.minimum(left, longest), minlength=longest + 1))  # rows with more left
    read = np.cumsum(more[:-1])  # (longest,) predictions that chunks of 1, 2, .. make
    beyond = left - (chunks - 1) * longest  # (N,) a shorter chunk than that takes one more to the end
    shares = np.bincount(beyond, 1 / chunks, longest + 1)
    cut = shares.sum() - np.cumsum(shares)[1:]  # (longest,) documents cut once more, each as a share of its chunks
    lengths = np.unique(-(-left // chunks))
    read, cut = read[lengths - 1], cut[lengths - 1]
    gains = (read - CUT_COST * cut) / (lengths + STEP_COST)
    sparing = read >= (1 - MOST_PADDING) * lengths * left.size  # true for one at least: what the shortest row needs
    return int(lengths[np.argmax(np.where(sparing, gains, -np.inf))])


def _places(text: Part, settings: ReaderSettings, cursor: Cursor) -> tuple[int, Ids, Ids]:
    """Documents taken so far, the document of each row (N,), and what was read of it (N,); none is at its end."""
    document_count(text)
    if isinstance(cursor, int):
        cursor = Places(taken=0, documents=[-1] * settings.batch, read=[0] * settings.batch)
    documents, read = np.array(cursor["documents"], np.int64), np.array(cursor["read"], np.int64)
    free = np.flatnonzero(documents < 0)
    documents[free] = documents_at(text, settings, cursor["taken"], free.size)
    return cursor["taken"] + free.size, documents, read


def _rows(text: Part, vocabulary: Vocabulary, firsts: Ids, lengths: Ids, read: Ids, length: int) -> Ids:
    """What rows read and predict next, (length + 1, N): boundary, characters, boundary, from place `read` of it on.

    Padding is boundaries too.
    """
    rows = np.full((len(firsts), length + 1), vocabulary.boundary, np.int64)
    for row, first, size, done in zip(rows, firsts.tolist(), lengths.tolist(), read.tolist(), strict=True):
        start = 0 if done else 1  # of characters in the row
        stop = min(length, size - done) + 1
        row[start:stop] = text.read(first + done + start - 1, stop - start)
    return vocabulary.clamp(np.ascontiguousarray(rows.T))

"""Corpus + settings + cursor -> Batch + next cursor, by whichever reader the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scriven.batches.batch import Batch, Cursor
from scriven.batches.documents import document_count, known_places, next_documents
from scriven.batches.stream import next_stream, ring_size
from scriven.batches.windows import next_windows, window_count
from scriven.corpus.store import Part
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

MOST_BATCHES = 1 << 40  # that a cursor may count; numbers made of it have 64 bits
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
    """The batch at `cursor` and the cursor after it; of some `lanes` only, where given.

    The cursor is a plain value; 0 is the start. After that many `epochs`, where given, no document begins any more; the
    other readers go on.
    Raises InputError when the text is too short for the reader, or has no documents and should.
    """
    lanes = range(settings.batch) if lanes is None else lanes
    ending = {"epochs": epochs} if settings.kind == "documents" else {}
    return READERS[settings.kind](text, vocabulary, settings, cursor, lanes, **ending)


def known_cursor(text: Part, settings: ReaderSettings, value: Any) -> Cursor:
    """A cursor as it was read from a file. Raises ValueError when no reader of that text made it."""
    if settings.kind == "documents" and value != 0:
        return known_places(text, settings, value)
    if type(value) is not int or not 0 <= value < MOST_BATCHES:
        raise ValueError("its cursor is no number of batches")
    return value


def epoch_predictions(text: Part, settings: ReaderSettings) -> int:
    """How many predictions that count one pass over the text makes.

    Raises InputError as `next_batch` does.
    """
    if settings.kind == "stream":
        return ring_size(text)
    if settings.kind == "windows":
        return window_count(text, settings) * (settings.length if settings.loss == "every" else 1)
    return text.characters + document_count(text)


def epoch_reads(text: Part, settings: ReaderSettings) -> int:
    """How many characters and starts of documents a model reads in one pass over the text, padding not counted.

    Raises InputError as `next_batch` does.
    """
    if settings.kind == "windows":
        return window_count(text, settings) * settings.length
    return epoch_predictions(text, settings)

"""Texts as chunks of ids, in bounded memory: from a corpus on the disk, or from text that was just read.

In a text of documents, the boundary follows the ids of each document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.decoding import prepare, split_lines
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary, byte_places, token_places


@dataclass(frozen=True)
class Passage:
    """A piece of a text, as ids: the given part (G,), and the part after it (M,)."""

    given: Ids
    after: Ids


def random_passage(text: StoredText, seed: Sequence[int], given: int, after: int) -> Passage:
    """Returns a piece of the text at a place that looks random and depends only on the numbers of `seed`.

    Its given part has up to `given` characters, but no more than half of the text; up to `after` characters follow. In
    a text of documents, it is the beginning of a document.
    """
    random = np.random.default_rng(seed)
    if text.documents:
        firsts, lengths = text.bounds(random.integers(text.documents, size=1))
        first, characters = int(firsts[0]), int(lengths[0])
        given = min(given, characters // 2)
    else:
        given = min(given, text.characters // 2)
        first = int(random.integers(text.characters - given + 1))
        characters = text.characters - first
    ids = text.read(first, min(characters, given + after))
    return Passage(ids[:given], ids[given:])


CHUNK = 1 << 20  # ids read from the disk at once
DOCUMENTS_AT_ONCE = 1 << 14  # documents whose places are looked up at once


class StoredIdsReader(Protocol):
    """A text on the disk, as ids that can be read at any place."""

    @property
    def characters(self) -> int:
        """The number of characters."""

    def read(self, start: int, length: int) -> Ids:
        """Reads the ids (length,) from `start` on."""


class StoredText(StoredIdsReader, Protocol):
    """A text on the disk, which may consist of documents, one right after another."""

    @property
    def documents(self) -> int:
        """The number of documents; 0 if the text has none."""

    def bounds(self, numbers: Ids) -> tuple[Ids, Ids]:
        """Returns the first character and the length of each of these documents, both (M,)."""


def chunks_of(reader: StoredIdsReader, start: int = 0, stop: int | None = None, length: int = CHUNK) -> Iterator[Ids]:
    """Yields the characters from `start` to `stop` (None: the end) in chunks."""
    stop = reader.characters if stop is None else stop
    for begin in range(start, stop, length):
        yield reader.read(begin, min(length, stop - begin))


def documents_of(
    text: StoredText,
    boundary: int,
    start: int = 0,
    stop: int | None = None,
    limit: int | None = None,
    since: int = 0,
) -> Iterator[Ids]:
    """Yields the documents from number `start` to `stop` (None: the last) in chunks, each followed by the boundary.

    Only the characters from number `since` on are read, of the first `limit` ones. A document that the limit cuts gets
    no boundary.
    """
    stop = text.documents if stop is None else stop
    limit = text.characters if limit is None else limit
    for number in range(start, stop, DOCUMENTS_AT_ONCE):
        firsts, lengths = text.bounds(np.arange(number, min(number + DOCUMENTS_AT_ONCE, stop)))
        ends = firsts + lengths
        for begin in range(max(since, int(firsts[0])), min(limit, int(ends[-1])), CHUNK):
            end = min(begin + CHUNK, limit, int(ends[-1]))
            ended = ends[(ends > begin) & (ends <= end)]
            yield np.insert(text.read(begin, end - begin), ended - begin, boundary)


def last_chunks(text: StoredText, boundary: int | None, most: int) -> Iterator[Ids]:
    """Yields the last characters of a text, `most` at most, in chunks; with a boundary after each document."""
    since = max(0, text.characters - most)
    if boundary is None:
        yield from chunks_of(text, since)
    else:
        start = max(0, count_beginning_in(text, since) - 1)
        yield from documents_of(text, boundary, start, since=since)


def count_beginning_in(text: StoredText, characters: int) -> int:
    """Returns how many documents begin in the first characters, by bisection."""
    low, high = 0, text.documents
    while low < high:
        middle = (low + high) // 2
        if int(text.bounds(np.array([middle]))[0][0]) < characters:
            low = middle + 1
        else:
            high = middle
    return low


def read_chunks(vocabulary: Vocabulary, pieces: Iterable[tuple[str, Ids]]) -> Iterator[Ids]:
    """Yields the ids of the pieces from `scriven.corpus.documents.split_documents`, with boundaries."""
    for text, ends in pieces:
        yield with_boundaries(vocabulary, text, ends)


def with_boundaries(vocabulary: Vocabulary, text: str, ends: Ids) -> Ids:
    """Returns the ids of a text with a boundary at each end of a document: before the characters number `ends` (M,)."""
    ids = vocabulary.encode_read(text)
    if vocabulary.boundary is None or not ends.size:
        return ids
    if vocabulary.unit == "byte":
        ends = byte_places(text, ends)
    if vocabulary.unit == "token":
        ends = token_places(text, ends)
    return np.insert(ids, ends, vocabulary.boundary)


def split_text(text: str, settings: CorpusSettings) -> list[str]:
    """Splits a text into documents, as a corpus of these settings does. The last one follows all separators."""
    text, separator = prepare(text, settings), prepare(settings.separator, settings)
    if settings.documents == "lines":
        return split_lines(text)
    return text.split(separator) if settings.documents == "separator" else [text]


def prompt_ids(text: str, vocabulary: Vocabulary, settings: CorpusSettings) -> Ids:
    """Returns the ids (symbols,) of a prompt. The text is prepared, with the boundary between documents."""
    first, *others = map(vocabulary.encode_read, split_text(text, settings))
    boundary = np.array([vocabulary.boundary])
    return np.concatenate([first, *(ids for other in others for ids in (boundary, other))])


def blocks(chunks: Iterable[Ids], length: int, overlap: int = 0) -> Iterator[Ids]:
    """Yields a text in blocks of `length + overlap` ids, each beginning with the last `overlap` ids of the one before.

    Only the last block may be shorter; it has more than `overlap` ids.
    """
    rest = np.empty(0, np.int64)
    for chunk in chunks:
        rest = np.concatenate((rest, chunk))
        while len(rest) >= length + overlap:
            yield rest[: length + overlap]
            rest = rest[length:]
    if len(rest) > overlap:
        yield rest


def gather_chunks(chunks: Iterable[Ids], length: int) -> Iterator[Ids]:
    """Yields the same text in chunks of at least `length` ids; only the last may be shorter."""
    held: list[Ids] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= length:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def open_chunks(chunks: Iterable[Ids], length: int) -> tuple[Ids, Iterator[Ids]]:
    """Returns the first `length` ids of a text (all of a shorter one), and the whole text again, from its start."""
    rest = iter(chunks)
    held = [np.empty(0, np.int64)]
    while sum(map(len, held)) < length and (chunk := next(rest, None)) is not None:
        held.append(chunk)
    return np.concatenate(held)[:length], chain(held, rest)

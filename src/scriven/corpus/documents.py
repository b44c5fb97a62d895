"""Splits text into documents, in bounded memory for any number and length of documents.

`corpus.documents` says what a document is: a line, a source (a file, standard input), or the text between two
separators. Line ends and separators belong to no document. The end of a source always ends a document. Documents
without a character are left out and counted.

Each row of a table is treated like a source: its end ends a document. If a text has no documents, a line feed follows
each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.decoding import PIECE_BYTES, ReadCounts, prepare, read_text, split_lines
from scriven.corpus.sources import TextSource
from scriven.corpus.tables import is_read_as_table, read_rows
from scriven.settings import CorpusSettings


def documents(
    sources: Iterable[TextSource], settings: CorpusSettings, tally: ReadCounts | None = None, size: int = PIECE_BYTES
) -> Iterator[tuple[str, bool]]:
    """The prepared documents of sources: pieces of text, and whether the document ends with the piece.

    A document comes in one or more pieces of at most about `size` bytes. Its last piece may be empty, but no document
    is. `tally` counts documents, empty ones, separators, and everything that `read_text` counts. If the settings define
    no documents, none ever ends.
    Raises InputError like `read_text`.
    """
    for text, ends in split_documents(sources, settings, tally, size):
        yield from _each(text, ends)


def documents_of(
    pieces: Iterable[str], settings: CorpusSettings, tally: ReadCounts | None = None
) -> Iterator[tuple[str, bool]]:
    """Like `documents`, for one text that is already prepared and comes in any pieces, such as `[text]`."""
    for text, ends in split_document_text(pieces, settings, tally):
        yield from _each(text, ends)


def split_documents(
    sources: Iterable[TextSource], settings: CorpusSettings, tally: ReadCounts | None = None, size: int = PIECE_BYTES
) -> Iterator[tuple[str, Ids]]:
    """Like `documents`, as pieces that may span documents, and the places in each piece where a document ends, (M,).

    A place counts characters from the start of the piece; it is 0 if the document ended with the previous piece.
    """
    tally = ReadCounts() if tally is None else tally
    for source in sources:
        if is_read_as_table(source, settings):
            yield from _cut_rows(read_rows(source, settings, tally, size), settings, tally)
        else:
            yield from split_document_text(read_text([source], settings, tally, size), settings, tally)


def split_document_text(
    pieces: Iterable[str], settings: CorpusSettings, tally: ReadCounts | None = None
) -> Iterator[tuple[str, Ids]]:
    """Like `split_documents`, for one text that is already prepared."""
    tally = ReadCounts() if tally is None else tally
    unended = 0  # characters read of the open document
    for parts in _parts(pieces, settings):
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))  # (M + 1,)
        ends = lengths.cumsum()[:-1]  # (M,)
        lengths[0] += unended
        unended = int(lengths[-1])
        kept = ends[lengths[:-1] > 0]
        tally.separators += ends.size
        tally.add_documents(lengths[:-1])
        yield "".join(parts), kept
    if settings.documents != "none" and unended:
        tally.add_documents(np.full(1, unended))
        yield "", np.zeros(1, np.int64)
    elif settings.documents == "files":
        tally.add_documents(np.zeros(1, np.int64))


def _cut_rows(groups: Iterable[list[str]], settings: CorpusSettings, tally: ReadCounts) -> Iterator[tuple[str, Ids]]:
    """Like `split_documents`, for rows; each row ends a document."""
    split, _ = _splitter(settings)
    for group in groups:
        if settings.documents == "none":
            text = "".join(f"{row}\n" for row in group)
            tally.line_ends.add(text)
            yield text, np.zeros(0, np.int64)
            continue
        parts: list[str] = []
        for row in group:
            tally.line_ends.add(row)
            *ended, last = split(row)
            tally.separators += len(ended)
            parts += [*ended, last] if last or settings.documents == "files" else ended
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))  # (M,)
        kept = lengths.cumsum()[lengths > 0]
        tally.add_documents(lengths)
        yield "".join(parts), kept


def _each(text: str, ends: Ids) -> Iterator[tuple[str, bool]]:
    start = 0
    for end in ends.tolist():
        yield text[start:end], True
        start = end
    if start < len(text):
        yield text[start:], False


def _parts(pieces: Iterable[str], settings: CorpusSettings) -> Iterator[list[str]]:
    """Splits each piece where documents end. A possible beginning of a separator waits for the next piece."""
    split, separator = _splitter(settings)
    lines = settings.documents == "lines"
    held = ""
    for piece in pieces:
        text = held + piece
        if lines and text.endswith("\r"):  # a line feed may follow and belong to the same line end
            parts, held = split(text[:-1]), "\r"
            yield parts
            continue
        *parts, last = split(text)
        cut = len(last) - _partial_separator_length(last, separator)
        held = last[cut:]
        yield [*parts, last[:cut]]
    yield split(held)


def _splitter(settings: CorpusSettings) -> tuple[Callable[[str], list[str]], str]:
    """The function that splits a text into documents, and the separator, if any."""
    if settings.documents == "lines":
        return split_lines, ""
    if settings.documents == "separator":
        separator = prepare(settings.separator, settings)  # like the text, which is prepared too
        return lambda text: text.split(separator), separator
    return lambda text: [text], ""


def _partial_separator_length(text: str, separator: str) -> int:
    """The most characters at the end of a text that may begin a separator without being a whole one."""
    longest = min(len(text), len(separator) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(separator[:length])), 0)

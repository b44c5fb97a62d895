"""Splits text into documents, in bounded memory for any number and length of documents.

`corpus.documents` says what a document is: a line, a source (a file, standard input), or the text between two
separators. Line ends and separators belong to no document. The end of a source always ends a document. Documents
without a character are left out and counted.

Each row of a table is treated like a source: its end ends a document. If a text has no documents, a line feed follows
each row.

With `corpus.unit token`, texts are in *spaced form*: one space follows each token, and each line end, which is a token.
Pieces end after a token. What is not white space is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.decoding import PIECE_BYTES, ReadCounts, prepare, read_text, split_lines
from scriven.corpus.sources import TextSource
from scriven.corpus.tables import is_read_as_table, read_rows
from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.tokens import LINE_FEED, SPACES, tokens_of
from scriven.vocabulary import code_points

LONGEST_TOKEN = 1000  # characters


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
    sources: Iterable[TextSource],
    settings: CorpusSettings,
    tally: ReadCounts | None = None,
    size: int = PIECE_BYTES,
    *,
    keep_empty: bool = False,
) -> Iterator[tuple[str, Ids]]:
    """Like `documents`, as pieces that may span documents, and the places in each piece where a document ends, (M,).

    A place counts characters from the start of the piece; it is 0 if the document ended with the previous piece. With
    `keep_empty`, a document without a character ends, too, where a separator says so: one place for each separator.
    """
    tally = ReadCounts() if tally is None else tally
    for source in sources:
        if is_read_as_table(source, settings):
            yield from _cut_rows(read_rows(source, settings, tally, size), settings, tally)
        else:
            text = read_text([source], settings, tally, size)
            yield from split_document_text(text, settings, tally, keep_empty=keep_empty)


def split_document_text(
    pieces: Iterable[str], settings: CorpusSettings, tally: ReadCounts | None = None, *, keep_empty: bool = False
) -> Iterator[tuple[str, Ids]]:
    """Like `split_documents`, for one text that is already prepared."""
    tally = ReadCounts() if tally is None else tally
    unended = 0  # characters read of the open document
    for parts in _spaced(_parts(pieces, settings), settings, tally):
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))  # (M + 1,)
        ends = lengths.cumsum()[:-1]  # (M,)
        lengths[0] += unended
        unended = int(lengths[-1])
        kept = ends if keep_empty else ends[lengths[:-1] > 0]
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
    spaced = SpacedText(tally) if settings.unit == "token" else None
    for group in groups:
        if settings.documents == "none":
            text = "".join(f"{row}\n" for row in group)
            tally.line_ends.add(text)
            yield spaced.take([text, ""])[0] if spaced else text, np.zeros(0, np.int64)
            continue
        parts: list[str] = []
        for row in group:
            tally.line_ends.add(row)
            *ended, last = split(row)
            tally.separators += len(ended)
            each = [*ended, last] if last or settings.documents == "files" else ended
            parts += spaced.take([*each, ""])[:-1] if spaced else each
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


def _spaced(groups: Iterable[list[str]], settings: CorpusSettings, tally: ReadCounts) -> Iterator[list[str]]:
    """Puts the parts that `_parts` yields into spaced form, if the unit is the token."""
    if settings.unit != "token":
        yield from groups
        return
    spaced = SpacedText(tally)
    for parts in groups:
        yield spaced.take(parts)
    yield spaced.take([""], last=True)


class SpacedText:
    """Puts a text that comes in parts of documents into spaced form, and counts the places that were not plain.

    Plain are one space between two tokens of a line, none at its ends, and line feeds as line ends.
    """

    def __init__(self, tally: ReadCounts) -> None:
        self._tally = tally
        self._held = ""  # the end of the open document, which is not decided
        self._inside = False  # whether a token comes before that, in the same line

    def take(self, parts: Sequence[str], *, last: bool = False) -> list[str]:
        """Returns the parts in spaced form. All but the last one end a document, and that one if it is the `last`.

        What is not decided at the end waits for the next part. Raises InputError at a token that is too long.
        """
        first, *others = parts
        *whole, end = [self._held + first, *others]
        whole, end = [self._feed_lines(each) for each in whole], self._feed_lines(end, is_open=not last)
        cut = len(end) if last else _decided_length(end)
        self._held = _shorten_spaces(end[cut:])
        return [*self._end_all(whole), self._end(end) if last else self._go_on(end[:cut])]

    def _feed_lines(self, text: str, *, is_open: bool = False) -> str:
        """Returns a text with line feeds as line ends; a carriage return at the end of an open one is not decided."""
        if "\r" not in text:
            return text
        waits = is_open and text.endswith("\r")
        made = text[: len(text) - waits].replace("\r\n", LINE_FEED)
        self._tally.spaces += len(text) - waits - len(made) + made.count("\r")
        return made.replace("\r", LINE_FEED) + "\r" * waits

    def _end_all(self, texts: list[str]) -> list[str]:
        """Returns the spaced forms of the ends of documents; many short ones in plain form take little time."""
        made, rest = [self._end(each) for each in texts[:1]], texts[1:]
        joined = LINE_FEED.join(rest)
        if joined.count(LINE_FEED) < len(rest) and not _count_odd_spaces(joined) and not _has_long(joined):
            return made + [f"{each} " if each else "" for each in rest]
        return made + [self._end(each) for each in rest]

    def _end(self, text: str) -> str:
        """Returns the spaced form of the end of a document."""
        made = self._space(text)
        self._inside = False
        return made

    def _go_on(self, text: str) -> str:
        """Returns the spaced form of text after which the document continues, and which ends after a token."""
        made = self._space(text)
        self._inside = not made.endswith(f"{LINE_FEED} ") if made else self._inside
        return made

    def _space(self, text: str) -> str:
        if not text:
            return ""
        begun = "x" * self._inside  # so that spaces after an earlier token are not taken for those at a line's start
        odd = _count_odd_spaces(begun + text)
        self._tally.spaces += odd
        if not odd and LINE_FEED * 2 not in text and not _has_long(text):
            return f"{text.replace(LINE_FEED, f' {LINE_FEED} ').strip(' ')} "
        tokens = tokens_of(text)
        _check_length(max(tokens, key=len, default=""))
        return " ".join([*tokens, ""])


_ODD_SPACES = re.compile(r"(?m)^[ \t]+|[ \t]+$|\t[ \t]*| [ \t]+")


def _count_odd_spaces(text: str) -> int:
    """Returns how many runs of spaces are not plain. Line ends are line feeds."""
    plain = "\t" not in text and "  " not in text and " \n" not in text and "\n " not in text
    if plain and text[:1] != " " and text[-1:] != " ":
        return 0
    return sum(1 for _ in _ODD_SPACES.finditer(text))


def _decided_length(text: str) -> int:
    """Returns how much of an open text is decided: up to its last line feed, or to its last complete token.

    Raises InputError if the token after that is too long.
    """
    begin = text.rfind(LINE_FEED) + 1
    rest = text[begin:].rstrip(SPACES)
    place = max(map(rest.rfind, SPACES))
    _check_length(rest[place + 1 :])
    return begin + len(rest[: place + 1].rstrip(SPACES))


def _has_long(text: str) -> bool:
    """Whether a text in plain form has a token that is too long."""
    if len(text) <= LONGEST_TOKEN:
        return False
    points = code_points(text)
    ends = np.flatnonzero((points == ord(" ")) | (points == ord(LINE_FEED)))
    return bool(np.diff(ends, prepend=-1, append=len(points)).max() - 1 > LONGEST_TOKEN)


def _check_length(token: str) -> None:
    """Raises InputError if a token is too long."""
    if len(token) > LONGEST_TOKEN:
        raise InputError(
            f"the token {token[:20]!r}... has over {LONGEST_TOKEN:,} characters, so spaces do not separate the tokens "
            "of this text; write spaces between them, or leave out --corpus.unit token"
        )


def _shorten_spaces(text: str) -> str:
    """Returns a text with long runs of spaces cut to two, which count alike, so that it cannot grow for ever."""
    return re.sub("[ \t]{3,}", "  ", text) if len(text) > LONGEST_TOKEN else text


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

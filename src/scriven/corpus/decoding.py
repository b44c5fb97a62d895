"""Reads the text of sources in pieces: decompresses, decodes and prepares it (case, punctuation, NFC), and finds lines.

A line ends with a line feed (LF), a carriage return (CR, used by old Macs), or both (CR LF, used by Windows).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib
import lzma
import os
import re
import sys
import unicodedata
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.encodings import decode, drop_marks
from scriven.corpus.filesystem import EXTRA, explain_errors, open_file
from scriven.corpus.sources import TextSource, changed_error
from scriven.corpus.structure import note_structure
from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.vocabulary import UNICODE_SIZE, code_points

LINE_END = re.compile("\r\n|\r|\n")
SYSTEMS = {"CR LF": "as of Windows", "CR": "as of old Macs"}


@dataclass
class LineEnds:
    """Counts of line feeds, of carriage returns, and of pairs of a carriage return and a line feed."""

    feeds: int = 0
    returns: int = 0
    pairs: int = 0

    def __add__(self, other: LineEnds) -> LineEnds:
        return LineEnds(self.feeds + other.feeds, self.returns + other.returns, self.pairs + other.pairs)

    def count(self, pieces: Iterable[str]) -> Iterator[str]:
        """Passes the pieces of one text on, and counts its line ends."""
        returned = False
        for piece in pieces:
            self.pairs += returned and piece.startswith("\n")
            self.add(piece)
            returned = piece.endswith("\r") if piece else returned
            yield piece

    def add(self, text: str) -> None:
        """Counts the line ends of a text."""
        self.feeds += text.count("\n")
        if "\r" in text:
            self.returns += text.count("\r")
            self.pairs += text.count("\r\n")

    @property
    def lines(self) -> int:
        """The number of line ends of all kinds."""
        return self.feeds + self.returns - self.pairs

    @property
    def kinds(self) -> dict[str, int]:
        """The number of line ends of each kind that occurs."""
        counts = {"CR LF": self.pairs, "CR": self.returns - self.pairs, "LF": self.feeds - self.pairs}
        return {kind: count for kind, count in counts.items() if count}

    def __str__(self) -> str:
        """A phrase such as "CR line ends, as of old Macs" or "mixed line ends: 3 CR LF, 5 LF"."""
        kinds = self.kinds
        if len(kinds) > 1:
            return "mixed line ends: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        kind = next(iter(kinds), "no")
        return f"{kind} line ends" + (f", {SYSTEMS[kind]}" if kind in SYSTEMS else "")


def split_lines(text: str) -> list[str]:
    """Splits a text at its line ends; a text that ends with one has an empty last part."""
    return (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n")


def lines_of(pieces: Iterable[str], longest: int, name: str, kind: str) -> Iterator[str]:
    """The lines of a text that comes in pieces, each line with its end; the last one may have none.

    Raises InputError if a line has over `longest` characters; `kind` is the kind of file that was expected.
    """
    held, length, number = list[str](), 0, 1  # the line that has not ended yet, its characters, and its number
    returned = False  # whether the last character was a carriage return, so that a line feed may still follow
    for piece in pieces:
        text, begin = "\r" * returned + piece, 0
        returned = text.endswith("\r")
        for match in LINE_END.finditer(text, 0, len(text) - returned):
            yield "".join([*held, text[begin : match.end()]])
            held, length, begin, number = [], 0, match.end(), number + 1
        held.append(text[begin : len(text) - returned])
        length += len(held[-1])
        if length > longest:
            raise InputError(f"{name}, line {number:,} has over {longest:,} characters; is it really {kind}?")
    if returned or length:
        yield "".join([*held, "\r" * returned])


_PLAIN_PUNCTUATION = {
    "'": "\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a",
    '"': "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb",
    "-": "\u2010\u2011\u2012\u2013\u2212\u2043",
    "--": "\u2014\u2015",
    "...": "\u2026",
    "*": "\u2022",
    " ": "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f",
    "": "\u00ad",  # a soft hyphen marks a place where a word may be broken
}
_TABLE = {ord(character): plain for plain, characters in _PLAIN_PUNCTUATION.items() for character in characters}


def fold_punctuation(text: str) -> str:
    """A text with plain quotes, dashes, dots and spaces: “It’s” becomes "It's", an en dash "-", an em dash "--"."""
    return text if text.isascii() else text.translate(_TABLE)


def replaced_punctuation(settings: CorpusSettings) -> dict[str, str]:
    """Returns the characters that `prepare` replaces, and by what; empty if the settings keep them."""
    return {chr(point): plain for point, plain in _TABLE.items()} if settings.punctuation == "ascii" else {}


PIECE_BYTES = 1 << 20  # bytes read at once


class Change:
    """Counts the characters that a transformation replaced, as the sum of how much rarer each character became."""

    @cached_property
    def _lost(self) -> Ids:
        return np.zeros(UNICODE_SIZE, np.int64)

    @property
    def _is_counted(self) -> bool:
        """Whether anything was counted; memory for the counts is taken only then."""
        return "_lost" in self.__dict__

    def add(self, before: str, after: str) -> None:
        """Counts one piece of text, before and after the transformation."""
        if before == after:
            return
        for text, sign in ((before, 1), (after, -1)):
            found = np.bincount(code_points(text))
            self._lost[: found.size] += sign * found

    @property
    def characters(self) -> int:
        """The number of characters of the original that are not in the result."""
        return int(np.maximum(self._lost, 0).sum()) if self._is_counted else 0

    def to_pairs(self) -> tuple[tuple[int, int], ...]:
        """All counts: code points, and how much rarer each became."""
        if not self._is_counted:
            return ()
        found = np.flatnonzero(self._lost)
        return tuple(zip(found.tolist(), self._lost[found].tolist(), strict=True))

    def add_pairs(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Adds counts that `to_pairs` of another one returned."""
        for point, lost in pairs:
            self._lost[point] += lost


@dataclass
class ReadCounts:
    """Running counts of what `read_text` reads and changes, and of the documents found in it."""

    position: int = 0  # bytes of the files, compressed ones as they are
    marks: int = 0  # byte order marks at the start of sources; they are left out
    invalid: int = 0  # bytes that were not valid in the encoding
    line_ends: LineEnds = field(default_factory=LineEnds)
    lowercased: Change = field(default_factory=Change)
    punctuation: Change = field(default_factory=Change)
    normalized: Change = field(default_factory=Change)
    spaces: int = 0  # places where white space between tokens was put into plain form
    streamed: Any = field(default_factory=hashlib.sha256)  # of the bytes of sources without a stamp
    documents: int = 0  # with characters in them
    empty: int = 0  # documents without any
    separators: int = 0  # line feeds or separators that ended a document
    empty_places: deque[int] | None = None  # if wanted: the number of each empty one among all documents, from 0
    bad_rows: int = 0  # rows of tables that were left out
    structure: str = ""  # a note on the first source that has structure but is read as plain text

    def add_documents(self, lengths: Ids) -> None:
        """Counts documents of these lengths (M,)."""
        empty = np.flatnonzero(lengths == 0)
        if self.empty_places is not None:
            self.empty_places.extend((empty + self.documents + self.empty).tolist())
        self.documents += lengths.size - empty.size
        self.empty += empty.size

    def add_mark(self) -> None:
        """Counts a byte order mark."""
        self.marks += 1

    def add_bytes(self, count: int) -> None:
        """Counts the bytes of a file that was read as a whole."""
        self.position += count

    def note_structure(self, note: str) -> None:
        """Keeps the first note on a source that has structure."""
        self.structure = self.structure or note

    def add_invalid(self, count: int) -> None:
        """Counts invalid bytes."""
        self.invalid += count


def read_text(
    sources: Iterable[TextSource], settings: CorpusSettings, tally: ReadCounts | None = None, size: int = PIECE_BYTES
) -> Iterator[str]:
    """The prepared text of the sources, one after another, in pieces of about `size` bytes.

    Line ends are kept; a byte order mark at the start of a source is left out. Each invalid byte becomes U+FFFD if
    `settings.invalid` is "replace", or a code point U+DC80..U+DCFF if it is "bytes". The text does not depend on the
    size. With lower case or NFC, a piece grows until there is a place where a cut changes nothing.
    Raises InputError if a source cannot be read or is damaged, and for an invalid byte with "strict".
    """
    tally = ReadCounts() if tally is None else tally
    for source in sources:
        pieces = decode_source(source, settings, tally, size)
        if not (source.is_zipped or _begins_inside(source)):
            pieces = note_structure(pieces, source, tally.note_structure)
        pieces = tally.line_ends.count(pieces)
        yield from filter(None, prepare_pieces(pieces, settings, tally))


def prepare_pieces(pieces: Iterable[str], settings: CorpusSettings, tally: ReadCounts | None = None) -> Iterator[str]:
    """Prepares a text that comes in pieces, with the same result as `prepare` of the whole text."""
    if not changes_text(settings):
        return iter(pieces)
    return (prepare(piece, settings, tally) for piece in (_recut(pieces) if depends_on_context(settings) else pieces))


def prepare(text: str, settings: CorpusSettings, tally: ReadCounts | None = None) -> str:
    """A whole text in the form that the settings ask for: in lower case, with plain punctuation, in NFC."""
    tally = ReadCounts() if tally is None else tally
    lowered = text.lower() if settings.lowercase else text
    tally.lowercased.add(text, lowered)
    plain = fold_punctuation(lowered) if settings.punctuation == "ascii" else lowered
    tally.punctuation.add(lowered, plain)
    normal = unicodedata.normalize("NFC", plain) if settings.normalize == "nfc" else plain
    tally.normalized.add(plain, normal)
    return normal


def changes_text(settings: CorpusSettings) -> bool:
    """Whether `prepare` changes texts."""
    return depends_on_context(settings) or settings.punctuation == "ascii"


def depends_on_context(settings: CorpusSettings) -> bool:
    """Whether the characters around a character change what `prepare` does with it."""
    return settings.lowercase or settings.normalize == "nfc"


def decode_source(
    source: TextSource, settings: CorpusSettings, tally: ReadCounts, size: int = PIECE_BYTES
) -> Iterator[str]:
    """The text of one source, like `read_text` but not prepared."""
    if source.is_zipped:
        from scriven.corpus.zipped import zipped_text  # noqa: PLC0415 - it needs parsers of XML and HTML

        return zipped_text(source, tally.add_bytes)
    begun = source.span[0] if source.span else 0
    pieces = decode(_chunks(source, tally, size), source.name, settings, tally.add_invalid, begun)
    return pieces if _begins_inside(source) else drop_marks(pieces, tally.add_mark)


def _begins_inside(source: TextSource) -> bool:
    """Whether only a later part of a source is read."""
    return source.span is not None and source.span[0] > 0


def _chunks(source: TextSource, tally: ReadCounts, size: int) -> Iterator[bytes]:
    """The decompressed bytes of a source, in chunks; updates `tally.position`.

    If a plain file grows meanwhile, only the bytes that it had when it was found are read.
    """
    begun, packed = tally.position, source.suffixes[1]
    unpack, damage = _compression(packed)
    first, end = source.span or (0, source.stamp[0] if source.stamp and not packed else 0)
    left = end - first if end else sys.maxsize  # files such as those in /proc have bytes though their size is 0
    remote = isinstance(source.path, str)
    with explain_errors(source.name, damage, remote=remote), _open(source) as raw, unpack(raw) as stream:
        if first:
            raw.seek(first)
        while left > 0 and (chunk := stream.read(min(size, left))):
            left -= len(chunk)
            if source.stamp is None:
                tally.streamed.update(chunk)
                tally.position += len(chunk)
            else:
                tally.position = begun + raw.tell() - first
            yield chunk
        if (end and left) or (isinstance(source.path, Path) and _has_changed(source, os.fstat(raw.fileno()))):
            raise changed_error(source)


def _has_changed(source: TextSource, now: os.stat_result) -> bool:
    """Whether a file has changed since it was found; a plain one may have grown."""
    if source.stamp is None or not source.stamp[0]:
        return False
    grown = now.st_size > source.stamp[0] and not source.suffixes[1]
    return (now.st_size, now.st_mtime_ns) != source.stamp and not grown


def _open(source: TextSource) -> AbstractContextManager[IO[bytes]]:
    return open_file(source.path) if source.path else nullcontext(sys.stdin.buffer)


def _compression(suffix: str) -> tuple[Callable[[Any], AbstractContextManager[Any]], type[Exception]]:
    """The function that decompresses a file, and the exception for a damaged one besides EOFError and OSError."""
    if suffix == ".gz":
        return gzip.open, zlib.error
    if suffix == ".xz":
        return lzma.open, lzma.LZMAError
    if suffix == ".bz2":
        return bz2.open, EOFError
    if suffix == ".zst":
        zstd = _zstd()
        return zstd.open, zstd.ZstdError
    return nullcontext, EOFError


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise InputError(f"to read .zst files, install what they need with: {EXTRA}")


def _recut(pieces: Iterable[str]) -> Iterator[str]:
    """Cuts a text again, only at places where both sides can be put in lower case and NFC independently."""
    held = ""
    for piece in pieces:
        held += piece
        if cut := re.match(_SAFE, held):
            yield held[: cut.end()]
            held = held[cut.end() :]
    yield held


# It is safe to cut before white space, and between two Latin letters, digits, kana, ideographs or Hangul syllables:
# NFC combines nothing there, and the context that decides between the two small sigmas ends.
_PLAIN = "[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uac00-\ud7a3]"
_SAFE = rf"(?s).+(?=\s|(?<={_PLAIN}){_PLAIN})"  # compiled when it is used: that takes as long as to import the rest

"""The text of sources, as pieces in bounded memory: decompressed, decoded, in lower case and normalised as wanted."""

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
from scriven.corpus.line_ends import LineEnds
from scriven.corpus.sources import TextSource, changed_error
from scriven.corpus.structure import note_structure
from scriven.corpus.zipped import zipped_text
from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.vocabulary import UNICODE_SIZE, code_points

_PLAIN_PUNCTUATION = {
    "'": "\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a",
    '"': "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb",
    "-": "\u2010\u2011\u2012\u2013\u2212\u2043",
    "--": "\u2014\u2015",
    "...": "\u2026",
    "*": "\u2022",
    " ": "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f",
    "": "\u00ad",  # a soft hyphen, which shows a place where a word may be broken
}
_TABLE = {ord(character): plain for plain, characters in _PLAIN_PUNCTUATION.items() for character in characters}


def fold_punctuation(text: str) -> str:
    """A text with plain quotes, dashes, dots and spaces: “It’s” is "It's", an en dash "-", an em dash "--"."""
    return text if text.isascii() else text.translate(_TABLE)


PIECE = 1 << 20  # bytes read at once


class Change:
    """Counts the characters that a transformation replaced: by how much each character became rarer, summed."""

    @cached_property
    def _lost(self) -> Ids:
        return np.zeros(UNICODE_SIZE, np.int64)

    @property
    def _is_counted(self) -> bool:
        """Whether there is anything; else no memory is taken for it."""
        return "_lost" in self.__dict__

    def add(self, before: str, after: str) -> None:
        """Count one piece of text."""
        if before == after:
            return
        for text, sign in ((before, 1), (after, -1)):
            found = np.bincount(code_points(text))
            self._lost[: found.size] += sign * found

    @property
    def characters(self) -> int:
        """How many characters of the original are not in the result."""
        return int(np.maximum(self._lost, 0).sum()) if self._is_counted else 0

    def to_pairs(self) -> tuple[tuple[int, int], ...]:
        """All that was counted: code points, and by how much each became rarer."""
        if not self._is_counted:
            return ()
        found = np.flatnonzero(self._lost)
        return tuple(zip(found.tolist(), self._lost[found].tolist(), strict=True))

    def add_pairs(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Count what `to_pairs` gave elsewhere."""
        for point, lost in pairs:
            self._lost[point] += lost


@dataclass
class ReadCounts:
    """What `read_text` has read and changed so far, and what `scriven.corpus.documents` has found in it."""

    position: int = 0  # bytes of the files as they lie on the disk
    marks: int = 0  # byte order marks at the start of sources, left out
    invalid: int = 0  # bytes that were not of the encoding
    line_ends: LineEnds = field(default_factory=LineEnds)
    lowercased: Change = field(default_factory=Change)
    punctuation: Change = field(default_factory=Change)
    normalized: Change = field(default_factory=Change)
    streamed: Any = field(default_factory=hashlib.sha256)  # of what came from sources without a stamp
    documents: int = 0  # with characters in them
    empty: int = 0  # documents without any
    separators: int = 0  # line feeds or separators that ended a document
    empty_places: deque[int] | None = None  # where wanted: the place of each empty one among all documents, from 0 on
    bad_rows: int = 0  # rows of tables that were left out
    structure: str = ""  # a note on a source that is read as it is, though it has structure

    def add_documents(self, lengths: Ids) -> None:
        """Count documents of these lengths (M,)."""
        empty = np.flatnonzero(lengths == 0)
        if self.empty_places is not None:
            self.empty_places.extend((empty + self.documents + self.empty).tolist())
        self.documents += lengths.size - empty.size
        self.empty += empty.size

    def add_mark(self) -> None:
        """Count a byte order mark."""
        self.marks += 1

    def add_bytes(self, count: int) -> None:
        """Count bytes of a file that was read at once."""
        self.position += count

    def note_structure(self, note: str) -> None:
        """Keep the first note on what is read as it is though it has structure."""
        self.structure = self.structure or note

    def add_invalid(self, count: int) -> None:
        """Count bytes that are not of the encoding."""
        self.invalid += count


def read_text(
    sources: Iterable[TextSource], settings: CorpusSettings, tally: ReadCounts | None = None, size: int = PIECE
) -> Iterator[str]:
    """The text of the sources, one after another, in pieces of about `size` bytes, as the settings prepare it.

    Line ends are kept as they are; a byte order mark at the start of a source is left out. Bytes that are not of the
    encoding become U+FFFD each (`invalid` is "replace") or code points U+DC80..U+DCFF ("bytes"). The text is the same
    whatever the size; with lower case or NFC, a piece grows until there is a place where cutting changes nothing.
    Raises InputError when a source cannot be read, is damaged, or is not of the encoding ("strict").
    """
    tally = ReadCounts() if tally is None else tally
    for source in sources:
        pieces = decode_source(source, settings, tally, size)
        if not (source.is_zipped or _begins_inside(source)):
            pieces = note_structure(pieces, source, tally.note_structure)
        pieces = tally.line_ends.count(pieces)
        yield from filter(None, prepare_pieces(pieces, settings, tally))


def prepare_pieces(pieces: Iterable[str], settings: CorpusSettings, tally: ReadCounts | None = None) -> Iterator[str]:
    """The pieces of a text, any, as `prepare` makes them of the whole: with lower case or NFC they are cut anew."""
    if not changes_text(settings):
        return iter(pieces)
    return (prepare(piece, settings, tally) for piece in (_recut(pieces) if looks_around(settings) else pieces))


def prepare(text: str, settings: CorpusSettings, tally: ReadCounts | None = None) -> str:
    """A whole text as a corpus of these settings holds it: in lower case, in plain punctuation, in NFC as they say."""
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
    return looks_around(settings) or settings.punctuation == "ascii"


def looks_around(settings: CorpusSettings) -> bool:
    """Whether what `prepare` makes of a character depends on those around it."""
    return settings.lowercase or settings.normalize == "nfc"


def decode_source(source: TextSource, settings: CorpusSettings, tally: ReadCounts, size: int = PIECE) -> Iterator[str]:
    """As `read_text` of one source, before it is prepared."""
    if source.is_zipped:
        return zipped_text(source, tally.add_bytes)
    begun = source.span[0] if source.span else 0
    pieces = decode(_chunks(source, tally, size), source.name, settings, tally.add_invalid, begun)
    return pieces if _begins_inside(source) else drop_marks(pieces, tally.add_mark)


def _begins_inside(source: TextSource) -> bool:
    """Whether only a later part of a source is read."""
    return source.span is not None and source.span[0] > 0


def _chunks(source: TextSource, tally: ReadCounts, size: int) -> Iterator[bytes]:
    """The bytes of a source, decompressed; `tally.position` follows.

    Of a plain file that grows meanwhile, what was there when it was found is read.
    """
    begun, packed = tally.position, source.suffixes[1]
    unpack, damage = _compression(packed)
    first, end = source.span or (0, source.stamp[0] if source.stamp and not packed else 0)
    left = end - first if end else sys.maxsize  # files such as those in /proc say that they have no bytes, and have
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
    """Whether a file is another one than was found; a plain one that has grown is not."""
    if source.stamp is None or not source.stamp[0]:
        return False
    grown = now.st_size > source.stamp[0] and not source.suffixes[1]
    return (now.st_size, now.st_mtime_ns) != source.stamp and not grown


def _open(source: TextSource) -> AbstractContextManager[IO[bytes]]:
    return open_file(source.path) if source.path else nullcontext(sys.stdin.buffer)


def _compression(suffix: str) -> tuple[Callable[[Any], AbstractContextManager[Any]], type[Exception]]:
    """How to decompress a file, and what is raised where it is damaged (besides EOFError and OSError)."""
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
    """The same text cut only where lower case and NFC of the two sides are those of the whole."""
    held = ""
    for piece in pieces:
        held += piece
        if cut := _SAFE.match(held):
            yield held[: cut.end()]
            held = held[cut.end() :]
    yield held


# White space never joins with what comes before it, neither as NFC nor in the context that decides between the two
# small sigmas; nor does a Latin letter, digit, kana, ideograph or Hangul syllable after another one.
_PLAIN = "[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uac00-\ud7a3]"
_SAFE = re.compile(rf"(?s).+(?=\s|(?<={_PLAIN}){_PLAIN})")

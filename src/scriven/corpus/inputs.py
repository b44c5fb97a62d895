"""What a corpus is made from: texts that are read, as symbols, and what is known of them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.decoding import PIECE, ReadCounts
from scriven.corpus.documents import split_documents
from scriven.corpus.header import FORMAT
from scriven.corpus.line_ends import split_lines
from scriven.corpus.partition import partition_sources
from scriven.corpus.shards import Drafted
from scriven.corpus.sources import BINARY_TABLES, TABLES, TextSource, find, stamps_of
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings, Frozen
from scriven.suggestions import join_names
from scriven.vocabulary import Symbols, byte_places, byte_values, code_points


def check_useful(settings: CorpusSettings, sources: Sequence[TextSource]) -> None:
    """Raises UsageError where a setting would do nothing for the sources."""
    _check_column(settings, sources)
    if settings.validation_file and settings.validation >= 1:
        raise UsageError(
            f"corpus.validation {settings.validation:,.0f} would do nothing, as corpus.validation_file has the text "
            "for validation; drop one of them"
        )
    if settings.duplicates == "drop" and (
        settings.documents == "none" or not (settings.validation or settings.validation_file)
    ):
        raise UsageError(
            "corpus.duplicates drop would do nothing, as it is about documents that validate; say what a document is "
            "with --corpus.documents, or drop it"
        )
    has_bytes = [not source.is_zipped and source.suffixes[0] not in BINARY_TABLES for source in sources]
    if settings.encoding != "utf-8" and not any(has_bytes):
        raise UsageError(
            f"corpus.encoding {settings.encoding} would do nothing, as {sources[0].name} says itself how its text is "
            "encoded; drop it"
        )


def _check_column(settings: CorpusSettings, sources: Sequence[TextSource]) -> None:
    if settings.bad_rows == "skip" and not settings.column:
        raise UsageError(
            "corpus.bad_rows skip would do nothing, as no column is named, and so no rows are read; name it with "
            "--corpus.column, or drop it"
        )
    without = [source.name for source in sources if not source.is_table and source.path is not None]
    if settings.column and without:
        raise UsageError(
            f"corpus.column {settings.column} would do nothing for {without[0]}, which is no table by its name; "
            f"drop it, or name only tables: files that end in {join_names(TABLES)}"
        )


_SPECIAL = re.compile(r"<.+>")
_ESCAPE = re.compile(r"\\([nrt\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(0[0-9a-fA-F]|10)[0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Alphabet:
    """Code points, strictly rising, and what else the file had in it."""

    symbols: tuple[int, ...]
    special: tuple[str, ...] = ()  # names in angle brackets, left out
    repeated: int = 0  # entries that were there before

    def notes(self) -> Iterator[str]:
        """What the user should know, a sentence each."""
        if self.special:
            yield f"left out of the alphabet, as names and not characters: {', '.join(self.special)}"
        if self.repeated:
            yield f"the alphabet repeats {self.repeated:,} of its characters"


def read_alphabet(path: Path) -> Alphabet:
    """The alphabet in a file.

    Raises InputError when it cannot be read, names something that is not one character, or has none.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the alphabet {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the alphabet {path} is not UTF-8 at byte {error.start}; convert it") from None
    entries = _in_json(text, path)
    return _alphabet_of(_in_lines(text) if entries is None else entries, path)


def _alphabet_of(entries: Iterable[Any], path: Path) -> Alphabet:
    symbols, special, count = set[int](), list[str](), 0
    for entry in entries:
        if isinstance(entry, str) and len(entry) == 1:
            symbols.add(ord(entry))
            count += 1
        elif isinstance(entry, str) and _SPECIAL.fullmatch(entry):
            special.append(entry)
        else:
            raise InputError(f"the alphabet {path} has {entry!r} in it, which is not one character; remove it")
    if not symbols:
        raise InputError(f"the alphabet {path} has no character in it; write one a line, or a JSON list of them")
    return Alphabet(tuple(sorted(symbols)), tuple(special), count - len(symbols))


def _in_json(text: str, path: Path) -> list[Any] | None:
    """The entries of a JSON list or object; none where the text is not that."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise InputError(f"the alphabet {path} is not JSON ({error}); mend it, or give it another suffix") from None
        return None
    if isinstance(values, dict):
        symbols = values.get("symbols")
        return symbols if isinstance(symbols, list) else list(values)
    return values if isinstance(values, list) else None


def _in_lines(text: str) -> Iterator[str]:
    """The entries of plain text, empty lines left out."""
    for entry in split_lines(text):
        if entry:
            yield entry.encode("ascii").decode("unicode_escape") if _ESCAPE.fullmatch(entry) else entry


SLICE = 1 << 17  # characters made symbols at once: their buffers are kept, and stay in the processor's cache
Progress = Callable[[int, int | None], None]  # told a material's position and size; twice both where written too
Name = Literal["text", "held"]
Stretch = tuple[Symbols, Ids]  # symbols (characters,), and the places in them where documents end (M,)


class CorpusOrigin(Frozen):
    """What a corpus is made from, the same for all its parts."""

    key: str  # a hash of what the corpus depends on
    texts: tuple[str, ...]  # as they were named
    settings: CorpusSettings
    sources: int
    skipped: int
    skipped_note: str  # empty where nothing was
    alphabet: Alphabet | None


class CorpusInput(Protocol):
    """Texts as symbols, read once, in order: first `text`, then `held`. The tally and the position follow."""

    settings: CorpusSettings
    tally: ReadCounts
    has_held: bool  # whether there is text of its own for validation

    @property
    def size(self) -> int | None:
        """What the position will be at the end; none where that is not known."""

    @property
    def position(self) -> int:
        """How far reading has got."""

    def text(self) -> Iterator[Stretch]:
        """The text, in stretches."""

    def validation_file(self) -> Iterator[Stretch]:
        """The text of its own for validation."""

    def draft(self, name: Name, ends: Path) -> Drafted | None:
        """The text, or that for validation, where it lies on the disk as ids already, to be taken from at once.

        The places where documents end are then written to `ends`. None where it must be read.
        """

    def origin(self) -> CorpusOrigin:
        """What it is made from; known when all has been read."""

    def stamps(self) -> str:
        """A hash that changes with what it is made from; empty where that is known only once it is read."""


class TextInput:
    """Texts as users name them, all of them or one part of several."""

    def __init__(
        self,
        texts: Sequence[str],
        settings: CorpusSettings,
        part: tuple[int, int] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        """`strict` refuses settings that would do nothing for these texts, with UsageError."""
        self.texts, self.settings, self.tally = tuple(texts), settings, ReadCounts()
        held = [settings.validation_file] if settings.validation_file else []
        self._found = find(texts, settings.column), find(held, settings.column)
        if strict:
            check_useful(settings, self._found[0].sources)
        self._alphabet = _alphabet(settings)
        all_of_it = [found.sources for found in self._found]
        self._taken = partition_sources(all_of_it, *part, settings) if part else all_of_it
        self.has_held = bool(held)

    @property
    def size(self) -> int | None:
        """Bytes of what is read as they lie on the disk; none where they are known only once they are read."""
        sizes = [_size(source) for part in self._taken for source in part]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def position(self) -> int:
        """Bytes read so far, as they lie on the disk."""
        return self.tally.position

    def text(self) -> Iterator[Stretch]:
        """See `CorpusInput`."""
        return self._stretches(self._taken[0])

    def validation_file(self) -> Iterator[Stretch]:
        """See `CorpusInput`."""
        return self._stretches(self._taken[1])

    @property
    def sources(self) -> list[TextSource]:
        """All sources, also where one part of several is taken."""
        return [source for found in self._found for source in found.sources]

    def key(self) -> str:
        """What the corpus depends on, as a short hash; of standard input and pipes, what was read of them so far."""
        return self._key(lambda source: source.stamp)

    def timeless_key(self) -> str:
        """As `key`, without the times of files: the same for all contents of their sizes."""
        return self._key(lambda source: source.stamp and source.stamp[: 1 if isinstance(source.path, Path) else 2])

    def stamps(self) -> str:
        """See `CorpusInput`."""
        return "" if self.size is None else stamps_of(self.sources)

    def _key(self, stamp: Callable[[TextSource], Sequence[int] | None]) -> str:
        parts = [[(str(source.path), stamp(source)) for source in found.sources] for found in self._found]
        streamed = self.tally.streamed.hexdigest()
        alphabet = self._alphabet.symbols if self._alphabet else None
        values = [FORMAT, unicodedata.unidata_version, self.settings.model_dump(), parts, streamed, alphabet]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]

    def draft(self, name: Name, ends: Path) -> None:
        """See `CorpusInput`."""

    def origin(self) -> CorpusOrigin:
        """See `CorpusInput`."""
        skipped = [name for found in self._found for name in found.skipped]
        return CorpusOrigin(
            key=self.key(),
            texts=tuple(text.encode("utf-8", "replace").decode() for text in self.texts),
            settings=self.settings,
            sources=sum(len(found.sources) for found in self._found),
            skipped=len(skipped),
            skipped_note="; ".join(self._skipped_words()),
            alphabet=self._alphabet,
        )

    def _skipped_words(self) -> Iterator[str]:
        links = [name for found in self._found for name in found.links]
        others = [name for found in self._found for name in found.skipped if name not in found.links]
        if others:
            yield f"skipped in folders, as not text by their names: {some(others)}"
        if links:
            yield f"links to folders are followed where they are named themselves, and were skipped: {some(links)}"

    def _stretches(self, sources: Sequence[TextSource]) -> Iterator[Stretch]:
        for text, ends in split_documents(sources, self.settings, self.tally, PIECE):
            for part, inside in _slice(text, ends, SLICE):
                if self.settings.unit == "byte":
                    yield byte_values(part), byte_places(part, inside)
                else:
                    yield code_points(part), inside


def some(names: Sequence[str]) -> str:
    """A few of the names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def amount(count: int, one: str, many: str) -> str:
    """A count with what is counted, in words for one and for any other number."""
    return f"{count:,} {one if count == 1 else many}"


def _size(source: TextSource) -> int | None:
    if source.span:
        return source.span[1] - source.span[0]
    return source.stamp[0] if source.stamp else None


def _alphabet(settings: CorpusSettings) -> Alphabet | None:
    if not settings.alphabet:
        return None
    if settings.unit == "byte":
        raise UsageError("corpus.alphabet is of characters, and corpus.unit byte knows all bytes; drop one of them")
    return read_alphabet(Path(settings.alphabet))


def _slice(text: str, ends: Ids, size: int) -> Iterator[tuple[str, Ids]]:
    """A text and the places in it where documents end, (M,), in slices; one empty slice where there is no text."""
    starts = range(0, len(text) or 1, size)
    for start, inside in zip(starts, np.split(ends, np.searchsorted(ends, starts[1:], "right")), strict=True):
        yield text[start : start + size], inside - start  # an end between two slices is in the first one

"""The input of a corpus: texts that are read as symbols, the alphabet, and checks of the settings."""

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
from scriven.corpus.decoding import PIECE_BYTES, ReadCounts, split_lines
from scriven.corpus.documents import split_documents
from scriven.corpus.encodings import drop_mark
from scriven.corpus.header import FORMAT
from scriven.corpus.partition import partition_sources
from scriven.corpus.shards import Drafted
from scriven.corpus.sources import BINARY_TABLES, TABLES, TextSource, find, hash_stamps
from scriven.errors import InputError, UsageError, join_names
from scriven.safe_files import read_whole
from scriven.settings import CorpusSettings, Frozen
from scriven.tokens import MOST_TOKENS, TokenNumbers, is_token
from scriven.vocabulary import Symbols, byte_places, byte_values, code_points, token_places


def check_useful(settings: CorpusSettings, sources: Sequence[TextSource]) -> None:
    """Raises UsageError if a setting would have no effect on the sources."""
    _check_column(settings, sources)
    if settings.validation_file and settings.validation >= 1:
        raise UsageError(
            f"corpus.validation {settings.validation:,.0f} would do nothing, as corpus.validation_file is the "
            "validation text; drop one of them"
        )
    if settings.duplicates == "drop" and (
        settings.documents == "none" or not (settings.validation or settings.validation_file)
    ):
        raise UsageError(
            "corpus.duplicates drop would do nothing, as there are no validation documents; say what a document is "
            "with --corpus.documents, or drop it"
        )
    has_bytes = [not source.is_zipped and source.suffixes[0] not in BINARY_TABLES for source in sources]
    if settings.encoding != "utf-8" and not any(has_bytes):
        raise UsageError(
            f"corpus.encoding {settings.encoding} would do nothing, as the format of {sources[0].name} fixes the "
            "encoding; drop it"
        )


def _check_column(settings: CorpusSettings, sources: Sequence[TextSource]) -> None:
    if settings.bad_rows == "skip" and not settings.column:
        raise UsageError(
            "corpus.bad_rows skip would do nothing, as no rows are read without a column; name one with "
            "--corpus.column, or drop it"
        )
    without = [source.name for source in sources if not source.is_table and source.path is not None]
    if settings.column and without:
        raise UsageError(
            f"corpus.column {settings.column} would do nothing for {without[0]}, whose name is not that of a table; "
            f"drop it, or give only tables: files that end in {join_names(TABLES)}"
        )


LARGEST_TEXT = 1 << 30  # bytes of a file that is read as a whole
_SPECIAL = re.compile(r"<.+>")
_ESCAPE = re.compile(r"\\([nrt\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(0[0-9a-fA-F]|10)[0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Alphabet:
    """Code points, strictly rising, or tokens, and the entries of the alphabet's file that were left out."""

    symbols: tuple[int, ...]
    special: tuple[str, ...] = ()  # names in angle brackets
    repeated: int = 0  # entries that the file had before
    tokens: tuple[str, ...] = ()  # strictly rising

    def notes(self) -> Iterator[str]:
        """Notes for the user, one sentence each."""
        if self.special:
            yield f"left out of the alphabet, as they are names and not characters: {', '.join(self.special)}"
        if self.repeated:
            yield f"the alphabet repeats {self.repeated:,} of its {'tokens' if self.tokens else 'characters'}"


def read_alphabet(path: Path, *, of_tokens: bool = False) -> Alphabet:
    """Reads the alphabet in a file.

    Raises InputError if it cannot be read, has an entry that is not one character or token, or has no entry.
    """
    entries = read_entries(path, _listed)
    return _token_alphabet(entries, path) if of_tokens else _alphabet_of(entries, path)


def read_utf8(path: Path, name: str) -> str:
    """Returns the text of a file. Raises InputError, in which `name` says what the file is, if it is not UTF-8."""
    try:
        return read_whole(path, LARGEST_TEXT).decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {name} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name} {path} is not UTF-8 at byte {error.start}; convert it") from None


def read_entries(path: Path, choose: Callable[[Any], list[Any] | None]) -> Iterable[Any]:
    """Reads the entries of an alphabet's file in order: what `choose` finds in its JSON, or the lines of its text.

    Raises InputError if the file cannot be read.
    """
    text = drop_mark(read_utf8(path, "the alphabet"))
    entries = choose(_parse_json(text, path))
    return _parse_lines(text) if entries is None else entries


def _alphabet_of(entries: Iterable[Any], path: Path) -> Alphabet:
    symbols, special, count = set[int](), list[str](), 0
    for entry in entries:
        if isinstance(entry, str) and len(entry) == 1:
            symbols.add(ord(entry))
            count += 1
        elif isinstance(entry, str) and _SPECIAL.fullmatch(entry):
            special.append(entry)
        else:
            raise InputError(f"the alphabet {path} has the entry {entry!r}, which is not one character; remove it")
    if not symbols:
        raise InputError(f"the alphabet {path} has no characters; write one per line, or a JSON list of them")
    return Alphabet(tuple(sorted(symbols)), tuple(special), count - len(symbols))


def _token_alphabet(entries: Iterable[Any], path: Path) -> Alphabet:
    tokens, count = set[str](), 0
    for entry in entries:
        if not is_token(entry):
            raise InputError(f"the alphabet {path} has the entry {entry!r}, which is not one token; remove it")
        tokens.add(entry)
        count += 1
    if not tokens:
        raise InputError(f"the alphabet {path} has no tokens; write one per line, or a JSON list of them")
    if len(tokens) > MOST_TOKENS:
        raise InputError(f"the alphabet {path} has {len(tokens):,} tokens; give at most {MOST_TOKENS:,}")
    return Alphabet((), (), count - len(tokens), tuple(sorted(tokens)))


def _parse_json(text: str, path: Path) -> Any:
    """The value of JSON; None when the text is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise InputError(f"the alphabet {path} is not JSON ({error}); correct it, or rename it") from None
        return None


def _listed(values: Any) -> list[Any] | None:
    """The entries of a JSON list or object; None when the value is neither."""
    if isinstance(values, dict):
        symbols = values.get("symbols")
        return symbols if isinstance(symbols, list) else list(values)
    return values if isinstance(values, list) else None


def _parse_lines(text: str) -> Iterator[str]:
    """The entries of plain text, without empty lines."""
    for entry in split_lines(text):
        if entry:
            yield entry.encode("ascii").decode("unicode_escape") if _ESCAPE.fullmatch(entry) else entry


MOST_NUMBERED, MOST_NUMBERED_CHARACTERS = 1 << 17, 1 << 22  # different tokens of a text, so that its header stays small
SLICE_CHARACTERS = 1 << 17  # made symbols at once, so that their buffers are reused and stay in the processor's cache
Progress = Callable[[int, int | None], None]  # called with (done, total): position and size, or twice these
Name = Literal["text", "held"]
SymbolChunk = tuple[Symbols, Ids]  # symbols (characters,), and the places in them where documents end (M,)


class CorpusOrigin(Frozen):
    """A record of the texts and settings that a corpus is made from; the same for all its parts."""

    key: str  # a hash of everything that the corpus depends on
    texts: tuple[str, ...]  # as the user named them
    settings: CorpusSettings
    sources: int
    skipped: int
    skipped_note: str  # empty if nothing was skipped
    alphabet: Alphabet | None


class CorpusInput(Protocol):
    """Texts as symbols. `text`, then `validation_file`, are read once; `tally` and `position` are updated meanwhile."""

    settings: CorpusSettings
    tally: ReadCounts
    has_validation_file: bool  # whether there is a validation file
    tokens: TokenNumbers  # the symbols of tokens, if they are the unit

    @property
    def size(self) -> int | None:
        """The position at the end; None when it is unknown."""

    @property
    def position(self) -> int:
        """How much has been read: bytes of files, or characters of parts."""

    def text(self) -> Iterator[SymbolChunk]:
        """Reads the text, in chunks."""

    def validation_file(self) -> Iterator[SymbolChunk]:
        """Reads the validation file, in chunks."""

    def draft(self, name: Name, ends: Path) -> Drafted | None:
        """The text or the validation text, if it is already stored as ids; None when it must be read.

        Writes the places where documents end to the file `ends`.
        """

    def origin(self) -> CorpusOrigin:
        """The record of what the corpus is made from; complete only when everything has been read."""

    def stamps(self) -> str:
        """A hash that changes when the files change; empty if that cannot be known without reading them."""


class TextInput:
    """The texts that a user names, or one part of several."""

    def __init__(
        self,
        texts: Sequence[str],
        settings: CorpusSettings,
        part: tuple[int, int] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        """With `strict`, raises UsageError for settings that would have no effect on these texts."""
        self.texts, self.settings, self.tally = tuple(texts), settings, ReadCounts()
        self.tokens = TokenNumbers()
        validation = [settings.validation_file] if settings.validation_file else []
        self._found = find(texts, settings.column), find(validation, settings.column)
        if strict:
            check_useful(settings, self._found[0].sources)
        self._alphabet = _alphabet(settings)
        all_of_it = [found.sources for found in self._found]
        self._parts = partition_sources(all_of_it, *part, settings) if part else all_of_it
        self.has_validation_file = bool(validation)

    @property
    def size(self) -> int | None:
        """Bytes of the files to read, compressed ones as they are; None when unknown before they are read."""
        sizes = [_size(source) for part in self._parts for source in part]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def position(self) -> int:
        """Bytes of the files already read, compressed ones as they are."""
        return self.tally.position

    def text(self) -> Iterator[SymbolChunk]:
        """See `CorpusInput`."""
        return self._read_chunks(self._parts[0])

    def validation_file(self) -> Iterator[SymbolChunk]:
        """See `CorpusInput`."""
        return self._read_chunks(self._parts[1])

    @property
    def sources(self) -> list[TextSource]:
        """All sources, even if only one part of several is read."""
        return [source for found in self._found for source in found.sources]

    def key(self) -> str:
        """A short hash of everything that the corpus depends on. Standard input and pipes count as already read."""
        return self._key(lambda source: source.stamp)

    def timeless_key(self) -> str:
        """Like `key`, but without the times of files: the same for any contents of the same sizes."""
        return self._key(lambda source: source.stamp and source.stamp[: 1 if isinstance(source.path, Path) else 2])

    def stamps(self) -> str:
        """See `CorpusInput`."""
        return "" if self.size is None else hash_stamps(self.sources)

    def _key(self, stamp: Callable[[TextSource], Sequence[int] | None]) -> str:
        parts = [[(str(source.path), stamp(source)) for source in found.sources] for found in self._found]
        streamed = self.tally.streamed.hexdigest()
        alphabet = (self._alphabet.symbols or self._alphabet.tokens) if self._alphabet else None
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
            yield f"skipped in folders, as their names are not those of texts: {list_some(others)}"
        if links:
            yield f"links to folders were skipped, as they are followed only if given by name: {list_some(links)}"

    def _read_chunks(self, sources: Sequence[TextSource]) -> Iterator[SymbolChunk]:
        for text, ends in split_documents(sources, self.settings, self.tally, PIECE_BYTES):
            if self.settings.unit == "token":
                yield number_tokens(text, self.tokens), token_places(text, ends)
                continue
            for part, inside in _slice(text, ends, SLICE_CHARACTERS):
                if self.settings.unit == "byte":
                    yield byte_values(part), byte_places(part, inside)
                else:
                    yield code_points(part), inside


def number_tokens(text: str, numbers: TokenNumbers) -> Symbols:
    """Returns the numbers of the tokens of a text in spaced form, (T,).

    Raises InputError if there are too many different ones for a corpus.
    """
    tokens = text.split(" ")[:-1]
    found = np.fromiter(map(numbers.__getitem__, tokens), np.uint32, len(tokens))
    if len(numbers) > MOST_NUMBERED or numbers.characters > MOST_NUMBERED_CHARACTERS:
        raise InputError(
            f"the text has over {min(len(numbers), MOST_NUMBERED):,} different tokens, too many for corpus.unit token; "
            "a model of characters suits such a text: leave out --corpus.unit token"
        )
    return found


def list_some(names: Sequence[str]) -> str:
    """The first five names as text, and the number of the others."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def amount(count: int, one: str, many: str) -> str:
    """A count with its noun, singular or plural."""
    return f"{count:,} {one if count == 1 else many}"


def _size(source: TextSource) -> int | None:
    if source.span:
        return source.span[1] - source.span[0]
    return source.stamp[0] if source.stamp else None


def _alphabet(settings: CorpusSettings) -> Alphabet | None:
    if not settings.alphabet:
        return None
    if settings.unit == "byte":
        raise UsageError("corpus.alphabet lists characters, but corpus.unit byte has all bytes; drop one of them")
    return read_alphabet(Path(settings.alphabet), of_tokens=settings.unit == "token")


def _slice(text: str, ends: Ids, size: int) -> Iterator[tuple[str, Ids]]:
    """Cuts a text and the places in it where documents end, (M,), into slices; an empty text gives one empty slice."""
    starts = range(0, len(text) or 1, size)
    for start, inside in zip(starts, np.split(ends, np.searchsorted(ends, starts[1:], "right")), strict=True):
        yield text[start : start + size], inside - start  # an end between two slices belongs to the first one

"""The header of a corpus, `corpus.json`. It is written last, so a folder that has one is a complete corpus.

A corpus may come from anybody, so everything in it is checked before use: see `read_json`, `check_file`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from scriven import strict_json
from scriven.corpus.filesystem import Place, explain_errors, join_place, open_file
from scriven.errors import InputError
from scriven.settings import CorpusSettings, Frozen
from scriven.tokens import is_token
from scriven.vocabulary import UNICODE_SIZE, readable_json

FORMAT, FORMAT_OF_TOKENS = 2, 3  # earlier versions know no tokens
NAME = "corpus.json"
LARGEST_HEADER_BYTES = 1 << 25  # bytes of a header; all of Unicode, with frequencies, takes two thirds of it
MOST_HEADER_PARTS = 2 * UNICODE_SIZE  # parts of its JSON (arrays, objects, keys), for the same reason
BUILD_AGAIN = "build the corpus again"
PIECE_BYTES = 1 << 18  # of a header, read at once
Whole = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]
Value = TypeVar("Value", bound=Frozen)


class Shard(Frozen):
    """One .npy file: its name in the folder, its length (of ids or documents), its size in bytes, and its SHA-256."""

    file: Annotated[str, Field(pattern=r"^[a-z]+(-[a-z0-9]+)?\.(npy|ids)$")]  # no path leads out of the folder
    length: Whole
    size: Whole
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PartHeader(Frozen):
    """The training or the validation part.

    characters: their number (of bytes, if the unit is byte). bytes: of UTF-8. shards: the files of ids, in order.
    documents: the file of the places where documents end; None when the part has no documents.
    """

    characters: Whole
    bytes: Whole
    shards: tuple[Shard, ...]
    documents: Shard | None

    @property
    def files(self) -> tuple[Shard, ...]:
        """All files of the part."""
        return self.shards if self.documents is None else (*self.shards, self.documents)

    def is_whole(self, name: str) -> bool:
        """Whether the files have the names of this part, in order, and as many characters as it says."""
        names = [file.file for file in self.files]
        expected = [f"{name}-{index:05}.npy" for index in range(len(self.shards))]
        expected += [f"{name}-documents.npy"] if self.documents else []
        return names == expected and self.characters == sum(shard.length for shard in self.shards)


class Counts(Frozen):
    """Counts of everything read and changed, over both parts. Ends of documents count in `lines` only."""

    sources: Whole  # files, or standard input
    skipped: Whole  # entries of folders that were not read
    characters: Whole  # or bytes, by the unit
    bytes: Whole  # of UTF-8
    lines: Whole  # line ends: LF, CR LF or CR
    lowercased: Whole  # characters replaced by lower case
    punctuation: Whole = 0  # typographic characters replaced by plain ones
    normalized: Whole  # characters replaced by NFC
    marks: Whole = 0  # byte order marks that were left out, at the start of sources
    invalid: Whole  # bytes that were not valid in the encoding
    unseen: Whole  # characters of the validation part that the vocabulary does not know
    unknown: Whole  # the same in both parts; the training part has some only if an alphabet is given
    documents: Whole  # of the training and the validation part
    duplicates: Whole = 0  # validation documents that the training part has too; left out if the settings say so
    spaces: Whole = 0  # places where white space between tokens was put into plain form
    empty: Whole  # documents that were left out because they have no character
    bad_rows: Whole = 0  # rows of tables that were left out because they have no text in the column


class Header(Frozen):
    """The whole header. In the shards, id C + j means `unseen[j]`, a code point that the vocabulary lacks.

    With `corpus.unit token` it means `unseen_tokens[j]`, and `unseen` is empty.
    """

    format: int
    key: str  # a hash of what the corpus was made from
    texts: tuple[str, ...]
    settings: CorpusSettings
    notes: tuple[str, ...]
    counts: Counts
    training: PartHeader
    validation: PartHeader
    unseen: tuple[Whole, ...]
    unseen_tokens: tuple[str, ...] = ()
    vocabulary: dict[str, Any]  # the values of `Vocabulary.to_json`
    frequencies: tuple[Whole, ...]  # of each known symbol, in the training part

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not (self.training.is_whole("training") and self.validation.is_whole("validation")):
            raise ValueError("shards and characters contradict each other")
        if sum(self.frequencies) > self.training.characters:
            raise ValueError("there are more symbols than characters")
        rising = all(a < b for a, b in zip((-1, *self.unseen), (*self.unseen, UNICODE_SIZE), strict=True))
        if not rising:
            raise ValueError("unseen symbols must be code points, each one once, sorted")
        if self.unseen and self.unseen_tokens:
            raise ValueError("unseen symbols are code points or tokens, not both")
        if not all(map(is_token, self.unseen_tokens)):
            raise ValueError("unseen tokens must be tokens")
        if list(self.unseen_tokens) != sorted({*self.unseen_tokens}.difference(self.vocabulary.get("symbols", ()))):
            raise ValueError("unseen tokens must be unknown to the vocabulary, each one once, sorted")
        return self


def write_header(folder: Path, header: Header) -> None:
    """Writes the header, which completes a corpus."""
    write_json(folder / NAME, header)


def read_header(folder: Place) -> Header:
    """Reads the header of the corpus in a folder, and checks that its shards exist and have their sizes.

    The shards of a remote corpus are checked when they are fetched.
    Raises InputError if it is not a corpus, has another format or contradicts itself, or a shard is missing or has
    another size.
    """
    path = join_place(folder, NAME)
    if isinstance(path, Path) and not _exists(path):
        raise InputError(f"{folder} is not a corpus; make one with: scriven corpus build TEXT -o DIR")
    header = read_json(path, Header, (FORMAT, FORMAT_OF_TOKENS), BUILD_AGAIN)
    if isinstance(folder, Path):
        for shard in header.training.files + header.validation.files:
            check_file(folder, shard, BUILD_AGAIN)
    return header


def _exists(path: Path) -> bool:
    """Whether anything has that name. Raises InputError if the system does not say."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; allow it, or try again") from None
    return True


def write_json(path: Path, values: Frozen) -> None:
    """Writes an object as readable JSON, and waits until the disk has it."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(readable_json(values.model_dump()))
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Place, kind: type[Value], formats: Sequence[int], way_out: str) -> Value:
    """Reads an object of this kind, in one of its formats, from a JSON file of at most `LARGEST_HEADER_BYTES` bytes.

    Raises InputError if it is anything else, with `way_out` as the advice.
    """
    if isinstance(path, Path):
        _check_regular(path, way_out)
    with explain_errors(str(path), remote=isinstance(path, str)), open_file(path) as file:
        pieces = itertools.takewhile(
            len, (file.read(PIECE_BYTES) for _ in range(LARGEST_HEADER_BYTES // PIECE_BYTES + 1))
        )
        data = b"".join(pieces)  # a single read would take memory for the largest size allowed
    try:
        if len(data) > LARGEST_HEADER_BYTES:
            raise ValueError("it is too long")
        values = strict_json.parse(data.decode("utf-8"), MOST_HEADER_PARTS)
        if values["format"] not in formats:
            known = " or ".join(map(str, formats))
            raise InputError(f"{path} has format {values['format']!r}, not {known}; {way_out}")
        return kind.model_validate(values)
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is damaged; {way_out}") from None


def check_file(folder: Path, shard: Shard, way_out: str) -> None:
    """Raises InputError unless the folder has the shard's file, as a plain file of the right size."""
    path = folder / shard.file
    if os.path.lexists(path):
        _check_regular(path, way_out)
    size = path.stat().st_size if path.exists() else 0
    if size != shard.size:
        raise InputError(f"{path} has {size:,} bytes instead of {shard.size:,}; {way_out}")


def _check_regular(path: Path, way_out: str) -> None:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is a link or not a plain file, and is not followed; {way_out}")

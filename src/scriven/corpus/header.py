"""`corpus.json`: what a corpus says of itself. It is written last, so a folder that has one is a whole corpus.

A corpus may come from anywhere, so nothing in it is believed before it is checked: see `read_json`, `check_file`.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from scriven import strict_json
from scriven.corpus.filesystem import Place, explain_errors, open_file, within
from scriven.errors import InputError
from scriven.settings import CorpusSettings, Frozen
from scriven.vocabulary import UNICODE_SIZE, readable_json

FORMAT = 2
NAME = "corpus.json"
LARGEST = 1 << 25  # bytes of such a file; all of Unicode, each with a frequency, takes two thirds of it
STRUCTURE = 2 * UNICODE_SIZE  # parts of it, likewise
AGAIN = "build the corpus again"
PIECE = 1 << 18  # bytes of it read at once
Whole = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]
Value = TypeVar("Value", bound=Frozen)


class Shard(Frozen):
    """One .npy file: its name in the folder, length (ids, or documents), size in bytes, and the SHA-256 of the file."""

    file: Annotated[str, Field(pattern=r"^[a-z]+(-[a-z0-9]+)?\.(npy|ids)$")]  # no path leads out of the folder
    length: Whole
    size: Whole
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PartHeader(Frozen):
    """The training or the validation part: characters (or bytes, by the unit), bytes of UTF-8, shards in order.

    `documents` is the file of where documents end; none where the part has no documents.
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
        """Whether the files have the names of this part, in order, and together what it says it has."""
        names = [file.file for file in self.files]
        expected = [f"{name}-{index:05}.npy" for index in range(len(self.shards))]
        expected += [f"{name}-documents.npy"] if self.documents else []
        return names == expected and self.characters == sum(shard.length for shard in self.shards)


class Counts(Frozen):
    """What was read and what was changed, over both parts; what ends a document is in lines only."""

    sources: Whole  # files, or standard input
    skipped: Whole  # entries of folders that were not read
    characters: Whole  # or bytes, by the unit
    bytes: Whole  # of UTF-8
    lines: Whole  # line ends: LF, CR LF or CR
    lowercased: Whole  # characters replaced by lower case
    punctuation: Whole = 0  # characters of typographic punctuation replaced by those of ASCII
    normalized: Whole  # characters replaced by NFC
    marks: Whole = 0  # byte order marks at the start of sources, left out
    invalid: Whole  # bytes that were not of the encoding
    unseen: Whole  # characters of the validation part that the vocabulary does not know
    unknown: Whole  # the same of both parts; the training part can have some only where an alphabet is given
    documents: Whole  # of the training and the validation part
    duplicates: Whole = 0  # documents of the validation part that the training part has too, left out where wanted
    empty: Whole  # documents without a character, left out
    bad_rows: Whole = 0  # rows of tables without text in the column, left out


class Header(Frozen):
    """The whole of it. In the shards, id C + j stands for `unseen[j]`, a code point that is not in the vocabulary."""

    format: int
    key: str  # a hash of what the corpus was made from
    texts: tuple[str, ...]
    settings: CorpusSettings
    notes: tuple[str, ...]
    counts: Counts
    training: PartHeader
    validation: PartHeader
    unseen: tuple[Whole, ...]
    vocabulary: dict[str, Any]  # as `Vocabulary.to_json` has it
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
        return self


def write_header(folder: Path, header: Header) -> None:
    """Completes a corpus."""
    write_json(folder / NAME, header)


def read_header(folder: Place) -> Header:
    """What the corpus in a folder says of itself. That its shards are there and whole is checked by their size only.

    Of a corpus elsewhere, that is checked when a shard is fetched.
    Raises InputError when it is not a corpus, is of another format, contradicts itself, or a shard is missing or of
    another size.
    """
    path = within(folder, NAME)
    if isinstance(path, Path) and not _is_there(path):
        raise InputError(f"{folder} is not a corpus; make one with: scriven corpus build TEXT -o DIR")
    header = read_json(path, Header, FORMAT, AGAIN)
    if isinstance(folder, Path):
        for shard in header.training.files + header.validation.files:
            check_file(folder, shard, AGAIN)
    return header


def _is_there(path: Path) -> bool:
    """Whether there is a file, of any kind. Raises InputError where that cannot be told."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; allow it, or try again") from None
    return True


def write_json(path: Path, values: Frozen) -> None:
    """Writes an object as JSON that a person can read, durably."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(readable_json(values.model_dump()))
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Place, kind: type[Value], number: int, way_out: str) -> Value:
    """The object in a JSON file, of this kind and of format `number`; of at most `LARGEST` bytes.

    Raises InputError where it cannot be read or is not that.
    """
    if isinstance(path, Path):
        _check_regular(path, way_out)
    with explain_errors(str(path), remote=isinstance(path, str)), open_file(path) as file:
        pieces = itertools.takewhile(len, (file.read(PIECE) for _ in range(LARGEST // PIECE + 1)))
        data = b"".join(pieces)  # a single read would take the memory for all that may be there
    try:
        if len(data) > LARGEST:
            raise ValueError("it is too long")
        values = strict_json.parse(data.decode("utf-8"), STRUCTURE)
        if values["format"] != number:
            raise InputError(f"{path} is of format {values['format']!r}, not {number}; {way_out}")
        return kind.model_validate(values)
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is damaged; {way_out}") from None


def check_file(folder: Path, shard: Shard, way_out: str) -> None:
    """Raises InputError unless a file lies in its folder, as a file and not as a link, and has its size."""
    path = folder / shard.file
    if os.path.lexists(path):
        _check_regular(path, way_out)
    size = path.stat().st_size if path.exists() else 0
    if size != shard.size:
        raise InputError(f"{path} has {size:,} bytes instead of {shard.size:,}; {way_out}")


def _check_regular(path: Path, way_out: str) -> None:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is a link or no file at all, and is not followed; {way_out}")

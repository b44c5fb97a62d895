"""`corpus.json`: what a corpus says of itself. It is written last, so a folder that has one is a whole corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scriven.errors import InputError
from scriven.settings import CorpusSettings, Frozen
from scriven.vocabulary import readable_json

FORMAT = 1
NAME = "corpus.json"


class Shard(Frozen):
    """One .npy file of ids: its name in the folder, characters, size in bytes, and the SHA-256 of the file."""

    file: str
    characters: int
    size: int
    sha256: str


class PartHeader(Frozen):
    """The training or the validation part: characters (or bytes, by the unit), bytes of UTF-8, shards in order."""

    characters: int
    bytes: int
    shards: tuple[Shard, ...]


class Counts(Frozen):
    """What was read and what was changed, over both parts."""

    sources: int  # files, or standard input
    skipped: int  # entries of folders that were not read
    characters: int  # or bytes, by the unit
    bytes: int  # of UTF-8
    lines: int  # line feeds
    lowercased: int  # characters replaced by lower case
    normalized: int  # characters replaced by NFC
    invalid: int  # bytes that were not UTF-8
    unseen: int  # characters of the validation part that the training part does not have


class Header(Frozen):
    """The whole of it. In the shards, id C + j stands for `unseen[j]`, a code point that only validation text has."""

    format: int
    key: str  # a hash of what the corpus was made from
    texts: tuple[str, ...]
    settings: CorpusSettings
    notes: tuple[str, ...]
    counts: Counts
    training: PartHeader
    validation: PartHeader
    unseen: tuple[int, ...]
    vocabulary: dict[str, Any]  # as `Vocabulary.to_json` has it
    frequencies: tuple[int, ...]  # of each known symbol, in the training part


def write_header(folder: Path, header: Header) -> None:
    """Completes a corpus."""
    (folder / NAME).write_text(readable_json(header.model_dump()), encoding="utf-8", newline="\n")


def read_header(folder: Path) -> Header:
    """What the corpus in a folder says of itself. That its shards are there and whole is checked by their size only.

    Raises InputError when it is not a corpus, is of another format, or a shard is missing or of another size.
    """
    try:
        values = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise InputError(f"the corpus {folder} is of format {values['format']}, not {FORMAT}; build it again")
        header = Header.model_validate(values)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a corpus; make one with: scriven corpus build TEXT -o DIR") from None
    except OSError as error:
        raise InputError(f"cannot read the corpus {folder}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{folder / NAME} is damaged; build the corpus again") from None
    for shard in header.training.shards + header.validation.shards:
        path = folder / shard.file
        size = path.stat().st_size if path.is_file() else 0
        if size != shard.size:
            raise InputError(f"{path} has {size:,} bytes instead of {shard.size:,}; build the corpus again")
    return header

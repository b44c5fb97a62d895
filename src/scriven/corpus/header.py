"""`corpus.json`: what a corpus says of itself. It is written last, so a folder that has one is a whole corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scriven.errors import InputError
from scriven.settings import CorpusSettings, Frozen
from scriven.vocabulary import readable_json

FORMAT = 2
NAME = "corpus.json"


class Shard(Frozen):
    """One .npy file: its name in the folder, length (ids, or documents), size in bytes, and the SHA-256 of the file."""

    file: str
    length: int
    size: int
    sha256: str


class PartHeader(Frozen):
    """The training or the validation part: characters (or bytes, by the unit), bytes of UTF-8, shards in order.

    `documents` is the file of where documents end; none where the part has no documents.
    """

    characters: int
    bytes: int
    shards: tuple[Shard, ...]
    documents: Shard | None

    @property
    def files(self) -> tuple[Shard, ...]:
        """All files of the part."""
        return self.shards if self.documents is None else (*self.shards, self.documents)


class Counts(Frozen):
    """What was read and what was changed, over both parts; what ends a document is in lines only."""

    sources: int  # files, or standard input
    skipped: int  # entries of folders that were not read
    characters: int  # or bytes, by the unit
    bytes: int  # of UTF-8
    lines: int  # line feeds
    lowercased: int  # characters replaced by lower case
    normalized: int  # characters replaced by NFC
    invalid: int  # bytes that were not UTF-8
    unseen: int  # characters of the validation part that the vocabulary does not know
    unknown: int  # the same of both parts; the training part can have some only where an alphabet is given
    documents: int  # of the training and the validation part
    empty: int  # documents without a character, left out


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
    for shard in header.training.files + header.validation.files:
        path = folder / shard.file
        size = path.stat().st_size if path.is_file() else 0
        if size != shard.size:
            raise InputError(f"{path} has {size:,} bytes instead of {shard.size:,}; build the corpus again")
    return header

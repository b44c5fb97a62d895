"""The corpus on disk, memory-mapped: any stretch of ids in microseconds, whatever the size of the text."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from pathlib import Path

import numpy as np

from scriven.corpus.header import Counts, Header, PartHeader, Shard, read_header
from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.vocabulary import Ids, Vocabulary

MANY = 1 << 20  # documents looked at once
NO_ENDS = np.zeros(0, np.uint64)


class Part:
    """The training or the validation part of a corpus."""

    def __init__(self, folder: Path, header: PartHeader, table: Ids | None = None) -> None:
        self.characters = header.characters  # or bytes, by the unit
        self.bytes = header.bytes  # of UTF-8
        self._shards = [_mapped(folder / shard.file, shard) for shard in header.shards]
        self._starts = [0, *itertools.accumulate(shard.length for shard in header.shards)]
        self._ends = _mapped(folder / header.documents.file, header.documents) if header.documents else NO_ENDS
        self._table = table  # ids in the shards -> ids; none where they are the same

    def read(self, start: int, length: int) -> Ids:
        """`length` ids from `start` on; an unseen symbol is V + its code point.

        Raises ValueError when they are not all within the part.
        """
        end = start + length
        if not 0 <= start <= end <= self.characters:
            raise ValueError(f"characters {start}..{end} are not all in this part, which has {self.characters}")
        ids = np.empty(length, np.int64)  # (length,)
        index = bisect_right(self._starts, start) - 1
        place = start
        while place < end:
            first = self._starts[index]
            stop = min(end, self._starts[index + 1])
            ids[place - start : stop - start] = self._shards[index][place - first : stop - first]
            place, index = stop, index + 1
        return ids if self._table is None else self._table[ids]

    @property
    def documents(self) -> int:
        """How many documents the part is made of; 0 where its corpus has no documents."""
        return self._ends.size

    def bounds(self, numbers: Ids) -> tuple[Ids, Ids]:
        """Of documents, by their numbers (M,): first character and length of each, both (M,).

        Raises IndexError when there is no such document.
        """
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.documents:
            raise IndexError(f"documents {numbers.min()}..{numbers.max()} are not all in 0..{self.documents - 1}")
        ends = self._ends[numbers].astype(np.int64)  # (M,)
        firsts = np.where(numbers > 0, self._ends[numbers - 1].astype(np.int64), 0)  # (M,)
        return firsts, ends - firsts

    def document_lengths(self) -> tuple[int, int, int]:
        """The lengths of the shortest, the middle and the longest document; 0 where there are none.

        The middle one is that of a million documents, spread evenly, where there are more.
        """
        if not self.documents:
            return 0, 0, 0
        shortest, longest = self.characters, 0
        for start in range(0, self.documents, MANY):
            lengths = self.bounds(np.arange(start, min(start + MANY, self.documents)))[1]
            shortest, longest = min(shortest, int(lengths.min())), max(longest, int(lengths.max()))
        count = min(self.documents, MANY)
        some = np.sort(self.bounds(np.arange(count) * self.documents // count)[1])  # (count,)
        return shortest, int(some[(count - 1) // 2]), longest


class Corpus:
    """A corpus that `scriven.corpus.build` made; see `open`."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.path = folder
        self.header = header
        self.vocabulary = Vocabulary.from_json(json.dumps(header.vocabulary))
        table = self._table()
        # Without an alphabet the training part has no unseen symbols, and is read faster without a table.
        self.training = Part(folder, header.training, table if header.settings.alphabet else None)
        self.validation = Part(folder, header.validation, table)

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """The corpus in a folder.

        Raises InputError when it is not one, is damaged, or a shard is missing or of the wrong length.
        """
        return cls(Path(folder), read_header(Path(folder)))

    @property
    def settings(self) -> CorpusSettings:
        """How text became ids."""
        return self.header.settings

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts as they were named."""
        return self.header.texts

    @property
    def counts(self) -> Counts:
        """What was read and what was changed."""
        return self.header.counts

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the text was read, a sentence each."""
        return self.header.notes

    def verify(self) -> None:
        """Reads everything.

        Raises InputError naming the first shard whose content is not what was written.
        """
        for shard in self.header.training.files + self.header.validation.files:
            with (self.path / shard.file).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    raise InputError(f"{self.path / shard.file} is damaged; build the corpus again")

    def _table(self) -> Ids | None:
        known = np.arange(len(self.vocabulary.symbols))
        unseen = np.array(self.header.unseen, np.int64) + self.vocabulary.size
        return np.concatenate([known, unseen]) if unseen.size else None


def _mapped(path: Path, shard: Shard) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
    try:
        values = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); build the corpus again") from None
    if values.shape != (shard.length,) or values.dtype.kind != "u":
        raise InputError(f"{path} does not hold {shard.length:,} numbers; build the corpus again")
    return np.asarray(values)  # slicing a plain array is several times as fast as slicing a memmap

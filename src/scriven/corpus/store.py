"""The corpus on disk, memory-mapped: any stretch of ids in microseconds, whatever the size of the text."""

from __future__ import annotations

import itertools
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scriven.corpus.build import cache_folder
from scriven.corpus.header import AGAIN, NAME, Counts, Header, PartHeader, read_header
from scriven.corpus.shelf import Array, Fetched, Shelf, cache_limit, checked_blocks, mapped
from scriven.corpus.storage import Place, explained, file_system, place_of, within
from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.vocabulary import Ids, Vocabulary

MANY = 1 << 20  # documents looked at once
NO_ENDS = np.zeros(0, np.uint64)


class Part:
    """The training or the validation part of a corpus."""

    def __init__(self, folder: Place, header: PartHeader, shelf: Shelf, table: Ids | None = None) -> None:
        self.characters = header.characters  # or bytes, by the unit
        self.bytes = header.bytes  # of UTF-8
        self._folder = folder
        self._starts = [0, *itertools.accumulate(shard.length for shard in header.shards)]
        self._shards: Sequence[Array]
        self._ends: Array = NO_ENDS
        if isinstance(folder, Path):
            self._shards = [mapped(folder / shard.file, shard) for shard in header.shards]
            if header.documents:
                self._ends = mapped(folder / header.documents.file, header.documents)
        else:
            self._shards = Fetched(shelf, folder, header.shards)
            if header.documents:
                url = str(within(folder, header.documents.file))
                self._ends = shelf.array(url, header.documents, pinned=True)
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
        if self._table is None:
            return ids
        try:
            return self._table[ids]
        except IndexError:
            raise self._damaged("numbers in it stand for no character") from None

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
        if numbers.size and not (firsts.min() >= 0 and (firsts < ends).all() and ends.max() <= self.characters):
            raise self._damaged("documents overlap, or are outside of the text")
        return firsts, ends - firsts

    def _damaged(self, why: str) -> InputError:
        return InputError(f"the corpus {self._folder} is damaged: {why}; {AGAIN}")

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

    def __init__(self, folder: Place, header: Header) -> None:
        self.path = folder
        self.header = header
        try:
            self.vocabulary = Vocabulary.from_json(json.dumps(header.vocabulary))
        except InputError as error:
            raise self._damaged_file(NAME, str(error).split(";")[0]) from None
        if len(header.frequencies) != len(self.vocabulary.symbols):
            raise self._damaged_file(NAME, "symbols and frequencies are not as many")
        table, shelf = self._table(), Shelf(cache_folder() / "shards", cache_limit())
        # Without an alphabet the training part has no unseen symbols, and is read faster without a table.
        self.training = Part(folder, header.training, shelf, table if header.settings.alphabet else None)
        self.validation = Part(folder, header.validation, shelf, table)

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """The corpus in a folder, or at a URL such as s3://bucket/corpus; there, shards are fetched when they are read.

        Raises InputError when it is not one, is damaged, or a shard is missing or of the wrong length.
        """
        place = place_of(folder)
        return cls(place, read_header(place))

    @property
    def name(self) -> str:
        """Where it lies, as an absolute path or a URL; `open` takes it."""
        return str(self.path.resolve()) if isinstance(self.path, Path) else self.path

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

    def verify(self) -> tuple[int, int]:
        """Reads everything, and gives how many files that are, and their bytes.

        Raises InputError naming the first file whose content is not what was written, or has no meaning.
        """
        known = len(self.vocabulary.symbols) + len(self.header.unseen)
        for part in (self.header.training, self.header.validation):
            for shard in part.shards:
                if max((int(block.max()) for block in checked_blocks(self.path, shard)), default=0) >= known:
                    raise self._damaged_file(shard.file, "numbers in it stand for no character")
            if part.documents:
                last = 0
                for block in checked_blocks(self.path, part.documents):
                    if int(block[0]) <= last or not (block[1:] > block[:-1]).all():
                        raise self._damaged_file(part.documents.file, "documents overlap")
                    last = int(block[-1])
                if last != part.characters:
                    raise self._damaged_file(part.documents.file, "the last document does not end with the text")
        files = self.header.training.files + self.header.validation.files
        return len(files), sum(shard.size for shard in files)

    def _damaged_file(self, file: str, why: str) -> InputError:
        return InputError(f"{within(self.path, file)} is damaged: {why}; {AGAIN}")

    def _table(self) -> Ids | None:
        known = np.arange(len(self.vocabulary.symbols))
        unseen = np.array(self.header.unseen, np.int64) + self.vocabulary.size
        return np.concatenate([known, unseen]) if unseen.size else None


def is_corpus(texts: Sequence[str]) -> bool:
    """Whether the texts that a user names are one corpus that was built before, by its folder or URL.

    Raises InputError where a URL cannot be reached.
    """
    if len(texts) != 1:
        return False
    path = within(place_of(texts[0]), NAME)
    if isinstance(path, Path):
        return os.path.lexists(path)
    if texts[0].startswith("http"):  # there are no folders to look into
        return False
    files, key = file_system(path)
    with explained(path, remote=True):
        return bool(files.exists(key))

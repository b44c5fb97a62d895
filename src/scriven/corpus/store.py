"""Reads a corpus from disk: any stretch of ids in microseconds, for any size of text."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.filesystem import Place, explain_errors, file_system, join_place, place_of
from scriven.corpus.header import BUILD_AGAIN, NAME, Counts, Header, PartHeader, read_header
from scriven.corpus.shard_reader import Array, Numbers, RemoteShards, ShardCache, cache_limit, checked_blocks
from scriven.errors import InputError
from scriven.runtime import cache_folder
from scriven.settings import CorpusSettings
from scriven.tokens import UNKNOWN_TOKENS
from scriven.vocabulary import Vocabulary

DOCUMENTS_AT_ONCE = 1 << 20  # whose lengths are read
CHECK_WAIT_SECONDS = 2.0  # for a save to wait for the end of the check, once the whole text was read
LOWEST_PRIORITY = 19  # of a thread, on Linux
MEANINGLESS = "it has numbers that are not the id of any character"


class Part:
    """The training or the validation part of a corpus."""

    def __init__(
        self, folder: Place, header: PartHeader, cache: ShardCache, known: int, table: Ids | None = None
    ) -> None:
        """Ids in the shards are below `known`; `table` (known,) maps them to the ids of symbols, None when equal."""
        self.characters = header.characters  # bytes, if the unit is byte
        self.bytes = header.bytes  # of UTF-8
        self._folder = folder
        self._starts = [0, *itertools.accumulate(shard.length for shard in header.shards)]
        self._files = [shard.file for shard in header.shards]
        self._shards: Sequence[Numbers]
        self._ends: Numbers | None = None
        if isinstance(folder, Path):
            self._shards = [Numbers(folder / shard.file, shard) for shard in header.shards]
            if header.documents:
                self._ends = Numbers(folder / header.documents.file, header.documents)
        else:
            self._shards = RemoteShards(cache, folder, header.shards)
            if header.documents:
                url = str(join_place(folder, header.documents.file))
                self._ends = cache.numbers(url, header.documents, pinned=True)
        self._known, self._table = known, table

    def __repr__(self) -> str:
        documents = f", {self.documents:,} documents" if self.documents else ""
        return f"Part({self.characters:,} characters{documents})"

    def read(self, start: int, length: int) -> Ids:
        """Reads `length` ids from `start` on. Raises like `read_all`."""
        return self.read_all([start], [length])

    def read_all(self, starts: Sequence[int], lengths: Sequence[int]) -> Ids:
        """Reads the ids of many stretches, joined, (sum of lengths,). An unseen symbol is V + its code point.

        Raises ValueError if a stretch is not within the part; InputError if a shard cannot be read, or has meaningless
        ids.
        """
        pieces = list[Array]()
        for start, length in zip(starts, lengths, strict=True):
            place, end = start, start + length
            if not 0 <= start <= end <= self.characters:
                raise ValueError(f"characters {start}..{end} are not all in this part, which has {self.characters}")
            index = bisect_right(self._starts, start) - 1
            while place < end:
                first, stop = self._starts[index], min(end, self._starts[index + 1])
                pieces.append(self._shards[index].read(place - first, stop - first))
                place, index = stop, index + 1
        ids = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        if ids.max(initial=0) >= self._known:
            raise self._meaningless(starts, lengths)
        return ids.astype(np.int64) if self._table is None else self._table[ids]

    def _meaningless(self, starts: Sequence[int], lengths: Sequence[int]) -> InputError:
        """The error that names the first shard with a meaningless id in some stretches."""
        for start, length in zip(starts, lengths, strict=True):
            for index in range(bisect_right(self._starts, start) - 1, len(self._files)):
                first, last = self._starts[index], self._starts[index + 1]
                place, stop = max(start, first) - first, min(start + length, last) - first
                if place < stop and self._shards[index].read(place, stop).max() >= self._known:
                    return damaged_file(self._folder, self._files[index], MEANINGLESS)
        return self._damaged_error(MEANINGLESS)

    @property
    def documents(self) -> int:
        """The number of documents of the part; 0 if its corpus has no documents."""
        return 0 if self._ends is None else self._ends.size

    def bounds(self, numbers: Ids) -> tuple[Ids, Ids]:
        """The first character and the length of documents, both (M,), by their numbers (M,).

        Raises IndexError if there is no such document.
        """
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.documents:
            raise IndexError(f"documents {numbers.min()}..{numbers.max()} are not all in 0..{self.documents - 1}")
        if self._ends is None or not numbers.size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = np.stack([numbers - 1, numbers], axis=1)  # (M, 2): the previous document's end, and its own
        found = self._ends.at(np.maximum(places, 0).ravel()).astype(np.int64).reshape(-1, 2)
        firsts, ends = np.where(numbers > 0, found[:, 0], 0), found[:, 1]  # (M,)
        if not (firsts.min() >= 0 and (firsts < ends).all() and ends.max() <= self.characters):
            raise self._damaged_error("documents overlap, or are outside of the text")
        return firsts, ends - firsts

    def _damaged_error(self, why: str) -> InputError:
        return InputError(f"the corpus {self._folder} is damaged: {why}; {BUILD_AGAIN}")

    def document_lengths(self) -> tuple[int, int, int]:
        """The lengths of the shortest, the median and the longest document; 0 if there are none.

        The median is over at most a million documents, evenly spread.
        """
        if not self.documents:
            return 0, 0, 0
        shortest, longest = self.characters, 0
        for start in range(0, self.documents, DOCUMENTS_AT_ONCE):
            lengths = self.bounds(np.arange(start, min(start + DOCUMENTS_AT_ONCE, self.documents)))[1]
            shortest, longest = min(shortest, int(lengths.min())), max(longest, int(lengths.max()))
        count = min(self.documents, DOCUMENTS_AT_ONCE)
        some = np.sort(self.bounds(np.arange(count) * self.documents // count)[1])  # (count,)
        return shortest, int(some[(count - 1) // 2]), longest


class Corpus:
    """A corpus that `scriven.corpus.build` made. `Corpus.open` opens it."""

    def __init__(self, folder: Place, header: Header) -> None:
        self.path = folder
        self.header = header
        try:
            self.vocabulary = Vocabulary.from_json(json.dumps(header.vocabulary))
        except InputError as error:
            raise self._damaged_file(NAME, str(error).split(";")[0]) from None
        if len(header.frequencies) != len(self.vocabulary.symbols):
            raise self._damaged_file(NAME, "it has more or fewer frequencies than symbols")
        table, cache = self._table(), ShardCache(cache_folder() / "shards", cache_limit())
        known = len(self.vocabulary.symbols)
        every = known + len(self._unseen)
        # Without an alphabet the training part has no unseen symbols, and is read faster without a table.
        given = bool(header.settings.alphabet)
        self.training = Part(folder, header.training, cache, every if given else known, table if given else None)
        self.validation = Part(folder, header.validation, cache, every, table)

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Opens the corpus in a folder, or at a URL such as s3://bucket/corpus, whose shards are fetched when read.

        Raises InputError if it is not a corpus, is damaged, or a shard is missing or has the wrong length.
        """
        place = place_of(folder)
        return cls(place, read_header(place))

    def __repr__(self) -> str:
        sizes = f"{self.training.characters:,} characters to train on, {self.validation.characters:,} for validation"
        return f"Corpus({self.name!r}, {sizes})"

    @property
    def name(self) -> str:
        """Its absolute path or URL, which `open` accepts."""
        return str(self.path.resolve()) if isinstance(self.path, Path) else self.path

    @property
    def text_hash(self) -> str:
        """A hash of the text as ids, made from the hashes in the header."""
        files = [file.sha256 for part in (self.header.training, self.header.validation) for file in part.files]
        return hashlib.sha256(json.dumps([self.header.vocabulary, files]).encode()).hexdigest()

    @property
    def settings(self) -> CorpusSettings:
        """The settings that turned text into ids."""
        return self.header.settings

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts as the user named them."""
        return self.header.texts

    @property
    def counts(self) -> Counts:
        """Counts of everything read and changed."""
        return self.header.counts

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the text was read, one sentence each."""
        return self.header.notes

    def compare_hashes(self) -> Iterator[None]:
        """Compares all files with their hashes, block by block. Remote files are compared when they are fetched.

        Raises InputError, naming the first damaged file.
        """
        if isinstance(self.path, Path):
            for shard in self.header.training.files + self.header.validation.files:
                for _ in checked_blocks(self.path, shard):
                    yield

    def verify(self) -> tuple[int, int]:
        """Reads and checks everything. Returns the number of files, and their bytes.

        Raises InputError, naming the first file that is damaged or has meaningless content.
        """
        known = len(self.vocabulary.symbols) + len(self._unseen)
        for part in (self.header.training, self.header.validation):
            for shard in part.shards:
                if max((int(block.max()) for block in checked_blocks(self.path, shard)), default=0) >= known:
                    raise self._damaged_file(shard.file, MEANINGLESS)
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
        return damaged_file(self.path, file, why)

    @property
    def _unseen(self) -> list[int]:
        """The code points, or the numbers of the tokens, that the vocabulary lacks."""
        if self.vocabulary.unit == "token":
            return [UNKNOWN_TOKENS[token] for token in self.header.unseen_tokens]
        return [*self.header.unseen]

    def _table(self) -> Ids | None:
        known = np.arange(len(self.vocabulary.symbols))
        unseen = np.array(self._unseen, np.int64) + self.vocabulary.size
        return np.concatenate([known, unseen]) if unseen.size else None


def damaged_file(folder: Place, file: str, why: str) -> InputError:
    """The error for a damaged file of a corpus."""
    return InputError(f"{join_place(folder, file)} is damaged: {why}; {BUILD_AGAIN}")


def is_corpus(texts: Sequence[str]) -> bool:
    """Whether the texts that a user names are the folder or URL of one corpus that was built before.

    Raises InputError if a URL cannot be reached.
    """
    if len(texts) != 1:
        return False
    path = join_place(place_of(texts[0]), NAME)
    if isinstance(path, Path):
        return os.path.lexists(path)
    if texts[0].startswith("http"):  # a web server has no folders to look into
        return False
    files, key = file_system(path)
    with explain_errors(path, remote=True):
        return bool(files.exists(key))


class CorpusCheck:
    """Compares the files of a corpus with their hashes in a thread, while training reads them for the first time.

    The check starts when the context is entered, and stops when it is left.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._error: Exception | None = None
        self._left = threading.Event()
        self._waited = False
        self._thread = threading.Thread(target=self._compare, name="scriven-corpus", daemon=True)

    def tell(self, *, wait: bool = False) -> None:
        """Raises InputError when a file was found to be damaged.

        With `wait`, waits for the rest of the check, at most CHECK_WAIT_SECONDS and only once.
        """
        if wait and not self._waited:
            self._waited = True
            self._thread.join(CHECK_WAIT_SECONDS)
        if self._error:
            raise self._error

    def _compare(self) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        try:
            for _ in self._corpus.compare_hashes():
                if self._left.is_set():
                    return
        except Exception as error:  # raised where training asks
            self._error = InputError(
                f"{error} (remove {self._corpus.name} first); checkpoints that were saved before are kept, and "
                "--resume continues from the last one"
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()

"""Symbols -> shards of final ids, in two steps: drafts of provisional ids, and tables that make them final.

While reading, a symbol's id is the order of its first appearance in its draft, and the draft notes where that was. At
the end it is known which symbols the training part has. Where documents end is written once, as it is found.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.corpus.header import PartHeader, Shard
from scriven.kernels import encode
from scriven.vocabulary import UNICODE_SIZE, Symbols, Vocabulary, utf8_lengths

SHARD = 1 << 31  # characters in a shard: few enough files for a terabyte
BLOCK = 1 << 17  # characters written at once: few enough for the processor's cache
ENDS = np.dtype("<u8")
NO_ENDS = np.zeros(0, np.int64)
Provisional = npt.NDArray[np.unsignedinteger]
Progress = Callable[[], None]
Bytes = bytes | memoryview


class Store(Protocol):
    """What a draft needs of a file."""

    def write(self, data: Bytes, /) -> int:
        """Appends bytes."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""

    def seek(self, place: int, /) -> int:
        """Goes to a byte."""


class RisingPlaces(Protocol):
    """Places in a text, rising, that may be too many for the memory."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read(self, start: int, stop: int, /) -> npt.NDArray[np.unsignedinteger]:
        """Those from number `start` up to `stop`, (stop - start,)."""


class Drafted(Protocol):
    """What a part of a corpus is written from: provisional ids, and where documents end."""

    taken: int  # ids so far
    ends: Ends

    @property
    def length(self) -> int:
        """How many ids there are."""

    def symbols(self, before: int) -> Ids:
        """The distinct symbols of the first `before` characters: those of provisional ids 0, 1, 2, ..."""

    def take(self, count: int) -> Iterator[Provisional]:
        """The next `count` ids, in blocks."""


@dataclass(frozen=True)
class Layout:
    """The final ids: those of the vocabulary's C symbols, then those of the symbols that it does not know."""

    vocabulary: Vocabulary
    symbols: Ids  # (ids,) code point or byte
    lengths: Ids  # (ids,) bytes of UTF-8

    @classmethod
    def of(cls, vocabulary: Vocabulary, found: Ids) -> Layout:
        """A layout for the symbols found, known or not."""
        known = np.array(vocabulary.symbols, np.int64)
        symbols = np.concatenate([known, np.setdiff1d(found, known)])
        lengths = np.ones_like(symbols) if vocabulary.unit == "byte" else utf8_lengths(symbols)
        return cls(vocabulary, symbols, lengths)

    @property
    def known(self) -> int:
        """C: how many symbols the vocabulary knows."""
        return len(self.vocabulary.symbols)

    @property
    def unseen(self) -> Ids:
        """The symbols that are not known."""
        return self.symbols[self.known :]

    def ids(self, symbols: Ids) -> Ids:
        """The final id of each of the symbols, all of which the layout has."""
        order = np.argsort(self.symbols)
        return order[np.searchsorted(self.symbols, symbols, sorter=order)].astype(np.int64)


class Draft:
    """Provisional ids in a file: first all are appended, then all are taken. Ends of documents have their own file."""

    def __init__(self, file: Store, ends: Path) -> None:
        self.length = 0
        self.taken = 0
        self.ends = Ends(ends)
        self._file = file
        self._ids = np.full(UNICODE_SIZE, -1, np.int32)  # of each symbol
        self._symbols: list[int] = []  # of each provisional id
        self._firsts: list[int] = []  # where it was first
        self._runs: list[tuple[np.dtype[np.unsignedinteger], int]] = []  # ids in a row of one type

    @classmethod
    def from_file(cls, file: Store, runs: Iterable[tuple[np.dtype[np.unsignedinteger], int]]) -> Self:
        """A draft that was written before, to be taken from."""
        draft = cls(file, Path())
        draft._runs = list(runs)
        draft.length = sum(count for _, count in draft._runs)
        return draft

    @property
    def runs(self) -> tuple[tuple[np.dtype[np.unsignedinteger], int], ...]:
        """The ids that are left, in order: so many in a row of each type."""
        return tuple(self._runs)

    def append(self, symbols: Symbols, ends: Ids = NO_ENDS) -> None:
        """Symbols (code points or bytes) that come next, and the places in them where documents end."""
        self.ends.append(ends + self.length)
        if not symbols.size:
            return
        ids = self._translate(symbols)
        if ids is None:
            self._learn(symbols)
            ids = self._translate(symbols)
        assert ids is not None  # all symbols have an id now
        if self._runs and self._runs[-1][0] == ids.dtype:
            self._runs[-1] = ids.dtype, self._runs[-1][1] + ids.size
        else:
            self._runs.append((ids.dtype, ids.size))
        self._file.write(ids.data)
        self.length += ids.size

    def _translate(self, symbols: Symbols) -> Provisional | None:
        """The ids of symbols; none where one is new."""
        return encode.translate(symbols, self._ids, smallest(len(self._symbols)))

    def _learn(self, symbols: Symbols) -> None:
        places = encode.learn(symbols, self._ids, len(self._symbols))
        self._symbols += symbols[places].tolist()
        self._firsts += (self.length + places).tolist()

    def symbols(self, before: int) -> Ids:
        """The distinct symbols of the first `before` characters: those of provisional ids 0, 1, 2, ..."""
        return np.array(self._symbols[: bisect_left(self._firsts, before)], np.int64)

    def read_back(self) -> Iterator[tuple[Symbols, Ids]]:
        """All symbols, and the places where documents end in them, (M,), in blocks. Nothing can be appended then."""
        for stretch in stretches(self.take(self.length), self.symbols(self.length), self.ends):
            assert stretch  # the ids are its own
            yield stretch

    def take(self, count: int) -> Iterator[Provisional]:
        """The next `count` ids, in blocks. Nothing can be appended after that."""
        if not self.taken:
            self._file.seek(0)
        while count:
            dtype, left = self._runs[0]
            length = min(count, left, BLOCK)
            self._runs[:1] = [(dtype, left - length)] if length < left else []
            self.taken += length
            count -= length
            data = self._file.read(length * dtype.itemsize)
            if len(data) < length * dtype.itemsize:
                raise OSError(errno.EIO, "what was written to a draft cannot be read back whole")
            yield np.frombuffer(data, dtype)


def stretches(blocks: Iterable[Provisional], table: Ids, ends: RisingPlaces) -> Iterator[tuple[Symbols, Ids] | None]:
    """Provisional ids as symbols, block by block, and the places in them where documents end, (M,).

    `table` has the symbol of each id, (ids,); `ends` are all ends. None for a block that has other ids.
    """
    symbols_of, kind = table.astype(np.int32), smallest(int(table.max(initial=0)) + 1)
    done = found = 0
    for ids in blocks:
        symbols = encode.translate(ids, symbols_of, kind)
        if symbols is None:
            yield None
            return
        near = ends.read(found, min(ends.size, found + symbols.size)).astype(np.int64) - done  # each has a character
        inside = near[: int(np.searchsorted(near, symbols.size, "right"))]
        yield symbols, inside
        done, found = done + symbols.size, found + inside.size


class Ends:
    """Where the documents of one part end, as uint64 in a .npy file, written as they are found."""

    def __init__(self, path: Path) -> None:
        self.documents = 0
        self._path = path

    def append(self, ends: Ids) -> None:
        """The next ends, rising, in characters from the start of the part, (M,)."""
        if not ends.size:
            return
        with self._path.open("ab") as file:
            if not self.documents:
                file.write(npy_head(ENDS, 0))
            file.write(ends.astype(ENDS).data)
        self.documents += ends.size

    @property
    def size(self) -> int:
        """How many there are so far."""
        return self.documents

    def read(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Some of the ends so far, (stop - start,)."""
        if start == stop:
            return np.zeros(0, ENDS)
        with self._path.open("rb") as file:
            file.seek(len(npy_head(ENDS, 0)) + start * ENDS.itemsize)
            return np.frombuffer(file.read((stop - start) * ENDS.itemsize), ENDS)

    def finish(self) -> Shard | None:
        """The file, now that all ends are in it; none where there are none."""
        if not self.documents:
            return None
        with self._path.open("r+b") as file:
            file.write(npy_head(ENDS, self.documents))  # as long as that of length 0: numpy leaves room for this
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            size = file.tell()
        return Shard(file=self._path.name, length=self.documents, size=size, sha256=digest.hexdigest())


class PartWriter:
    """Writes one part of the corpus as shards, counting its symbols."""

    def __init__(self, folder: Path, name: str, layout: Layout) -> None:
        self._folder, self._name, self._layout = folder, name, layout
        self.frequencies = np.zeros(layout.symbols.size, np.int64)  # (ids,)

    def write(self, draft: Drafted, characters: int, progress: Progress) -> PartHeader:
        """The next characters of the draft; progress is called after each block."""
        # Symbols that come later may not fit the type; they do not occur here.
        finals = self._layout.ids(draft.symbols(draft.taken + characters))  # (provisional ids,)
        kind = smallest(max(self._layout.known, int(finals.max(initial=-1)) + 1))
        table, counts = finals.astype(np.int32), np.zeros_like(finals)  # (provisional ids,)
        shards: list[Shard] = []
        for start in range(0, characters, SHARD):
            path = self._folder / f"{self._name}-{len(shards):05}.npy"
            length = min(SHARD, characters - start)
            shards.append(_shard(path, kind, length, _final(draft.take(length), table, kind, counts, progress)))
        self.frequencies[finals] += counts
        utf8 = int(self.frequencies @ self._layout.lengths)
        return PartHeader(characters=characters, bytes=utf8, shards=tuple(shards), documents=draft.ends.finish())


def _final(
    blocks: Iterator[Provisional],
    table: encode.Table,
    kind: np.dtype[np.unsignedinteger],
    counts: Ids,
    progress: Progress,
) -> Iterator[Provisional]:
    """The ids that a table gives for provisional ones, which are counted; progress is called after each block."""
    for block in blocks:
        ids = encode.translate(block, table, kind, counts)
        assert ids is not None  # the table has all that are in the draft
        yield ids
        progress()


def _shard(path: Path, dtype: np.dtype[np.unsignedinteger], length: int, blocks: Iterator[Provisional]) -> Shard:
    head = npy_head(dtype, length)
    digest = hashlib.sha256(head)
    with path.open("wb") as file:
        file.write(head)
        for ids in blocks:
            digest.update(ids.data)
            file.write(ids.data)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return Shard(file=path.name, length=length, size=size, sha256=digest.hexdigest())


def smallest(count: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type for ids below `count`, as it lies on the disk."""
    return np.min_scalar_type(max(count - 1, 0)).newbyteorder("<")


def npy_head(dtype: np.dtype[np.unsignedinteger], length: int) -> bytes:
    """How a .npy file of so many numbers begins."""
    head = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()

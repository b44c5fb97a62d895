"""Writes symbols as shards of ids, in two steps: first drafts of provisional ids, then shards of final ids.

In a draft, ids follow the order of the first appearance of symbols, and the draft records those places. Once all text
is read, it is known which symbols the training part has, and a table maps provisional ids to final ones. The ends of
documents are written only once, when they are found.
"""

from __future__ import annotations

import errno
import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.corpus.header import PartHeader, Shard
from scriven.corpus.shard_reader import ENDS, npy_head
from scriven.counter_rng import Words, mix
from scriven.kernels import encode
from scriven.tokens import TokenNumbers
from scriven.vocabulary import UNICODE_SIZE, Symbols, Vocabulary, utf8_lengths

SHARD_CHARACTERS = 1 << 31  # so that a terabyte of text takes few files
BLOCK_CHARACTERS = 1 << 17  # written at once: few enough for the processor's cache
NO_ENDS = np.zeros(0, np.int64)
HASHES_AT_ONCE = 1 << 22
Flags = npt.NDArray[np.bool_]
_BASE, _MASK = 0xD1342543DE82EF95, (1 << 64) - 1  # an odd number that looks random
_INVERSE = pow(_BASE, -1, 1 << 64)
_HASH = np.dtype("<u8")
Provisional = npt.NDArray[np.unsignedinteger]
Progress = Callable[[], None]
Bytes = bytes | memoryview


class Store(Protocol):
    """The file operations that a draft needs."""

    def write(self, data: Bytes, /) -> int:
        """Appends bytes."""

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes."""

    def seek(self, place: int, /) -> int:
        """Moves to a byte."""


class RisingPlaces(Protocol):
    """Rising places in a text; they need not all be in memory."""

    @property
    def size(self) -> int:
        """The number of places."""

    def read(self, start: int, stop: int, /) -> npt.NDArray[np.unsignedinteger]:
        """The places number `start` up to `stop`, (stop - start,)."""


class Drafted(Protocol):
    """The provisional ids and the ends of documents that a part of a corpus is written from."""

    taken: int  # ids already read by `take`
    ends: Ends

    @property
    def length(self) -> int:
        """The number of ids."""

    def symbols(self, before: int) -> Ids:
        """The distinct symbols among the first `before` characters, in the order of provisional ids 0, 1, 2, ..."""

    def take(self, count: int) -> Iterator[Provisional]:
        """Reads the next `count` ids, in blocks."""


@dataclass(frozen=True)
class Layout:
    """The order of final ids: first the vocabulary's C symbols, then the symbols that it does not know."""

    vocabulary: Vocabulary
    symbols: Ids  # (ids,) code point, byte or the number of a token
    lengths: Ids  # (ids,) bytes of UTF-8
    names: tuple[str, ...] = ()  # (ids,) the tokens, if they are the unit

    @classmethod
    def of(cls, vocabulary: Vocabulary, found: Ids) -> Layout:
        """Makes the layout for a vocabulary and the symbols found, known or not."""
        known = np.array(vocabulary.symbols, np.int64)
        symbols = np.concatenate([known, np.setdiff1d(found, known)])
        lengths = np.ones_like(symbols) if vocabulary.unit == "byte" else utf8_lengths(symbols)
        return cls(vocabulary, symbols, lengths)

    @classmethod
    def of_tokens(cls, vocabulary: Vocabulary, found: Iterable[str], numbers: TokenNumbers) -> Layout:
        """Makes the layout for a vocabulary of tokens and those found, known or not. `numbers` are their symbols."""
        names = (*vocabulary.tokens, *sorted(set(found).difference(vocabulary.tokens)))
        symbols = np.array([numbers[name] for name in names], np.int64)
        return cls(vocabulary, symbols, vocabulary.byte_lengths(vocabulary.encode(" ".join(names))), names)

    @property
    def known(self) -> int:
        """C, the number of symbols that the vocabulary knows."""
        return len(self.vocabulary.symbols)

    @property
    def unseen(self) -> Ids:
        """The symbols that the vocabulary does not know."""
        return self.symbols[self.known :]

    @property
    def unseen_names(self) -> tuple[str, ...]:
        """The text of each of these symbols."""
        return self.names[self.known :] if self.names else tuple(map(chr, self.unseen.tolist()))

    def ids(self, symbols: Ids) -> Ids:
        """The final ids of symbols, which must all be in the layout."""
        order = np.argsort(self.symbols)
        return order[np.searchsorted(self.symbols, symbols, sorter=order)].astype(np.int64)


class Draft:
    """Provisional ids in a file: all are appended first, then read by `take`. Ends of documents have their own file."""

    def __init__(self, file: Store, ends: Path) -> None:
        self.length = 0
        self.taken = 0
        self.ends = Ends(ends)
        self._file = file
        self._ids = np.full(UNICODE_SIZE, -1, np.int32)  # the id of each symbol, -1 for none
        self._symbols: list[int] = []  # the symbol of each provisional id
        self._firsts: list[int] = []  # the place where each first appeared
        self._runs: list[tuple[np.dtype[np.unsignedinteger], int]] = []  # types and numbers of consecutive ids

    @classmethod
    def from_file(cls, file: Store, runs: Iterable[tuple[np.dtype[np.unsignedinteger], int]]) -> Self:
        """Opens a draft that was written before, for reading."""
        draft = cls(file, Path())
        draft._runs = list(runs)
        draft.length = sum(count for _, count in draft._runs)
        return draft

    @property
    def runs(self) -> tuple[tuple[np.dtype[np.unsignedinteger], int], ...]:
        """The ids that are not yet read, in order: their type, and the number of consecutive ids of that type."""
        return tuple(self._runs)

    def append(self, symbols: Symbols, ends: Ids = NO_ENDS) -> None:
        """Appends symbols (code points or bytes), and the places in them where documents end."""
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
        """The ids of symbols; None when one of them is new."""
        return encode.translate(symbols, self._ids, smallest_dtype(len(self._symbols)))

    def _learn(self, symbols: Symbols) -> None:
        places = encode.learn(symbols, self._ids, len(self._symbols))
        self._symbols += symbols[places].tolist()
        self._firsts += (self.length + places).tolist()

    def symbols(self, before: int) -> Ids:
        """The distinct symbols among the first `before` characters, in the order of provisional ids 0, 1, 2, ..."""
        return np.array(self._symbols[: bisect_left(self._firsts, before)], np.int64)

    def read_back(self) -> Iterator[tuple[Symbols, Ids]]:
        """Reads all symbols and the places in them where documents end, (M,), in blocks. This ends appending."""
        for chunk in decode_chunks(self.take(self.length), self.symbols(self.length), self.ends):
            assert chunk  # a draft has a symbol for each of its ids
            yield chunk

    def take(self, count: int) -> Iterator[Provisional]:
        """Reads the next `count` ids, in blocks. This ends appending."""
        if not self.taken:
            self._file.seek(0)
        while count:
            dtype, left = self._runs[0]
            length = min(count, left, BLOCK_CHARACTERS)
            self._runs[:1] = [(dtype, left - length)] if length < left else []
            self.taken += length
            count -= length
            data = self._file.read(length * dtype.itemsize)
            if len(data) < length * dtype.itemsize:
                raise OSError(errno.EIO, "a draft that was written cannot be read back")
            yield np.frombuffer(data, dtype)


def decode_chunks(
    blocks: Iterable[Provisional], table: Ids, ends: RisingPlaces
) -> Iterator[tuple[Symbols, Ids] | None]:
    """Turns provisional ids into symbols, block by block, with the places in them where documents end, (M,).

    `table` (ids,) has the symbol of each id; `ends` are the ends of all documents. Yields None for a block with an id
    that the table lacks, and stops.
    """
    symbols_of, kind = table.astype(np.int32), smallest_dtype(int(table.max(initial=0)) + 1)
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
    """The ends of the documents of one part, written to a .npy file of uint64 as they are found."""

    def __init__(self, path: Path) -> None:
        self.documents = 0
        self._path = path

    def append(self, ends: Ids) -> None:
        """Appends ends (M,), rising, in characters from the start of the part."""
        if not ends.size:
            return
        with self._path.open("ab") as file:
            if not self.documents:
                file.write(npy_head(ENDS, 0))
            file.write(ends.astype(ENDS).data)
        self.documents += ends.size

    @property
    def size(self) -> int:
        """The number of ends appended."""
        return self.documents

    def read(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Reads some of the ends appended, (stop - start,)."""
        if start == stop:
            return np.zeros(0, ENDS)
        with self._path.open("rb") as file:
            file.seek(len(npy_head(ENDS, 0)) + start * ENDS.itemsize)
            return np.frombuffer(file.read((stop - start) * ENDS.itemsize), ENDS)

    def finish(self) -> Shard | None:
        """Completes the file and returns it; None when there are no ends."""
        if not self.documents:
            return None
        with self._path.open("r+b") as file:
            file.write(npy_head(ENDS, self.documents))  # as long as the first one: numpy leaves room for digits
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            size = file.tell()
        return Shard(file=self._path.name, length=self.documents, size=size, sha256=digest.hexdigest())


class PartWriter:
    """Writes one part of the corpus as shards, and counts its symbols."""

    def __init__(self, folder: Path, name: str, layout: Layout) -> None:
        self._folder, self._name, self._layout = folder, name, layout
        self.frequencies = np.zeros(layout.symbols.size, np.int64)  # (ids,)

    def write(self, draft: Drafted, characters: int, progress: Progress) -> PartHeader:
        """Writes the next characters of the draft. Calls `progress` after each block."""
        # Later symbols of the draft might not fit the type, but they do not occur here.
        finals = self._layout.ids(draft.symbols(draft.taken + characters))  # (provisional ids,)
        kind = smallest_dtype(max(self._layout.known, int(finals.max(initial=-1)) + 1))
        table, counts = finals.astype(np.int32), np.zeros_like(finals)  # (provisional ids,)
        shards: list[Shard] = []
        for start in range(0, characters, SHARD_CHARACTERS):
            path = self._folder / f"{self._name}-{len(shards):05}.npy"
            length = min(SHARD_CHARACTERS, characters - start)
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
    """Translates provisional ids by a table, and counts them. Calls `progress` after each block."""
    for block in blocks:
        ids = encode.translate(block, table, kind, counts)
        assert ids is not None  # the table has every id of the draft
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


def smallest_dtype(count: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type for ids below `count`, little-endian as on disk."""
    return np.min_scalar_type(max(count - 1, 0)).newbyteorder("<")


# --- documents of a draft


def pick(symbols: Symbols, ends: Ids, chosen: npt.NDArray[np.bool_]) -> tuple[Symbols, Ids]:
    """Picks documents from symbols (characters,) with ends (M,) of documents; returns their symbols and ends.

    `chosen` (M + 1,) says which; its last flag is for the symbols after the last end.
    """
    lengths = np.diff(ends, prepend=0, append=symbols.size)  # (M + 1,)
    return symbols[np.repeat(chosen, lengths)], np.cumsum(lengths * chosen)[:-1][chosen[:-1]]


class HashedDraft:
    """A draft, and a file with the hash of each document that is appended to it.

    The hash of symbols s depends on their number and on the sum of s[i] * BASE^i modulo 2^64, which can be continued
    from piece to piece.
    """

    def __init__(self, draft: Draft, path: Path) -> None:
        self.draft, self.documents = draft, 0
        self._path, self._file = path, path.open("wb")
        self._sum = self._length = 0  # of the open document

    def append(self, symbols: Symbols, ends: Ids) -> None:
        """Appends like `Draft.append`."""
        self.draft.append(symbols, ends)
        lengths = np.diff(ends, prepend=0, append=symbols.size)  # (M + 1,), the last one of the open document
        sums = _hash_sums(symbols, ends, lengths)
        sums[0] = (self._sum + int(sums[0]) * pow(_BASE, self._length, 1 << 64)) & _MASK
        lengths[0] += self._length
        self._sum, self._length = int(sums[-1]), int(lengths[-1])
        self._file.write(mix(sums[:-1] + mix(lengths[:-1].astype(np.uint64))).astype(_HASH).data)
        self.documents += ends.size

    def blocks(self) -> Iterator[Words]:
        """Reads the hashes of all documents, in blocks (M,)."""
        self._file.flush()
        with self._path.open("rb") as file:
            while data := file.read(HASHES_AT_ONCE * _HASH.itemsize):
                yield np.frombuffer(data, _HASH).astype(np.uint64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Removes the file of hashes."""
        self._file.close()
        self._path.unlink()


def _hash_sums(symbols: Symbols, ends: Ids, lengths: Ids) -> Words:
    """The sum of s[i] * BASE^i for each document in symbols (characters,), with i from its start there; (M + 1,)."""
    starts = np.concatenate(([0], ends))  # (M + 1,)
    sums = np.zeros(starts.size, np.uint64)
    has_some = lengths > 0  # only the first and the last one may be empty
    values = np.multiply(symbols, _powers(_BASE, symbols.size)[: symbols.size], dtype=np.uint64)
    sums[has_some] = np.add.reduceat(values, starts[has_some]) if symbols.size else 0
    return sums * _powers(_INVERSE, symbols.size)[starts]


@cache
def _all_powers(base: int, count: int) -> Words:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _powers(base: int, count: int) -> Words:
    """At least count + 1 powers of a number modulo 2^64: power 0, 1, ..."""
    return _all_powers(base, 1 << max(17, count.bit_length()))


def are_duplicates(validation: HashedDraft, training: HashedDraft) -> Iterator[Flags]:
    """Whether each validation document is also in the training part, in blocks (M,)."""
    for block in validation.blocks():
        wanted, places = np.unique(block, return_inverse=True)
        is_found = np.zeros(wanted.size, np.bool_)
        for others in training.blocks():
            near = np.minimum(np.searchsorted(wanted, others), wanted.size - 1)
            is_found[near[wanted[near] == others]] = True
        yield is_found[places]


def copy_others(draft: Draft, flags: Iterator[Flags], into: Draft) -> int:
    """Copies the documents that are not flagged from one draft to another; returns the number of flagged ones.

    `flags` has a flag for each document, in blocks (M,).
    """
    left, dropped = np.zeros(0, np.bool_), 0
    for symbols, ends in draft.read_back():
        while left.size <= ends.size and (more := next(flags, None)) is not None:
            left = np.concatenate((left, more))
            dropped += int(more.sum())
        chosen = np.ones(ends.size + 1, np.bool_)  # the last flag is for the open document, if any
        chosen[: left.size] = ~left[: chosen.size]
        into.append(*pick(symbols, ends, chosen))
        left = left[ends.size :]
    return dropped

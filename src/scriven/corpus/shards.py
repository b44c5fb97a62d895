"""Symbols -> shards of final ids, in two steps: a draft of provisional ids, and one table that makes them final.

While reading, a symbol's id is the order of its first appearance, and the draft notes where that was. At the end it is
known where the training part ends, and so which symbols it has.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from scriven.corpus.header import PartHeader, Shard
from scriven.settings import Unit
from scriven.vocabulary import UNICODE_SIZE, Ids, Vocabulary, utf8_lengths

SHARD = 1 << 31  # characters in a shard: few enough files for a terabyte
BLOCK = 1 << 20  # characters written at once
Provisional = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Layout:
    """The final ids: those of the vocabulary, then those of the symbols that only the validation part has."""

    vocabulary: Vocabulary
    symbols: Ids  # (ids,) code point or byte
    lengths: Ids  # (ids,) bytes of UTF-8
    table: Ids  # (provisional ids,) final id


class Draft:
    """Provisional ids in a file: first all are appended, then all are taken."""

    def __init__(self, file: IO[bytes]) -> None:
        self.length = 0
        self.taken = 0
        self._file = file
        self._ids = np.full(UNICODE_SIZE, -1, np.int32)  # of each symbol
        self._symbols: list[int] = []  # of each provisional id
        self._firsts: list[int] = []  # where it was first
        self._runs: list[tuple[np.dtype[np.unsignedinteger], int]] = []  # ids in a row of one type

    def append(self, symbols: Ids) -> None:
        """Symbols (code points or bytes) that come next."""
        if not symbols.size:
            return
        ids = self._ids[symbols]
        if ids.min() < 0:
            self._learn(symbols, np.flatnonzero(ids < 0))
            ids = self._ids[symbols]
        dtype = smallest(len(self._symbols))
        if self._runs and self._runs[-1][0] == dtype:
            self._runs[-1] = dtype, self._runs[-1][1] + ids.size
        else:
            self._runs.append((dtype, ids.size))
        self._file.write(ids.astype(dtype).data)
        self.length += ids.size

    def _learn(self, symbols: Ids, places: npt.NDArray[np.intp]) -> None:
        new, first = np.unique(symbols[places], return_index=True)
        order = np.argsort(first)
        self._ids[new[order]] = np.arange(len(self._symbols), len(self._symbols) + new.size)
        self._symbols += new[order].tolist()
        self._firsts += (self.length + places[first[order]]).tolist()

    def layout(self, training: int, unit: Unit) -> Layout:
        """The final ids when the first `training` symbols are the training part. Nothing can be appended after that."""
        self._file.seek(0)
        symbols = np.array(self._symbols, np.int64)
        if unit == "byte":
            vocabulary = Vocabulary.of_bytes()
            return Layout(vocabulary, np.arange(256), np.ones(256, np.int64), symbols)
        trained = np.array(self._firsts) < training
        known, unseen = np.sort(symbols[trained]), np.sort(symbols[~trained])
        table = np.where(trained, np.searchsorted(known, symbols), known.size + np.searchsorted(unseen, symbols))
        final = np.concatenate([known, unseen])
        return Layout(Vocabulary("character", tuple(known.tolist())), final, utf8_lengths(final), table)

    def take(self, count: int) -> Iterator[Provisional]:
        """The next `count` ids, in blocks."""
        while count:
            dtype, left = self._runs[0]
            length = min(count, left, BLOCK)
            self._runs[:1] = [(dtype, left - length)] if length < left else []
            self.taken += length
            count -= length
            yield np.frombuffer(self._file.read(length * dtype.itemsize), dtype)


class PartWriter:
    """Writes one part of a draft as shards, counting its symbols."""

    def __init__(self, folder: Path, name: str, layout: Layout) -> None:
        # Symbols of the other part may not fit the type; they do not occur in this one.
        used = layout.vocabulary.unknown if name == "training" else layout.symbols.size
        self._table = layout.table.astype(smallest(used))
        self._folder, self._name, self._lengths = folder, name, layout.lengths
        self.frequencies = np.zeros(layout.symbols.size, np.int64)  # (ids,)

    def write(self, draft: Draft, characters: int, progress: Callable[[], None]) -> PartHeader:
        """The next characters of the draft; progress is called after each block."""
        shards: list[Shard] = []
        for start in range(0, characters, SHARD):
            path = self._folder / f"{self._name}-{len(shards):05}.npy"
            shards.append(self._shard(path, draft, min(SHARD, characters - start), progress))
        utf8 = int(self.frequencies @ self._lengths)
        return PartHeader(characters=characters, bytes=utf8, shards=tuple(shards))

    def _shard(self, path: Path, draft: Draft, characters: int, progress: Callable[[], None]) -> Shard:
        head = _npy_head(self._table.dtype, characters)
        digest = hashlib.sha256(head)
        with path.open("wb") as file:
            file.write(head)
            for block in draft.take(characters):
                ids = self._table[block]
                self.frequencies += np.bincount(ids, minlength=self.frequencies.size)
                digest.update(ids.data)
                file.write(ids.data)
                progress()
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        return Shard(file=path.name, characters=characters, size=size, sha256=digest.hexdigest())


def smallest(count: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type for ids below `count`, as it lies on the disk."""
    return np.min_scalar_type(max(count - 1, 0)).newbyteorder("<")


def _npy_head(dtype: np.dtype[np.unsignedinteger], length: int) -> bytes:
    head = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()

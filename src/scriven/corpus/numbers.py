"""Reads numbers from the files of a corpus.

Files are not memory-mapped. If a mapped file is cut short, or its disk fails, the system kills the process without a
message. Here that is an error like any other.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.corpus.filesystem import Place, explain_errors
from scriven.corpus.header import BUILD_AGAIN, Shard
from scriven.corpus.shards import ENDS, npy_head
from scriven.errors import InputError

KEPT_BYTES = 1 << 26  # files up to this size are read once and kept in memory, which is faster for short reads
IDS = tuple(np.dtype(kind) for kind in ("<u1", "<u2", "<u4"))
Array = npt.NDArray[np.unsignedinteger]


def layout_of(shard: Shard, path: Place) -> tuple[np.dtype[np.unsignedinteger], bytes]:
    """The type of the numbers in a shard's file, and the file's .npy header; both follow from its length and size.

    Raises InputError if no file of numbers can have that length and size.
    """
    for kind in (ENDS,) if shard.file.endswith("-documents.npy") else IDS:
        head = npy_head(kind, shard.length)
        if len(head) + shard.length * kind.itemsize == shard.size:
            return kind, head
    raise InputError(f"{path} cannot hold {shard.length:,} numbers in {shard.size:,} bytes; {BUILD_AGAIN}")


class Numbers:
    """The `size` numbers in a shard's file. The file stays open as long as this object lives."""

    def __init__(self, path: Path, shard: Shard) -> None:
        """Opens the file. Its .npy header is compared with the expected one, and never trusted.

        Raises InputError if the file cannot be opened or does not belong to the shard.
        """
        self.path, self.size = path, shard.length
        self._kind, head = layout_of(shard, path)
        self._first, self._bytes = len(head), shard.size
        self._kept: Array | None = None
        with explain_errors(str(path)):
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self._descriptor)
            same = os.fstat(self._descriptor).st_size == shard.size and _read_at(self._descriptor, len(head), 0) == head
        if not same:
            raise InputError(f"{path} does not hold {shard.length:,} numbers as it should; {BUILD_AGAIN}")

    def read(self, start: int, stop: int) -> Array:
        """The numbers from place `start` up to `stop`, (stop - start,), as a read-only array.

        Raises InputError if the file has become shorter, or its disk fails.
        """
        if self._kept is None and self._bytes <= KEPT_BYTES:
            self._kept = self._numbers(0, self.size)
        return self._numbers(start, stop) if self._kept is None else self._kept[start:stop]

    def at(self, places: Ids) -> Array:
        """The numbers at some places (M,). Raises InputError like `read`."""
        if not places.size or self._bytes <= KEPT_BYTES:
            return self.read(0, self.size)[places] if places.size else np.zeros(0, self._kind)
        first, last = int(places.min()), int(places.max()) + 1
        if last - first <= 2 * places.size:
            return self.read(first, last)[places - first]
        return np.concatenate([self.read(place, place + 1) for place in places.tolist()])

    def _numbers(self, start: int, stop: int) -> Array:
        wanted = (stop - start) * self._kind.itemsize
        with explain_errors(str(self.path)):
            data = _read_at(self._descriptor, wanted, self._first + start * self._kind.itemsize)
        if len(data) < wanted:
            raise InputError(
                f"{self.path} became shorter while it was in use; {BUILD_AGAIN}, then continue with --resume"
            )
        return np.frombuffer(data, self._kind)


def _read_at(descriptor: int, size: int, place: int) -> bytes:
    """Reads bytes of a file; fewer at its end. Threads may read at the same time. Raises OSError."""
    pieces = list[bytes]()
    while size and (piece := _pread(descriptor, size, place)):  # one read may return less than asked for
        pieces.append(piece)
        size, place = size - len(piece), place + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


if hasattr(os, "pread"):
    _pread = os.pread
else:  # Windows
    _turn = threading.Lock()

    def _pread(descriptor: int, size: int, place: int) -> bytes:
        with _turn:
            if os.lseek(descriptor, place, os.SEEK_SET) != place:
                raise OSError(errno.EIO, "cannot go to a place in a file")
            return os.read(descriptor, size)


__all__ = ["Array", "Numbers", "layout_of"]

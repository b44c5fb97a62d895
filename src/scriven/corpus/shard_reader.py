"""Reads the shards of a corpus: those on this disk from their files, those of a remote corpus through a local cache.

Files are not memory-mapped. If a mapped file is cut short, or its disk fails, the system kills the process without a
message. Here that is an error like any other.

The cache has a bounded size. A cached shard is named by its SHA-256, which is checked when it is fetched, so corpora
share equal shards. If there is no room, the least recently used shards are removed first. A shard in use is locked, and
stays.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, overload

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from scriven.arrays import Ids
from scriven.corpus.filesystem import REMOTE_BLOCK_BYTES, Place, explain_errors, join_place, open_file
from scriven.corpus.header import BUILD_AGAIN, Shard
from scriven.errors import InputError, UsageError

try:
    import fcntl
except ImportError:  # on Windows an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

KEPT_BYTES = 1 << 26  # files up to this size are read once and kept in memory, which is faster for short reads
ENDS = np.dtype("<u8")  # the type of the ends of documents on disk
IDS = tuple(np.dtype(kind) for kind in ("<u1", "<u2", "<u4"))
Array = npt.NDArray[np.unsignedinteger]


def npy_head(dtype: np.dtype[np.unsignedinteger], length: int) -> bytes:
    """The header of a .npy file of `length` numbers."""
    head = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()


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


# --- fetched from elsewhere

DEFAULT_LIMIT = "20GB"  # used if SCRIVEN_CACHE_SIZE is not set
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
FETCHED = re.compile(r"[0-9a-f]{64}(\.npy|\.[0-9]+\.part)")  # names of our files


def cache_limit() -> int:
    """The most bytes that the cache of shards may take: the environment variable SCRIVEN_CACHE_SIZE, such as 500MB.

    Raises UsageError if it is not a size.
    """
    text = os.environ.get("SCRIVEN_CACHE_SIZE") or DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B|)", text.upper())
    if not match:
        raise UsageError(f"SCRIVEN_CACHE_SIZE is {text!r}; give a size such as 500MB or 20GB")
    return int(float(match[1]) * UNITS[match[2] if match[2] != "B" else ""])


class ShardCache:
    """A folder of fetched shards, of at most `limit` bytes. Several processes may share it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._held: OrderedDict[str, tuple[IO[bytes], Numbers]] = OrderedDict()  # the most recently used one is last
        self._pinned: set[str] = set()

    def numbers(self, url: str, shard: Shard, *, pinned: bool = False) -> Numbers:
        """The numbers of the shard at a URL. They are valid until the next call; with `pinned`, always.

        Raises InputError if it cannot be fetched, is damaged, or does not fit into the cache.
        """
        if shard.sha256 not in self._held:
            self._held[shard.sha256] = self._fetched_shard(url, shard)
        self._held.move_to_end(shard.sha256)
        if pinned:
            self._pinned.add(shard.sha256)
        return self._held[shard.sha256][1]

    def _fetched_shard(self, url: str, shard: Shard) -> tuple[IO[bytes], Numbers]:
        path = self._folder / f"{shard.sha256}.npy"
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileNotFoundError):
                file = path.open("rb")
                _lock(file, wait=True)
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):  # it was not removed
                    os.utime(path)
                    return file, Numbers(path, shard)
                file.close()
            with FileLock(self._folder / f"{shard.sha256}.lock"):
                if not path.exists():
                    self._fetch(url, shard, path)

    def _fetch(self, url: str, shard: Shard, path: Path) -> None:
        layout_of(shard, url)  # raises InputError before anything is fetched
        digest, left = hashlib.sha256(), shard.size
        with ExitStack() as stack:
            stack.enter_context(explain_errors(url, remote=True))
            source = stack.enter_context(open_file(url))
            work, file = self._room(shard)
            stack.callback(work.unlink, missing_ok=True)  # missing once it was renamed
            stack.enter_context(file)
            while left and (data := source.read(min(left, REMOTE_BLOCK_BYTES))):
                digest.update(data)
                file.write(data)
                left -= len(data)
            if left or source.read(1) or digest.hexdigest() != shard.sha256:
                raise InputError(f"{url} does not have the size and SHA-256 that its corpus states; {BUILD_AGAIN}")
            file.flush()
            os.fsync(file.fileno())
            work.rename(path)

    def _room(self, shard: Shard) -> tuple[Path, IO[bytes]]:
        """Makes a locked file of a shard's size, so that no other process counts on that room."""
        with FileLock(self._folder / "cache.lock"):
            self._make_room(shard)
            work = self._folder / f"{shard.sha256}.{os.getpid()}.part"
            file = work.open("wb")
            _lock(file, wait=True)
            file.truncate(shard.size)
            return work, file

    def _make_room(self, shard: Shard) -> None:
        now = time.time_ns()  # set explicitly, since the system's own file times are coarse
        for index, sha256 in enumerate(self._held):  # in the order of their use
            with suppress(OSError):
                os.utime(self._folder / f"{sha256}.npy", ns=(now + index, now + index))
        files = [path for path in self._folder.iterdir() if FETCHED.fullmatch(path.name)]
        sizes = {path: path.stat().st_size for path in files}
        total = sum(sizes.values()) + shard.size
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
            if total <= self._limit:
                return
            if path.stem in self._held and path.stem not in self._pinned:
                self._held.pop(path.stem)[0].close()
            total -= sizes[path] if _remove_unlocked(path) else 0
        if total > self._limit:
            raise InputError(
                f"the cache {self._folder} may take {self._limit:,} bytes, but {total:,} are needed at once; set "
                "SCRIVEN_CACHE_SIZE to more, such as 100GB"
            )


class RemoteShards(Sequence[Numbers]):
    """The shards of a remote corpus; each is fetched when it is used."""

    def __init__(self, cache: ShardCache, folder: str, shards: Sequence[Shard]) -> None:
        self._cache, self._folder, self._shards = cache, folder, shards

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, index: int) -> Numbers: ...

    @overload
    def __getitem__(self, index: slice) -> list[Numbers]: ...

    def __getitem__(self, index: int | slice) -> Numbers | list[Numbers]:
        if isinstance(index, slice):
            raise TypeError("only one shard can be fetched at a time")
        shard = self._shards[index]
        return self._cache.numbers(str(join_place(self._folder, shard.file)), shard)


def checked_blocks(folder: Place, shard: Shard) -> Iterator[Array]:
    """Reads all numbers of a shard's file from its original place, in blocks.

    Raises InputError if the file is damaged, but only after the last block.
    """
    path = join_place(folder, shard.file)
    kind, head = layout_of(shard, path)
    digest = hashlib.sha256(head)
    with explain_errors(str(path), remote=isinstance(path, str)), open_file(path) as file:
        intact = file.read(len(head)) == head
        while data := file.read(REMOTE_BLOCK_BYTES):
            digest.update(data)
            if len(data) % kind.itemsize == 0:
                yield np.frombuffer(data, kind)
    if not intact or digest.hexdigest() != shard.sha256:
        raise InputError(f"{path} is damaged; {BUILD_AGAIN}")


def _lock(file: IO[bytes], *, wait: bool, alone: bool = False) -> None:
    if fcntl:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))


def _remove_unlocked(path: Path) -> bool:
    """Removes a file unless a process has it locked."""
    with suppress(OSError), path.open("rb") as file:
        _lock(file, wait=False, alone=True)
        path.unlink()
        return True
    return False

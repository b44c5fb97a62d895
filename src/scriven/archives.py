"""Archives: files compressed without loss by a model that learns while it reads, `kernels.context_mixing.ContextMixer`.

An archive is a head, the encoded bytes, and a tail. The head has MAGIC, the version, the size of the model's table as a
power of two, and the number of bytes of the content. The tail has the beginning of the content's SHA-256, and a CRC-32
of all before it, so that damage is seen before anything is decoded. Numbers are little-endian. Any bytes can be
compressed. The model is integers only, so an archive of one machine is the same as that of any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scriven.errors import InputError, close_paths, did_you_mean
from scriven.kernels import native_library
from scriven.kernels.context_mixing import (
    LEAST_MEMORY_BITS,
    MOST_MEMORY_BITS,
    ContextMixer,
    kinds_of_bytes,
    memory_bits_for,
)

MAGIC = b"Scriven\xb6"
VERSION = 1
HEAD = struct.Struct("<8sBBQ")  # magic, version, memory bits, length
DIGEST_BYTES = 16
TAIL = struct.Struct(f"<{DIGEST_BYTES}sI")
BYTES_AT_ONCE = 1 << 14  # bytes of content between two calls of `report`
MOST_PER_BYTE = 46_000  # bytes of content that a byte can stand for: no bit costs less than 1 / 65536 of a nat

Report = Callable[[int, int], object]  # takes bytes done and bytes in all


@dataclass(frozen=True)
class ArchiveSize:
    """The number of bytes of a content, and of its archive."""

    content: int
    archive: int


def check_native() -> None:
    """Raises InputError if there is no native library: archives need it."""
    if native_library.library() is None:
        raise InputError(f"archives need native code, but there is none: {native_library.why()}")


def compress(source: BinaryIO, length: int, target: BinaryIO, report: Report = lambda done, total: None) -> ArchiveSize:
    """Writes an archive of the next `length` bytes of `source`.

    Raises InputError if the source has fewer or more bytes.
    """
    check_native()
    digest, writer, bits = hashlib.sha256(), _CheckedWriter(target), memory_bits_for(length)
    writer.write(HEAD.pack(MAGIC, VERSION, bits, length))
    with ContextMixer(kinds_of_bytes(), bits) as mixer:
        for done in range(0, max(length, 1), BYTES_AT_ONCE):
            report(done, length)
            piece = _read_exactly(source, min(BYTES_AT_ONCE, length - done))
            digest.update(piece)
            ids = np.frombuffer(piece, np.uint8).astype(np.int64)
            writer.write(mixer.encode(ids, last=done + len(piece) == length))
    if source.read(1):
        raise InputError("the file grew while it was read; compress it when nothing writes to it")
    writer.write(digest.digest()[:DIGEST_BYTES])
    writer.write(writer.crc.to_bytes(4, "little"))
    report(length, length)
    return ArchiveSize(length, writer.count)


def decompress(archive: bytes, target: BinaryIO, report: Report = lambda done, total: None) -> ArchiveSize:
    """Writes the content of an archive. Raises InputError if it is damaged, or not an archive."""
    check_native()
    bits, length = _check_head(archive)
    digest = hashlib.sha256()
    encoded = np.frombuffer(archive, np.uint8)[HEAD.size : -TAIL.size]
    with ContextMixer(kinds_of_bytes(), bits) as mixer:
        for done in range(0, length, BYTES_AT_ONCE):
            report(done, length)
            piece = mixer.decode(encoded, min(BYTES_AT_ONCE, length - done)).astype(np.uint8).tobytes()
            digest.update(piece)
            target.write(piece)
    if digest.digest()[:DIGEST_BYTES] != archive[-TAIL.size : -4]:
        raise InputError(
            "the content is not what was compressed: its checksum differs; restore the archive from a copy"
        )
    report(length, length)
    return ArchiveSize(length, len(archive))


def _check_head(archive: bytes) -> tuple[int, int]:
    """Returns the memory bits and the length of the content. Raises InputError for what is no undamaged archive."""
    if archive[: len(MAGIC)] != MAGIC[: len(archive)] or not archive:
        raise InputError("this is not an archive of scriven compress")
    if len(archive) < HEAD.size + TAIL.size:
        raise InputError(f"the archive is cut short: it has only {len(archive)} bytes; restore it from a copy")
    _, version, bits, length = HEAD.unpack(archive[: HEAD.size])
    if version != VERSION:
        raise InputError(
            f"the archive has version {version}, this Scriven reads {VERSION}; use the version that made it"
        )
    if zlib.crc32(archive[:-4]) != int.from_bytes(archive[-4:], "little"):
        raise InputError("the archive is damaged or cut short: its checksum differs; restore it from a copy")
    if not LEAST_MEMORY_BITS <= bits <= MOST_MEMORY_BITS:
        raise InputError(
            f"the archive asks for 2^{bits} bytes of memory, not 2^{LEAST_MEMORY_BITS} to 2^{MOST_MEMORY_BITS}"
        )
    if length > MOST_PER_BYTE * len(archive):
        raise InputError(f"the archive cannot hold {length:,} bytes in {len(archive):,}; it was not made by scriven")
    return bits, length


class _CheckedWriter:
    """Writes to a file, and counts what is written, with its CRC-32."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.count = self.crc = 0

    def write(self, piece: bytes) -> None:
        self._target.write(piece)
        self.count += len(piece)
        self.crc = zlib.crc32(piece, self.crc)


def _read_exactly(source: BinaryIO, count: int) -> bytes:
    """Reads `count` bytes. Raises InputError if there are fewer."""
    parts, missing = [], count
    while missing:
        part = source.read(missing)
        if not part:
            raise InputError("the file shrank while it was read; compress it when nothing writes to it")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a plain file, or a link to one; yields it and its number of bytes. Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{path} is not a plain file; pass its content through standard input, as -")
            yield file, found.st_size
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file{did_you_mean(close_paths(str(path)))}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; compress one file, such as an archive of tar") from None

"""Archives: files compressed without loss by a model that learns while it reads, `kernels.context_mixing.ContextMixer`.

A trained network may take part. It is not in the archive, which has only its hash.

An archive is a head, with a network a second head, the encoded content, and a tail. The tail has the beginning of the
content's SHA-256, and a CRC-32 of all before it, so that damage is seen before anything is decoded. Numbers are
little-endian. Any bytes can be compressed. The model has integers only, and a network is used in int8, which gives the
same bits on every processor. So an archive of one machine is the same as that of any other.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.errors import InputError
from scriven.kernels import native_library
from scriven.kernels.context_mixing import (
    LEAST_MEMORY_BITS,
    MOST_MEMORY_BITS,
    ContextMixer,
    Kinds,
    kinds_of_bytes,
    kinds_of_symbols,
    memory_bits_for,
)
from scriven.vocabulary import Vocabulary, code_points

if TYPE_CHECKING:
    from scriven.kernels.sampler import Sampler  # which imports torch

MAGIC = b"Scriven\xb6"
VERSION = 2
HEAD = struct.Struct("<8sBBBQ")  # magic, version, whether a network takes part, memory bits, symbols
PARTNER = struct.Struct("<16s32pQQ")  # a network: hash, name; numbers of unknown bytes, and of bytes that encode these
DIGEST_BYTES = 16
TAIL_BYTES = DIGEST_BYTES + 4
SYMBOLS_AT_ONCE = 1 << 14  # between two calls of a report
MOST_PER_BYTE = 46_000  # symbols that a byte can stand for: no bit has a probability above 65535 / 65536

Report = Callable[[int, int], object]  # takes symbols done, and symbols in all


def ignore_progress(done: int, total: int) -> None:
    """A report that does nothing."""


@dataclass(frozen=True)
class ArchiveNetwork:
    """A network that takes part: its weights, packed in int8, its vocabulary, and the name of the start that it is.

    The network of a run has no name.
    """

    sampler: Sampler
    vocabulary: Vocabulary
    name: str = ""

    @cached_property
    def digest(self) -> bytes:
        """A hash of all that its predictions depend on, as rounded on this machine."""
        known = f"{self.vocabulary.to_json()} {self.sampler.sha256}"
        return hashlib.sha256(known.encode()).digest()[:DIGEST_BYTES]

    @property
    def kinds(self) -> Kinds:
        """What each symbol of a content is; bytes have no `<unk>`."""
        kinds = kinds_of_symbols(self.vocabulary)
        return kinds[: len(self.vocabulary.symbols)] if self.vocabulary.unit == "byte" else kinds

    def split(self, content: bytes) -> tuple[Ids, bytes] | None:
        """Returns a content's ids, with `<unk>` for unknown characters, and these as UTF-8. None if it is not UTF-8."""
        if self.vocabulary.unit == "byte":
            return _ids_of(content), b""
        try:
            ids = self.vocabulary.encode(content.decode("utf-8"))
        except UnicodeDecodeError:
            return None
        unknown = "".join(map(chr, ids[self.vocabulary.unseen(ids)] - self.vocabulary.size))
        return self.vocabulary.clamp(ids), unknown.encode("utf-8")

    def join(self, ids: Ids, unknown: bytes) -> bytes:
        """Returns the content that `split` took apart. Raises ValueError for anything else."""
        if self.vocabulary.unit == "byte":
            return _bytes_of(ids)
        ids = ids.copy()
        ids[ids == self.vocabulary.unknown] = self.vocabulary.size + code_points(unknown.decode("utf-8")).astype(int)
        return self.vocabulary.decode(ids).encode("utf-8")


FindNetwork = Callable[[str], ArchiveNetwork]  # takes a name, "" for that of a run


def compress(content: bytes, network: ArchiveNetwork | None = None, report: Report = ignore_progress) -> bytes:
    """Returns an archive. The network takes no part if the content is not UTF-8 and it knows characters only."""
    check_native()
    bits, split = memory_bits_for(len(content)), network.split(content) if network else None
    if network is None or split is None:
        ids = _ids_of(content)
        parts = [HEAD.pack(MAGIC, VERSION, 0, bits, ids.size), _encode(ids, kinds_of_bytes(), bits, None, report)]
    else:
        ids, unknown = split
        apart = _encode(_ids_of(unknown), kinds_of_bytes(), LEAST_MEMORY_BITS)
        partner = PARTNER.pack(network.digest, network.name.encode(), len(unknown), len(apart))
        head = HEAD.pack(MAGIC, VERSION, 1, bits, ids.size)
        parts = [head, partner, apart, _encode(ids, network.kinds, bits, network.sampler, report)]
    archive = b"".join([*parts, hashlib.sha256(content).digest()[:DIGEST_BYTES]])
    return archive + zlib.crc32(archive).to_bytes(4, "little")


def decompress(archive: bytes, find_network: FindNetwork, report: Report = ignore_progress) -> bytes:
    """Returns the content of an archive. `find_network` is called if a network took part.

    Raises InputError if the archive is damaged, is none, or was made with another network.
    """
    check_native()
    partner, bits, symbols = _check_head(archive)
    encoded = np.frombuffer(archive, np.uint8)[HEAD.size : -TAIL_BYTES]
    if not partner:
        content = _bytes_of(_decode(encoded, symbols, kinds_of_bytes(), bits, None, report))
    else:
        if encoded.size < PARTNER.size:
            raise InputError("the archive is cut short; restore it from a copy")
        digest, name, unknown_size, apart_size = PARTNER.unpack(encoded[: PARTNER.size].tobytes())
        _check_size(unknown_size, apart_size)
        network = find_network(name.decode("ascii", "replace"))
        if network.digest != digest:
            raise InputError(
                "the archive was made with another network, or this machine rounds its weights differently; give the "
                "run that it was made with, or decompress it where it was made"
            )
        apart, rest = encoded[PARTNER.size :][:apart_size], encoded[PARTNER.size + apart_size :]
        unknown = _decode(apart, unknown_size, kinds_of_bytes(), LEAST_MEMORY_BITS)
        ids = _decode(rest, symbols, network.kinds, bits, network.sampler, report)
        try:
            content = network.join(ids, _bytes_of(unknown))
        except ValueError:
            content = b""  # which has another checksum
    if hashlib.sha256(content).digest()[:DIGEST_BYTES] != archive[-TAIL_BYTES:-4]:
        raise InputError(
            "the content is not what was compressed: its checksum differs; restore the archive from a copy"
        )
    return content


def has_network(archive: bytes) -> bool:
    """Whether a network took part in an archive."""
    return _check_head(archive)[0]


def check_native() -> None:
    """Raises InputError if there is no native library: archives need it."""
    if native_library.library() is None:
        raise InputError(f"archives need native code, but there is none: {native_library.why()}")


def _check_head(archive: bytes) -> tuple[bool, int, int]:
    """Returns whether there is a network, memory bits and symbols. Raises InputError for what is no sound archive."""
    if archive[: len(MAGIC)] != MAGIC[: len(archive)] or not archive:
        raise InputError("this is not an archive of scriven compress; give a file that it made, which ends in .scriven")
    if len(archive) < HEAD.size + TAIL_BYTES:
        raise InputError(f"the archive is cut short: it has only {len(archive)} bytes; restore it from a copy")
    _, version, partner, bits, symbols = HEAD.unpack(archive[: HEAD.size])
    if version != VERSION:
        raise InputError(f"the archive has version {version}, this Scriven reads {VERSION}; use the one that made it")
    if zlib.crc32(archive[:-4]) != int.from_bytes(archive[-4:], "little"):
        raise InputError("the archive is damaged or cut short: its checksum differs; restore it from a copy")
    if not LEAST_MEMORY_BITS <= bits <= MOST_MEMORY_BITS or partner > 1:
        raise InputError(f"the archive asks for what none has (kind {partner}, 2^{bits} bytes of memory)")
    _check_size(symbols, len(archive))
    return bool(partner), bits, symbols


def _check_size(symbols: int, size: int) -> None:
    """Raises InputError if no `size` bytes can encode that many symbols."""
    if symbols > MOST_PER_BYTE * (size + 1):
        raise InputError(f"the archive says that {size:,} bytes hold {symbols:,} symbols, which none can")


def _encode(
    ids: Ids, kinds: Kinds, bits: int, sampler: Sampler | None = None, report: Report = ignore_progress
) -> bytes:
    parts = []
    with ContextMixer(kinds, bits, sampler) as mixer:
        for done in range(0, max(ids.size, 1), SYMBOLS_AT_ONCE):
            report(done, ids.size)
            parts.append(mixer.encode(ids[done : done + SYMBOLS_AT_ONCE], last=done + SYMBOLS_AT_ONCE >= ids.size))
    return b"".join(parts)


def _decode(
    encoded: npt.NDArray[np.uint8],
    count: int,
    kinds: Kinds,
    bits: int,
    sampler: Sampler | None = None,
    report: Report = ignore_progress,
) -> Ids:
    parts = [np.empty(0, np.int64)]
    with ContextMixer(kinds, bits, sampler) as mixer:
        for done in range(0, count, SYMBOLS_AT_ONCE):
            report(done, count)
            parts.append(mixer.decode(encoded, min(SYMBOLS_AT_ONCE, count - done)))
    return np.concatenate(parts)


def _ids_of(content: bytes) -> Ids:
    return np.frombuffer(content, np.uint8).astype(np.int64)


def _bytes_of(ids: Ids) -> bytes:
    return ids.astype(np.uint8).tobytes()

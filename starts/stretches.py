"""Finds what two texts share: stretches of 40 characters, whatever their case, spaces and quotation marks."""

from __future__ import annotations

import lzma
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

LENGTH = 40  # characters of a stretch
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2 ** 64
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
ALIKE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "‐": "-", "_": " "})
BATCH = 1 << 22  # characters that are hashed at a time
NEAR_BITS = 9  # of any 2 ** NEAR_BITS stretches in a row, a sample has one at least
KEPT_BITS = 45  # of a hash in a sample: it has about 2 ** 18, so one of 2 ** 27 others is taken for one of them


def plain(text: str) -> str:
    """Returns the text without what differs between editions: case, line ends, spaces, kinds of quotation marks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(ALIKE).split())


def hash_stretches(text: str) -> Hashes:
    """Returns one number for each stretch of a plain text, in order; equal stretches have equal numbers."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(codes) < LENGTH:
        return np.empty(0, np.uint64)
    parts = [_hash(codes[begin : begin + BATCH + LENGTH - 1]) for begin in range(0, len(codes) - LENGTH + 1, BATCH)]
    return np.concatenate(parts)


def _hash(codes: Hashes) -> Hashes:
    """Sums mixed codes times powers of BASE; a stretch's sum, divided by its first power, does not depend on place."""
    with np.errstate(over="ignore"):
        mixed = (codes + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
        powers = np.cumprod(np.full(len(codes), BASE, np.uint64))
        inverses = np.cumprod(np.full(len(codes), INVERSE, np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers, dtype=np.uint64)])
        hashes = (sums[LENGTH:] - sums[:-LENGTH]) * inverses[: len(codes) - LENGTH + 1]
        hashes ^= hashes >> np.uint64(29)
        return hashes * BASE


class Stretches:
    """The stretches of some texts."""

    def __init__(self) -> None:
        self._parts: list[Hashes] = []
        self._hashes: Hashes = np.empty(0, np.uint64)

    def add(self, text: str) -> None:
        """Adds the stretches of a text."""
        self._parts.append(np.unique(hash_stretches(plain(text))))

    def freeze(self) -> None:
        """Sorts what was added, so that it can be looked up."""
        self._hashes = np.unique(np.concatenate([self._hashes, *self._parts]))
        self._parts = []

    def find(self, text: str) -> npt.NDArray[np.bool_]:
        """Returns, for each stretch of a plain text, whether it is one of these."""
        hashes = hash_stretches(text)
        if not len(self._hashes):
            return np.zeros(len(hashes), np.bool_)
        places = np.searchsorted(self._hashes, hashes)
        return self._hashes[np.minimum(places, len(self._hashes) - 1)] == hashes

    def count_shared(self, text: str) -> int:
        """Returns how many stretches of a text are among these."""
        return int(self.find(plain(text)).sum())

    def without_shared(self, lines: Sequence[str]) -> list[str]:
        """Returns the lines that have no part in a shared stretch."""
        return [line for line, shares in zip(lines, self._touch(lines), strict=True) if not shares]

    def find_shared(self, lines: Sequence[str]) -> list[str]:
        """Returns the lines that have part in a shared stretch."""
        return [line for line, shares in zip(lines, self._touch(lines), strict=True) if shares]

    def _touch(self, lines: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns, for each line, whether it has part in a shared stretch."""
        words = [plain(line) for line in lines]
        lengths = np.array([len(line) + 1 if line else 0 for line in words], np.int64)
        ends = np.cumsum(lengths)
        shared = self.find(" ".join(filter(None, words)))
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(shared)])  # shared stretches that begin earlier
        first = np.clip(ends - lengths - LENGTH + 1, 0, len(shared))
        last = np.clip(ends - 1, 0, len(shared))
        touched: npt.NDArray[np.bool_] = (before[last] - before[first] > 0) & (lengths > 0)
        return touched


@dataclass(frozen=True)
class Sample:
    """Some stretches of a text, in a file that is small enough to be kept beside the code.

    Of any 512 in a row, the one with the smallest hash is in it. So a text that shares 551 characters or more with the
    sampled one surely has a stretch in the sample; of single shared stretches, one of 256 is found.
    """

    hashes: Hashes  # the last KEPT_BITS of each, sorted

    @classmethod
    def of(cls, text: str) -> Sample:
        """Samples a text."""
        hashes, near = hash_stretches(plain(text)), 1 << NEAR_BITS
        begins = range(0, max(1, len(hashes) - near + 1), BATCH)
        parts = [_smallest(hashes[begin : begin + BATCH + near - 1]) for begin in begins]
        return cls(np.unique(np.concatenate(parts) & np.uint64((1 << KEPT_BITS) - 1)))

    def count_shared(self, text: str) -> int:
        """Returns how many stretches of a text are in the sample."""
        hashes = hash_stretches(plain(text)) & np.uint64((1 << KEPT_BITS) - 1)
        return int(np.isin(hashes, self.hashes).sum())

    def write(self, path: Path) -> None:
        """Writes the differences between the sorted hashes, compressed."""
        steps = np.diff(self.hashes, prepend=np.uint64(0))
        if len(steps) and int(steps.max()) >= 1 << 32:
            raise ValueError("the sample has too few stretches for its format")
        data = steps.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()  # bytes of one weight together
        path.write_bytes(lzma.compress(data, preset=9))

    @classmethod
    def read(cls, path: Path) -> Sample:
        """Reads what `write` wrote."""
        data = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8).reshape(4, -1).T
        steps = np.ascontiguousarray(data).view("<u4").ravel().astype(np.uint64)
        return cls(np.cumsum(steps, dtype=np.uint64))


def _smallest(hashes: Hashes) -> Hashes:
    """Returns the distinct smallest hashes of all windows of 2 ** NEAR_BITS, or the smallest one of fewer."""
    if len(hashes) < 1 << NEAR_BITS:
        return hashes.min(keepdims=True) if len(hashes) else hashes
    for bit in range(NEAR_BITS):
        hashes = np.minimum(hashes[: -(1 << bit)], hashes[1 << bit :])
    return np.unique(hashes)

"""Finds what two texts share: stretches of 40 characters, whatever their case, spaces and quotation marks."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

LENGTH = 40  # characters of a stretch
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2 ** 64
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
ALIKE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "‐": "-", "_": " "})
BATCH = 1 << 22  # characters that are hashed at a time


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
        words = [plain(line) for line in lines]
        lengths = np.array([len(line) + 1 if line else 0 for line in words], np.int64)
        ends = np.cumsum(lengths)
        shared = self.find(" ".join(filter(None, words)))
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(shared)])  # shared stretches that begin earlier
        first = np.clip(ends - lengths - LENGTH + 1, 0, len(shared))
        last = np.clip(ends - 1, 0, len(shared))
        touched = (before[last] - before[first] > 0) & (lengths > 0)
        return [line for line, drop in zip(lines, touched, strict=True) if not drop]

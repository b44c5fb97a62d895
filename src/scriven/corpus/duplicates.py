"""Validation documents that the training text has too, word for word: found by hashes, in bounded memory.

A document's hash has 8 bytes; two documents have the same one by chance once in 10^19 pairs. Those of validation are
compared with all of training, HASHES_AT_ONCE at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from scriven.corpus.shards import Draft
from scriven.corpus.split import pick
from scriven.counter_rng import Words, mixed
from scriven.vocabulary import Ids, Symbols

HASHES_AT_ONCE = 1 << 22
Flags = npt.NDArray[np.bool_]
_BASE, _MASK = 0xD1342543DE82EF95, (1 << 64) - 1  # an odd number that looks random
_INVERSE = pow(_BASE, -1, 1 << 64)
_HASH = np.dtype("<u8")


class Hashed:
    """A draft, and beside it a file with the hash of each document that is appended to it.

    The hash of symbols s is a function of their number and of the sum of s[i] * BASE^i modulo 2^64, which can go on
    over any pieces.
    """

    def __init__(self, draft: Draft, path: Path) -> None:
        self.draft, self.documents = draft, 0
        self._path, self._file = path, path.open("wb")
        self._sum = self._length = 0  # of the document that has not ended

    def append(self, symbols: Symbols, ends: Ids) -> None:
        """As `Draft.append`."""
        self.draft.append(symbols, ends)
        lengths = np.diff(ends, prepend=0, append=symbols.size)  # (M + 1,), the last one of what has not ended
        sums = _sums(symbols, ends, lengths)
        sums[0] = (self._sum + int(sums[0]) * pow(_BASE, self._length, 1 << 64)) & _MASK
        lengths[0] += self._length
        self._sum, self._length = int(sums[-1]), int(lengths[-1])
        self._file.write(mixed(sums[:-1] + mixed(lengths[:-1].astype(np.uint64))).astype(_HASH).data)
        self.documents += ends.size

    def blocks(self) -> Iterator[Words]:
        """The hashes of all documents, some at a time, (M,)."""
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


def _sums(symbols: Symbols, ends: Ids, lengths: Ids) -> Words:
    """The sum of s[i] * BASE^i for each document in symbols (characters,), i from its start there, (M + 1,)."""
    starts = np.concatenate(([0], ends))  # (M + 1,)
    sums = np.zeros(starts.size, np.uint64)
    has_some = lengths > 0  # all but the first and the last one
    values = np.multiply(symbols, _powers(_BASE, symbols.size)[: symbols.size], dtype=np.uint64)
    sums[has_some] = np.add.reduceat(values, starts[has_some]) if symbols.size else 0
    return sums * _powers(_INVERSE, symbols.size)[starts]


@cache
def _all_powers(base: int, count: int) -> Words:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _powers(base: int, count: int) -> Words:
    """The powers 0, 1, ... of a number modulo 2^64, at least count + 1 of them."""
    return _all_powers(base, 1 << max(17, count.bit_length()))


def are_duplicates(validation: Hashed, training: Hashed) -> Iterator[Flags]:
    """Whether each document of validation is also in training, some at a time, (M,)."""
    for block in validation.blocks():
        wanted, places = np.unique(block, return_inverse=True)
        is_found = np.zeros(wanted.size, np.bool_)
        for others in training.blocks():
            near = np.minimum(np.searchsorted(wanted, others), wanted.size - 1)
            is_found[near[wanted[near] == others]] = True
        yield is_found[places]


def copy_others(draft: Draft, flags: Iterator[Flags], into: Draft) -> int:
    """Appends to a draft all documents of another one that are not flagged; gives how many are.

    `flags` has one for each document, (M,) at a time.
    """
    left, dropped = np.zeros(0, np.bool_), 0
    for symbols, ends in draft.read_back():
        while left.size <= ends.size and (more := next(flags, None)) is not None:
            left = np.concatenate((left, more))
            dropped += int(more.sum())
        chosen = np.ones(ends.size + 1, np.bool_)  # the last one is of the document that has not ended, if any
        chosen[: left.size] = ~left[: chosen.size]
        into.append(*pick(symbols, ends, chosen))
        left = left[ends.size :]
    return dropped

"""Splits a text into training and validation: by its end, or by documents spread over all of it.

A share below 1 is a fraction of the text. A share of 1 or more is a number of characters, or of documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.corpus.shards import Draft
from scriven.counter_rng import GOLDEN, Words, mix
from scriven.errors import UsageError
from scriven.vocabulary import Symbols

LARGEST_DENOMINATOR = 10**9  # shares become fractions with at most this, so that rounding never moves a document


def validation_characters(characters: int, share: float) -> int:
    """The number of characters at the end that are validation: 0 if the share is less than one character, never all.

    Raises UsageError if nothing would be left to train on.
    """
    if share >= 1:
        return _some(int(share), characters, "characters")
    wanted = round(characters * share, 6)  # 0.1 * 30 is 3, not 3.0000000000000004
    return min(math.ceil(wanted), characters - 1) if wanted >= 1 else 0


def validation_documents(documents: int, count: float) -> Fraction:
    """The share that makes `count` of the documents validation.

    Raises UsageError if nothing would be left to train on.
    """
    return Fraction(_some(int(count), documents, "documents"), documents)


def _some(count: int, among: int, unit: str) -> int:
    if count >= among:
        raise UsageError(
            f"corpus.validation is {count:,}, but the text has only {among:,} {unit}, so none would be left to train "
            "on; give fewer, or a share such as 0.1"
        )
    return count


def are_validation(numbers: Ids, share: float | Fraction) -> npt.NDArray[np.bool_]:
    """Whether each document is validation, by its number from 0: `numbers` (M,) -> (M,).

    Block b has the documents ceil(b / share) .. ceil((b + 1) / share) - 1, and one of them is validation. In block 0 it
    is the second one, so that two documents suffice; in any other block a hash of b picks it. So documents appended
    later change nothing.
    """
    if not share:
        return np.zeros(numbers.shape, np.bool_)
    exact = share
    if not isinstance(exact, Fraction):
        exact = max(Fraction(share).limit_denominator(LARGEST_DENOMINATOR), Fraction(1, LARGEST_DENOMINATOR))
    blocks = numbers * exact.numerator // exact.denominator
    first = -(-blocks * exact.denominator // exact.numerator)
    size = -(-(blocks + 1) * exact.denominator // exact.numerator) - first
    picked = np.where(blocks == 0, 1, (_hash(blocks) % size.astype(np.uint64)).astype(np.int64))
    return np.asarray(numbers == first + picked)


def _hash(numbers: Ids) -> Words:
    """64 well-mixed bits of each number, the low ones too."""
    bits = mix(numbers.astype(np.uint64) + np.uint64(GOLDEN))
    return bits ^ (bits >> np.uint64(31))


def pick(symbols: Symbols, ends: Ids, chosen: npt.NDArray[np.bool_]) -> tuple[Symbols, Ids]:
    """Picks documents from symbols (characters,) with ends (M,) of documents; returns their symbols and ends.

    `chosen` (M + 1,) says which; its last flag is for the symbols after the last end.
    """
    lengths = np.diff(ends, prepend=0, append=symbols.size)  # (M + 1,)
    return symbols[np.repeat(chosen, lengths)], np.cumsum(lengths * chosen)[:-1][chosen[:-1]]


class Growing(Protocol):
    """Something that documents can be appended to."""

    def append(self, symbols: Symbols, ends: Ids, /) -> None:
        """Appends symbols (characters,), and the places in them where documents end, (M,)."""


class Split:
    """Sends each document of a text to the draft of the part that it belongs to."""

    def __init__(self, share: float | Fraction, training: Growing, validation: Growing) -> None:
        self._share, self._training, self._validation = share, training, validation
        self._ended = 0  # documents

    def append(self, symbols: Symbols, ends: Ids) -> None:
        """Appends symbols (characters,), and the places in them where documents end, (M,)."""
        numbers = np.arange(self._ended, self._ended + ends.size + 1)  # (M + 1,), the last one is still open
        chosen = are_validation(numbers, self._share)
        self._training.append(*pick(symbols, ends, ~chosen))
        self._validation.append(*pick(symbols, ends, chosen))
        self._ended += ends.size


HASHES_AT_ONCE = 1 << 22
Flags = npt.NDArray[np.bool_]
_BASE, _MASK = 0xD1342543DE82EF95, (1 << 64) - 1  # an odd number that looks random
_INVERSE = pow(_BASE, -1, 1 << 64)
_HASH = np.dtype("<u8")


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
        sums = _sums(symbols, ends, lengths)
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


def _sums(symbols: Symbols, ends: Ids, lengths: Ids) -> Words:
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

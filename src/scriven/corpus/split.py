"""Which part of the text is validation: its end, or documents that are spread over all of it.

A share below 1 is a share; from 1 on it is a number of characters, or of documents.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scriven.counter_rng import GOLDEN, Words, mixed
from scriven.errors import UsageError
from scriven.vocabulary import Ids, Symbols

FINEST = 10**9  # shares are taken as fractions of at most that denominator, so that no rounding moves a document


def validation_characters(characters: int, share: float) -> int:
    """How many characters at the end are validation: none where the share is less than one, and never all.

    Raises UsageError when none would be left to train on.
    """
    if share >= 1:
        return _some(int(share), characters, "characters")
    wanted = round(characters * share, 6)  # 0.1 * 30 is 3, not 3.0000000000000004
    return min(math.ceil(wanted), characters - 1) if wanted >= 1 else 0


def validation_documents(documents: int, count: float) -> Fraction:
    """The share of the documents that makes `count` of them validation.

    Raises UsageError where none is left to train on.
    """
    return Fraction(_some(int(count), documents, "documents"), documents)


def _some(count: int, among: int, unit: str) -> int:
    if count >= among:
        raise UsageError(
            f"corpus.validation {count:,}: the text has {among:,} {unit}, so none would be left to train on; give "
            "fewer, or a share such as 0.1"
        )
    return count


def are_validation(numbers: Ids, share: float | Fraction) -> npt.NDArray[np.bool_]:
    """Which documents are validation, by their numbers from 0 on, (M,); both shapes are the same.

    Block b has documents ceil(b / share) .. ceil((b + 1) / share) - 1, and one of them is validation: the second one in
    block 0, so that two documents suffice, elsewhere one that a hash of b picks. So documents that come later change
    nothing.
    """
    if not share:
        return np.zeros(numbers.shape, np.bool_)
    exact = share
    if not isinstance(exact, Fraction):
        exact = max(Fraction(share).limit_denominator(FINEST), Fraction(1, FINEST))
    blocks = numbers * exact.numerator // exact.denominator
    first = -(-blocks * exact.denominator // exact.numerator)
    size = -(-(blocks + 1) * exact.denominator // exact.numerator) - first
    picked = np.where(blocks == 0, 1, (_hash(blocks) % size.astype(np.uint64)).astype(np.int64))
    return np.asarray(numbers == first + picked)


def _hash(numbers: Ids) -> Words:
    """64 well-mixed bits of each number, the low ones too."""
    bits = mixed(numbers.astype(np.uint64) + np.uint64(GOLDEN))
    return bits ^ (bits >> np.uint64(31))


def pick(symbols: Symbols, ends: Ids, chosen: npt.NDArray[np.bool_]) -> tuple[Symbols, Ids]:
    """Of symbols (characters,), with the places where documents end, (M,), those of the documents chosen, (M + 1,).

    The last one chosen or not is what comes after the last end.
    """
    lengths = np.diff(ends, prepend=0, append=symbols.size)  # (M + 1,)
    return symbols[np.repeat(chosen, lengths)], np.cumsum(lengths * chosen)[:-1][chosen[:-1]]


class Growing(Protocol):
    """What documents are appended to."""

    def append(self, symbols: Symbols, ends: Ids, /) -> None:
        """Symbols that come next, (characters,), and the places in them where documents end, (M,)."""


class Split:
    """Sends each document of a text to the draft of the part that it belongs to."""

    def __init__(self, share: float | Fraction, training: Growing, validation: Growing) -> None:
        self._share, self._training, self._validation = share, training, validation
        self._ended = 0  # documents

    def append(self, symbols: Symbols, ends: Ids) -> None:
        """Symbols that come next, (characters,), and the places in them where documents end, (M,)."""
        numbers = np.arange(self._ended, self._ended + ends.size + 1)  # (M + 1,), the last one not ended
        chosen = are_validation(numbers, self._share)
        self._training.append(*pick(symbols, ends, ~chosen))
        self._validation.append(*pick(symbols, ends, chosen))
        self._ended += ends.size

"""Numbers that look random and depend on nothing but the number they are made from: splitmix64's mixer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids

Words = npt.NDArray[np.uint64]
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: its multiples are spread evenly


def mix(words: Words) -> Words:
    """64 bits for each word, a function of it alone; the high ones best (Steele, Lea and Flood 2014)."""
    for factor, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words


ROUNDS = 6  # with 4 some orders of small ranges are far more frequent than others
FEWEST_BITS = 6  # with fewer bits too; only tiny ranges are walked longer for it


def seeds(seed: int, numbers: Ids) -> Words:
    """A seed of its own for each number (M,), from a seed for all."""
    first = np.full(1, seed * GOLDEN % 2**64, np.uint64)
    return mix(mix(first) + numbers.astype(np.uint64) * np.uint64(GOLDEN))


def permute(places: Ids, size: int, keys: Words) -> Ids:
    """What stands at each place (M,), 0 to size - 1, of the shuffled range of that size; of several ranges at once.

    `keys` (M,) or (1,) are the seeds of the ranges that the places are in.
    """
    words = places.astype(np.uint64)  # (M,)
    keys = np.broadcast_to(keys, words.shape)
    bits = max(FEWEST_BITS, (size - 1).bit_length())
    outside = np.arange(words.size if size > 1 else 0)  # one number has one order
    while outside.size:
        walked = _scramble(words[outside], keys[outside], bits)
        words[outside] = walked
        outside = outside[walked >= size]
    return words.astype(np.int64)


def _scramble(words: Words, keys: Words, bits: int) -> Words:
    """A permutation of the numbers of that many bits, one for each key."""
    widths = bits - bits // 2, bits // 2
    halves = [words >> np.uint64(widths[1]), words & np.uint64(2 ** widths[1] - 1)]
    for number in range(ROUNDS):
        this, other = number % 2, 1 - number % 2
        hashed = mix((halves[other] + np.uint64(number)) * np.uint64(GOLDEN) + keys)
        halves[this] ^= hashed >> np.uint64(64 - widths[this])
    return (halves[0] << np.uint64(widths[1])) | halves[1]

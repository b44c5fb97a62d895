"""Counter-based random numbers: each depends only on a seed and a number, by splitmix64's mixer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids

Words = npt.NDArray[np.uint64]
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio; its multiples are spread evenly


def mix(words: Words) -> Words:
    """Returns 64 random bits for each word, a function of it. The high bits are best (Steele, Lea, Flood 2014)."""
    for factor, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words


FEISTEL_ROUNDS = 6  # with 4, some orders of small ranges are far too frequent
FEWEST_BITS = 6  # with fewer bits too; only tiny ranges take longer because of it


def seeds(seed: int, numbers: Ids) -> Words:
    """Returns a different seed for each number (M,), made from one seed."""
    first = np.full(1, seed * GOLDEN % 2**64, np.uint64)
    return mix(mix(first) + numbers.astype(np.uint64) * np.uint64(GOLDEN))


def permute(places: Ids, size: int, keys: Words) -> Ids:
    """Shuffles the numbers 0 to size - 1, and returns the numbers at the places (M,) of the shuffled order.

    `keys` (M,) or (1,) are seeds: each place may be in a shuffled order of its own. Nothing of size `size` is stored.
    """
    words = places.astype(np.uint64)  # (M,)
    keys = np.broadcast_to(keys, words.shape)
    bits = max(FEWEST_BITS, (size - 1).bit_length())
    outside = np.arange(words.size if size > 1 else 0)  # a single number has only one order
    while outside.size:
        walked = _scramble(words[outside], keys[outside], bits)
        words[outside] = walked
        outside = outside[walked >= size]
    return words.astype(np.int64)


def _scramble(words: Words, keys: Words, bits: int) -> Words:
    """Permutes the numbers of `bits` bits by a Feistel network, a different permutation for each key."""
    widths = bits - bits // 2, bits // 2
    halves = [words >> np.uint64(widths[1]), words & np.uint64(2 ** widths[1] - 1)]
    for number in range(FEISTEL_ROUNDS):
        this, other = number % 2, 1 - number % 2
        hashed = mix((halves[other] + np.uint64(number)) * np.uint64(GOLDEN) + keys)
        halves[this] ^= hashed >> np.uint64(64 - widths[this])
    return (halves[0] << np.uint64(widths[1])) | halves[1]

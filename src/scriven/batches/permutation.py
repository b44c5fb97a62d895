"""Seeded permutations of any size that need no list: the i-th element of a shuffled range, for many i at once.

An alternating Feistel network permutes the numbers of b bits, where 2^b is the first power of two that is not below
the size: each round adds, bit by bit, a hash of one half of the bits to the other half, which can be undone. Numbers
that land outside the range are sent through again until they are inside (cycle walking: Black and Rogaway, "Ciphers
with Arbitrary Finite Domains", 2002).
"""

from __future__ import annotations

import numpy as np

from scriven.mixing import GOLDEN, Words, mixed
from scriven.vocabulary import Ids

ROUNDS = 6  # with 4 some orders of small ranges are far more frequent than others
FEWEST_BITS = 6  # with fewer bits too; only tiny ranges are walked longer for it


def seeds(seed: int, numbers: Ids) -> Words:
    """A seed of its own for each number (M,), from a seed for all."""
    first = np.full(1, seed * GOLDEN % 2**64, np.uint64)
    return mixed(mixed(first) + numbers.astype(np.uint64) * np.uint64(GOLDEN))


def permuted(places: Ids, size: int, keys: Words) -> Ids:
    """What stands at each place (M,), 0 to size - 1, of the shuffled range of that size; of several ranges at once.

    `keys` (M,) or (1,) are the seeds of the ranges that the places are in.
    """
    words = places.astype(np.uint64)  # (M,)
    keys = np.broadcast_to(keys, words.shape)
    bits = max(FEWEST_BITS, (size - 1).bit_length())
    outside = np.arange(words.size if size > 1 else 0)  # one number has one order
    while outside.size:
        walked = _scrambled(words[outside], keys[outside], bits)
        words[outside] = walked
        outside = outside[walked >= size]
    return words.astype(np.int64)


def _scrambled(words: Words, keys: Words, bits: int) -> Words:
    """A permutation of the numbers of that many bits, one for each key."""
    widths = bits - bits // 2, bits // 2
    halves = [words >> np.uint64(widths[1]), words & np.uint64(2 ** widths[1] - 1)]
    for number in range(ROUNDS):
        this, other = number % 2, 1 - number % 2
        hashed = mixed((halves[other] + np.uint64(number)) * np.uint64(GOLDEN) + keys)
        halves[this] ^= hashed >> np.uint64(64 - widths[this])
    return (halves[0] << np.uint64(widths[1])) | halves[1]

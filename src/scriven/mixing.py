"""Numbers that look random and depend on nothing but the number they are made from: splitmix64's mixer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: its multiples are spread evenly


def mixed(words: Words) -> Words:
    """64 bits for each word, a function of it alone; the high ones best (Steele, Lea and Flood 2014)."""
    for factor, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words

"""The comparison of two models on the same documents, with an interval for the difference of their losses.

The interval is that of a paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Both models read the same documents, so how much these differ from each other does not widen it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scriven.arrays import Float64s

LEVEL = 0.95  # of the interval
DRAWN_AT_ONCE = 1 << 20  # documents of samples: bounds the memory
Numbers = Sequence[float] | Float64s


@dataclass(frozen=True)
class Comparison:
    """The bits per character of two models, their difference, and the interval of it by drawn documents."""

    first: float
    second: float
    low: float
    high: float
    documents: int
    better: float  # share of the documents that the first model expects more; half of those that both expect alike
    samples: int
    level: float = LEVEL  # of the interval

    @property
    def difference(self) -> float:
        """How many more bits per character the first model needs than the second."""
        return self.first - self.second

    @property
    def verdict(self) -> str:
        """Which model is better, if the interval says it: first, second or neither."""
        return "first" if self.high < 0 else "second" if self.low > 0 else "neither"


def compare_losses(
    first: Numbers, second: Numbers, characters: Numbers, *, samples: int = 2000, seed: int = 1
) -> Comparison:
    """Compares nats (M,) of the same documents by two models, with the characters (M,) of each.

    The interval has the percentiles of a paired bootstrap: M documents are drawn with replacement, `samples`
    times; each sample's difference is the ratio of its sums.
    """
    count, random = len(characters), np.random.default_rng(seed)
    of_first, of_second = (np.asarray(each, np.float64) / math.log(2) for each in (first, second))
    sizes, gaps = np.asarray(characters, np.float64), of_first - of_second
    drawn = np.empty(samples)
    step = max(1, DRAWN_AT_ONCE // count)
    for begin in range(0, samples, step):
        chosen = random.integers(count, size=(min(step, samples - begin), count))
        drawn[begin : begin + len(chosen)] = gaps[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    mean, other = (float(each.sum() / sizes.sum()) for each in (of_first, of_second))
    better = float(((gaps < 0) + 0.5 * (gaps == 0)).mean())
    return Comparison(mean, other, low, high, count, better, samples)

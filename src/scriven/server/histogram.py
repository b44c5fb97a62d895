"""Counts of durations up to given bounds, as Prometheus has histograms."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds


class Histogram:
    """Durations in seconds, counted apart by a label."""

    def __init__(self) -> None:
        """Of nothing yet."""
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, label: str, seconds: float) -> None:
        """Count one more."""
        counts = self._counts.setdefault(label, [0] * (len(BOUNDS) + 1))
        counts[bisect_left(BOUNDS, seconds)] += 1
        self._sums[label] = self._sums.get(label, 0.0) + seconds

    def __iter__(self) -> Iterator[tuple[str, list[tuple[float, int]], float]]:
        """Yields each label, its counts of durations up to each bound (the last one is infinite), and their sum."""
        for label, counts in self._counts.items():
            yield label, list(zip((*BOUNDS, math.inf), accumulate(counts), strict=True)), self._sums[label]

"""When to save between evaluations: by the clock, as often as was asked for, at a bounded share of the time."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_SECONDS = 25.0  # of training, after which something is saved for the first time
MOST_SHARE = 0.01  # of the time, for saving


class SaveClock:
    """Tells rank 0 when a save is due; the time of other workers never matters."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        """The clock starts now: a save is due soon after the start, then every `minutes`; 0 is never."""
        self._interval, self._now = minutes * 60, now
        self._due = now() + min(FIRST_SECONDS, self._interval)

    def is_due(self) -> bool:
        """Returns whether the time for another save has come."""
        return self._interval > 0 and self._now() >= self._due

    def restart(self, cost_seconds: float) -> None:
        """Counts from now on, after a save of any kind that took `cost_seconds` of the processor's time."""
        self._due = self._now() + max(self._interval, cost_seconds / MOST_SHARE)

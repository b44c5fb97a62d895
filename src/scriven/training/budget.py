"""How much of a budget is used: fractions of it, wall time as progress, and when to evaluate and save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from scriven.distributed.rendezvous import WorkerJob
from scriven.settings import MonitorSettings, Settings
from scriven.training.state import TrainingState

SAVING_SECONDS = 2.5  # of a time budget, reserved for the last checkpoint and the plot
EVALUATION_SHARE = 0.15  # of a time budget, at most, for evaluations with their samples
LEAST_SHARE = 0.25  # of the rest of a time budget, at least, for steps, even if a busy machine started slowly


def budget_fraction(job: WorkerJob, state: TrainingState) -> float:
    """Returns the share (0..1) of the job's budget that the state has used. An earlier budget does not count."""
    budget = job.settings.budget
    if job.timed:
        return min(1.0, state.seconds / (budget.minutes * 60))
    if budget.steps:
        return min(1.0, state.step / budget.steps)
    if budget.characters:
        return min(1.0, state.characters / budget.characters)
    return min(1.0, state.epochs / budget.epochs)


def progress_within(job: WorkerJob, state: TrainingState, characters: int, epochs: float) -> float:
    """Returns the progress (0..1) in the middle of the next step, the same on every worker.

    The step reads `characters`, which are `epochs` of the text.
    """
    counts = {"step": state.step + 1, "characters": state.characters + characters, "epochs": state.epochs + epochs}
    return (budget_fraction(job, state) + budget_fraction(job, state.model_copy(update=counts))) / 2


def evaluation_count(job: WorkerJob, seconds: Callable[[], float]) -> int:
    """Returns the number of evenly spaced evaluations. In a time budget they may take only EVALUATION_SHARE of it.

    `seconds()` measures the time of one with its samples. It gives the same number on every worker.
    """
    asked, budget = job.settings.training.evaluations, job.settings.budget.minutes * 60
    if not job.timed:
        return asked
    return min(asked, max(1, int(EVALUATION_SHARE * budget / max(seconds(), 1e-9))))


def evaluation_interval(settings: Settings) -> list[int | float]:
    """Returns the settings that decide when evaluations are due. A resumed run compares them with the earlier ones."""
    return [settings.monitor.every_steps, settings.monitor.every_epochs, settings.training.evaluations]


def evaluations_due(monitor: MonitorSettings, state: TrainingState, evenly: int) -> int:
    """Returns how many evaluations should have been made in this state.

    Without an interval in the settings, `evenly` evaluations are spread over the budget.
    """
    if monitor.every_steps:
        return state.step // monitor.every_steps
    if monitor.every_epochs:
        return math.floor(state.epochs / monitor.every_epochs + 1e-9)
    return math.floor(state.progress * evenly + 1e-9)


class TimeBudget:
    """Turns wall time into progress: from that of a resumed run to 1, which comes `reserved` seconds before the end."""

    def __init__(self, job: WorkerJob, state: TrainingState, reserved: float) -> None:
        """The time counts from now on."""
        budget = job.settings.budget.minutes * 60
        self._job, self._begun = job, job.seconds()
        self._end = max(budget - state.seconds - reserved, self._begun + LEAST_SHARE * (budget - state.seconds))
        self._from = state.progress

    def progress_of(self, step: int) -> float:
        """Returns the progress (0..1) now; `step` does not matter."""
        share = (self._job.seconds() - self._begun) / max(self._end - self._begun, 1e-9)
        return min(1.0, self._from + (1 - self._from) * share)


FIRST_SECONDS = 25.0  # of training before the first save
MOST_SHARE = 0.01  # of the time, at most, for saving


class SaveClock:
    """Tells rank 0 when a save is due. The clocks of other workers never matter."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        """The clock starts now. A save is due soon after the start, then every `minutes`; with 0, never."""
        self._interval, self._now = minutes * 60, now
        self._due = now() + min(FIRST_SECONDS, self._interval)

    def is_due(self) -> bool:
        """Returns whether the time for another save has come."""
        return self._interval > 0 and self._now() >= self._due

    def restart(self, cost_seconds: float) -> None:
        """Starts again after any save, which took `cost_seconds` of the processor's time."""
        self._due = self._now() + max(self._interval, cost_seconds / MOST_SHARE)

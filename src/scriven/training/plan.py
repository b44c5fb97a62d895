"""What a training is to do, as plain data that every worker gets, and how far it has come."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from scriven.settings import Settings

SAVING_SECONDS = 2.5  # kept free of a time budget for the last checkpoint and the plot
LEAST_SHARE = 0.25  # of a time budget's rest that is for steps, also where a busy machine took long to start


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs to train."""

    settings: Settings  # all resolved: also device and precision
    corpus: str  # its folder
    resume: str = ""  # folder of the checkpoint to go on from
    initial: str = ""  # run folder whose best weights to start from
    used_seconds: float = 0.0  # of wall time, by this command when the plan was made
    made_at: float = field(default_factory=time.monotonic)

    def to_json(self) -> dict[str, Any]:
        """Plain values; settings included."""
        return vars(self) | {"settings": self.settings.model_dump()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """The plan that `to_json` gave. Its clock starts now; only rank 0's clock matters."""
        return cls(**values | {"settings": Settings.model_validate(values["settings"]), "made_at": time.monotonic()})

    def seconds(self) -> float:
        """Wall time since the command began."""
        return self.used_seconds + time.monotonic() - self.made_at

    @property
    def timed(self) -> bool:
        """Whether the budget is a time."""
        return self.settings.budget.minutes > 0

    def total_steps(self, training_characters: int) -> int:
        """Steps of a budget that is not a time."""
        budget, reader = self.settings.budget, self.settings.reader
        characters = budget.characters or budget.epochs * training_characters
        return budget.steps or max(1, math.ceil(characters / (reader.batch * reader.length)))


def used_share(plan: Plan, done: Done, training_characters: int) -> float:
    """Share (0..1) of the plan's budget that was used when `done` was saved, whatever the budget was then."""
    if plan.timed:
        return min(1.0, done.seconds / (plan.settings.budget.minutes * 60))
    return min(1.0, done.step / plan.total_steps(training_characters))


@dataclass
class Done:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    cursor: int = 0  # of the batches
    characters: int = 0
    progress: float = 0.0
    evaluated: int = 0  # evaluations that were due so far, and done
    seconds: float = 0.0  # of wall time, over all commands that trained this run


class Timetable:
    """Turns wall time into progress: from what a resumed run had done to 1, which leaves `reserved` seconds over."""

    def __init__(self, plan: Plan, done: Done, reserved: float) -> None:
        """The timetable begins when it is made."""
        budget = plan.settings.budget.minutes * 60
        self._plan, self._begun = plan, plan.seconds()
        self._end = max(budget - done.seconds - reserved, self._begun + LEAST_SHARE * (budget - done.seconds))
        self._from = done.progress

    def progress(self) -> float:
        """Progress (0..1) now."""
        share = (self._plan.seconds() - self._begun) / max(self._end - self._begun, 1e-9)
        return min(1.0, self._from + (1 - self._from) * share)

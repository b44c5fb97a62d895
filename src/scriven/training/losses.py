"""The losses of a training so far: from them the best model is chosen, and it is told how the training went."""

from __future__ import annotations

import math
from statistics import fmean, median
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scriven.events import Loss
from scriven.settings import Choice

WINDOWS = {"best": 1, "smoothed": 3}  # how many evaluations, the newest included, a model is chosen by
SMOOTHED_STEPS = 20  # steps whose losses together are the training loss of now
REMEMBERED = 10  # evaluations
MOST = 1e15
MANY_VALIDATED, FEW_VALIDATED = 2000, 200  # characters: of fewer, a validation loss is partly chance, and mostly
NOISE_OF_SECOND_DIFFERENCES = 1.65  # their median size over the standard deviation of the noise in each value

Nats = Annotated[float, Field(ge=0, le=MOST)]  # per character, the ends of documents included


class Losses(BaseModel):
    """Losses in nats per character; saved with every checkpoint, so that a resumed training chooses and tells alike."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    first: Nats | None = None  # of the first step
    recent: Nats | None = None  # of the last steps, smoothed
    lowest: Nats | None = None  # that `recent` ever was
    steps: int = Field(default=0, ge=0, lt=1 << 53)
    validated: list[Nats] = Field(default=[], max_length=REMEMBERED)  # the last evaluations
    lowest_validated: Nats | None = None
    chosen_by: Nats | None = None  # what the model that is kept was chosen by

    def note_step(self, loss: Loss) -> None:
        """Takes the loss of a step into account, where it counted a character."""
        value = min(decisive(loss), MOST)
        if math.isnan(value):
            return
        self.steps += 1
        self.first = value if self.first is None else self.first
        before = value if self.recent is None else self.recent
        self.recent = before + (value - before) * max(1 / self.steps, 1 / SMOOTHED_STEPS)
        self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)

    def note_evaluation(self, loss: Loss, choice: Choice) -> bool:
        """Takes a validation loss into account, and returns whether the model of now is the one to keep."""
        value = min(decisive(loss), MOST)
        self.validated = [*self.validated, value][-REMEMBERED:]
        self.lowest_validated = value if self.lowest_validated is None else min(self.lowest_validated, value)
        window = WINDOWS.get(choice, 0)
        mean = fmean(self.validated[-window:])
        full = len(self.validated) >= window > 0  # before that, and without a window, the last one is kept
        if full and self.chosen_by is not None and mean >= self.chosen_by:
            return False
        self.chosen_by = mean
        return True

    @property
    def noise(self) -> float:
        """By how much a validation loss of the last ones would be another by chance: what no trend explains.

        One standard deviation, from second differences; 0 where there are too few evaluations to tell.
        """
        values = self.validated
        differences = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
        return median(differences) / NOISE_OF_SECOND_DIFFERENCES if differences else 0.0


def decisive(loss: Loss) -> float:
    """What the best model has least of: nats per character, the ends of documents included."""
    return loss.total_nats / loss.characters if loss.characters else math.nan

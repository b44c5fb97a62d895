"""How far a training has come: the part of a checkpoint's manifest that a training resumes from."""

from __future__ import annotations

import math
from statistics import fmean, median
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from scriven.errors import InputError
from scriven.loss import Loss
from scriven.model import CharLM, State
from scriven.runs.checkpoints import Best, Checkpoint, Count, FileRecord, MeasuredLoss
from scriven.runs.ngrams import MixtureWeights
from scriven.runs.tensors import check_arrays
from scriven.settings import Choice
from scriven.settings_values import describe_errors

Amount = Annotated[float, Field(ge=0, le=1e15)]
NOTHING_MEASURED = Loss(0.0, 0)
WINDOWS = {"best": 1, "smoothed": 3}  # number of evaluations, with the newest, that choose a model
SMOOTHED_STEPS = 20  # steps over which the current training loss is smoothed
REMEMBERED = 10  # evaluations
MOST = 1e15
MANY_VALIDATED, FEW_VALIDATED = 2000, 200  # characters: with fewer, a validation loss is partly, or mostly, chance
NOISE_OF_SECOND_DIFFERENCES = 1.65  # their median size divided by the standard deviation of the noise in each value

Nats = Annotated[float, Field(ge=0, le=MOST)]  # per character, the ends of documents included


class LossHistory(BaseModel):
    """Losses in nats per character. They are saved, so that a resumed training chooses and reports in the same way."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    first: Nats | None = None  # of the first step
    recent: Nats | None = None  # of the last steps, smoothed
    lowest: Nats | None = None  # value of `recent` so far
    steps: int = Field(default=0, ge=0, lt=1 << 53)
    validated: list[Nats] = Field(default=[], max_length=REMEMBERED)  # the last evaluations
    lowest_validated: Nats | None = None
    chosen_by: Nats | None = None  # the loss that chose the model to keep

    def note_step(self, loss: Loss) -> None:
        """Notes the loss of a step, if any character counted."""
        value = min(selection_loss(loss), MOST)
        if math.isnan(value):
            return
        self.steps += 1
        self.first = value if self.first is None else self.first
        before = value if self.recent is None else self.recent
        self.recent = before + (value - before) * max(1 / self.steps, 1 / SMOOTHED_STEPS)
        self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)

    def note_evaluation(self, loss: Loss, choice: Choice) -> bool:
        """Notes a validation loss, and returns whether the current model is the one to keep."""
        value = min(selection_loss(loss), MOST)
        self.validated = [*self.validated, value][-REMEMBERED:]
        self.lowest_validated = value if self.lowest_validated is None else min(self.lowest_validated, value)
        window = WINDOWS.get(choice, 0)
        mean = fmean(self.validated[-window:])
        full = len(self.validated) >= window > 0  # before that, and without a window, the last model is kept
        if full and self.chosen_by is not None and mean >= self.chosen_by:
            return False
        self.chosen_by = mean
        return True

    @property
    def noise(self) -> float:
        """The noise in the last validation losses: one standard deviation, in nats per character.

        It is estimated from second differences, which a trend hardly changes. It is 0 with fewer than three
        evaluations.
        """
        values = self.validated
        differences = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
        return median(differences) / NOISE_OF_SECOND_DIFFERENCES if differences else 0.0


def selection_loss(loss: Loss) -> float:
    """Returns the loss that chooses the best model: nats per character, the ends of documents included."""
    return loss.total_nats / loss.characters if loss.characters else math.nan


class TrainingState(FileRecord):
    """How far a training has come. It is the training's part of a manifest.

    `TrainingState()` is the beginning, `model_dump()` is what a checkpoint saves, and `model_validate(manifest)` is
    what it restores. Field names of earlier versions are still read.
    """

    model_config = ConfigDict(frozen=False)

    step: Count = 0
    cursor: Any = 0  # where the readers continue; they check it
    characters: Count = 0  # read
    predictions: Count = 0  # counted in the loss
    epochs: Amount = 0.0  # passes over the training text
    progress: float = Field(default=0.0, ge=0, le=1)  # of the budget
    seconds: Amount = 0.0  # of wall time, over all commands that trained this run
    budget: dict[str, int | float] = Field(default={})  # the budget of which `progress` is a share
    interval: list[int | float] = Field(default=[])  # the settings that decide when evaluations are due
    evaluations: Count = Field(default=0, validation_alias=AliasChoices("evaluations", "evaluated"))  # due, and done
    evaluation_pending: bool = Field(default=False, validation_alias=AliasChoices("evaluation_pending", "owed"))
    skipped_steps: Count = Field(default=0, validation_alias=AliasChoices("skipped_steps", "skipped"))
    consecutive_skips: Count = 0  # steps skipped since the last one that counted
    rollbacks: Count = Field(default=0, validation_alias=AliasChoices("rollbacks", "returns"))
    rolled_back: bool = Field(  # since the last evaluation
        default=False, validation_alias=AliasChoices("rolled_back", "went_back")
    )
    evaluation: bool = False  # whether an evaluation saved this checkpoint
    clock: bool = False  # whether the clock saved it, as in `Manifest`
    validation: MeasuredLoss = NOTHING_MEASURED  # at this step
    last_validation: MeasuredLoss = NOTHING_MEASURED  # of the last evaluation
    best: Best | None = None
    losses: LossHistory = Field(default_factory=LossHistory)
    mixture: MixtureWeights | None = None  # as in `Manifest`
    counts: MeasuredLoss = NOTHING_MEASURED  # of the counts alone


ADDED_LATER = {  # fields that checkpoints of earlier versions lack
    "evaluation_pending", "skipped_steps", "consecutive_skips", "rollbacks", "rolled_back", "evaluation", "clock",
    "losses", "mixture", "counts",
}  # fmt: skip


def load_state(checkpoint: Checkpoint) -> TrainingState:
    """Reads and checks the training state in a checkpoint's manifest. Raises InputError if there is no valid one."""
    try:
        state = TrainingState.model_validate(checkpoint.manifest)
    except ValidationError as error:
        raise cannot_resume(checkpoint, describe_errors(error)) from None
    if missing := TrainingState.model_fields.keys() - ADDED_LATER - state.model_fields_set:
        raise cannot_resume(checkpoint, f"{', '.join(sorted(missing))} missing")
    return state


def cannot_resume(checkpoint: Checkpoint, why: str) -> InputError:
    """Returns the error for a checkpoint without a training state of this model and version."""
    return InputError(
        f"{checkpoint.path} cannot be resumed with this model ({why}); start a new run from its weights with --from"
    )


def load_recurrent_states(arrays: dict[str, Tensor], model: CharLM, rows: int) -> State:
    """Returns the recurrent states of all rows, N = `rows`. Raises ValueError if they do not fit the model."""
    zero = model.zero_state(1)
    names = [[f"state.{depth}.{part}" for part in range(len(layer))] for depth, layer in enumerate(zero)]
    flat = zip([name for layer in names for name in layer], [part for layer in zero for part in layer], strict=True)
    there = {name: value for name, value in arrays.items() if name.startswith("state.")}
    check_arrays(there, {name: (rows, part.shape[1]) for name, part in flat})
    return tuple(tuple(arrays[name] for name in layer) for layer in names)


def with_prefix(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the arrays whose names start with `prefix`, in the order of their names, with the prefix removed."""
    return {name.removeprefix(prefix): arrays[name] for name in sorted(arrays) if name.startswith(prefix)}

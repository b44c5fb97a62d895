"""What a checkpoint keeps of a training: nothing of it is used before it is found to be of its kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError
from torch import Tensor

from scriven.errors import InputError
from scriven.model import CharLM, State
from scriven.runs import Checkpoint
from scriven.runs.manifest import Best, Count, FileRecord, Measured
from scriven.runs.tensors import check_arrays
from scriven.settings import describe_errors
from scriven.training.budget import Done
from scriven.training.gradients import LossHistory

Amount = Annotated[float, Field(ge=0, le=1e15)]


class Kept(FileRecord):
    """What a manifest says of the training that saved it: what `Done` has, and the rest."""

    step: Count
    cursor: Any  # what it is, the readers know
    characters: Count
    predictions: Count
    epochs: Amount
    progress: float = Field(ge=0, le=1)
    evaluated: Count
    seconds: Amount
    budget: dict[str, float]
    interval: list[float]  # what decided when evaluations were due
    owed: bool = False  # an evaluation that was left
    skipped: Count = 0
    returns: Count = 0
    clock: bool = False  # as in `Manifest`
    went_back: bool = False  # since the last evaluation
    validation: Measured  # at this step
    last_validation: Measured
    best: Best | None
    losses: LossHistory | None = None  # which were not saved before there was anything to choose by

    @property
    def done(self) -> Done:
        """How far the training had come."""
        return Done(**{name: getattr(self, name) for name in vars(Done())})


def load_state(checkpoint: Checkpoint) -> Kept:
    """What the checkpoint's manifest says of the training. Raises InputError when it says none that there can be."""
    try:
        return Kept.model_validate(checkpoint.manifest)
    except ValidationError as error:
        raise cannot_resume(checkpoint, describe_errors(error)) from None


def cannot_resume(checkpoint: Checkpoint, why: str) -> InputError:
    """The error that a checkpoint holds no training of this model, or one that another version knew."""
    return InputError(
        f"{checkpoint.path} holds no training of this model that could be gone on with ({why}); start another run from "
        "its weights with --from"
    )


def load_recurrent_states(arrays: dict[str, Tensor], model: CharLM, rows: int) -> State:
    """The recurrent states of all rows (N, H). Raises ValueError when they are not those of that model."""
    zero = model.zero_state(1)
    names = [[f"state.{depth}.{part}" for part in range(len(layer))] for depth, layer in enumerate(zero)]
    flat = zip([name for layer in names for name in layer], [part for layer in zero for part in layer], strict=True)
    there = {name: value for name, value in arrays.items() if name.startswith("state.")}
    check_arrays(there, {name: (rows, part.shape[1]) for name, part in flat})
    return tuple(tuple(arrays[name] for name in layer) for layer in names)


def with_prefix(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin so, by the rest of their names, in the order of names."""
    return {name.removeprefix(prefix): arrays[name] for name in sorted(arrays) if name.startswith(prefix)}

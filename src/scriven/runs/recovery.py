"""After a crash: which checkpoint training goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from scriven.errors import InputError
from scriven.runs.checkpoints import Checkpoint, sweep
from scriven.runs.folder import CHECKPOINTS, Index, Run


@dataclass(frozen=True)
class Recovered:
    """The checkpoint to go on from, and sentences that the user should read."""

    checkpoint: Checkpoint
    notes: tuple[str, ...]


def recover(run: Run, which: Literal["last"] | int | None = "last") -> Recovered:
    """The checkpoint that was saved last, of those that are whole; the index then says so too. Or that of a step.

    Also removes what a save that was killed left. Only the one who writes to the run may call it.
    Raises InputError when no checkpoint, or not that of the step, is whole.
    """
    _sweep(run)
    if isinstance(which, int):
        return _at(run, which)
    shapes, damaged = run.shapes(), dict[int, str]()
    readable = _readable(run, damaged)
    for checkpoint in sorted(readable, key=lambda each: (each.number, each.step), reverse=True):
        try:
            checkpoint.verify(shapes)
        except InputError as error:
            damaged[checkpoint.step] = str(error)
            continue
        notes = [f"The checkpoint of step {step:,} is damaged, and left out." for step in sorted(damaged)]
        if damaged:
            notes.append(f"Training goes on from step {checkpoint.step:,}, the newest that is whole.")
        best, more = _best(run, checkpoint)
        _put_right(run, readable, checkpoint.step, best)
        return Recovered(checkpoint, (*notes, *more))
    why = f"no checkpoint is whole: {next(iter(damaged.values()))}" if damaged else "nothing was saved before it ended"
    raise InputError(f"{run.path} cannot be gone on with, {why}")


def _at(run: Run, step: int) -> Recovered:
    checkpoint = run.checkpoint(step)
    checkpoint.verify(run.shapes())
    return Recovered(checkpoint, _best(run, checkpoint)[1])


def _sweep(run: Run) -> None:
    try:
        sweep(run.path / CHECKPOINTS)
    except OSError as error:
        raise InputError(f"cannot write to {run.path}: {error.strerror}; allow it, or copy the run") from None


def _readable(run: Run, damaged: dict[int, str]) -> list[Checkpoint]:
    """All checkpoints whose manifests can be read; the others are put among the damaged."""
    found = []
    for step in run.steps():
        try:
            checkpoint = run.checkpoint(step)
            if checkpoint.step == step:
                found.append(checkpoint)
            else:
                damaged[step] = f"{checkpoint.path} says that it is of step {checkpoint.step}"
        except InputError as error:
            damaged[step] = str(error)
    return found


def _best(run: Run, checkpoint: Checkpoint) -> tuple[int, tuple[str, ...]]:
    """The step of the best checkpoint when this one was saved, if it is whole; else this one's, and a note."""
    best = checkpoint.manifest.get("best")
    step = best.get("step") if isinstance(best, dict) else None
    if not isinstance(step, int) or step == checkpoint.step:
        return checkpoint.step, ()
    try:
        run.checkpoint(step).weights(run.shapes())
        return step, ()
    except InputError:
        note = (
            f"The best model, of step {step:,}, is gone or damaged; that of step {checkpoint.step:,} takes its place."
        )
        return checkpoint.step, (note,)


def _put_right(run: Run, readable: list[Checkpoint], last: int, best: int) -> None:
    """Writes the index anew, where it does not say what is in the folder."""
    validation = {str(each.step): each.manifest.get("validation") for each in readable}
    values = {"best": best, "last": last, "validation": validation, "saves": max(each.number for each in readable)}
    try:
        index = Index.model_validate(values)
    except ValidationError:
        raise InputError(f"{run.path} has a damaged manifest.json; scriven doctor says which") from None
    try:
        same = run.index() == index
    except InputError:
        same = False
    try:
        if not same:
            run.write_index(index)
    except OSError as error:
        raise InputError(f"cannot write to {run.path}: {error.strerror}; free some space, or allow writing") from None

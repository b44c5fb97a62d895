"""Chooses the checkpoint to resume from, repairs the index and logs after a crash, and opens a run's corpus again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Literal

from scriven.corpus.build import Progress, open_or_build
from scriven.corpus.store import Corpus
from scriven.errors import InputError, UnreadableError
from scriven.runs.checkpoints import Checkpoint, Index, Measured, sweep
from scriven.runs.folder import CHECKPOINTS, IMPORTED, PACKED, Run, retraining_command
from scriven.runs.journal import back_up_logs, check_logs, restore_logs
from scriven.runs.tensors import Shapes


@dataclass(frozen=True)
class Recovered:
    """The checkpoint to resume from, the step of the best one, and notes for the user."""

    checkpoint: Checkpoint
    best: int
    notes: tuple[str, ...]


@dataclass
class _Found:
    """The checkpoints in a run's folder: those with a valid manifest, and the reasons why others cannot be used."""

    expected: tuple[Shapes, int]
    checkpoints: list[Checkpoint] = field(default_factory=list)  # the newest first
    damaged: dict[int, str] = field(default_factory=dict)  # why, by step
    unread: dict[int, str] = field(default_factory=dict)  # why it cannot be read now, by step

    def usable(self, checkpoint: Checkpoint, step: int) -> bool:
        """Whether a checkpoint can be read and is undamaged; otherwise records the reason."""
        try:
            checkpoint.verify(*self.expected)
        except UnreadableError as error:
            self.unread[step] = str(error)
        except InputError as error:
            self.damaged[step] = str(error)
        return step not in self.unread and step not in self.damaged


def recover(run: Run, which: Literal["last"] | int | str | None = "last") -> Recovered:
    """Finds the newest undamaged checkpoint, or the one of a step or an epoch, and corrects the index.

    It also removes leftovers of killed saves, restores logs that were cut by a resumed training that saved nothing, and
    backs up logs that will be cut now. Only the writer of the run may call it. Later saves may remove damaged
    checkpoints. Those that cannot be read now are kept, and noted. Raises InputError if no checkpoint is undamaged, or
    not the requested one.
    """
    _sweep(run)
    found = _find_checkpoints(run)
    if which is not None and which != "last":
        checkpoint = run.checkpoint(which)
        checkpoint.verify(*found.expected)
        newest = _find_newest(run, found)
    else:
        checkpoint = newest = _find_newest(run, found)
    notes = _make_notes(found, checkpoint.step) if checkpoint == newest else []
    best, more = _find_best(run, checkpoint, found)
    _repair_index(run, found, newest.step, best if checkpoint == newest else _find_best(run, newest, found)[0])
    _keep_logs(run, checkpoint.step, newest)
    return Recovered(checkpoint, best, (*notes, *more))


def _sweep(run: Run) -> None:
    try:
        sweep(run.path / CHECKPOINTS)
    except OSError as error:
        raise InputError(f"cannot write to {run.path}: {error.strerror}; allow it, or copy the run") from None


def _find_checkpoints(run: Run) -> _Found:
    """Finds all checkpoints, and reads their manifests."""
    found = _Found(run.expected_contents())
    for step in run.steps():
        try:
            checkpoint = run.checkpoint(step)
            checkpoint.manifest  # noqa: B018 - it is read and checked
            found.checkpoints.append(checkpoint)
        except UnreadableError as error:
            found.unread[step] = str(error)
        except InputError as error:
            found.damaged[step] = str(error)
    found.checkpoints.sort(key=lambda each: (each.number, each.step), reverse=True)
    return found


def _find_newest(run: Run, found: _Found) -> Checkpoint:
    """Finds the newest usable checkpoint. Raises InputError if there is none."""
    for checkpoint in found.checkpoints:
        if found.usable(checkpoint, checkpoint.step):
            return checkpoint
    why = next(iter({**found.unread, **found.damaged}.values()), "nothing was saved before it ended")
    what = "no checkpoint can be read: " if found.unread else "all checkpoints are damaged: " if found.damaged else ""
    raise InputError(f"{run.path} cannot be resumed, {what}{why}")


def _make_notes(found: _Found, step: int) -> list[str]:
    """Returns notes on the checkpoints that were passed over for the one of a step."""
    notes = [f"The checkpoint of step {each:,} is damaged and is not used." for each in sorted(found.damaged)]
    for each, why in sorted(found.unread.items()):
        notes.append(f"The checkpoint of step {each:,} is kept, but cannot be read now: {why}.")
    if notes:
        whole = "can be read" if found.unread else "is undamaged"
        notes.append(f"Training continues from step {step:,}, the newest that {whole}.")
    return notes


def _find_best(run: Run, checkpoint: Checkpoint, found: _Found) -> tuple[int, tuple[str, ...]]:
    """Returns the step of the best checkpoint when this one was saved, or its own step with a note if damaged."""
    best = checkpoint.manifest.get("best")
    step = int(best["step"]) if best else checkpoint.step
    if step == checkpoint.step:
        return step, ()
    try:
        run.checkpoint(step).arrays(found.expected[0])
        return step, ()
    except UnreadableError as error:
        found.unread[step] = str(error)
        why = f"is kept, but cannot be read now ({error})"
    except InputError:
        why = "is missing or damaged"
    return checkpoint.step, (f"The best model, of step {step:,}, {why}; that of step {checkpoint.step:,} replaces it.",)


def _repair_index(run: Run, found: _Found, last: int, best: int) -> None:
    """Rewrites the index if it does not match the folder."""
    before = _read_index(run)
    saves = max(each.number for each in found.checkpoints)
    if before and found.unread:  # one of these may have been saved last
        saves = max(saves, before.saves)
    validation = {str(each.step): Measured.model_validate(each.manifest["validation"]) for each in found.checkpoints}
    index = Index(best=best, last=last, validation=validation, saves=saves, unread=tuple(sorted(found.unread)))
    try:
        if index != before:
            run.write_index(index)
    except OSError as error:
        raise _cannot_write(run, error) from None


def _keep_logs(run: Run, step: int, newest: Checkpoint) -> None:
    """Restores or backs up the logs: a resume from an earlier step cuts them, but may never save."""
    try:
        check_logs(run.path)
        restore_logs(run.path, newest.number)
        if step < max(run.steps()):
            back_up_logs(run.path, run.index().saves + 1)
    except OSError as error:
        raise _cannot_write(run, error) from None


def _cannot_write(run: Run, error: OSError) -> InputError:
    return InputError(
        f"cannot write to {error.filename or run.path}: {error.strerror}; free some space, or allow writing"
    )


def _read_index(run: Run) -> Index | None:
    try:
        return run.index()
    except InputError:
        return None


def open_run_corpus(run: Run, progress: Progress | None = None, *, build: bool = True) -> Corpus:
    """Opens the corpus that a run was trained on, or builds it again from its texts. `progress` is as in `build`.

    Raises InputError if the texts are missing too, or have changed, or without `build` if the corpus is missing.
    """
    text = run.origin.get("text")
    with contextlib.suppress(InputError):  # missing, damaged, or of an earlier format
        corpus = Corpus.open(run.corpus_path)
        if text in (None, corpus.text_hash):
            return corpus
    if not build:
        raise InputError(f"the corpus of {run.path} is missing")
    texts = run.origin.get("texts", [])
    if program := run.origin.get(IMPORTED):
        raise InputError(f"{run.path} was imported from {program} without its text; give a text")
    if run.origin.get(PACKED):
        raise InputError(f"{run.path} was packed without its text (see scriven pack); give a text")
    if not texts or "-" in texts:
        raise InputError(f"the corpus of {run.path} is missing, and its text came from standard input; give a text")
    try:
        corpus = open_or_build(texts, run.settings.corpus, progress, strict=False)
    except InputError as error:
        raise InputError(f"the corpus of {run.path} is missing and cannot be built again: {error}") from None
    same_symbols = corpus.vocabulary == run.vocabulary
    if not same_symbols or text not in (None, corpus.text_hash):
        what = "another text" if same_symbols else "other characters"
        raise InputError(
            f"the corpus of {run.path} is missing, and {', '.join(texts)} has {what} now; restore the old text, or "
            f"train on the new one with: {retraining_command(run)}"
        )
    return corpus

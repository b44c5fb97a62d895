"""Prepares a run to be resumed or replayed: its settings, its corpus, and the checkpoint to start from."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from scriven import starts
from scriven.corpus.build import Progress
from scriven.corpus.store import Corpus
from scriven.distributed.launch import ProcessInfo
from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import InputError, UsageError
from scriven.events import Event, Finished, Stepped
from scriven.kernels.native_library import level
from scriven.runs import Checkpoint, Run, create_run, open_run, writing
from scriven.runs.folder import RUNS
from scriven.runs.journal import ReplayLog, read_fingerprints, read_replay_log
from scriven.runs.recovery import open_run_corpus, recover
from scriven.settings import BudgetSettings
from scriven.settings_checks import check_complete
from scriven.settings_values import merge_settings, overlay_settings, validate
from scriven.training.budget import budget_fraction
from scriven.training.notes import kernel_notes, text_notes
from scriven.training.request import PreparedRun, Request, check_texts_named, find_runs, open_corpus
from scriven.training.state import TrainingState, load_state
from scriven.training.workload import choose_compute, describe_workload

CHANGEABLE = {"budget", "monitor", "device", "precision", "workers", "threads", "evaluations"}


def prepare_resumed_run(request: Request, machines: int, progress: Progress, held: contextlib.ExitStack) -> PreparedRun:
    """Finds the run and an undamaged checkpoint of it, and saves the settings that may change.

    `held` holds the lock of the folder. Raises UsageError for settings that may not change, InputError if something
    cannot be read or written.
    """
    run = resumed_run(request)
    if run.settings.model.kind == "counts":
        raise UsageError(f"{run.path} is a model of counts, which is whole; there is nothing to resume")
    held.enter_context(writing(run.path))
    recovered = recover(run, "last" if request.resume == "auto" else request.resume)
    if not request.texts or check_texts_named(request) == run.origin.get("texts"):
        corpus = open_run_corpus(run, progress)
    else:
        corpus = open_corpus(request.texts, run.settings.corpus, progress)
    check_can_resume(run, recovered.checkpoint, corpus, finished=request.resume == "auto")
    compute = choose_compute(run.settings)
    workload = describe_workload(corpus, run.settings, compute, machines, request.begun, measured=False)
    settings = compute.apply(run.settings)
    notes = [*recovered.notes, *kernel_notes(run, settings, level()), *text_notes(run, progress)]
    origin = run.origin | {"corpus": corpus.name, "kernels": level()}
    first_weights = origin if run.settings.training.pull else {}  # only the pull needs them again
    return PreparedRun(
        run=create_run(run.path, settings, corpus.vocabulary, origin, run.setting_seals),
        corpus=corpus,
        workload=workload,
        notes=tuple(notes),
        initial=first_weights.get("initial", ""),
        embedding=first_weights.get("embedding", ""),
        checkpoint=recovered.checkpoint,
        best_step=recovered.best,
        replay=_remaining_replay(origin, recovered.checkpoint.step),
    )


def request_from_run(run: Run, workers: int = 0, progress: Progress | None = None) -> Request:
    """Returns a request to train as this run did: with its text, model, reader, optimizer and start.

    If it started from another run, it starts from random weights now. `workers` may be another number. Raises
    InputError if the corpus is missing and cannot be built again.
    """
    values = run.settings.model_dump()
    del values["corpus"]  # the corpus has its own settings
    given = {"training": {"workers": workers, "groups": max(workers, run.settings.training.groups)}} if workers else {}
    if embedding := run.origin.get("embedding"):
        given = merge_settings(given, {"model": {"embedding": embedding}})
    settings = validate(merge_settings(values, given))
    initial = str(run.origin.get("initial", ""))
    initial = initial if starts.is_reference(initial) else starts.NONE
    return Request((open_run_corpus(run, progress).name,), settings, initial=initial)


def expand_replay(request: Request, place: ProcessInfo | None, progress: Progress | None = None) -> Request:
    """Returns the request. If it is a replay, it gets the text and settings of the run to replay.

    `progress` is `build`'s. Raises UsageError if something else is requested too, InputError if the run or its corpus
    is missing.
    """
    if request.replay is None:
        return request
    if request.texts or request.settings.explicit() or request.resume is not None or request.initial is not None:
        raise UsageError(
            f"--replay takes the text and all settings from {request.replay}; drop the other texts and settings"
        )
    run = open_run(request.replay)
    again = request_from_run(run, place.size if place else 0, progress)
    initial = run.origin.get("initial", starts.NONE)
    return replace(request, replay=run.path, texts=again.texts, settings=again.settings, initial=initial)


def resumed_run(request: Request) -> Run:
    """Returns the run to resume, with the settings that the request changes.

    Raises UsageError if they may not change.
    """
    if request.initial is not None:
        raise UsageError("--resume continues a run and --from starts a new one; give one of them")
    run = open_run(request.output or _newest_folder(request.texts))
    asked = request.settings.explicit()
    embedding = asked.get("model", {}).get("embedding")
    if isinstance(embedding, str) and str(Path(embedding).resolve()) == run.origin.get("embedding"):
        del asked["model"]["embedding"]  # that the run started with
    for section, values in asked.items():
        for name, value in values.items():
            old = getattr(getattr(run.settings, section), name)
            if value != old and section not in CHANGEABLE and name not in CHANGEABLE:
                raise UsageError(
                    f"{section}.{name} of {run.path} is {old!r} and cannot become {value!r} when it is resumed; "
                    "start a new run, with --from to keep its weights"
                )
    settings = check_complete(validate(overlay_settings(run.settings.model_dump(), asked)))
    if not settings.budget:
        raise UsageError("the given budget is 0; give a larger one, or none to keep the run's")
    return replace(run, settings=settings)


def check_can_resume(run: Run, checkpoint: Checkpoint, corpus: Corpus, *, finished: bool) -> None:
    """Raises InputError if the corpus is another one, UsageError if the checkpoint has used up the whole budget.

    A run that used up its budget is accepted if `finished`.
    """
    if run.origin.get("text") != corpus.text_hash:
        raise InputError(
            f"{run.path} was trained on another text, or the text was read in another way; give that text, or start a "
            f"new run from its model with --from {run.path}"
        )
    state = load_state(checkpoint)
    same = state.budget == run.settings.budget.model_dump()
    share = state.progress if same else budget_fraction(WorkerJob(run.settings, ""), state)
    if share >= 1 and not finished and not state.evaluation_pending:
        raise UsageError(
            f"{run.path} has used up its budget at step {state.step:,}; to continue, give a larger one: "
            f"scriven train --resume -o {shlex.quote(str(run.path))} {_larger_budget(run.settings.budget, state)}"
        )


def _larger_budget(budget: BudgetSettings, state: TrainingState) -> str:
    """Returns the flag of a budget twice as large as the requested one, or as the amount done if that is more."""
    name, asked = next((name, value) for name, value in budget if value)
    spent = {"steps": state.step, "characters": state.characters, "epochs": state.epochs, "minutes": state.seconds / 60}
    value = 2 * max(asked, spent[name])
    digits = 0 if name in {"steps", "characters"} else max(0, 2 - math.floor(math.log10(value)))
    shown = f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"
    return f"--{name} {shown.rstrip('0').rstrip('.') if digits else shown}"


def _newest_folder(texts: tuple[str, ...]) -> Path:
    """Returns the newest run of this text, or of any text if `texts` is empty. Raises InputError if there is none."""
    found = find_runs(texts)
    if not found:
        raise InputError(f"there is no run of {' '.join(texts) or 'any text'} in {RUNS} to resume; name it with -o")
    return found[0]


def _remaining_replay(origin: dict[str, Any], step: int) -> ReplayLog | None:
    """Returns the log that a run replays, if it does and `step` is before the log's end."""
    log = read_replay_log(Path(origin["replay"])) if "replay" in origin else None
    return log if log and step < log.steps else None


def compare_replay(events: Iterator[Event], origin: dict[str, Any]) -> Iterator[Event]:
    """Yields the events of a replay. Adds to the last one whether its steps equal those of the replayed run."""
    replayed = origin["replay"]
    expected, found = read_fingerprints(Path(replayed)), dict[int, str]()
    for event in events:
        if isinstance(event, Stepped) and event.step in expected:
            found[event.step] = event.fingerprint
        if isinstance(event, Finished):
            other = min((step for step, mark in found.items() if mark != expected[step]), default=0)
            yield replace(event, notes=(*event.notes, _describe_comparison(len(found), other, replayed)))
        else:
            yield event


def _describe_comparison(count: int, other: int, replayed: str) -> str:
    """Returns a sentence: `count` steps were compared, and `other` is the first one that differs, or 0."""
    if other:
        return f"Step {other:,} differs from that of {replayed}: another machine, version or number of groups?"
    if not count:
        return f"No step was compared with those of {replayed}, since its metrics.jsonl has no fingerprint of them."
    return f"{count:,} steps were compared with those of {replayed}: all have the same bits."

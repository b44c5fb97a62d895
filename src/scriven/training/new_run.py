"""Prepares a new run: reads its text, chooses its settings and creates its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scriven import starts
from scriven.corpus.build import Progress
from scriven.corpus.store import Corpus
from scriven.errors import UsageError
from scriven.kernels import native_library
from scriven.kernels.counts import NgramTable
from scriven.model.pretrained import Embeddings
from scriven.runs import Run, create_run
from scriven.runs.claim import check_new_run, describe_origin, hold_claim
from scriven.runs.journal import read_replay_log
from scriven.settings import Settings
from scriven.settings_checks import check_partial
from scriven.settings_values import merge_settings, validate
from scriven.training.auto_settings import (
    choose_reader,
    choose_settings,
    chosen_names,
    describe_choices,
)
from scriven.training.auto_start import choose_initial, named_initial
from scriven.training.mixing import count_text, has_partner
from scriven.training.notes import counting_notes, folder_notes, warm_start_notes
from scriven.training.request import PreparedRun, Request, check_texts_named, free_folder, named_folder, open_corpus
from scriven.training.warm_start import load_embeddings
from scriven.training.workload import choose_compute, describe_workload


def prepare_new_run(
    request: Request,
    machines: int,
    progress: Progress,
    held: contextlib.ExitStack,
    stop: Callable[[], int] = lambda: 0,
) -> PreparedRun:
    """Reads the text, chooses all settings, counts the text for a mixture, and creates the run folder.

    `held` holds the lock of the folder. Raises UsageError for settings that contradict each other, InputError if
    something cannot be read or written, Interrupted if asked to stop.
    """
    if request.output:
        check_new_run(request.output)  # before reading the text, which may take long
    named_start = named_initial(request.initial)
    corpus = open_corpus(request.texts, request.settings.corpus, progress)
    requested, embeddings = _requested_settings(request, corpus)
    compute = choose_compute(requested)
    named = str(request.replay or request.texts[0])
    path = request.output or free_folder(named)
    workload = describe_workload(corpus, requested, compute, machines, request.begun, measured=True)
    _check_budget(requested)
    choice = choose_initial(named_start, requested, corpus, workload)
    requested = choice.settings
    settings, notes = choose_settings(requested, workload)
    notes += folder_notes(request.output or named_folder(named), path)
    first_weights = warm_start_notes(choice.initial, settings, corpus, embeddings)
    details = [*filter(None, [describe_choices(settings, requested), choice.note]), *first_weights]
    held.enter_context(hold_claim(path))
    embedding = embeddings.source if embeddings else ""
    origin = _describe_sources(request, corpus, choice.initial, embedding)
    origin |= {"chosen": chosen_names(settings, requested)}
    table = None
    if has_partner(settings, corpus):
        table, counted = count_text(corpus, settings.budget, stop)
        details += counting_notes(counted, corpus.training, corpus.settings.unit)
    return PreparedRun(
        run=create_run(path, compute.apply(settings), corpus.vocabulary, origin, counts=table),
        corpus=corpus,
        workload=workload,
        notes=(*details, *notes),
        details=tuple(details),
        initial=choice.initial,
        embedding=embedding,
        replay=read_replay_log(Path(origin["replay"])) if "replay" in origin else None,
    )


def prepare_counts(
    request: Request, progress: Progress, stop: Callable[[], int], held: contextlib.ExitStack
) -> tuple[Run, Corpus, NgramTable, list[str]]:
    """Reads and counts the text, and creates the run folder of a model of counts. Returns sentences for the user, too.

    Nothing is written before all is counted. Raises as `prepare_new_run` does; Interrupted if asked to stop.
    """
    if request.resume is not None:
        raise UsageError("a model of counts is whole once it is made, so it cannot be resumed; drop --resume")
    if native_library.level() == "off":
        raise UsageError(f"model.kind counts needs native code, and here is none: {native_library.why()}")
    if request.output:
        check_new_run(request.output)
    corpus = open_corpus(request.texts, request.settings.corpus, progress)
    settings, _ = _requested_settings(request, corpus)
    named = str(request.texts[0])
    path = request.output or free_folder(named)
    held.enter_context(hold_claim(path))
    table, counted = count_text(corpus, stop=stop)
    run = create_run(path, settings, corpus.vocabulary, _describe_sources(request, corpus), counts=table)
    notes = [
        *corpus.notes,
        *folder_notes(request.output or named_folder(named), path),
        *counting_notes(counted, corpus.training, corpus.settings.unit),
    ]
    return run, corpus, table, notes


def _requested_settings(request: Request, corpus: Corpus) -> tuple[Settings, Embeddings | None]:
    """Returns the requested settings with the corpus's own, and the embeddings of the file or run that they name.

    Raises UsageError if a corpus was built earlier with other settings.
    """
    settings = request.settings
    for name, value in settings.explicit().get("corpus", {}).items():
        if value != (has := getattr(corpus.settings, name)):
            raise UsageError(
                f"corpus.{name} of {corpus.path} is {has!r}, not {value!r}; build the corpus again, or drop the flag"
            )
    chosen = merge_settings(settings.explicit(), {"corpus": corpus.settings.model_dump()})
    chosen = merge_settings(chosen, {"reader": {"kind": choose_reader(validate(chosen))}})
    named = settings.model.embedding
    embeddings = load_embeddings(named) if isinstance(named, str) and named else None
    if embeddings:
        chosen = merge_settings(chosen, {"model": {"embedding": embeddings.width}})
    settings = check_partial(validate(chosen))
    _check_text(settings, corpus)
    return settings, embeddings


def _check_text(settings: Settings, corpus: Corpus) -> None:
    """Raises UsageError if the text lacks something that the settings need."""
    longest = corpus.training.document_lengths()[2] + 1 if corpus.training.documents else 0
    if settings.training.mean == "document" and longest > settings.reader.length:
        raise UsageError(
            f"training.mean document needs whole documents in a step: the longest one has {longest - 1:,} characters "
            f"and its end, but reader.length is {settings.reader.length}; give --reader.length {longest}"
        )
    if settings.training.averaging != "none" and not corpus.validation.characters:
        raise UsageError(
            f"training.averaging {settings.training.averaging} begins when the validation loss stops falling, and "
            "there is no validation text; drop the flag, or keep some text with --corpus.validation"
        )


def _check_budget(given: Settings) -> None:
    """Raises UsageError if there is no budget."""
    if not given.budget and given.budget.model_fields_set:
        raise UsageError("a budget of 0 trains nothing; give more, such as --minutes 5")
    if not given.budget:
        raise UsageError("please say how long to train: add --minutes 5 (or --epochs, --steps, --characters)")


def _describe_sources(request: Request, corpus: Corpus, initial: str = "", embedding: str = "") -> dict[str, Any]:
    """Returns what a run is made from, for the table `run` of its settings.toml."""
    started = {"initial": initial, "embedding": embedding, "replay": request.replay or ""}
    sources = {
        name: str(path) if starts.is_reference(str(path)) else str(Path(path).resolve())
        for name, path in started.items()
        if path
    }
    return describe_origin(check_texts_named(request), corpus.text_hash, corpus.name, **sources)

"""From a request (texts, settings, where to) to a training: corpus, fitted settings, run folder, workers, loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scriven.batches import epoch_reads
from scriven.batches.readers import describe_epoch
from scriven.corpus.build import Progress, build, is_made_of
from scriven.corpus.store import Corpus, is_corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.distributed.launch import ProcessInfo, connect_store, torchrun_process
from scriven.distributed.rendezvous import as_leader, as_worker, interruptible_progress
from scriven.errors import InputError, Interrupted, UsageError
from scriven.events import Event, Finished, Started, Stepped
from scriven.kernels.native_library import level
from scriven.model import choose_device, choose_precision
from scriven.model.cells import has_native_code
from scriven.model.device import available_cores, tune_cpu
from scriven.model.language_model import parameter_count
from scriven.model.pretrained import Embeddings
from scriven.runs import Run, create_run, open_run, run_corpus, writing
from scriven.runs.claim import check_new_run, hold_claim
from scriven.runs.folder import retraining_command
from scriven.runs.journal import ReplayLog, read_fingerprints, read_replay_log
from scriven.runs.recovery import recover
from scriven.settings import Settings, check_partial, merge_settings, validate
from scriven.signals import raise_if_stopped
from scriven.training.auto_settings import (
    Workload,
    choose_reader,
    choose_settings,
    chunk_length,
    describe_choices,
    expected_seconds,
    measure_speed,
)
from scriven.training.budget import WorkerJob
from scriven.training.loop import Trainer
from scriven.training.request import (
    Request,
    check_can_resume,
    check_texts_named,
    expand_replay,
    free_folder,
    named_folder,
    resolve_resume,
    resumed_run,
    text_hash,
    with_absolute_paths,
)
from scriven.training.warm_start import load_embeddings, new_symbols, warm_started_model

PROCESS_BYTES = 230 << 20  # of a worker before it has a model: the interpreter, torch and its buffers
SYMBOLS_SHOWN = 20
SLOW_START = 0.25  # of the time left, which a start may take without a word
START_SECONDS = 4.0  # from a plan to the first step, other workers' start included


def train(request: Request, stop: Callable[[], int] = lambda: 0, progress: Progress | None = None) -> Generator[Event]:
    """Trains; yields events. `stop()` gives the number of a signal that asks to stop, or 0; `progress` is `build`'s.

    Raises UsageError for settings that contradict each other, InputError for what cannot be read or written,
    DivergedError when the loss is not finite.
    """
    place = torchrun_process()
    if place and place.rank:
        raise UsageError(f"process {place.rank} of {place.size} is led by the first one; let it work for that one")
    request = expand_replay(request, place, interruptible_progress(progress, stop))
    request = resolve_resume(replace(request, settings=with_absolute_paths(request.settings)), place)
    place = replace(place, store=connect_store(place, stop)) if place else None
    with contextlib.ExitStack() as held:
        resumed = resumed_run(request) if request.resume is not None else None
        if resumed:
            held.enter_context(writing(resumed.path))
        elif request.output:
            check_new_run(request.output)  # before its text is read, which may take long
        yield from _train(request, resumed, place, held, stop, progress)


def _train(
    request: Request,
    resumed: Run | None,
    place: ProcessInfo | None,
    held: contextlib.ExitStack,
    stop: Callable[[], int],
    progress: Progress | None,
) -> Generator[Event]:
    """As `train`; the right to write to a resumed run's folder is held, that to a new one's is taken."""
    recovered = recover(resumed, "last" if request.resume == "auto" else request.resume) if resumed else None
    corpus = _corpus(request, resumed, interruptible_progress(progress, stop))
    if resumed and recovered:
        check_can_resume(resumed, recovered.checkpoint, corpus, finished=request.resume == "auto")
    settings, embeddings = (resumed.settings, None) if resumed else _requested_settings(request, corpus)
    embedding = embeddings.source if embeddings else ""
    device = choose_device(settings.training.device)
    if settings.training.workers > 1 and device.type == "mps":
        raise UsageError("several workers are for CPUs and CUDA; drop --training.workers or --training.device mps")
    native = has_native_code(settings.model, "bf16")
    precision = choose_precision(settings.training.precision, device, settings.model.cell, native)
    path = resumed.path if resumed else request.output or free_folder(str(request.replay or request.texts[0]))
    machines = place.machines if place else 1
    facts = _workload(request, corpus, settings, device, precision, machines, measured=resumed is None)
    notes = [*recovered.notes, *_other_bits(resumed)] if resumed and recovered else []
    notes += _other_text(resumed, interruptible_progress(progress, stop)) if resumed else []
    if not resumed:
        settings, notes = _choose_all_settings(request, settings, facts)
        notes += [*_folder_notes(request, path), *_initial_notes(request, settings, corpus, embeddings)]
        held.enter_context(hold_claim(path))
    computing = {"training": {"device": device.type, "precision": precision}}
    settings = validate(merge_settings(settings.model_dump(), computing))
    origin = resumed.origin if resumed else _origin(request, corpus, embedding)
    origin = origin | {"corpus": corpus.name, "kernels": level()}
    run = create_run(path, settings, corpus.vocabulary, origin, resumed.setting_seals if resumed else ())
    plan = WorkerJob(
        settings,
        corpus.name,
        resume=str(recovered.checkpoint.path) if recovered else "",
        best=recovered.best if recovered else 0,
        initial=str(request.initial or ""),
        embedding=embedding,
        until=request.until,
        replay=_replay_log(origin, recovered.checkpoint.step if recovered else 0),
        used_seconds=time.monotonic() - request.begun,
    )
    raise_if_stopped(stop)
    with as_leader(plan, place, stop) as (workers, asked), _cpu_prepared(settings, workers, place):
        trainer = Trainer(plan, workers, run, asked)
        yield _make_started(trainer, run, facts, (*corpus.notes, *notes, *_epoch_notes(trainer), *_time_notes(trainer)))
        try:
            yield from _compare_replay(trainer.events(), origin) if plan.replay else trainer.events()
        except Interrupted:  # at once: what is still being written keeps the right to it
            if trainer.saver:
                trainer.saver.add_callback(held.pop_all().close)
            raise


def _replay_log(origin: dict[str, Any], step: int) -> ReplayLog | None:
    """What is to be done again by a run that replays another one, and stands at a step; none after the last."""
    story = read_replay_log(Path(origin["replay"])) if "replay" in origin else None
    return story if story and step < story.steps else None


def _compare_replay(events: Iterator[Event], origin: dict[str, Any]) -> Iterator[Event]:
    """The events of a replay; the last one tells whether its steps were those of the run that it replays."""
    expected, found = read_fingerprints(Path(origin["replay"])), dict[int, str]()
    for event in events:
        if isinstance(event, Stepped) and event.step in expected:
            found[event.step] = event.fingerprint
        if isinstance(event, Finished):
            other = min((step for step, mark in found.items() if mark != expected[step]), default=0)
            yield replace(event, notes=(*event.notes, _is_alike(len(found), other, origin["replay"])))
        else:
            yield event


def _is_alike(count: int, other: int, replayed: str) -> str:
    """A sentence on so many steps that were compared; `other` is the first that is not the same, or 0."""
    if other:
        return f"Step {other:,} is not that of {replayed}: another machine, version or number of groups?"
    if not count:
        return f"No step was compared with those of {replayed}: its metrics.jsonl has none of their fingerprints."
    return f"{count:,} steps were compared with those of {replayed}: all are the same bits."


def work(texts: tuple[str, ...] = (), place: ProcessInfo | None = None, stop: Callable[[], int] = lambda: 0) -> int:
    """Trains as one of the workers that rank 0 leads, told what to do by it.

    It was started by `train`, or by torchrun at this place; on another machine it reads these texts, where it does not
    see rank 0's corpus. Gives the number of the signal that stopped the training, or 0. Raises as `train` does.
    """
    place = replace(place, store=connect_store(place, stop)) if place else None
    with as_worker(texts, place, stop) as (plan, workers, asked), _cpu_prepared(plan.settings, workers, place):
        *_, finished = Trainer(plan, workers, None, asked).events()
    return finished.signal if isinstance(finished, Finished) else 0


def _cpu_prepared(
    settings: Settings, workers: ProcessGroup, place: ProcessInfo | None
) -> contextlib.AbstractContextManager[None]:
    """The context in which a worker trains: torch's threads are the run's, native code takes the cores there are.

    A worker has native code use as many threads as all of its groups together, but no more than its share of this
    machine's cores.
    """
    training, here = settings.training, place.local_size if place else workers.size
    groups = -(-training.groups // workers.size)
    return tune_cpu(training.threads, max(1, min(training.threads * groups, available_cores() // here)))


# --- what the request means


def _corpus(request: Request, resumed: Run | None, progress: Progress | None) -> Corpus:
    """The corpus of the texts: one built before, one in the cache, or built now; of a resumed run, its own."""
    if resumed and (not request.texts or check_texts_named(request) == resumed.origin.get("texts")):
        return run_corpus(resumed, progress)
    if not request.texts:
        raise UsageError("no text to train on; name a file, a folder, - for standard input, python or shakespeare")
    if is_corpus(request.texts):
        return Corpus.open(request.texts[0])
    settings = resumed.settings.corpus if resumed else request.settings.corpus
    return Corpus.open(build(request.texts, settings, progress=progress))


def _requested_settings(request: Request, corpus: Corpus) -> tuple[Settings, Embeddings | None]:
    """The settings asked for, the corpus' own among them, and the embeddings where a file or a run of them was named.

    Raises UsageError when a corpus that was built before has other settings than those asked for.
    """
    settings = request.settings
    for name, value in settings.explicit().get("corpus", {}).items():
        if value != (has := getattr(corpus.settings, name)):
            raise UsageError(
                f"corpus.{name} of {corpus.path} is {has!r}, not {value!r}; build it anew, or drop the flag"
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
    """Raises UsageError when the text does not have what the settings need."""
    longest = corpus.training.document_lengths()[2] + 1 if corpus.training.documents else 0
    if settings.training.mean == "document" and longest > settings.reader.length:
        raise UsageError(
            f"training.mean document needs whole documents in a step: the longest one has {longest - 1:,} characters "
            f"and its end, and reader.length is {settings.reader.length}; give --reader.length {longest}"
        )
    if settings.training.averaging != "none" and not corpus.validation.characters:
        raise UsageError(
            f"training.averaging {settings.training.averaging} begins when the validation loss stops falling, and "
            "there is no validation text; drop it, or leave some with --corpus.validation"
        )


def _workload(
    request: Request,
    corpus: Corpus,
    settings: Settings,
    device: torch.device,
    precision: str,
    machines: int,
    *,
    measured: bool,
) -> Workload:
    """What the settings that are not given are fitted to; the speed is nan where it is not to be measured."""
    text, cores = corpus.training, available_cores()
    shared = device.type == "cpu" and has_native_code(settings.model, precision)
    speed = measure_speed(device, precision, settings.model.cell, cores if shared else 1) if measured else math.nan
    return Workload(
        epoch_reads(text, settings.reader),
        corpus.validation.characters,
        cores * machines,
        device.type,
        speed * (machines if shared else 1),
        time.monotonic() - request.begun + START_SECONDS,
        documents=text.documents,
        text_characters=text.characters,
        own_cores=cores,
        shared=shared,
    )


def _choose_all_settings(request: Request, given: Settings, facts: Workload) -> tuple[Settings, list[str]]:
    """All settings of a new run."""
    if not given.budget and given.budget.model_fields_set:
        raise UsageError("a budget of 0 trains nothing; give more, such as --minutes 5")
    if not given.budget:
        raise UsageError("how long to train is not said; give --minutes, --epochs, --steps or --characters")
    if request.initial:
        inherited = {"model": open_run(request.initial).settings.model.model_dump()}
        given = validate(merge_settings(inherited, given.explicit()))
    settings, notes = choose_settings(given, facts)
    return settings, [*filter(None, [describe_choices(settings, given)]), *notes]


def _origin(request: Request, corpus: Corpus, embedding: str) -> dict[str, Any]:
    """Where a run comes from: the run table of its settings.toml."""
    origin = {"texts": check_texts_named(request), "text": text_hash(corpus), "scriven": version("scriven")}
    started = {"initial": request.initial or "", "embedding": embedding, "replay": request.replay or ""}
    return origin | {name: str(Path(path).resolve()) for name, path in started.items() if path}


def _other_bits(run: Run) -> list[str]:
    """A sentence for everything that will compute other bits than what made the run so far."""
    training, before = run.settings.training, open_run(run.path).settings.training
    changes = {
        "Its kernels were": (run.origin.get("kernels", level()), level()),
        "Its threads were": (before.threads, training.threads),
    }
    return [
        f"{words} {old} so far and are {new} now: it goes on from there, but not to the same bits."
        for words, (old, new) in changes.items()
        if old != new
    ]


def _other_text(run: Run, progress: Progress) -> list[str]:
    """A sentence, where the text of a resumed run is another one by now than its corpus was made of."""
    texts, place = run.origin.get("texts", []), run.corpus_path
    with contextlib.suppress(InputError):  # it need not be there any more
        if not texts or is_corpus(texts) or not isinstance(place, Path):
            return []
        if is_made_of(place, texts, run.settings.corpus, progress) is False:
            return [
                f"{', '.join(texts)} has changed since this run began; training goes on with the text as it was. To "
                f"train this model on the new text: {retraining_command(run)}"
            ]
    return []


def _folder_notes(request: Request, path: Path) -> list[str]:
    """What should be known of a new run's folder."""
    notes = []
    if request.output is None and path != (first := named_folder(str(request.replay or request.texts[0]))):
        notes.append(f"{first} is there already, so this run is {path}; --resume -o {first} would go on with that one.")
    return notes


def _epoch_notes(trainer: Trainer) -> list[str]:
    """Of windows, what an epoch is in the numbers of those who make arrays of it."""
    if trainer.settings.reader.kind != "windows" or trainer.state.step:
        return []
    return [f"An epoch is {describe_epoch(trainer.epoch)}."]


def _time_notes(trainer: Trainer) -> list[str]:
    """What should be known of a time budget, once it is clear what beside the steps takes how much of it."""
    job, notes, count = trainer.job, list[str](), trainer.even_evaluations
    asked, minutes = job.settings.training.evaluations, job.settings.budget.minutes
    left, used = minutes * 60 - trainer.state.seconds, job.seconds()
    if not job.timed or job.replay:
        return notes
    if used > SLOW_START * left:
        notes.append(
            f"Starting took {used:.1f} of the {max(left, 0):.1f} seconds left; a larger --minutes trains more."
        )
    if count < asked and not (job.settings.monitor.every_steps or job.settings.monitor.every_epochs):
        notes.append(
            f"Evaluations and samples would take too much of the time: there are {count}, not {asked}; "
            "a larger --minutes, a smaller --monitor.sample-length or --training.evaluation-characters has more."
        )
    return notes


def _initial_notes(request: Request, settings: Settings, corpus: Corpus, embeddings: Embeddings | None) -> list[str]:
    """What should be known of the weights that training starts from; those of others are tried here."""
    initial, missing = str(request.initial or ""), list[int]()
    if initial or embeddings:
        _, missing = warm_started_model(settings, corpus.vocabulary, initial, embeddings)
    notes = _new_symbols(request, corpus) if initial else []
    if embeddings:
        notes += _missing_symbols(embeddings, [chr(symbol) for symbol in missing])
    elif settings.model.freeze_embedding and not initial:
        notes.append("The embedding is frozen as it is drawn by chance: model.embedding names no pretrained one.")
    return notes


def _new_symbols(request: Request, corpus: Corpus) -> list[str]:
    assert request.initial
    new = new_symbols(open_run(request.initial).vocabulary, corpus.vocabulary)
    return (
        [f"{request.initial} did not know {len(new)} of the characters, which got new rows: {_some(new)}"]
        if new
        else []
    )


def _missing_symbols(embeddings: Embeddings, missing: list[str]) -> list[str]:
    source, skipped = embeddings.source, embeddings.skipped
    lacks = f"{source} lacks {len(missing)} of the characters, which begin by chance: {_some(missing)}"
    unused = f"{source} has {skipped:,} entries that are not single characters, or there twice; they are not used"
    return [*([lacks] if missing else []), *([unused] if skipped else [])]


def _some(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:SYMBOLS_SHOWN])) + (" ..." if len(symbols) > SYMBOLS_SHOWN else "")


def _make_started(trainer: Trainer, run: Run, facts: Workload, notes: tuple[str, ...]) -> Started:
    settings, corpus = trainer.settings, trainer.corpus
    parameters = parameter_count(settings.model, corpus.vocabulary.size)
    reader, model = settings.reader, settings.model
    return Started(
        run=str(run.path),
        name=f"{model.cell} {model.layers}x{model.width}",
        parameters=parameters,
        training_characters=corpus.training.characters,
        validation_characters=corpus.validation.characters,
        characters_per_step=round(reader.batch * chunk_length(settings, facts) * settings.training.accumulate),
        workers=trainer.workers.size,
        device=settings.training.device,
        precision=settings.training.precision,
        expected_seconds=_seconds_left(trainer, facts),
        expected_bytes=expected_bytes(settings, parameters, corpus.vocabulary.size),
        step=trainer.state.step,
        progress=trainer.state.progress,
        notes=notes,
        epoch_steps=trainer.epoch.steps,
    )


def _seconds_left(trainer: Trainer, facts: Workload) -> float:
    """How long the rest of the budget will take; of a resumed run, if it goes on as fast as it was."""
    done, settings = trainer.state, trainer.settings
    if trainer.job.timed:
        return settings.budget.minutes * 60 - done.seconds
    if trainer.job.resume and done.progress:
        return done.seconds * (1 - done.progress) / done.progress
    return expected_seconds(settings, facts)


def expected_bytes(settings: Settings, parameters: int, vocabulary_size: int) -> int:
    """An estimate of the memory of all workers: each one's weights, gradients, optimizer, and its rows' activations."""
    workers, model, reader = settings.training.workers, settings.model, settings.reader
    weights = 4 * parameters * (6 + settings.training.groups)
    values = model.layers * 16 * model.width + 3 * vocabulary_size  # a character's, kept for the backward pass
    return workers * (PROCESS_BYTES + weights) + 4 * values * reader.batch * reader.length

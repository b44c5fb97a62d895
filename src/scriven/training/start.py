"""Trains as a user requests: prepares the run, starts the workers and yields the events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial

from scriven.corpus.build import Progress
from scriven.corpus.store import Corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.distributed.launch import ProcessInfo, connect_store, torchrun_process
from scriven.distributed.rendezvous import as_leader, as_worker, interruptible_progress
from scriven.errors import Interrupted, UsageError
from scriven.events import Evaluated, Event, Finished, Saved, Started
from scriven.inference.predictor import Predictor
from scriven.kernels.counts import NgramMixture, NgramTable
from scriven.loss import Loss, kept_loss
from scriven.model.backends import tune_cpu
from scriven.model.language_model import make_model
from scriven.model.precision import peak_flops
from scriven.model.shapes import parameter_count
from scriven.runs import Run
from scriven.runs.checkpoints import Best
from scriven.runtime import available_cores
from scriven.settings import Settings, reader_window
from scriven.signals import raise_if_stopped
from scriven.training.auto_settings import chunk_length, expected_bytes, expected_seconds
from scriven.training.evaluation import Evaluator
from scriven.training.loop import Trainer
from scriven.training.new_run import prepare_counts, prepare_new_run
from scriven.training.notes import cell_notes, epoch_notes, readable_notes, time_notes
from scriven.training.request import PreparedRun, Request, resolve_resume, with_absolute_paths
from scriven.training.resume import compare_replay, expand_replay, prepare_resumed_run
from scriven.training.state import TrainingState
from scriven.training.workload import Workload

COUNTS_STEP = 1  # of the only checkpoint of a model of counts


def train(request: Request, stop: Callable[[], int] = lambda: 0, progress: Progress | None = None) -> Generator[Event]:
    """Trains and yields events. `stop()` gives the number of a signal that asks to stop, or 0; `progress` is `build`'s.

    Raises UsageError for settings that contradict each other, InputError if something cannot be read or written,
    DivergedError if the loss is not finite.
    """
    place = torchrun_process()
    if place and place.rank:
        raise UsageError(f"process {place.rank} of {place.size} must work for the first one, which leads the training")
    reading = interruptible_progress(progress, stop)
    request = expand_replay(request, place, reading)
    request = resolve_resume(replace(request, settings=with_absolute_paths(request.settings)), place)
    if request.settings.model.kind == "counts":
        yield from _count(request, stop, reading)
        return
    place = replace(place, store=connect_store(place, stop)) if place else None
    prepare = prepare_resumed_run if request.resume is not None else partial(prepare_new_run, stop=stop)
    with contextlib.ExitStack() as held:
        machines = place.machines if place else 1
        prepared = prepare(request, machines, reading, held)
        job = replace(prepared.make_job(request), peak_flops=_measure_peak(prepared.settings, machines))
        raise_if_stopped(stop)
        with as_leader(job, place, stop) as (workers, asked), _tuned_cpu(job.settings, workers, place):
            trainer = Trainer(job, workers, prepared.run, asked)
            yield _make_started(trainer, prepared)
            try:
                yield from compare_replay(trainer.events(), prepared.run.origin) if job.replay else trainer.events()
            except Interrupted:  # at once: the lock is held until the last write has ended
                if trainer.saver:
                    trainer.saver.add_callback(held.pop_all().close)
                raise


def _count(request: Request, stop: Callable[[], int], progress: Progress) -> Generator[Event]:
    """Makes a model of counts, which one process does."""
    with contextlib.ExitStack() as held:
        run, corpus, table, notes = prepare_counts(request, progress, stop, held)
        yield from _measure_counts(run, corpus, table, begun=request.begun, notes=notes, stop=stop)


def _measure_counts(
    run: Run, corpus: Corpus, table: NgramTable, *, begun: float, notes: Sequence[str], stop: Callable[[], int]
) -> Generator[Event]:
    """Measures the counts of a new run, saves its only checkpoint, and yields events as a training does.

    Raises Stopped if asked to stop.
    """
    settings, training = run.settings, corpus.training
    yield Started(
        run=str(run.path),
        name=settings.model.name,
        parameters=0,
        training_characters=training.characters,
        validation_characters=corpus.validation.characters,
        characters_per_step=training.characters,
        workers=1,
        device="cpu",
        precision="fp32",
        expected_seconds=0.0,
        expected_bytes=0,
        step=0,
        progress=0.0,
        notes=tuple(notes),
        unit=settings.corpus.unit,
    )
    evaluator = _make_evaluator(settings, corpus, table, stop)
    measured = evaluator.loss()
    state = TrainingState(step=COUNTS_STEP, progress=1.0, characters=training.characters, epochs=1.0, evaluations=1)
    state.evaluation, state.seconds = True, time.monotonic() - begun
    if measured:
        state.validation = state.last_validation = measured[1]
        yield _make_evaluated(state, *measured)
    state.best = Best(step=COUNTS_STEP, loss=state.last_validation)
    yield from evaluator.samples(COUNTS_STEP)
    saved = run.save({}, {}, state.model_dump(), best=COUNTS_STEP)
    yield Saved(step=COUNTS_STEP, path=str(saved.path))
    finals = [*evaluator.final_losses()] if measured else []
    for protocol, loss in finals:
        yield _make_evaluated(state, protocol, loss, final=True)
    named = [(protocol, "network", loss) for protocol, loss in finals]
    best, _ = kept_loss(named, mixed=False, otherwise=state.last_validation)
    seconds = time.monotonic() - begun
    yield Finished(step=COUNTS_STEP, reason="budget", best_step=COUNTS_STEP, best=best, seconds=seconds)


def _make_evaluator(settings: Settings, corpus: Corpus, table: NgramTable, stop: Callable[[], int]) -> Evaluator:
    model = make_model(settings.model, corpus.vocabulary.size).eval()
    window, counts = reader_window(settings.reader), NgramMixture.alone(table)
    predictor = Predictor(model, corpus.vocabulary, "fp32", window, counts=counts)
    return Evaluator(settings, ProcessGroup(), corpus, predictor, stop)


def _make_evaluated(state: TrainingState, protocol: str, loss: Loss, *, final: bool = False) -> Evaluated:
    return Evaluated(
        step=COUNTS_STEP, progress=1.0, protocol=protocol, loss=loss, best=True, seconds=state.seconds, final=final
    )


def work(texts: tuple[str, ...] = (), place: ProcessInfo | None = None, stop: Callable[[], int] = lambda: 0) -> int:
    """Trains as one of the workers that rank 0 leads; returns the number of the signal that stopped it, or 0.

    `train` or torchrun has started this worker, at this place. On a machine that cannot see rank 0's corpus it reads
    these texts. Raises as `train` does.
    """
    place = replace(place, store=connect_store(place, stop)) if place else None
    with as_worker(texts, place, stop) as (job, workers, asked), _tuned_cpu(job.settings, workers, place):
        *_, finished = Trainer(job, workers, None, asked).events()
    return finished.signal if isinstance(finished, Finished) else 0


def _tuned_cpu(
    settings: Settings, workers: ProcessGroup, place: ProcessInfo | None
) -> contextlib.AbstractContextManager[None]:
    """Returns a context that sets the number of threads of torch and of native code for a worker.

    Torch uses the run's threads. Native code uses those of all groups of the worker together, but no more than the
    worker's share of this machine's cores.
    """
    training, here = settings.training, place.local_size if place else workers.size
    groups = -(-training.groups // workers.size)
    return tune_cpu(training.threads, max(1, min(training.threads * groups, available_cores() // here)))


def _make_started(trainer: Trainer, prepared: PreparedRun) -> Started:
    workload, state = prepared.workload, trainer.state
    notes = [*prepared.corpus.notes, *prepared.notes, *time_notes(trainer.job, state, trainer.even_evaluations)]
    epoch = [] if state.step else epoch_notes(trainer.settings, trainer.epoch)
    if not state.step:
        notes += [*cell_notes(trainer.settings), *epoch]
        notes += readable_notes(trainer.job, trainer.evaluator.readable_share) if trainer.evaluator.table else []
    settings, corpus = trainer.settings, trainer.corpus
    parameters = parameter_count(settings.model, corpus.vocabulary.size)
    reader, model = settings.reader, settings.model
    return Started(
        run=str(prepared.run.path),
        name=model.name,
        parameters=parameters,
        training_characters=corpus.training.characters,
        validation_characters=corpus.validation.characters,
        characters_per_step=round(reader.batch * chunk_length(settings, workload) * settings.training.accumulate),
        workers=trainer.workers.size,
        device=settings.training.device,
        precision=settings.training.precision,
        expected_seconds=_seconds_left(trainer, workload),
        expected_bytes=expected_bytes(settings, parameters, corpus.vocabulary.size),
        step=state.step,
        progress=state.progress,
        notes=tuple(notes),
        epoch_steps=trainer.epoch.steps,
        start="" if state.step else prepared.start,
        details=(*prepared.details, *epoch),
        flops_per_character=trainer.learner.gradients.flops,
        peak_flops=trainer.job.peak_flops,
        counts=trainer.evaluator.table is not None,
        unit=settings.corpus.unit,
    )


def _measure_peak(settings: Settings, machines: int) -> float:
    """Returns the operations per second that products of matrices reach on all machines, in the run's number format.

    A CPU's are those of all its cores; each worker on a GPU has one of its own.
    """
    training = settings.training
    devices = training.workers if training.device == "cuda" else machines
    return devices * peak_flops(training.device, training.precision)


def _seconds_left(trainer: Trainer, workload: Workload) -> float:
    """Estimates the seconds for the rest of the budget; a resumed run is expected to be as fast as before."""
    state, settings = trainer.state, trainer.settings
    if trainer.job.timed:
        return settings.budget.minutes * 60 - state.seconds
    if state.progress:
        return state.seconds * (1 - state.progress) / state.progress
    return expected_seconds(settings, workload)

"""Makes a model of counts: an n-gram model of the training text. It has no steps; it is measured and kept as a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from scriven.corpus.store import Corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.events import Evaluated, Event, Finished, Loss, Saved, Started
from scriven.inference.chunks import chunks_of, documents_of
from scriven.inference.predictor import Predictor
from scriven.kernels.counts import Counted, NgramCounter, NgramMixture, NgramTable
from scriven.model.language_model import make_model
from scriven.runs import Run
from scriven.runs.checkpoints import Best
from scriven.settings import Settings, reader_window
from scriven.signals import raise_if_stopped
from scriven.training.evaluation import Evaluator
from scriven.training.state import TrainingState

STEP = 1  # of the only checkpoint


def counting_events(
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
    )
    evaluator = _make_evaluator(settings, corpus, table, stop)
    measured = evaluator.loss()
    state = TrainingState(step=STEP, progress=1.0, characters=training.characters, epochs=1.0, evaluations=1)
    state.evaluation, state.seconds = True, time.monotonic() - begun
    if measured:
        state.validation = state.last_validation = measured[1]
        yield _make_evaluated(state, *measured)
    state.best = Best(step=STEP, loss=state.last_validation)
    yield from evaluator.samples(STEP)
    saved = run.save({}, {}, state.model_dump(), best=STEP)
    yield Saved(step=STEP, path=str(saved.path))
    for protocol, loss in evaluator.final_losses() if measured else ():
        yield _make_evaluated(state, protocol, loss, final=True)
    seconds = time.monotonic() - begun
    yield Finished(step=STEP, reason="budget", best_step=STEP, best=state.last_validation, seconds=seconds)


def count_text(corpus: Corpus, stop: Callable[[], int] = lambda: 0) -> tuple[NgramTable, Counted]:
    """Counts the training text of a corpus, in bounded memory. Raises Interrupted if asked to stop."""
    text, vocabulary = corpus.training, corpus.vocabulary
    boundary = vocabulary.boundary
    chunks = chunks_of(text) if boundary is None else documents_of(text, boundary)
    with NgramCounter(vocabulary.size, text.characters + text.documents, boundary=boundary) as counter:
        for ids in chunks:
            raise_if_stopped(stop)
            counter.count(vocabulary.clamp(ids))
        return counter.finish()


def _make_evaluator(settings: Settings, corpus: Corpus, table: NgramTable, stop: Callable[[], int]) -> Evaluator:
    model = make_model(settings.model, corpus.vocabulary.size).eval()
    window, counts = reader_window(settings.reader), NgramMixture.alone(table)
    predictor = Predictor(model, corpus.vocabulary, "fp32", window, counts=counts)
    return Evaluator(settings, ProcessGroup(), corpus, predictor, stop)


def _make_evaluated(state: TrainingState, protocol: str, loss: Loss, *, final: bool = False) -> Evaluated:
    return Evaluated(
        step=STEP, progress=1.0, protocol=protocol, loss=loss, best=True, seconds=state.seconds, final=final
    )

"""Makes a model of counts: an n-gram model of the training text. It has no steps; it is measured and kept as a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from scriven.arrays import Ids
from scriven.corpus.store import Corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.events import Evaluated, Event, Finished, Loss, Saved, Started
from scriven.inference.chunks import StoredText, chunks_of, documents_of
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.kernels.counts import Counted, NgramCounter, NgramMixture, NgramTable
from scriven.model.language_model import make_model
from scriven.runs import Run
from scriven.runs.checkpoints import Best
from scriven.settings import BudgetSettings, Settings, reader_window
from scriven.signals import raise_if_stopped
from scriven.training.evaluation import Evaluator
from scriven.training.mixing import FEWEST
from scriven.training.state import TrainingState

STEP = 1  # of the only checkpoint
COUNTED_CHARACTERS = 64_000_000  # of a text, at most, beside a network: counting them takes about 15 seconds
COUNTED_A_MINUTE = 20_000_000  # of the time budget: a twelfth of it, at most
PARTS = 64  # of a text that is not counted whole, from all over it


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


def has_partner(settings: Settings, corpus: Corpus) -> bool:
    """Whether the text of a network is counted, too: native code and a validation text can make use of it."""
    wanted = settings.model.kind == "network" and settings.model.counts == "auto"
    return wanted and native_library.level() != "off" and corpus.validation.characters >= FEWEST


def most_counted(budget: BudgetSettings) -> int:
    """Returns how many characters of a text are counted for a network, at most."""
    by_time = round(budget.minutes * COUNTED_A_MINUTE) if budget.minutes else COUNTED_CHARACTERS
    return min(COUNTED_CHARACTERS, by_time)


def count_text(
    corpus: Corpus, stop: Callable[[], int] = lambda: 0, most: int | None = None
) -> tuple[NgramTable, Counted]:
    """Counts the training text of a corpus, in bounded memory; only about `most` characters of it, if that is given.

    These are in parts of equal size from all over the text. Raises Interrupted if asked to stop.
    """
    text, vocabulary = corpus.training, corpus.vocabulary
    share = min(1.0, (most or text.characters) / max(1, text.characters))
    total = round(share * (text.characters + text.documents))
    with NgramCounter(vocabulary.size, total, boundary=vocabulary.boundary) as counter:
        for ids in _parts(text, vocabulary.boundary, share):
            raise_if_stopped(stop)
            counter.count(vocabulary.clamp(ids))
        return counter.finish()


def _parts(text: StoredText, boundary: int | None, share: float) -> Iterator[Ids]:
    """Yields this share of a text in chunks of ids, with boundaries."""
    whole = text.characters if boundary is None else text.documents
    parts = 1 if share == 1 else min(PARTS, whole)
    for part in range(parts):
        first, end = whole * part // parts, whole * (part + 1) // parts
        end = first + max(1, round(share * (end - first)))
        yield from chunks_of(text, first, end) if boundary is None else documents_of(text, boundary, first, end)


def _make_evaluator(settings: Settings, corpus: Corpus, table: NgramTable, stop: Callable[[], int]) -> Evaluator:
    model = make_model(settings.model, corpus.vocabulary.size).eval()
    window, counts = reader_window(settings.reader), NgramMixture.alone(table)
    predictor = Predictor(model, corpus.vocabulary, "fp32", window, counts=counts)
    return Evaluator(settings, ProcessGroup(), corpus, predictor, stop)


def _make_evaluated(state: TrainingState, protocol: str, loss: Loss, *, final: bool = False) -> Evaluated:
    return Evaluated(
        step=STEP, progress=1.0, protocol=protocol, loss=loss, best=True, seconds=state.seconds, final=final
    )

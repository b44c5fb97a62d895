"""What to tell the user about a training, in sentences: before it starts, when it has diverged, and at its end."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from scriven.batches.readers import EpochCounts, describe_epoch
from scriven.corpus.build import Progress, is_made_of
from scriven.corpus.store import Corpus, is_corpus
from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import InputError
from scriven.model.pretrained import Embeddings
from scriven.runs import Run, open_run
from scriven.runs.folder import retraining_command
from scriven.settings import Settings
from scriven.training.optimizer import LEARNING_RATES
from scriven.training.state import FEW_VALIDATED, LossHistory, TrainingState
from scriven.training.warm_start import new_symbols, warm_started_model

SYMBOLS_SHOWN = 20
SLOW_START = 0.25  # of the time left: a start that takes more is mentioned
FEWEST_STEPS = 20  # after which a training loss says something of the learning rate
WORSE_THAN_FIRST = 1.05  # times the first step's loss, which a training that learns never comes to
HARDLY_LEARNED = 0.95  # times the first step's loss, which one pass over a text with any order in it comes below
UNUSUAL_RATE = 5.0  # times the rate that is usual for the optimizer
UNLEARNED_SHARE = 0.5  # of what was learned, whose loss is no noise
OVERFITTED_PASSES = 2.0  # over the text, before which nothing can be learned by heart
OVERFITTED_SHARE = 0.95  # of the validation loss, below which the training loss is
OVERFITTED_NATS = 0.01  # that the validation loss rose at least; and twice its noise
LOWER_RATE = 0.1  # of a learning rate that is too high


def describe_divergence(
    settings: Settings, state: TrainingState, *, nats: float, norm: float, factor: float, newest: str
) -> str:
    """A sentence on a training whose loss (nats per character) or gradient norm was not finite too often.

    `factor` scales the learning rates, and `newest` is the folder of the newest checkpoint, or "".
    """
    back = f"rolled back {state.rollbacks} times, " if state.rollbacks else ""
    seen = f"loss {_show(nats)}, gradient norm {_show(norm)}"
    way = f"try a --training.learning-rate below {settings.training.learning_rate * factor:g}"
    if "relu" in settings.model.activations:
        way = f"relu does not limit what it gives: use --model.activation tanh, or {way}"
    return (
        f"training diverged at step {state.step:,} ({seen}; {back}skipped {state.skipped_steps:,} steps in all); "
        f"{_describe_saved(state, newest)}; {way}"
    )


def _describe_saved(state: TrainingState, newest: str) -> str:
    if state.best:
        return f"the best model, of step {state.best.step}, is kept"
    if newest:
        return f"the checkpoint of step {int(Path(newest).name.removeprefix('step-'))} is kept"
    return "nothing was saved before it"


def describe_outcome(
    settings: Settings, state: TrainingState, *, factor: float, overflowed: list[str], interrupted: bool
) -> list[str]:
    """Sentences for the end of a training: what went wrong, and what to do next.

    `factor` scales the learning rates in the end. Measured by the protocols in `overflowed`, the best model's loss is
    not finite.
    """
    notes = describe_learning(settings, state, factor)
    if overflowed:
        notes.append(
            f"Measured by {', '.join(overflowed)}, the best model's values grow without limit, and its loss is not "
            "finite; --model.activation tanh limits them."
        )
    if state.skipped_steps:
        notes.append(
            f"{state.skipped_steps:,} steps were skipped, because their loss or gradient was not finite, and training "
            f"rolled back {state.rollbacks} times; a smaller --training.learning-rate would help."
        )
    if interrupted:
        notes.append(f"It was stopped at {state.progress:.0%} of its budget; --resume continues from there.")
    return notes


def describe_learning(settings: Settings, state: TrainingState, factor: float) -> list[str]:
    """At most one sentence on what went wrong with learning; `factor` scales the learning rates in the end.

    A learning rate is called too high if the training loss ends above the first step's, or if more than half of
    what it had fallen is lost again; or if the loss has hardly fallen and the rate is far above a usual one. A model
    is called overfitted if, after two passes over the text, the training loss is more than 5 % below the last
    validation loss, and that has risen from its lowest by more than its noise; of a few characters it is chance alone.
    """
    losses = state.losses
    first, recent, lowest = losses.first, losses.recent, losses.lowest
    if first is None or recent is None or lowest is None:
        return []
    rate, usual = settings.training.learning_rate * factor, LEARNING_RATES[settings.training.optimizer]
    unit = "nats/char" if settings.corpus.documents == "none" else "nats/char, ends included,"
    lower = f"The learning rate, {rate:g}, is too high; try --training.learning-rate {min(rate * LOWER_RATE, usual):g}."
    if losses.steps >= FEWEST_STEPS and recent > WORSE_THAN_FIRST * first:
        return [
            f"It did not learn: the training loss was {first:.2f} {unit} at the start and is {recent:.2f} now. {lower}"
        ]
    hardly = losses.steps >= FEWEST_STEPS and state.epochs >= 1 and recent > HARDLY_LEARNED * first
    if hardly and rate > UNUSUAL_RATE * usual:
        return [f"It hardly learned: the training loss was {first:.2f} {unit} and is {recent:.2f} now. {lower}"]
    if lowest < HARDLY_LEARNED * first and recent - lowest > UNLEARNED_SHARE * (first - lowest):
        return [
            f"It lost what it had learned: the training loss was {lowest:.2f} {unit} and is {recent:.2f} now. {lower}"
        ]
    if state.best and state.best.loss.characters >= FEW_VALIDATED and _has_overfitted(losses, recent, state.epochs):
        kept = state.best.step
        model = "The last model is kept all the same" if kept == state.step else f"The model of step {kept:,} is kept"
        return [
            f"It overfitted: the validation loss rose from {losses.lowest_validated:.2f} to {losses.validated[-1]:.2f} "
            f"{unit} and the training loss is {recent:.2f}. {model}. More text, more dropout or a smaller budget "
            "would help."
        ]
    return []


def _has_overfitted(losses: LossHistory, recent: float, epochs: float) -> bool:
    if not losses.validated or losses.lowest_validated is None or epochs < OVERFITTED_PASSES:
        return False
    last = losses.validated[-1]
    risen = last - losses.lowest_validated > max(OVERFITTED_NATS, 2 * losses.noise)
    return risen and recent < OVERFITTED_SHARE * last


def _show(value: float) -> str:
    """A number in few digits, or in words."""
    return f"{value:g}" if math.isfinite(value) else "not finite"


# --- before the first step


def kernel_notes(run: Run, kernels: str) -> list[str]:
    """Sentences on why the rest of a resumed run will not have the same bits as if it had not been stopped."""
    training, before = run.settings.training, open_run(run.path).settings.training
    changes = {
        "Its kernels were": (run.origin.get("kernels", kernels), kernels),
        "Its threads were": (before.threads, training.threads),
    }
    return [
        f"{words} {old} so far and are {new} now: it continues, but not with the same bits."
        for words, (old, new) in changes.items()
        if old != new
    ]


def text_notes(run: Run, progress: Progress) -> list[str]:
    """A sentence if the text of a resumed run has changed since its corpus was built."""
    texts, place = run.origin.get("texts", []), run.corpus_path
    with contextlib.suppress(InputError):  # the text may be gone
        if not texts or is_corpus(texts) or not isinstance(place, Path):
            return []
        if is_made_of(place, texts, run.settings.corpus, progress) is False:
            return [
                f"{', '.join(texts)} has changed since this run began; training continues with the text as it was. To "
                f"train this model on the new text: {retraining_command(run)}"
            ]
    return []


def folder_notes(wanted: Path, path: Path) -> list[str]:
    """A sentence if the folder that was wanted is taken, so that the run is another one."""
    if path == wanted:
        return []
    return [f"{wanted} exists already, so this run is {path}; --resume -o {wanted} would continue that one."]


def epoch_notes(settings: Settings, counts: EpochCounts) -> list[str]:
    """For windows, how large an epoch is."""
    return [f"An epoch is {describe_epoch(counts)}."] if settings.reader.kind == "windows" else []


def time_notes(job: WorkerJob, state: TrainingState, count: int) -> list[str]:
    """What takes much of a time budget besides its steps: the start, and the evaluations, which are `count`."""
    notes = list[str]()
    asked, minutes = job.settings.training.evaluations, job.settings.budget.minutes
    left, used = minutes * 60 - state.seconds, job.seconds()
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


def warm_start_notes(
    initial: Path | None, settings: Settings, corpus: Corpus, embeddings: Embeddings | None
) -> list[str]:
    """What the user should know about the weights that training starts from; raises if they do not fit the model."""
    missing = list[int]()
    if initial or embeddings:
        _, missing = warm_started_model(settings, corpus.vocabulary, str(initial or ""), embeddings)
    notes = _new_symbols(initial, corpus) if initial else []
    if embeddings:
        notes += _missing_symbols(embeddings, [chr(symbol) for symbol in missing])
    elif settings.model.freeze_embedding and not initial:
        notes.append("The embedding is random and frozen: model.embedding names no pretrained one.")
    return notes


def _new_symbols(initial: Path, corpus: Corpus) -> list[str]:
    new = new_symbols(open_run(initial).vocabulary, corpus.vocabulary)
    what = f"{initial} does not know {len(new)} of the characters, which start with random weights"
    return [f"{what}: {_list_symbols(new)}"] if new else []


def _missing_symbols(embeddings: Embeddings, missing: list[str]) -> list[str]:
    source, skipped = embeddings.source, embeddings.skipped
    what = f"{source} lacks {len(missing)} of the characters, which start with random weights"
    lacks = f"{what}: {_list_symbols(missing)}"
    unused = f"{source} has {skipped:,} entries that are longer than one character, or repeated; they are not used"
    return [*([lacks] if missing else []), *([unused] if skipped else [])]


def _list_symbols(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:SYMBOLS_SHOWN])) + (" ..." if len(symbols) > SYMBOLS_SHOWN else "")

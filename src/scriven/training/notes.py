"""Sentences for the user about a training: before it starts, when it diverges, and at its end."""

from __future__ import annotations

import contextlib
import math
import shlex
from pathlib import Path
from typing import Literal

from scriven import starts
from scriven.batches.readers import EpochCounts, describe_epoch
from scriven.corpus.build import Progress, is_made_of
from scriven.corpus.store import Corpus, Part, is_corpus
from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import InputError
from scriven.kernels.counts import Counted
from scriven.kernels.native_library import SAME_FP32_LEVELS
from scriven.model.backends import has_native_code
from scriven.model.pretrained import Embeddings
from scriven.runs import Run, open_run
from scriven.runs.folder import SETTINGS_FILE, retraining_command
from scriven.runs.start_model import StartModel
from scriven.settings import REGISTERED_CELLS, REGISTERED_OPTIMIZERS, Settings, bits_unit, symbol_word
from scriven.training.auto_settings import PASSES_ENOUGH
from scriven.training.optimizer import usual_learning_rate
from scriven.training.state import FEW_VALIDATED, LossHistory, TrainingState
from scriven.training.warm_start import new_symbols, warm_started_model

SYMBOLS_SHOWN = 20
SLOW_START = 0.25  # of the time left: a start that takes more is mentioned
FEWEST_STEPS = 20  # before a training loss says anything about the learning rate
WORSE_THAN_FIRST = 1.05  # times the first step's loss: above that, nothing was learned
HARDLY_LEARNED = 0.95  # times the first step's loss: after a pass over any text with some order it is below that
UNUSUAL_RATE = 5.0  # times the usual learning rate of the optimizer
UNLEARNED_SHARE = 0.5  # of what the loss had fallen: a rise by more is not noise
OVERFITTED_PASSES = 2.0  # over the text; before that a model cannot overfit
OVERFITTED_SHARE = 0.95  # of the validation loss: the training loss of an overfitted model is below that
OVERFITTED_NATS = 0.01  # by which the validation loss must have risen, and by twice its noise
LOWER_RATE = 0.1  # times a learning rate that is too high: one to try
MORE_DROPOUT, MOST_DROPOUT = 0.2, 0.6  # to try against overfitting: so much more, and at most


def counting_notes(counted: Counted, text: Part, unit: str) -> list[str]:
    """Returns sentences on what an n-gram table of a text leaves out, if it leaves out anything."""
    notes, symbol = _pruning_notes(counted, symbol_word(unit)), symbol_word(unit)
    if counted.characters < text.characters:
        notes += [f"{counted.characters:,} of {text.characters:,} {symbol}s were counted, from all over the text"]
    return notes


def _pruning_notes(counted: Counted, symbol: str) -> list[str]:
    once = [length for length, most in enumerate(counted.pruned) if most]
    if not once:
        return []
    none = [length for length, most in enumerate(counted.pruned) if most > 1]
    words = f"what came once after {once[0]} or more {symbol}s was left out of the counts"
    words += f", and everything after {none[0]} or more" if none else ""
    return [f"{words}, to keep them small"]


def describe_divergence(
    settings: Settings, state: TrainingState, *, nats: float, norm: float, factor: float, newest: str
) -> str:
    """Returns a sentence on a training whose loss (nats per character) or gradient norm was not finite too often.

    `factor` scales the learning rates, and `newest` is the folder of the newest checkpoint, or "".
    """
    back = f"rolled back {state.rollbacks} times, " if state.rollbacks else ""
    seen = f"loss {_show(nats)}, gradient norm {_show(norm)}"
    way = f"try a --training.learning-rate below {settings.training.learning_rate * factor:g}"
    if "relu" in settings.model.activations:
        way = f"the values of relu have no limit: use --model.activation tanh, or {way}"
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
    """Returns sentences for the end of a training: what went wrong, and what to do next.

    `factor` scales the learning rates at the end. By the protocols in `overflowed`, the best model's loss is not
    finite.
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
        done = f"{100 * state.progress:.0f} %"
        notes.append(f"Training was stopped at {done} of its budget; --resume continues from there.")
    return notes


def describe_learning(settings: Settings, state: TrainingState, factor: float) -> list[str]:
    """Returns at most one sentence on what went wrong with learning. `factor` scales the learning rates at the end."""
    problem = _find_problem(settings, state, factor)
    return [problem[1]] if problem else []


def advise(run: Run, settings: Settings, state: TrainingState, factor: float) -> str:
    """Returns a sentence on what would give a better model, with the command. `factor` is as in `describe_learning`."""
    texts = run.origin.get("texts", [])
    again = ["scriven", "train", *texts, "--settings", str(run.path / SETTINGS_FILE), *_same_start(run)]
    known = bool(texts) and "-" not in texts  # standard input cannot be read again
    problem = _find_problem(settings, state, factor)
    if problem and known and problem[0] == "rate":
        flag = ["--training.learning-rate", f"{_lower_rate(settings, factor):g}"]
        return f"For a better model, train again at a lower learning rate: {shlex.join([*again, *flag])}"
    if problem and problem[0] == "overfitted" and settings.model.dropout >= MOST_DROPOUT:
        return "For a better model, add more text of this kind: the model knows its own too well."
    if problem and known:
        flag = ["--model.dropout", f"{min(MOST_DROPOUT, settings.model.dropout + MORE_DROPOUT):g}"]
        way = "add more text of this kind, or train again with more dropout"
        return f"For a better model, {way}: {shlex.join([*again, *flag])}"
    if state.epochs > PASSES_ENOUGH:
        return f"For a better model, add more text of this kind: this one was read {state.epochs:,.0f} times."
    longer = math.ceil(2 * state.seconds / 60)  # in all
    resume = ["scriven", "train", "--resume", "-o", str(run.path), "--minutes", f"{longer}"]
    return f"For a better model, train for longer: {shlex.join(resume)}"


def _same_start(run: Run) -> list[str]:
    """Returns the flag that begins a training with the same weights as a run's."""
    initial = str(run.origin.get("initial") or "none")
    return ["--from", starts.name_of(initial) if starts.is_reference(initial) else initial]


def _lower_rate(settings: Settings, factor: float) -> float:
    """Returns a learning rate to try instead of one that is too high."""
    rate = settings.training.learning_rate * factor
    return min(rate * LOWER_RATE, usual_learning_rate(settings.training.optimizer))


def _find_problem(
    settings: Settings, state: TrainingState, factor: float
) -> tuple[Literal["rate", "overfitted"], str] | None:
    """Returns what went wrong with learning, with a sentence on it. Otherwise it returns None.

    The learning rate was too high in three cases: the training loss ends above the first step's; it rose again by more
    than half of its fall; or it hardly fell, and the rate is far above the usual one. The model overfitted if, after
    two passes over the text, the training loss is more than 5 % below the last validation loss, which has risen from
    its lowest value by more than its noise. With few validation characters, that would be chance.
    """
    losses = state.losses
    first, recent, lowest = losses.first, losses.recent, losses.lowest
    if first is None or recent is None or lowest is None:
        return None
    rate, usual = settings.training.learning_rate * factor, usual_learning_rate(settings.training.optimizer)
    per_char = bits_unit(settings.corpus.unit) + ("" if settings.corpus.documents == "none" else ", with ends")
    lower = f"The learning rate, {rate:g}, is too high; try --training.learning-rate {_lower_rate(settings, factor):g}."
    if losses.steps >= FEWEST_STEPS and recent > WORSE_THAN_FIRST * first:
        return (
            "rate",
            f"The model did not learn: the training loss was {_bits(first)} {per_char} at the start, and is "
            f"{_bits(recent)} now. {lower}",
        )
    hardly = losses.steps >= FEWEST_STEPS and state.epochs >= 1 and recent > HARDLY_LEARNED * first
    if hardly and rate > UNUSUAL_RATE * usual:
        return (
            "rate",
            f"The model hardly learned: the training loss was {_bits(first)} {per_char}, and is "
            f"{_bits(recent)} now. {lower}",
        )
    if lowest < HARDLY_LEARNED * first and recent - lowest > UNLEARNED_SHARE * (first - lowest):
        return (
            "rate",
            f"The model lost what it had learned: the training loss was {_bits(lowest)} {per_char}, and is "
            f"{_bits(recent)} now. {lower}",
        )
    best, validated = state.best, losses.lowest_validated
    enough = best is not None and best.loss.characters >= FEW_VALIDATED
    if best and validated is not None and enough and _has_overfitted(losses, recent, state.epochs):
        kept = best.step
        model = "The last model is kept" if kept == state.step else f"The model of step {kept:,} is kept"
        return (
            "overfitted",
            f"The model overfitted: the validation loss rose from {_bits(validated)} to "
            f"{_bits(losses.validated[-1])} {per_char}, and the training loss is {_bits(recent)}. {model}. More text, "
            "more dropout or a smaller budget would help.",
        )
    return None


def written_notes(share: float, readable: float, job: WorkerJob, run: Run, *, seconds: float) -> list[str]:
    """Returns a sentence on the share of known words in what the kept model writes, if both are known.

    If the share is not `readable`, and the training took fewer `seconds` than usually needed, the command that goes on
    follows. A busy computer may take longer than the budget.
    """
    if math.isnan(readable):
        return []
    needed, minutes = job.readable_seconds, job.settings.budget.minutes
    told = (
        []
        if math.isnan(share)
        else [f"{100 * share:.0f} % of the words that the model writes also stand in your text."]
    )
    if not share >= readable and minutes and needed > max(minutes * 60, seconds):
        more = math.ceil(needed / 6) / 10
        resume = f"scriven train --resume -o {shlex.quote(str(run.path))} --minutes {more:g}"
        usual = f"Texts of this size usually become readable after {_about(needed)} on this computer"
        told += [f"{usual}; to train on until then: {resume}"]
    return [" ".join(told)] if told else []


def _has_overfitted(losses: LossHistory, recent: float, epochs: float) -> bool:
    if not losses.validated or losses.lowest_validated is None or epochs < OVERFITTED_PASSES:
        return False
    last = losses.validated[-1]
    risen = last - losses.lowest_validated > max(OVERFITTED_NATS, 2 * losses.noise)
    return risen and recent < OVERFITTED_SHARE * last


def _bits(nats: float) -> str:
    """Returns a loss in bits with two decimals."""
    return f"{nats / math.log(2):.2f}"


def _show(value: float) -> str:
    """Returns a number in few digits, or "not finite"."""
    return f"{value:g}" if math.isfinite(value) else "not finite"


# --- before the first step


def kernel_notes(run: Run, settings: Settings, kernels: str) -> list[str]:
    """Returns sentences on why a resumed run will not have the same bits as without the stop.

    `settings` are those with which it goes on.
    """
    training, before = settings.training, open_run(run.path).settings.training
    native = training.device == "cpu" and has_native_code(settings.model, training.precision)
    native = native and not REGISTERED_OPTIMIZERS.find(training.optimizer)  # then threads change no bit
    used = run.origin.get("kernels", kernels), kernels
    changes: dict[str, tuple[object, object]] = {}
    fp32 = before.precision == training.precision == "fp32"
    if not (native and fp32 and set(used) <= set(SAME_FP32_LEVELS)):
        changes["The run's kernels were"] = used
    if not native:
        changes["The run's threads were"] = before.threads, training.threads
    return [
        f"{words} {old} so far and are {new} now: training continues, but not with the same bits."
        for words, (old, new) in changes.items()
        if old != new
    ]


def text_notes(run: Run, progress: Progress) -> list[str]:
    """Returns a sentence if the text of a resumed run has changed since its corpus was built."""
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
    """Returns a sentence if the wanted folder exists, so that the run is in another one."""
    if path == wanted:
        return []
    return [f"{wanted} exists already, so this run is {path}; to continue the other one, use --resume -o {wanted}."]


def cell_notes(settings: Settings) -> list[str]:
    """Returns at most one sentence, on what a registered cell lacks."""
    cell = settings.model.cell
    if not REGISTERED_CELLS.find(cell):
        return []
    return [f"The cell {cell} is registered: torch computes it in training and in writing, without native code."]


def epoch_notes(settings: Settings, counts: EpochCounts) -> list[str]:
    """Returns a sentence on the size of an epoch of windows."""
    return [f"An epoch is {describe_epoch(counts)}."] if settings.reader.kind == "windows" else []


def readable_notes(job: WorkerJob, readable: float) -> list[str]:
    """Returns a sentence on when what is written usually reaches the share that is `readable`; none for nan."""
    if math.isnan(readable) or not job.readable_seconds:
        return []
    return [
        f"Texts of this size usually become readable after {_about(job.readable_seconds)} on this computer: "
        f"{100 * readable:.0f} % of the words that are written then stand in your text."
    ]


def _about(seconds: float) -> str:
    """Returns seconds in words, rounded up."""
    if seconds <= 55:
        return f"about {5 * math.ceil(seconds / 5)} seconds"
    minutes = math.ceil(seconds / 60)
    return f"about {minutes} minute{'s' * (minutes != 1)}"


def time_notes(job: WorkerJob, state: TrainingState, count: int) -> list[str]:
    """Returns sentences on other things that take much of a time budget: the start, and `count` evaluations."""
    notes = list[str]()
    asked, minutes = job.settings.training.evaluations, job.settings.budget.minutes
    left, used = minutes * 60 - state.seconds, job.seconds()
    if not job.timed or job.replay:
        return notes
    if used > SLOW_START * left:
        share = f"{used:.1f} of the {left:.1f} seconds"
        if used >= left:
            share = f"{used:.1f} seconds, and {left:.1f} were left for all, so there are only a few steps"
        notes.append(f"Reading the text and the first weights took {share}; a larger --minutes trains for longer.")
    if count < asked and not (job.settings.monitor.every_steps or job.settings.monitor.every_epochs):
        notes.append(
            f"There is time for {count} of {asked} evaluations with samples; for more, give a larger --minutes, or a "
            "smaller --monitor.sample-length or --training.evaluation-characters."
        )
    return notes


def warm_start_notes(initial: str, settings: Settings, corpus: Corpus, embeddings: Embeddings | None) -> list[str]:
    """Returns what the user should know about the first weights. Raises if they do not fit the model."""
    missing = list[int]()
    if initial or embeddings:
        _, missing = warm_started_model(settings, corpus.vocabulary, initial, embeddings)
    notes = _new_symbols(initial, corpus) if initial else []
    if embeddings:
        notes += _missing_symbols(embeddings, [chr(symbol) for symbol in missing])
    elif settings.model.freeze_embedding and not initial:
        notes.append("The embedding is random and frozen, since model.embedding names no pretrained one.")
    return notes


def _new_symbols(initial: str, corpus: Corpus) -> list[str]:
    if starts.is_reference(initial):
        start = StartModel(starts.from_reference(initial))
        new = new_symbols(start.vocabulary, corpus.vocabulary)
        name = start.start.name
        what = (
            f"The start {name} does not know {len(new)} of the characters, which start with the weights of similar ones"
        )
    else:
        new = new_symbols(open_run(initial).vocabulary, corpus.vocabulary)
        symbol = symbol_word(corpus.vocabulary.unit)
        what = f"{initial} does not know {len(new)} of the {symbol}s, which start with random weights"
    return [f"{what}: {_list_symbols(new)}"] if new else []


def _missing_symbols(embeddings: Embeddings, missing: list[str]) -> list[str]:
    source, skipped = embeddings.source, embeddings.skipped
    what = f"{source} lacks {len(missing)} of the characters, which start with random weights"
    lacks = f"{what}: {_list_symbols(missing)}"
    unused = f"{source} has {skipped:,} entries that are longer than one character, or repeated; they are not used"
    return [*([lacks] if missing else []), *([unused] if skipped else [])]


def _list_symbols(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:SYMBOLS_SHOWN])) + (" ..." if len(symbols) > SYMBOLS_SHOWN else "")

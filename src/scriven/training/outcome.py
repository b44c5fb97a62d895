"""How a training went, in words for the user."""

from __future__ import annotations

import math
from pathlib import Path

from scriven.settings import Settings
from scriven.training.budget import Done
from scriven.training.gradients import FEW_VALIDATED, LossHistory
from scriven.training.optimizer import LEARNING_RATES

FEWEST_STEPS = 20  # after which a training loss says something of the learning rate
WORSE_THAN_FIRST = 1.05  # times the first step's loss, which a training that learns never comes to
HARDLY_LEARNED = 0.95  # times the first step's loss, which one pass over a text with any order in it comes below
UNUSUAL_RATE = 5.0  # times the rate that is usual for the optimizer
UNLEARNED_SHARE = 0.5  # of what was learned, whose loss is no noise
OVERFITTED_PASSES = 2.0  # over the text, before which nothing can be learned by heart
OVERFITTED_SHARE = 0.95  # of the validation loss, below which the training loss is
OVERFITTED_NATS = 0.01  # that the validation loss rose at least; and twice its noise
LOWER_RATE = 0.1  # of a learning rate that is too high


def divergence_words(
    settings: Settings, done: Done, *, nats: float, norm: float, factor: float, returns: int, skipped: int, kept: str
) -> str:
    """A sentence on a training whose loss (nats per character) or gradient norm was not finite too often.

    `factor` is that of the learning rates after as many `returns`; `kept` says what is on the disk.
    """
    back = f"rolled back {returns} times, " if returns else ""
    seen = f"loss {_show(nats)}, gradient norm {_show(norm)}"
    way = f"try a --training.learning-rate below {settings.training.learning_rate * factor:g}"
    if "relu" in settings.model.activations:
        way = f"relu bounds nothing: give --model.activation tanh, or {way}"
    return f"training diverged at step {done.step:,} ({seen}; {back}skipped {skipped:,} steps in all); {kept}; {way}"


def kept_words(best: int | None, newest: str) -> str:
    """What is on the disk of a training: the best model of that step, or else the newest checkpoint, in this folder."""
    if best is not None:
        return f"the best model, of step {best}, is kept"
    if newest:
        return f"the checkpoint of step {int(Path(newest).name.removeprefix('step-'))} is kept"
    return "nothing was saved before it"


def learning_words(
    settings: Settings, losses: LossHistory, done: Done, *, kept: int, validated: int, factor: float
) -> list[str]:
    """A sentence on what went wrong with learning, at most one; `kept` is the step of the model that is kept.

    An evaluation has `validated` characters, and `factor` is that of the learning rates in the end.

    A learning rate is called too high where the training loss ends above that of the first step, or more than half of
    what it had fallen is lost again; or where the loss has hardly fallen and the rate is far above a usual one. A model
    is called overfitted where, after two passes over the text, the training loss is more than 5 % below the last
    validation loss, and that has risen from its lowest by more than its noise; of a few characters it is chance alone.
    """
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
    hardly = losses.steps >= FEWEST_STEPS and done.epochs >= 1 and recent > HARDLY_LEARNED * first
    if hardly and rate > UNUSUAL_RATE * usual:
        return [f"It hardly learned: the training loss was {first:.2f} {unit} and is {recent:.2f} now. {lower}"]
    if lowest < HARDLY_LEARNED * first and recent - lowest > UNLEARNED_SHARE * (first - lowest):
        return [
            f"It lost what it had learned: the training loss was {lowest:.2f} {unit} and is {recent:.2f} now. {lower}"
        ]
    if validated >= FEW_VALIDATED and _has_overfitted(losses, recent, done.epochs):
        model = "The last model is kept all the same" if kept == done.step else f"The model of step {kept:,} is kept"
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

"""How a training went, in words for the user."""

from __future__ import annotations

import math
from pathlib import Path

from scriven.settings import Settings
from scriven.training.plan import Done


def divergence_words(
    settings: Settings, done: Done, *, nats: float, norm: float, factor: float, returns: int, skipped: int, kept: str
) -> str:
    """A sentence on a training whose loss (nats per character) or gradient norm was not finite too often.

    `factor` is that of the learning rates after as many `returns`; `kept` says what is on the disk.
    """
    back = f"went back {returns} times, " if returns else ""
    seen = f"loss {_shown(nats)}, gradient norm {_shown(norm)}"
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


def _shown(value: float) -> str:
    """A number in few digits, or in words."""
    return f"{value:g}" if math.isfinite(value) else "not finite"

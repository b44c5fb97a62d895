"""What a model returns: texts that it wrote, scores of texts, the result of reading one symbol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from scriven.arrays import Float32s, Float64s, Ids
from scriven.inference.surprisal import tally
from scriven.loss import Loss
from scriven.settings import symbol_word
from scriven.vocabulary import Vocabulary


class WrittenText(str):
    """A text that a model wrote. It `ended` if it ended by itself, with its document.

    Of a text that a beam found, `log_probability` is ln of the probability that it is written at temperature 1. Of a
    middle that draws found, `effective_draws` is the number of draws of equal weight that would be as good.
    """

    __slots__ = ("effective_draws", "ended", "log_probability")
    ended: bool
    log_probability: float | None
    effective_draws: float | None

    def __new__(
        cls,
        text: str,
        ended: bool = False,
        log_probability: float | None = None,
        effective_draws: float | None = None,
    ) -> Self:
        """Makes the text."""
        made = super().__new__(cls, text)
        made.ended, made.log_probability, made.effective_draws = ended, log_probability, effective_draws
        return made


class Read(NamedTuple):
    """A text that was scored."""

    vocabulary: Vocabulary
    ids: Ids  # (T,), with boundaries
    nats: Float64s  # (T,) the cost of each


@dataclass(frozen=True)
class Score(Loss):
    """How surprising a text was: its loss, the number of its unseen symbols, and the surprisal of each symbol.

    A symbol is a character, a byte of UTF-8 or a token, as the model's unit is; "characters" are symbols here. The cost
    of documents' ends is in `end_nats` and `total_nats`, separate from the symbols.
    """

    unseen: int = 0
    surprisals: Float64s = field(default_factory=lambda: np.empty(0), compare=False)  # (characters,) nats
    read: Read | None = field(default=None, compare=False)  # what was scored
    adaptive: bool = False  # whether the model learned while it read, which no other score can be compared with

    def __repr__(self) -> str:
        unseen = f", {self.unseen:,} unseen" if self.unseen else ""
        symbol = "character" if self.read is None else symbol_word(self.read.vocabulary.unit)
        return f"Score({'adaptive: ' * self.adaptive}{self.describe(symbol)}{unseen})"

    def _repr_html_(self) -> str:
        """Returns the text in colours for a notebook: the darker a character, the more it surprised."""
        from scriven.report.notebook import score_html  # noqa: PLC0415 - in a notebook alone

        return repr(self) if self.read is None else score_html(repr(self), *self.read)


@dataclass(frozen=True)
class Step:
    """The result of reading one symbol. A model that reads windows has the `state` after the whole text."""

    probabilities: Float64s  # (V,) of the next symbol, in the order of the ids; `<unk>` is the last
    state: tuple[tuple[Float32s, ...], ...]  # per layer: (h, c) of an lstm, (h,) of other cells; each (H,)

    def __repr__(self) -> str:
        shapes = [[part.shape for part in layer] for layer in self.state]
        return f"Step(probabilities {self.probabilities.shape}, hidden {self.hidden.shape}, state {shapes})"

    @property
    def hidden(self) -> Float32s:
        """The hidden values (H,) of the last layer."""
        return self.state[-1][0]


def score_of(vocabulary: Vocabulary, ids: Ids, nats: Float64s, *, adaptive: bool = False) -> Score:
    """Returns the score of ids and their nats, both (T,), with boundaries."""
    total, costs = tally(vocabulary, ids, nats), nats[ids != vocabulary.boundary]
    read = Read(vocabulary, ids, nats)
    return Score(**vars(total.loss), unseen=total.unseen, surprisals=costs, read=read, adaptive=adaptive)

"""Losses are sums of nats, with the number of characters summed over. Means are formed only for display."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Loss:
    """A sum of surprisals: `nats` over `characters`, and over `bytes` of UTF-8 text (0 if unknown).

    The cost of documents' ends is counted separately: `end_nats` over `ends` of them. Of `judged` characters, the most
    likely one is known, and it was `right` for that many. Evaluations judge all characters, scores none.
    """

    nats: float
    characters: int
    bytes: int = 0
    ends: int = 0
    end_nats: float = 0.0
    right: int = field(default=0, compare=False)
    judged: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        return f"Loss({self.describe()})"

    def describe(self, symbol: str = "character") -> str:
        """Returns the mean surprisal in words: bits per character, and the number of characters.

        `symbol` is what a character is called.
        """
        if not self.characters:
            return f"no {symbol}s"
        counted = f"{self.characters:,} {symbol}{'s' * (self.characters != 1)}"
        ends = f", {self.ends:,} end{'s' * (self.ends != 1)} of documents" if self.ends else ""
        return f"{self.bits_per_char:.4f} bits per {symbol}, {counted}{ends}"

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.nats + other.nats,
            self.characters + other.characters,
            self.bytes + other.bytes,
            self.ends + other.ends,
            self.end_nats + other.end_nats,
            self.right + other.right,
            self.judged + other.judged,
        )

    @property
    def accuracy(self) -> float:
        """How often (0..1) the model's most likely character was the right one; nan if that was not counted."""
        return self.right / self.judged if self.judged else math.nan

    @property
    def total_nats(self) -> float:
        """The cost of characters and ends together: -ln of the probability of whole documents."""
        return self.nats + self.end_nats

    @property
    def nats_per_char(self) -> float:
        """Mean surprisal of a character in nats; nan when nothing was counted."""
        return self.nats / self.characters if self.characters else math.nan

    @property
    def nats_per_document(self) -> float:
        """Mean surprisal of a whole document, its end included, in nats; nan when no end was counted."""
        return self.total_nats / self.ends if self.ends else math.nan

    @property
    def bits_per_char(self) -> float:
        """Mean surprisal of a character in bits; nan when nothing was counted."""
        return self.nats_per_char / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Surprisal in bits per byte of UTF-8 text; nan when bytes were not counted."""
        return self.nats / self.bytes / math.log(2) if self.bytes else math.nan


def kept_loss(finals: Iterable[tuple[str, str, Loss]], *, mixed: bool, otherwise: Loss) -> tuple[Loss, bool]:
    """Returns the loss of a kept model as it is used, and whether it is of the network alone.

    `finals` were measured after the training: a protocol, a model (network, counts or mixture) and its loss; those of
    the first protocol count. `mixed` says whether the model is a network mixed with counts. If its mixture was not
    measured, the loss is the network's, and in doubt `otherwise`, which was measured during the training.
    """
    first, *others = [*finals] or [("", "", otherwise)]
    by_model = {model: loss for protocol, model, loss in (first, *others) if protocol == first[0]}
    if mixed and "mixture" in by_model:
        return by_model["mixture"], False
    loss = by_model.get("network", otherwise)
    return loss, mixed and loss.characters > 0

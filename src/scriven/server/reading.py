"""Texts that are read side by side, a bounded piece at a time: prompts, texts to score, texts to keep as states.

What is told about a text does not depend on the texts beside it: native code reads each row to the bit as it reads it
alone. Where torch reads, each text is read alone, in pieces cut at the same places whatever else goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from scriven.inference.generate import Context, Predictor, side_by_side
from scriven.inference.sampling import Floats, Ids
from scriven.inference.score import priced, read_rows

PIECE = 256  # symbols that torch reads of one text at once
LOGITS = 1 << 20  # values kept at once where likeliest symbols are asked for: 8 MB


class Details(NamedTuple):
    """What symbols (T,) cost, and, where asked for, the ids and log-probabilities (T, K) of the likeliest there."""

    ids: Ids
    nats: Floats  # (T,)
    likeliest: tuple[Ids, Floats] | None = None


def details_of(logits: Floats, ids: Ids, likeliest: int, predictor: Predictor) -> Details:
    """Of ids (T,) that logits (T, V) foretold: their costs and the `likeliest` so many symbols, the likeliest first."""
    vocabulary = predictor.vocabulary
    logits = logits - logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))  # log-probabilities now
    nats = -np.take_along_axis(logits, vocabulary.clamp(ids)[:, None], 1)[:, 0]
    top = None
    if likeliest:
        order = np.argsort(-logits, axis=1, kind="stable")[:, :likeliest]  # (T, K)
        top = order, np.take_along_axis(logits, order, 1)
    return Details(ids, priced(nats, ids, vocabulary), top)


@dataclass(eq=False)
class Reading:
    """A text that is being read: what of it is left, and the context after what was.

    `likeliest` is None where nothing is told of it, 0 where costs are, or how many likeliest symbols are told too.
    """

    ids: Ids  # (T,), those not read yet
    context: Context
    likeliest: int | None = None
    carried: Context | None = None  # what costs are told from, where that is another one

    @property
    def stepwise(self) -> bool:
        """Whether the logits at every symbol are wanted."""
        return bool(self.likeliest)


class Told(NamedTuple):
    """What became of a text in a turn: how many symbols were read, and what is told of them."""

    reading: Reading
    details: Details | None
    symbols: int


class Readings:
    """Texts of one model that are being read: read on in turns; they may come and go in between."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.all: list[Reading] = []

    def add(self, reading: Reading) -> None:
        """One more text."""
        if reading.context.state is None and (native := self._predictor.scorer()) is not None:
            reading.context = Context(reading.context.logits, native.zero_state(1), reading.context.recent)
        self.all.append(reading)

    def drop(self, readings: Sequence[Reading]) -> None:
        """Read these no further."""
        self.all = [each for each in self.all if each not in readings]

    def read(self, symbols: int) -> list[Told]:
        """Read on, about so many symbols of all texts together; what became of them. Those read are gone."""
        if not self.all:
            return []
        rows = self.all[: max(1, symbols // 8)]
        rows = [each for each in rows if each.stepwise == rows[0].stepwise]
        self.all = [each for each in self.all if each not in rows] + rows  # who waited first is next
        if self._predictor.scorer() is None or self._predictor.window:
            told = [self._read_alone(rows[0])]
        elif rows[0].stepwise:
            told = self._read_steps(rows, symbols)
        else:
            told = self._read_costs(rows, symbols)
        self.all = [each for each in self.all if len(each.ids)]
        return told

    def _read_costs(self, rows: list[Reading], symbols: int) -> list[Told]:
        """Native code, and what each symbol costs."""
        ids, context = self._cut(rows, max(1, symbols // len(rows)))
        nats, context = read_rows(self._predictor, ids, context)
        self._put(rows, len(ids), context)
        return [
            Told(each, None if each.likeliest is None else Details(ids[:, row], nats[:, row]), len(ids))
            for row, each in enumerate(rows)
        ]

    def _read_steps(self, rows: list[Reading], symbols: int) -> list[Told]:
        """Native code a symbol at a time, and the likeliest symbols at each."""
        most = min(symbols, LOGITS // self._predictor.vocabulary.size) // len(rows)
        ids, context = self._cut(rows, max(1, most))
        logits = []
        for step in ids:  # (N,)
            logits.append(context.logits)
            _, context = read_rows(self._predictor, step[None], context)
        self._put(rows, len(ids), context)
        values = torch.stack(logits).double().numpy()  # (T, N, V)
        return [
            Told(each, details_of(values[:, row], ids[:, row], each.likeliest or 0, self._predictor), len(ids))
            for row, each in enumerate(rows)
        ]

    def _cut(self, rows: list[Reading], most: int) -> tuple[Ids, Context]:
        """The next ids (T, N) of texts, as many of each, and the context before them."""
        length = min(most, *(len(each.ids) for each in rows), len(rows[0].ids))
        ids = np.stack([each.ids[:length] for each in rows], 1)
        return ids, side_by_side([each.context for each in rows])

    def _put(self, rows: list[Reading], length: int, context: Context) -> None:
        for row, each in enumerate(rows):
            each.ids, each.context = each.ids[length:], context.rows([row])

    def _read_alone(self, each: Reading) -> Told:
        """Torch, and a piece of one text. What a window sees foretells what follows, but the state what is read."""
        predictor, ids = self._predictor, each.ids[:PIECE]
        told, carried = None, each.carried or each.context
        if each.likeliest is not None:
            logits, carried = predictor.predict(carried, ids[:, None])
            told = details_of(logits[:, 0].cpu().double().numpy(), ids, each.likeliest, predictor)
        if predictor.window or told is None:
            each.context = predictor.read(each.context, ids[:, None])
        else:
            each.context = carried
        each.ids, each.carried = each.ids[PIECE:], carried
        return Told(each, told, len(ids))

"""Texts that are read side by side, a bounded piece at a time: prompts, texts to score, texts to keep as states.

What is told about a text does not depend on the texts beside it: native code reads each row to the bit as it reads it
alone. Where torch reads, each text is read alone, in pieces cut at the same places whatever else goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from scriven.arrays import Float64s, Ids
from scriven.inference.predictor import Context, Predictor, side_by_side
from scriven.inference.surprisal import cost_of_unseen, read_rows

PIECE = 256  # symbols that torch reads of one text at once
STEPS = 32  # symbols read at once where that is done step by step, many times as slowly
LOGITS = 1 << 20  # values kept at once where likeliest symbols are asked for: 8 MB


class Details(NamedTuple):
    """What symbols (T,) cost, and, where asked for, the ids and log-probabilities (T, K) of the likeliest there."""

    ids: Ids
    nats: Float64s  # (T,)
    likeliest: tuple[Ids, Float64s] | None = None

    def row(self, number: int, likeliest: int) -> Details:
        """What the symbol with this number costs, and the `likeliest` so many symbols there, of those that are here."""
        one, top = slice(number, number + 1), None
        if likeliest and self.likeliest is not None:
            ids, values = self.likeliest
            top = ids[one, :likeliest], values[one, :likeliest]
        return Details(self.ids[one], self.nats[one], top)


def details_of(logits: Float64s, ids: Ids, likeliest: int, predictor: Predictor) -> Details:
    """Of ids (T,) that logits (T, V) foretold: their costs and the `likeliest` so many symbols, the likeliest first."""
    vocabulary = predictor.vocabulary
    logits = logits - logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))  # log-probabilities now
    nats = -np.take_along_axis(logits, vocabulary.clamp(ids)[:, None], 1)[:, 0]
    top = None
    if likeliest:
        order = np.argsort(-logits, axis=1, kind="stable")[:, :likeliest]  # (T, K)
        top = order, np.take_along_axis(logits, order, 1)
    return Details(ids, cost_of_unseen(nats, ids, vocabulary), top)


@dataclass(eq=False)
class Prefill:
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


class PrefillResult(NamedTuple):
    """What became of a text in a turn: how many symbols were read, and what is told of them."""

    reading: Prefill
    details: Details | None
    symbols: int


class PrefillQueue:
    """Texts of one model that are being read: read on in turns; they may come and go in between."""

    def __init__(self, predictor: Predictor) -> None:
        """Of no texts."""
        native = predictor.scorer() is not None and not predictor.window
        self._turns: deque[_Group] = deque(_Group(predictor, native, stepwise) for stepwise in (False, True))

    def add(self, readings: Sequence[Prefill]) -> None:
        """Some more texts, each with something to read."""
        for group in self._turns:
            group.add([each for each in readings if each.stepwise == group.stepwise])

    def drop(self, readings: Collection[Prefill]) -> None:
        """Read these no further."""
        for group in self._turns:
            group.keep([row for row, each in enumerate(group.readings) if each not in readings])

    def read(self, symbols: int) -> list[PrefillResult]:
        """Read on, about so many symbols of all texts together; what became of them. Those read are gone."""
        self._turns.rotate()
        group = next((group for group in self._turns if group.readings), None)
        return [] if group is None else group.read(symbols)


class _Group:
    """Texts that are read alike: side by side where native code reads, else one after another."""

    def __init__(self, predictor: Predictor, native: bool, stepwise: bool) -> None:
        self.readings: list[Prefill] = []
        self.stepwise = stepwise
        self._predictor = predictor
        self._native = native
        self._context: Context | None = None  # of the texts, a row each, where native code reads

    def add(self, readings: list[Prefill]) -> None:
        self.readings += readings
        if self._native and readings:
            known = [] if self._context is None else [self._context]
            self._context = side_by_side(known + [self._with_state(each.context) for each in readings])

    def _with_state(self, context: Context) -> Context:
        sampler = self._predictor.scorer()
        return Context(context.logits, sampler.zero_state(1)) if sampler and context.state is None else context

    def keep(self, rows: list[int]) -> None:
        """Only the texts with these numbers."""
        if len(rows) < len(self.readings):
            self.readings = [self.readings[row] for row in rows]
            self._context = self._context.rows(rows) if self._context is not None and rows else None

    def read(self, symbols: int) -> list[PrefillResult]:
        """Read a piece of each text, or of one; texts that are read have their context then, and are gone."""
        if self._context is None:
            told = [self._read_alone(self.readings[0])]
            self.readings = self.readings[1:] + self.readings[:1]  # who waited longest is next
        else:
            told = self._read_rows(self._context, symbols)
        self.keep([row for row, each in enumerate(self.readings) if len(each.ids)])
        return told

    def _read_rows(self, context: Context, symbols: int) -> list[PrefillResult]:
        rows = self.readings
        most = symbols // len(rows)
        if self.stepwise:
            most = min(most, STEPS, LOGITS // (len(rows) * self._predictor.vocabulary.size))
        length = max(1, min(most, *(len(each.ids) for each in rows)))
        ids = np.stack([each.ids[:length] for each in rows], 1)  # (T, N)
        read = self._steps if self.stepwise else self._costs
        details, self._context = read(ids, context)
        for row, each in enumerate(rows):
            each.ids = each.ids[length:]
            if not len(each.ids):
                each.context = self._context.rows([row])
        told = zip(rows, details, strict=True)
        return [PrefillResult(each, None if each.likeliest is None else one, length) for each, one in told]

    def _costs(self, ids: Ids, context: Context) -> tuple[list[Details], Context]:
        """What each symbol (T, N) costs."""
        nats, context = read_rows(self._predictor, ids, context)
        return [Details(*columns) for columns in zip(ids.T, nats.T, strict=True)], context

    def _steps(self, ids: Ids, context: Context) -> tuple[list[Details], Context]:
        """What each symbol (T, N) costs, and the likeliest ones there: a symbol at a time."""
        logits = []
        for step in ids:  # (N,)
            logits.append(context.logits)
            context = self._predictor.read(context, step[None])
        values = torch.stack(logits).double().numpy()  # (T, N, V)
        return [
            details_of(values[:, row], ids[:, row], each.likeliest or 0, self._predictor)
            for row, each in enumerate(self.readings)
        ], context

    def _read_alone(self, each: Prefill) -> PrefillResult:
        """A piece of one text. What a window sees foretells what follows, but the state what is read."""
        predictor, ids = self._predictor, each.ids[:PIECE]
        told: Details | None = None
        carried = each.carried or each.context
        if each.likeliest == 0:
            nats, carried = read_rows(predictor, ids[:, None], carried)
            told = Details(ids, nats[:, 0])
        elif each.likeliest:
            logits, carried = predictor.predict(carried, ids[:, None])
            told = details_of(logits[:, 0].cpu().double().numpy(), ids, each.likeliest, predictor)
        if predictor.window or told is None:
            each.context = predictor.read(each.context, ids[:, None])
        else:
            each.context = carried
        each.ids, each.carried = each.ids[PIECE:], carried
        return PrefillResult(each, told, len(ids))

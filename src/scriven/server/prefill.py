"""Prefill: reads many texts together, a bounded piece at a time: prompts, texts to score, texts to save as states.

The results for a text do not depend on the other texts. Native code reads each row exactly as if it were alone. Torch
reads each text alone, in pieces that are always cut at the same places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scriven.arrays import Float64s, Ids
from scriven.inference.context import Context, fit, side_by_side
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import cost_of_unseen, read_rows

SYMBOLS_PER_READ = 256  # symbols of one text that torch reads at once
STEPS_PER_READ = 32  # symbols read at once, one step at a time: many times slower
LOGITS_PER_READ = 1 << 20  # logits held at once while looking for the most likely symbols: 8 MB


class SymbolSurprisals(NamedTuple):
    """The surprisals of symbols (T,), and optionally the ids and log-probabilities (T, K) of the most likely ones."""

    ids: Ids
    nats: Float64s  # (T,)
    likeliest: tuple[Ids, Float64s] | None = None

    def row(self, number: int, count: int) -> SymbolSurprisals:
        """Returns the surprisal of one symbol, and up to `count` of the most likely ones at its place."""
        one, top = slice(number, number + 1), None
        if count and self.likeliest is not None:
            ids, values = self.likeliest
            top = ids[one, :count], values[one, :count]
        return SymbolSurprisals(self.ids[one], self.nats[one], top)


def surprisals_from_logits(logits: Float64s, ids: Ids, count: int, predictor: Predictor) -> SymbolSurprisals:
    """Returns the surprisals of ids (T,) under logits (T, V), and the `count` most likely symbols, in order."""
    vocabulary = predictor.vocabulary
    logits = logits - logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))  # log-probabilities now
    nats = -np.take_along_axis(logits, vocabulary.clamp(ids)[:, None], 1)[:, 0]
    top = None
    if count:
        order = np.argsort(-logits, axis=1, kind="stable")[:, :count]  # (T, K)
        top = order, np.take_along_axis(logits, order, 1)
    return SymbolSurprisals(ids, cost_of_unseen(nats, ids, vocabulary), top)


@dataclass(eq=False)
class Prefill:
    """A text that is being read: the ids that are left, and the context after those already read.

    `logprobs` is None for no surprisals, 0 for those of the text's own symbols, k for the k most likely symbols too.
    """

    ids: Ids  # (T,), not read yet
    context: Context
    logprobs: int | None = None
    carried: Context | None = None  # predicts the next symbols, if that is not `context`

    @property
    def stepwise(self) -> bool:
        """Whether the logits at every symbol are needed."""
        return bool(self.logprobs)


class PrefillResult(NamedTuple):
    """Progress of a text in one turn: how many symbols were read, and their surprisals if asked for."""

    prefill: Prefill
    surprisals: SymbolSurprisals | None
    symbols: int


class PrefillQueue:
    """The texts that one model is reading, in turns. Texts may be added and removed between two turns."""

    def __init__(self, predictor: Predictor) -> None:
        """The queue is empty."""
        self._predictor = predictor
        self._native = predictor.scorer() is not None and not predictor.window
        self._turns: deque[_PrefillGroup] = deque()  # the first one is next

    def add(self, prefills: Sequence[Prefill]) -> None:
        """Adds texts. Each must have ids to read."""
        alike: dict[tuple[bool, int | None], list[Prefill]] = {}
        for each in prefills:
            known = None if each.context.recent is None else len(each.context.recent)
            alike.setdefault((each.stepwise, known), []).append(each)
        self._turns += [_PrefillGroup(self._predictor, self._native, each) for each in alike.values()]
        self._merge()

    def drop(self, prefills: Collection[Prefill]) -> None:
        """Removes these texts."""
        for group in self._turns:
            group.keep([row for row, each in enumerate(group.prefills) if each not in prefills])
        self._merge()

    def read(self, symbols: int) -> list[PrefillResult]:
        """Reads about `symbols` symbols of all texts together. Texts that are finished are removed."""
        if not self._turns:
            return []
        results = self._turns[0].read(symbols)
        self._turns.rotate(-1)
        self._merge()
        return results

    def _merge(self) -> None:
        """Merges the groups that can be read together, and removes those that are empty."""
        groups, self._turns = self._turns, deque()
        for group in groups:
            host = next((each for each in self._turns if each.takes(group)), None)
            if host is not None:
                host.add(group)
            elif group.prefills:
                self._turns.append(group)


class _PrefillGroup:
    """Texts that are read in the same way: together by native code, or one by one by torch.

    Native code reads texts together if as many last characters are known of each.
    """

    def __init__(self, predictor: Predictor, native: bool, prefills: list[Prefill]) -> None:
        self.prefills = prefills
        self.stepwise = prefills[0].stepwise
        self._predictor = predictor
        self._context: Context | None = None  # a row for each text; used by native code only
        if native:
            self._context = side_by_side([self._with_state(each.context) for each in prefills])

    def takes(self, other: _PrefillGroup) -> bool:
        contexts = [each._context for each in (self, other) if each._context is not None]
        return self.stepwise == other.stepwise and len(contexts) != 1 and (not contexts or fit(contexts))

    def add(self, other: _PrefillGroup) -> None:
        if self._context is not None and other._context is not None:
            self._context = side_by_side([self._context, other._context])
        self.prefills += other.prefills

    def _with_state(self, context: Context) -> Context:
        sampler = self._predictor.scorer()
        if sampler is None or context.state is not None:
            return context
        return Context(context.logits, sampler.zero_state(1), context.recent)

    def keep(self, rows: list[int]) -> None:
        """Removes all texts but those in these rows."""
        if len(rows) < len(self.prefills):
            self.prefills = [self.prefills[row] for row in rows]
            self._context = self._context.rows(rows) if self._context is not None and rows else None

    def read(self, symbols: int) -> list[PrefillResult]:
        """Reads a piece of each text, or of one. Texts that are finished get their context and are removed."""
        if self._context is None:
            results = [self._read_alone(self.prefills[0])]
            self.prefills = self.prefills[1:] + self.prefills[:1]  # the text that has waited longest is next
        else:
            results = self._read_rows(self._context, symbols)
        self.keep([row for row, each in enumerate(self.prefills) if len(each.ids)])
        return results

    def _read_rows(self, context: Context, symbols: int) -> list[PrefillResult]:
        rows = self.prefills
        most = symbols // len(rows)
        if self.stepwise:
            most = min(most, STEPS_PER_READ, LOGITS_PER_READ // (len(rows) * self._predictor.vocabulary.size))
        length = max(1, min(most, *(len(each.ids) for each in rows)))
        ids = np.stack([each.ids[:length] for each in rows], 1)  # (T, N)
        read = self._read_steps if self.stepwise else self._read_block
        surprisals, self._context = read(ids, context)
        for row, each in enumerate(rows):
            each.ids = each.ids[length:]
            if not len(each.ids):
                each.context = self._context.rows([row])
        results = zip(rows, surprisals, strict=True)
        return [PrefillResult(each, None if each.logprobs is None else one, length) for each, one in results]

    def _read_block(self, ids: Ids, context: Context) -> tuple[list[SymbolSurprisals], Context]:
        """Reads ids (T, N) at once: the surprisals of each row, and the context after."""
        nats, _, context = read_rows(self._predictor, ids, context)
        return [SymbolSurprisals(*columns) for columns in zip(ids.T, nats.T, strict=True)], context

    def _read_steps(self, ids: Ids, context: Context) -> tuple[list[SymbolSurprisals], Context]:
        """Reads ids (T, N) step by step: the surprisals and most likely symbols of each row, and the context after."""
        logits = []
        for step in ids:  # (N,)
            logits.append(self._predictor.next_logits(context))
            context = self._predictor.read(context, step[None])
        values = np.stack(logits).astype(np.float64)  # (T, N, V)
        return [
            surprisals_from_logits(values[:, row], ids[:, row], each.logprobs or 0, self._predictor)
            for row, each in enumerate(self.prefills)
        ], context

    def _read_alone(self, each: Prefill) -> PrefillResult:
        """Reads a piece of one text.

        With a window, generation continues from the window's context, while surprisals come from the carried state.
        """
        predictor, ids = self._predictor, each.ids[:SYMBOLS_PER_READ]
        surprisals: SymbolSurprisals | None = None
        carried = each.carried or each.context
        if each.logprobs == 0:
            nats, _, carried = read_rows(predictor, ids[:, None], carried)
            surprisals = SymbolSurprisals(ids, nats[:, 0])
        elif each.logprobs:
            logits, carried = predictor.predict(carried, ids[:, None])
            surprisals = surprisals_from_logits(logits[:, 0].astype(np.float64), ids, each.logprobs, predictor)
        if predictor.window or surprisals is None:
            each.context = predictor.read(each.context, ids[:, None])
        else:
            each.context = carried
        each.ids, each.carried = each.ids[SYMBOLS_PER_READ:], carried
        return PrefillResult(each, surprisals, len(ids))

"""Searches for texts: the likeliest ones, by a beam.

The nats of a text are -ln of the probability that it is written at temperature 1, without filters and penalties. They
count every symbol that was read: also those of a stop string, and the end of a document or of a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scriven.arguments import check_whole
from scriven.arrays import Float64s
from scriven.errors import UsageError
from scriven.inference.context import Context
from scriven.inference.generation import StreamDecoder, begin_rule, check_rule, make_decoder
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import overflow
from scriven.rules import Rule
from scriven.rules.automaton import RulePlace

BEAM = 16  # texts that a beam keeps, unless a number is given
WIDEST = 1024  # of them at most


@dataclass(frozen=True)
class FoundText:
    """A text that a search found, its nats, and whether it ended by itself, with its document or a rule."""

    text: str
    nats: float
    ended: bool


@dataclass(frozen=True)
class BeamOptions:
    """Options of a beam: how many texts it keeps, and where these end. Raises UsageError for values out of range."""

    width: int
    length: int
    stop: Sequence[str] = ()
    until_end: bool = False
    rule: Rule | None = None

    def __post_init__(self) -> None:
        check_whole("beam", self.width, 1, "1 or more texts to keep")
        if self.width > WIDEST:
            raise UsageError(f"beam {self.width:,}: give at most {WIDEST:,} texts to keep")
        check_whole("length", self.length, 0, "0 or more characters to write")
        check_rule(self.rule, self.stop)


@dataclass(frozen=True, eq=False)
class _BeamLine:
    """A text of the beam: its nats, the part of it that is certain, and what decodes the rest."""

    nats: float
    text: str
    pen: StreamDecoder
    rule: RulePlace | None = None

    def extend(self, symbol: int, nats: float) -> _BeamLine:
        """Returns the line with a symbol more, and these nats."""
        pen, ids = self.pen.fork(), np.array([symbol])
        text, _ = pen.feed(ids)
        return _BeamLine(nats, self.text + text, pen, self.rule and self.rule.advance(ids))

    def finish(self) -> FoundText:
        """Returns the whole text, which ends here."""
        return FoundText(self.text + self.pen.fork().flush(), self.nats, self.pen.ended)


def find_likeliest(predictor: Predictor, context: Context, options: BeamOptions) -> list[FoundText]:
    """Returns the likeliest texts after a context of one row, the likeliest first: at most as many as the beam keeps.

    After each symbol the beam keeps the likeliest texts that have not ended. It stops once no text of it can become
    likelier than those that have ended. A text that begins as none of the likeliest does is missed. Raises UsageError
    for `until_end` if the model knows no documents, and for a rule that no text of this length obeys; InputError once
    the numbers of the model are not finite.
    """
    pen = make_decoder(predictor.vocabulary, options.stop, until_end=options.until_end)
    pen.obeys = options.rule is not None
    rule = begin_rule(options.rule, predictor.vocabulary, options.until_end, options.length)
    lines, found = [_BeamLine(0.0, "", pen, rule)], list[_BeamLine]()
    for _ in range(options.length):
        costs = _costs(predictor, context, lines)  # (N, V)
        places, ended = _extend(lines, costs, options.width)
        lines = list(places)
        found = sorted(found + ended, key=lambda line: line.nats)[: options.width]
        if not lines or (len(found) == options.width and lines[0].nats >= found[-1].nats):
            lines = []
            break
        rows, symbols = np.divmod(list(places.values()), costs.shape[1])  # (N,)
        context = predictor.read(context.rows(rows.tolist()), symbols[None])
    return [line.finish() for line in sorted(found + lines, key=lambda line: line.nats)[: options.width]]


def _costs(predictor: Predictor, context: Context, lines: list[_BeamLine]) -> Float64s:
    """Returns the nats (N, V) of each line with each symbol after it; the last symbol is the end by a rule."""
    logits = predictor.next_logits(context, writing=True).astype(np.float64)
    if not np.isfinite(logits).all():
        raise overflow()
    logits[:, predictor.vocabulary.unknown] = -np.inf
    for row, line in enumerate(lines):
        if line.rule is not None:
            logits[row] = line.rule.constrain(logits[row])
    costs: Float64s = costs_of(logits) + np.array([[line.nats] for line in lines])
    return costs


def costs_of(logits: Float64s) -> Float64s:
    """Returns -ln of the probabilities (N, V) by logits (N, V)."""
    top = logits.max(1, keepdims=True)
    totals: Float64s = top + np.log(np.exp(logits - top).sum(1, keepdims=True)) - logits
    return totals


def _extend(lines: list[_BeamLine], costs: Float64s, width: int) -> tuple[dict[_BeamLine, int], list[_BeamLine]]:
    """Returns the likeliest continuations, each with its place in `costs` (N, V), and those likelier that ended."""
    kept, ended = dict[_BeamLine, int](), list[_BeamLine]()
    flat = costs.ravel()
    for place in np.argsort(flat, kind="stable").tolist():
        if len(kept) == width or np.isinf(flat[place]):
            break
        row, symbol = divmod(place, costs.shape[1])
        line = lines[row].extend(symbol, float(flat[place]))
        if line.pen.done:
            ended.append(line)
        else:
            kept[line] = place
    return kept, ended

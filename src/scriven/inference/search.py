"""Searches for texts: the likeliest ones, by a beam, and those that fit between two others.

The nats of a text are -ln of the probability that it is written at temperature 1, without filters and penalties. They
count every symbol that was read: also those of a stop string, and the end of a document or of a rule.

Any model can find what stands between a text and another one that follows, with counts and rules. It draws many
continuations of the text before, and reads the text after from every place that each of them reached. So a middle is
chosen with the probability P(middle | before) * P(after | before, middle), divided by the sum over all that were drawn:
importance resampling, with all lengths alike before anything is read. At temperature 0 a beam takes the place of the
draws, and the likeliest middle is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from scriven.arguments import check_whole
from scriven.arrays import Float64s, Ids
from scriven.errors import UsageError
from scriven.inference.context import Context, side_by_side
from scriven.inference.generation import GenerationOptions, begin_rule, check_rule
from scriven.inference.predictor import Predictor
from scriven.inference.sampling import DRAWS, WIDEST
from scriven.inference.stream_decoder import StreamDecoder, make_decoder
from scriven.inference.surprisal import overflow, read_rows
from scriven.rules import Rule
from scriven.rules.automaton import RulePlace

BEAM = 16  # texts that a beam keeps, unless a number is given
MIDDLE = 60  # symbols of a middle at most, unless a length is given
AFTER = 128  # symbols that are read of what follows; what comes later hardly depends on the middle
READ_AT_ONCE = 8  # of them, after which rows that will not be chosen are given up
ROWS_AT_ONCE = 256  # rows after which these are read in one step of a search
GIVEN_UP = 16.0  # nats behind the best row so far: e^-16 of its probability


@dataclass(frozen=True)
class FoundText:
    """A text that a search found, its nats and symbols, and whether it ended by itself, with its document or a rule.

    If not, it may have `stopped` at a stop string.
    """

    text: str
    nats: float
    ended: bool
    stopped: bool
    symbols: int


@dataclass(frozen=True)
class BeamOptions:
    """Options of a beam: how many texts it keeps, and where these end. Raises UsageError for values out of range."""

    width: int
    length: int
    stop: Sequence[str] = ()
    until_end: bool = False
    rule: Rule | None = None
    after: str = ""  # the text that they follow

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
    symbols: int = 0

    def extend(self, symbol: int, nats: float) -> _BeamLine:
        """Returns the line with a symbol more, and these nats."""
        pen, ids = self.pen.fork(), np.array([symbol])
        text, _ = pen.feed(ids)
        return _BeamLine(nats, self.text + text, pen, self.rule and self.rule.advance(ids), self.symbols + 1)

    def finish(self) -> FoundText:
        """Returns the whole text, which ends here."""
        pen = self.pen
        return FoundText(self.text + pen.fork().flush(), self.nats, pen.ended, pen.stopped, self.symbols)


class _Beam:
    """The likeliest texts of one length that have not ended, after a context of one row, the likeliest first."""

    def __init__(
        self, predictor: Predictor, context: Context, options: BeamOptions, place: RulePlace | None = None
    ) -> None:
        """The texts begin at a `place` in the rule if it is compiled already. Raises as `BeamSearch` does."""
        pen = make_decoder(predictor.vocabulary, options.stop, until_end=options.until_end, after=options.after)
        pen.obeys = options.rule is not None
        rule = place or begin_rule(options.rule, predictor.vocabulary, options.until_end, options.length)
        self.lines = [_BeamLine(0.0, "", pen, rule)]
        self.context = context  # with a row for each line
        self._predictor, self._width = predictor, options.width

    def extend(self) -> list[_BeamLine]:
        """Adds a symbol to each text. Returns those that ended, among the likeliest continuations."""
        costs = self._costs()  # (N, V)
        flat, ended, places = costs.ravel(), list[_BeamLine](), dict[_BeamLine, int]()
        for place in _sort_cheapest(flat, 2 * self._width):
            if len(places) == self._width or np.isinf(flat[place]):
                break
            row, symbol = divmod(place, costs.shape[1])
            line = self.lines[row].extend(symbol, float(flat[place]))
            if line.pen.done:
                ended.append(line)
            else:
                places[line] = place
        self.lines = list(places)
        if places:
            rows, symbols = np.divmod(list(places.values()), costs.shape[1])  # (N,)
            self.context = self._predictor.read(self.context.rows(rows.tolist()), symbols[None])
        return ended

    def _costs(self) -> Float64s:
        """Returns the nats (N, V) of each line with each symbol after it; the last symbol is the end by a rule."""
        logits = self._predictor.next_logits(self.context, writing=True).astype(np.float64)
        _check_numbers(logits)
        logits[:, self._predictor.vocabulary.unknown] = -np.inf
        for row, line in enumerate(self.lines):
            if line.rule is not None:
                logits[row] = line.rule.constrain(logits[row])
        top = logits.max(1, keepdims=True)
        before = np.array([[line.nats] for line in self.lines])
        costs: Float64s = before + top + np.log(np.exp(logits - top).sum(1, keepdims=True)) - logits
        return costs


def _check_numbers(values: Float64s) -> None:
    if not np.isfinite(values).all():
        raise overflow()


def _sort_cheapest(costs: Float64s, count: int) -> Iterator[int]:
    """Yields the places of costs (M,) in their order, equal ones as they are. The first `count` take the least work."""
    if count < len(costs):
        most = np.partition(costs, count)[count]
        some = np.flatnonzero(costs <= most)
        yield from some[np.argsort(costs[some], kind="stable")].tolist()
        rest = np.flatnonzero(costs > most)
    else:
        rest = np.arange(len(costs))
    yield from rest[np.argsort(costs[rest], kind="stable")].tolist()


class BeamSearch:
    """A search for the likeliest texts after a context of one row. It advances symbol by symbol.

    After each symbol the beam keeps the likeliest texts that have not ended. It stops once no text of it can become
    likelier than those that have ended. A text that begins as none of the likeliest does is missed.
    """

    def __init__(
        self, predictor: Predictor, context: Context, options: BeamOptions, *, place: RulePlace | None = None
    ) -> None:
        """If the rule of the options is compiled already, `place` is where a text begins in it.

        Raises UsageError for `until_end` if the model knows no documents, and for a rule that no text of this length
        obeys.
        """
        self._beam, self._width, self._left = _Beam(predictor, context, options, place), options.width, options.length
        self._ended: list[_BeamLine] = []

    def advance(self) -> bool:
        """Adds a symbol to each text; False if nothing is left to do.

        Raises InputError once the numbers of the model are not finite.
        """
        if not self._left or not self._beam.lines or self._is_decided():
            return False
        self._left -= 1
        self._ended = self._likeliest(self._ended + self._beam.extend())
        return True

    def _is_decided(self) -> bool:
        return len(self._ended) == self._width and self._beam.lines[0].nats >= self._ended[-1].nats

    def _likeliest(self, lines: list[_BeamLine]) -> list[_BeamLine]:
        return sorted(lines, key=lambda line: line.nats)[: self._width]

    def choose(self) -> list[FoundText]:
        """Returns the likeliest texts, the likeliest first: at most as many as the beam keeps."""
        cut = [] if self._left else self._beam.lines
        return [line.finish() for line in self._likeliest(self._ended + cut)]


def find_likeliest(predictor: Predictor, context: Context, options: BeamOptions) -> list[FoundText]:
    """Returns the likeliest texts after a context of one row, the likeliest first. Raises as `BeamSearch` does."""
    search = BeamSearch(predictor, context, options)
    while search.advance():
        pass
    return search.choose()


# --- the middle of a text


@dataclass(frozen=True)
class MiddleOptions:
    """Options for finding a middle: those for writing it, and how many continuations are drawn or kept in a beam.

    Raises UsageError for values of other types or out of range.
    """

    writing: GenerationOptions
    draws: int = DRAWS

    def __post_init__(self) -> None:
        check_whole("draws", self.draws, 1, "1 or more continuations to draw")
        if self.draws > WIDEST:
            raise UsageError(f"draws {self.draws:,}: give at most {WIDEST:,} continuations to draw")
        if any(self.writing.stop):
            raise UsageError("stop: the text after it ends a middle; leave out the stop strings")
        if self.writing.sampling.novel:
            raise UsageError("novel: the text after a middle is not the model's; leave it out, or the suffix")

    @property
    def beam(self) -> BeamOptions:
        """The options of the beam that takes the place of the draws at temperature 0."""
        return BeamOptions(self.draws, self.writing.length, (), self.writing.until_end, self.writing.rule)


@dataclass(frozen=True)
class Middle:
    """A middle that was found, and its number of symbols.

    `effective_draws` is how many draws of equal weight would estimate as well as those that were drawn, of which each
    has the weight of all its beginnings; None for a beam, which draws nothing.
    """

    text: str
    symbols: int
    effective_draws: float | None


class _Rows(Protocol):
    """Beginnings of middles, all of one length, as rows with a context."""

    @property
    def context(self) -> Context:
        """The context after each row."""

    def complete(self) -> Ids:
        """Returns the rows (n,) that may end here."""

    def nats(self) -> Float64s:
        """Returns the nats (N,) that count besides those of what follows."""

    def numbers(self) -> Ids:
        """Returns the number (N,) of each row, by which `text` finds it later."""

    def text(self, length: int, number: int) -> str:
        """Returns the text that a row had at a length."""

    def extend(self) -> bool:
        """Adds a symbol to each row; False if no row is left."""


class _DrawnRows:
    """Middles that are drawn. A row whose document or rule has ended is dropped."""

    def __init__(
        self,
        predictor: Predictor,
        before: Context,
        options: MiddleOptions,
        random: np.random.Generator,
        place: RulePlace | None,
    ) -> None:
        self._predictor, self._random, self._count = predictor, random, options.draws
        self._settings = options.writing.sampling
        writing = options.writing if place is None else replace(options.writing, rule=None)
        line = writing.begin(predictor.vocabulary, random)
        self._rules = [place or line.rule] * options.draws
        self._pasts = [line.past and line.past.copy() for _ in range(options.draws)]
        self._end = predictor.vocabulary.boundary if options.writing.until_end else None
        self._rows = np.arange(options.draws)  # that are left
        self._drawn: list[Ids] = []  # for each place, the ids (draws,); those of dropped rows mean nothing
        self.context = before.rows([0] * options.draws)

    def complete(self) -> Ids:
        return np.array([row for row, rule in enumerate(self._rules) if _may_end(rule)], np.int64)

    def nats(self) -> Float64s:
        return np.zeros(len(self._rows))  # a likely middle is drawn often

    def numbers(self) -> Ids:
        return self._rows

    def text(self, length: int, number: int) -> str:
        return self._predictor.vocabulary.decode(np.array([ids[number] for ids in self._drawn[:length]], np.int64))

    def extend(self) -> bool:
        uniforms = self._random.random((1, self._count))[:, self._rows]
        ids, context = self._predictor.generate(
            self.context, self._settings, uniforms, rules=self._rules, pasts=self._pasts
        )
        _check_numbers(context.logits.astype(np.float64))
        self._drawn.append(np.zeros(self._count, np.int64))
        self._drawn[-1][self._rows] = ids[0]
        left = np.flatnonzero((ids[0] != self._predictor.vocabulary.unknown) & (ids[0] != self._end))
        self._rows, self.context = self._rows[left], context.rows(left.tolist())
        self._rules = [(rule := self._rules[row]) and rule.advance(ids[:, row]) for row in left]
        self._pasts = [(past := self._pasts[row]) and past.advance(ids[:, row]) for row in left]
        return bool(len(left))


class _BeamRows:
    """Middles of a beam."""

    def __init__(self, predictor: Predictor, before: Context, options: MiddleOptions, place: RulePlace | None) -> None:
        self._beam = _Beam(predictor, before, options.beam, place)
        self._lines = [self._beam.lines]  # for each length

    @property
    def context(self) -> Context:
        """The context after each middle."""
        return self._beam.context

    def complete(self) -> Ids:
        return np.array([row for row, line in enumerate(self._beam.lines) if _may_end(line.rule)], np.int64)

    def nats(self) -> Float64s:
        return np.array([line.nats for line in self._beam.lines])

    def numbers(self) -> Ids:
        return np.arange(len(self._beam.lines))

    def text(self, length: int, number: int) -> str:
        return self._lines[length][number].finish().text

    def extend(self) -> bool:
        self._beam.extend()
        self._lines.append(self._beam.lines)
        return bool(self._beam.lines)


def _may_end(rule: RulePlace | None) -> bool:
    """Whether a text obeys its rule here, if it has one."""
    return rule is None or not rule.automaton.distance[rule.state]


class MiddleSearch:
    """A search for the middle between what one row has read and ids that follow. It advances in short steps."""

    def __init__(
        self,
        predictor: Predictor,
        before: Context,
        after: Ids,
        options: MiddleOptions,
        random: np.random.Generator,
        *,
        place: RulePlace | None = None,
    ) -> None:
        """Ids `after` (T,) follow the middle; the first AFTER of them are read.

        If the rule of the options is compiled already, `place` is where a text begins in it.

        Raises UsageError without any, and as `GenerationOptions.begin` does.
        """
        if not len(after):
            raise UsageError("suffix is empty; give the text that follows the middle, or write without a suffix")
        self._predictor, self._after, self._random = predictor, after[:AFTER], random
        self._left = check_whole("length", options.writing.length, 0, "")
        self._rows: _Rows = (
            _DrawnRows(predictor, before, options, random, place)
            if options.writing.sampling.temperature
            else _BeamRows(predictor, before, options, place)
        )
        self._length = 0
        self._best = np.full(-(-len(self._after) // READ_AT_ONCE), math.inf)  # after each piece of what follows
        self._nats, self._lengths, self._numbers = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        self._steps = self._search()

    def advance(self) -> bool:
        """Reads a piece of what follows after some of the middles, or makes all longer. Returns False at the end."""
        return next(self._steps, False)

    def _search(self) -> Generator[bool]:
        """Reads what follows after all middles of each length. Yields True after each step."""
        going = True
        while going:
            rows = self._rows.complete()
            if len(rows):
                nats, kept = yield from self._read(self._rows.context.rows(rows.tolist()), self._rows.nats()[rows])
                self._nats = np.concatenate((self._nats, nats))
                self._numbers = np.concatenate((self._numbers, self._rows.numbers()[rows[kept]]))
                self._lengths = np.concatenate((self._lengths, np.full(len(nats), self._length)))
            if not self._left or self._rows.nats().min() > self._best[-1] + GIVEN_UP:
                return
            self._left -= 1
            self._length += 1
            going = self._rows.extend()
            yield True

    def _read(self, context: Context, nats: Float64s) -> Generator[bool, None, tuple[Float64s, Ids]]:
        """Reads what follows after rows that begin with nats (N,). Returns the nats (n,) of those rows (n,) kept."""
        rows = np.arange(len(nats))
        for piece in range(len(self._best)):
            ids = self._after[piece * READ_AT_ONCE : (piece + 1) * READ_AT_ONCE]
            costs, contexts = [], []
            for begin in range(0, len(rows), ROWS_AT_ONCE):
                some = range(begin, min(begin + ROWS_AT_ONCE, len(rows)))
                each, _, after = read_rows(self._predictor, np.repeat(ids[:, None], len(some), 1), context.rows(some))
                costs.append(each.sum(0))
                contexts.append(after)
                yield True
            nats, context = nats + np.concatenate(costs), side_by_side(contexts)
            _check_numbers(nats)
            self._best[piece] = min(self._best[piece], nats.min())
            kept = np.flatnonzero(nats <= self._best[piece] + GIVEN_UP)
            nats, rows = nats[kept], rows[kept]
            if not len(kept):
                break
            context = context.rows(kept.tolist())
        return nats, rows

    def choose(self) -> Middle:
        """Returns one of the middles, drawn by their weights, or a beam's likeliest."""
        weights = np.exp(self._nats.min() - self._nats)
        effective, place = None, int(self._nats.argmin())
        if isinstance(self._rows, _DrawnRows):
            of_draws = np.bincount(self._numbers, weights)  # (draws,) of all beginnings of each draw together
            effective = float(of_draws.sum() ** 2 / (of_draws**2).sum())
            place = int((weights.cumsum() <= self._random.random() * weights.sum()).sum())
        length, number = int(self._lengths[place]), int(self._numbers[place])
        return Middle(self._rows.text(length, number), length, effective)


def find_middle(
    predictor: Predictor, before: Context, after: Ids, options: MiddleOptions, random: np.random.Generator
) -> Middle:
    """Returns a middle between a context of one row and ids `after` (T,).

    Raises UsageError as `MiddleSearch` does; InputError once the numbers of the model are not finite.
    """
    search = MiddleSearch(predictor, before, after, options, random)
    while search.advance():
        pass
    return search.choose()

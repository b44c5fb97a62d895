"""Writes texts block by block: one, or many at the same time. Each has its own length, stop strings and end.

A text depends on its context, its settings and its random numbers, one per symbol. It does not depend on the lengths of
blocks, nor on the other texts of its batch.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from scriven.arguments import check_stops, check_switch, check_whole
from scriven.arrays import Bools, Ids
from scriven.errors import UsageError
from scriven.inference.context import Context, fit, side_by_side
from scriven.inference.predictor import Predictor
from scriven.inference.stream_decoder import StreamDecoder, make_decoder
from scriven.inference.surprisal import overflow
from scriven.penalties import Followers, Past, begin_past
from scriven.rules import STATES, Rule
from scriven.rules.automaton import RulePlace
from scriven.sampling_settings import SamplingFilters, SamplingSettings
from scriven.settings_values import describe_errors
from scriven.vocabulary import Vocabulary

FIRST = 8  # symbols in a text's first block, so that a reader sees the beginning at once
LIVE = 32  # symbols in a block, at most, if somebody reads along
UNSEEN = 512  # symbols in a block, at most, if nobody reads along
ENDING = 16  # symbols in a block of texts that may end at any symbol: those drawn after an end are lost
SMOOTH = 1 / 30  # seconds; blocks that take longer make the text jerky
ROWS = 64  # texts written at the same time
LENGTH = 500  # symbols of a text, unless a length is given
SAMPLING = SamplingSettings()  # how symbols are drawn, unless settings are given


@dataclass(frozen=True)
class GenerationOptions:
    """Options for writing a text: its length and end, the size of its pieces, how its symbols are drawn.

    Raises UsageError for values of other types or out of range.
    """

    length: int = LENGTH  # symbols at most
    stop: Sequence[str] = ()  # the text ends before the first of these
    until_end: bool = False  # it ends where its document ends
    temperature: float = SAMPLING.temperature
    top_k: int = SAMPLING.top_k
    top_p: float = SAMPLING.top_p
    min_p: float = SAMPLING.min_p
    piece: int = UNSEEN  # symbols, at most, in a piece of the text
    rule: Rule | None = None  # which the whole text obeys
    filters: SamplingFilters = field(default_factory=SamplingFilters)  # more settings for drawing symbols

    def __post_init__(self) -> None:
        check_whole("length", self.length, 0, "0 or more characters to write")
        check_whole("piece", self.piece, 1, "1 or more symbols to write at once")
        check_switch("until_end", self.until_end)
        check_stops(self.stop)
        check_rule(self.rule, self.stop, self.sampling.novel)

    @property
    def sampling(self) -> SamplingSettings:
        """The settings for drawing symbols."""
        try:
            first = {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p")}
            return SamplingSettings(**{**first, **self.filters})
        except ValidationError as error:
            raise UsageError(describe_errors(error)) from None

    @property
    def may_end(self) -> bool:
        """Whether a text may end before its length."""
        return bool(self.stop) or self.until_end or self.rule is not None

    def begin(
        self, vocabulary: Vocabulary, random: np.random.Generator, index: Followers | None = None, *, after: str = ""
    ) -> Generation:
        """Returns a new text to write, whose symbols `random` draws. `novel` needs the `index` of the training text.

        It follows the text `after`, which says whether tokens begin with a space.
        Raises UsageError for `until_end` if the model knows no documents, for a rule that no text of this length
        obeys, and for `novel` without an index.
        """
        pen = make_decoder(vocabulary, self.stop, until_end=self.until_end, after=after)
        length = check_whole("length", self.length, 0, "")
        place = begin_rule(self.rule, vocabulary, self.until_end, length)
        return Generation(random, self.sampling, length, pen, rule=place, past=begin_past(self.sampling, index=index))


def check_rule(rule: object, stop: Sequence[str] = (), novel: int = 0) -> None:
    """Raises UsageError for anything but a rule or None, and for a rule with stop strings or with `novel`."""
    if not (rule is None or isinstance(rule, Rule)):
        raise UsageError(f"rule {rule!r}: give one such as scriven.Rule.regex('[a-z]+')")
    if rule is not None and any(stop):
        raise UsageError("a stop string ends a text anywhere, so the whole could break the rule; give only one of them")
    if rule is not None and novel:
        raise UsageError(
            f"novel {novel}: where both leave nothing to write, the text would break the rule; give only one of them"
        )


def begin_rule(
    rule: Rule | None,
    vocabulary: Vocabulary,
    until_end: bool,
    length: int,
    *,
    begun: Ids | None = None,
    states: int = STATES,
) -> RulePlace | None:
    """Returns the place of a text in a rule, if there is one.

    It is after the ids `begun` (T,), those of the last document with `until_end`, if these obey and may go on.

    Raises UsageError if no text of at most `length` symbols obeys, or the rule needs more `states`.
    """
    if rule is None:
        return None
    automaton = rule.compile(vocabulary, until_end=until_end, states=states)
    state = 0 if begun is None else automaton.resume(_last_document(begun, vocabulary) if until_end else begun)
    least = int(automaton.distance[state])
    if least > length:
        raise UsageError(
            f"{rule.describe()}: the shortest text that obeys has {least:,} {vocabulary.unit}s, and length "
            f"is {length:,}; give at least {least:,}"
        )
    return RulePlace(automaton, state, length)


def _last_document(ids: Ids, vocabulary: Vocabulary) -> Ids:
    """Returns the ids (T,) after the last boundary."""
    (ends,) = np.nonzero(ids == vocabulary.boundary)
    return ids[ends[-1] + 1 :] if len(ends) else ids


@dataclass(eq=False)
class Generation:
    """A text that is being written. `random` draws at most `left` more symbols by the `settings`; `pen` decodes them.

    With a `rule`, the text obeys it; with that or `novel`, the pen takes `<unk>` for its end. `past` has earlier ids,
    if settings look at those.
    With `keep`, a `GenerationBatch` puts the context after its last symbol into `end`, and `written` has all ids.
    """

    random: np.random.Generator
    settings: SamplingSettings
    left: int
    pen: StreamDecoder
    keep: bool = False
    end: Context | None = None
    written: list[Ids] = field(default_factory=list)
    rule: RulePlace | None = None
    past: Past | None = None

    def __post_init__(self) -> None:
        self.pen.obeys = self.rule is not None or self.settings.novel > 0
        self.past = self.past or begin_past(self.settings)

    @property
    def done(self) -> bool:
        """Whether the text is complete."""
        return self.pen.done

    def take(self, ids: Ids) -> tuple[str, int]:
        """Takes more ids (T,), up to the text's end. Returns the text that is certain now, and how many ids it took."""
        text, taken = self.pen.feed(ids[: self.left])
        self.left -= taken
        self.rule = self.rule and self.rule.advance(ids[:taken])
        self.past = self.past and self.past.advance(ids[:taken])
        if self.keep and taken:
            self.written.append(ids[:taken])
        return (text if self.left else text + self.pen.flush()), taken


class BlockLength:
    """The length of the next block: twice the last one's, up to `most`, but short if blocks take long."""

    def __init__(self, most: int) -> None:
        self.length, self._most = min(FIRST, most), most
        self._begun = 0.0

    def __enter__(self) -> int:
        self._begun = time.monotonic()
        return self.length

    def __exit__(self, *_: object) -> None:
        slow = time.monotonic() - self._begun > SMOOTH
        self.length = max(1, self.length // 2) if slow else min(2 * self.length, self._most)


@dataclass(eq=False)
class Memory:
    """What a text in progress remembers: the context after everything read and written."""

    context: Context


def generate(predictor: Predictor, memory: Memory, line: Generation, most: int) -> Iterator[str]:
    """Yields the pieces of a text after a memory of one row, which then covers all symbols drawn so far.

    Blocks have at most `most` symbols. Nothing is drawn after the end, so the random generator is then where it would
    be if each symbol had been drawn alone. Raises InputError once the numbers of the model are not finite.
    """
    pace = BlockLength(most)
    _check(memory.context)
    while line.left and not line.done:
        before = line.random.bit_generator.state
        place, past = [line.rule], [line.past and line.past.copy()]
        try:
            with pace as length:
                uniforms = line.random.random((min(length, line.left), 1))
                ids, after = predictor.generate(memory.context, line.settings, uniforms, rules=place, pasts=[line.past])
        except BaseException:  # after an interrupt, everything is as before the block
            line.random.bit_generator.state, line.past = before, past[0]
            raise
        _check(after)
        text, taken = line.take(ids[:, 0])
        if taken < len(ids):
            line.random.bit_generator.state = before
            uniforms = line.random.random((taken, 1))
            _, after = predictor.generate(memory.context, line.settings, uniforms, rules=place, pasts=past)
            if line.pen.obeyed:
                line.random.random()  # which drew the end
        memory.context = after
        if text:
            yield text


def _check(context: Context) -> None:
    """Raises InputError if a context's logits are not finite. A model may overflow late in a text."""
    if not np.isfinite(context.logits).all():
        raise overflow()


class Emitted(NamedTuple):
    """A piece of a text: the part that is certain now, and the ids (T,) that were taken.

    If `finite` is False, the numbers of the model overflowed, and the piece means nothing.
    """

    generation: Generation
    text: str
    ids: Ids
    finite: bool = True


class GenerationBatch:
    """Texts that are written at the same time. They may join and leave between two blocks, and leave when done."""

    def __init__(self, predictor: Predictor) -> None:
        """Starts with no texts."""
        self._predictor = predictor
        self.context: Context | None = None  # with a row for each text; None without texts
        self.generations: list[Generation] = []

    def takes(self, context: Context) -> bool:
        """Whether texts after this context may join now. While the batch is empty, they always may."""
        return self.context is None or fit([self.context, context])

    def add(self, generations: Sequence[Generation], context: Context) -> None:
        """Adds texts after a context with a row for each. The batch owns the context: nobody else may hold it.

        Raises ValueError for a context that the batch does not take.
        """
        self.context = context if self.context is None else side_by_side([self.context, context])
        self.generations += generations

    def drop(self, generations: Collection[Generation]) -> None:
        """Stops writing these texts."""
        self._keep([row for row, generation in enumerate(self.generations) if generation not in generations])

    def generate(self, length: int) -> list[Emitted]:
        """Writes `length` symbols of each text, and drops the texts that are done."""
        before = self.context
        if before is None:
            return []
        uniforms = np.empty((length, len(self.generations)))  # (T, N)
        for row, generation in enumerate(self.generations):
            uniforms[:, row] = generation.random.random(length)
        settings = [generation.settings for generation in self.generations]
        rules = [generation.rule for generation in self.generations]
        pasts = [generation.past for generation in self.generations]
        kept = {
            row: (before.rows([row]), [generation.past and generation.past.copy()])
            for row, generation in enumerate(self.generations)
            if generation.keep
        }
        ids, self.context = self._predictor.generate(before, settings, uniforms, reuse=True, rules=rules, pasts=pasts)
        finite: Bools = np.logical_and.reduce(np.isfinite(self.context.logits), axis=1)  # (N,)
        wrote = []
        for row, (generation, drawn) in enumerate(zip(self.generations, np.ascontiguousarray(ids.T), strict=True)):
            text, taken = generation.take(drawn)
            wrote.append(Emitted(generation, text, drawn[:taken], bool(finite[row])))
            if generation.keep and generation.done:
                numbers, (context, past) = uniforms[:taken, row : row + 1], kept[row]
                _, generation.end = self._predictor.generate(
                    context, generation.settings, numbers, rules=rules[row : row + 1], pasts=past
                )
        self._keep([row for row, generation in enumerate(self.generations) if not generation.done])
        return wrote

    def _keep(self, rows: list[int]) -> None:
        if self.context is None or len(rows) == len(self.generations):
            return
        self.generations = [self.generations[row] for row in rows]
        self.context = self.context.rows(rows) if rows else None


def generate_many(
    predictor: Predictor, texts: Iterable[tuple[Generation, Context]], ending: bool
) -> Iterator[tuple[Generation, str]]:
    """Writes many texts, each after its own context (of one row), and yields them whole, in order.

    When a text is done, the next one takes its row. With a window, texts that have seen different lengths of it cannot
    share a batch, so the next ones wait until all are done. `ending` says that texts may end before their lengths do.

    Raises InputError once the numbers of the model are not finite.
    """
    coming, batch, pace = _Queue(texts), GenerationBatch(predictor), BlockLength(ENDING if ending else UNSEEN)
    written: dict[Generation, str] = {}  # in the order of the texts
    while True:
        new = coming.take(batch)
        if new:
            batch.add([generation for generation, _ in new], side_by_side([context for _, context in new]))
            written.update({generation: "" for generation, _ in new})
        if not written:
            return
        with pace as length:
            pieces = batch.generate(min(length, max(generation.left for generation in batch.generations)))
        for generation, text, _, is_finite in pieces:
            if not is_finite:
                raise overflow()
            written[generation] += text
        while written and (first := next(iter(written))).done:
            yield first, written.pop(first)


class _Queue:
    """Texts that wait to join a batch, each with its context."""

    def __init__(self, texts: Iterable[tuple[Generation, Context]]) -> None:
        self._texts = iter(texts)
        self._next = next(self._texts, None)

    def take(self, batch: GenerationBatch) -> list[tuple[Generation, Context]]:
        """Takes texts from the front that may join the batch now, as many as it has room for."""
        taken: list[tuple[Generation, Context]] = []
        while self._next and len(batch.generations) + len(taken) < ROWS:
            context = self._next[1]
            if not (batch.takes(context) and (not taken or fit([taken[0][1], context]))):
                break
            _check(context)
            taken.append(self._next)
            self._next = next(self._texts, None)
        return taken


def rule_nats(predictor: Predictor, context: Context, place: RulePlace, ids: Ids) -> float:
    """Returns the nats of writing exactly ids (T,) after a context of one row, from a place in a rule on.

    The end counts if the model decides it: before the length is used up.
    """
    vocabulary, nats = predictor.vocabulary, 0.0
    if len(ids) > place.left or vocabulary.unseen(ids).any():
        return np.inf
    end = vocabulary.unknown if place.automaton.ends or vocabulary.boundary is None else vocabulary.boundary
    for symbol in [*ids.tolist(), *([end] if len(ids) < place.left else [])]:
        logits = place.constrain(predictor.next_logits(context, writing=True)[0].astype(np.float64))
        chances = np.exp(logits - logits.max())
        if not chances[symbol]:
            return np.inf
        nats -= float(np.log(chances[symbol] / chances.sum()))
        place = place.advance(np.array([symbol]))
        context = predictor.read(context, np.array([[symbol]]))
    return nats

"""Finds places of a text where another text, one edit away, is far likelier to a model than the text as it is.

An edit replaces, deletes or inserts a character, or exchanges two neighbours. Its gain is the cost of the text as it is
less the cost with the edit, over the characters up to AHEAD places after it, both read by the model from the same state
before the edit.

An edit must gain as much within NEAR characters already. Since no character costs less than nothing, an edit whose own
characters cost more than the text as it is within NEAR characters, less the wanted gain, cannot do so. It is left out
unread, and others as soon as they have cost as much.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from scriven.arrays import Bools, Float64s, Ids
from scriven.corpus.decoding import changes_text, prepare
from scriven.errors import UsageError
from scriven.inference.context import Context, fit, side_by_side
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import check_finite, read_rows
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary

SHOWN = 40  # characters before or after an edit that are shown, at most
LINE_END = re.compile(r"\r\n|\r|\n")
NEAR = 8  # characters from the edit's place on, within which it must gain
AHEAD = 32  # characters from the edit's place on that its gain is summed over
STEPS = 64  # characters between two states that are kept while a text is read
LANES = 32  # stretches of STEPS characters that are read at the same time
ROWS = 1024  # edits that are read at the same time
FIRST = 3  # characters of each edit that are read before the dear ones are left out
NONE = -1


@dataclass(frozen=True)
class Edit:
    """A change of a text: `removed` characters at a place become `inserted` ids; and the nats that it gains."""

    place: int
    removed: int
    inserted: tuple[int, ...]
    gain: float


@dataclass(frozen=True)
class Suggestion:
    """A place of a text where another spelling is likelier: what is `found` there, and what to write instead.

    Lines and columns count from 1, columns in characters, and `found` is as in the text before it was prepared. `gain`
    is in bits.
    """

    line: int
    column: int
    found: str
    suggestion: str
    gain: float


@dataclass(frozen=True)
class _Edits:
    """Edits as columns (R,): the first id of the changed text, the second or NONE, and the place where it continues."""

    places: Ids
    first: Ids
    second: Ids
    resumed: Ids

    def take(self, rows: Ids | slice | Bools) -> _Edits:
        """Returns some of them."""
        return _Edits(self.places[rows], self.first[rows], self.second[rows], self.resumed[rows])

    def read(self, ids: Ids, reach: int) -> tuple[Ids, Bools]:
        """Returns the changed text (T, R) from each edit on, and which ids are before `reach` places after it."""
        begun = 1 + (self.second != NONE)
        steps = np.arange(reach + 1)[:, None]  # (T, 1)
        place = self.resumed + steps - begun
        found = ids[np.minimum(place, len(ids) - 1)]
        found[0] = self.first
        found[1] = np.where(self.second == NONE, found[1], self.second)
        inside = (place < np.minimum(self.places + reach, len(ids))) | (steps < begun)
        return found, inside

    def edit(self, row: int, gain: float) -> Edit:
        """Returns one of them."""
        place, second, resumed = (int(each[row]) for each in (self.places, self.second, self.resumed))
        inserted: tuple[int, ...] = (int(self.first[row]),)
        if second != NONE:
            inserted = (*inserted, second)
        elif resumed == place + 2:  # a deletion, whose first id is the next one of the text
            inserted, resumed = (), place + 1
        return Edit(place, resumed - place, inserted, gain)


def check_can_proofread(predictor: Predictor) -> None:
    """Raises UsageError for a model of bytes, of tokens or of windows."""
    if (unit := predictor.vocabulary.unit) != "character":
        raise UsageError(f"a model of {unit}s cannot change single characters; train one with corpus.unit character")
    if predictor.window:
        raise UsageError(
            f"a model of windows reads the last {predictor.window:,} characters anew for each, which would take too "
            "long here; train one with reader.kind stream"
        )


def suggest_edits(predictor: Predictor, settings: CorpusSettings, text: str, least: float) -> Iterator[Suggestion]:
    """Yields suggestions that gain `least` bits or more in a text, which is read as the model's corpus was prepared."""
    check_can_proofread(predictor)
    prepared = prepare(text, settings)
    ids, offsets = _encode_documents(predictor.vocabulary, settings, prepared)
    lines, original = _line_starts(prepared), OriginalPlaces(text, settings)
    for edit in find_edits(predictor, ids, least * math.log(2)):
        place = int(offsets[edit.place])
        begin, end = _words_around(prepared, place, place + edit.removed)
        line = bisect_right(lines, begin)
        better = (
            prepared[begin:place] + predictor.vocabulary.decode(edit.inserted) + prepared[place + edit.removed : end]
        )
        first, last = (original.find(line, each - lines[line - 1]) for each in (begin, end))
        found = original.line(line)[first:last]
        yield Suggestion(line, first + 1, found, better, edit.gain / math.log(2))


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in LINE_END.finditer(text))]


class OriginalPlaces:
    """Finds places of a prepared text in the text as it was. Both have the same lines, which count from 1 here."""

    def __init__(self, text: str, settings: CorpusSettings) -> None:
        """`settings` say how the text was prepared."""
        self._text, self._settings, self._starts = text, settings, [*_line_starts(text), len(text)]
        self._line = 0  # whose words are known
        self._words: list[str] = []  # and the white space between them
        self._ends: list[int] = []  # of each, in the prepared line

    def line(self, line: int) -> str:
        """Returns a line of the text as it was."""
        return self._text[self._starts[line - 1] : self._starts[line]]

    def find(self, line: int, place: int) -> int:
        """Returns the place in a line where the character number `place` of the prepared line comes from."""
        if not changes_text(self._settings):
            return place
        if line != self._line:  # what is done to a word does not depend on others
            self._line, self._words = line, re.findall(r"\s+|\S+", self.line(line))
            self._ends = list(accumulate(len(prepare(each, self._settings)) for each in self._words))
        number = bisect_right(self._ends, place)
        before = sum(map(len, self._words[:number]))
        if number == len(self._words):
            return before
        word, inside = self._words[number], place - (self._ends[number - 1] if number else 0)
        prefixes = range(1, len(word) + 1)
        return before + bisect_right(prefixes, inside, key=lambda size: len(prepare(word[:size], self._settings)))


def _words_around(text: str, begin: int, end: int) -> tuple[int, int]:
    """Returns where the words begin and end that a part of a text belongs to or touches."""
    first, last = begin, end
    while first > max(0, begin - SHOWN) and not text[first - 1].isspace():
        first -= 1
    while last < min(len(text), end + SHOWN) and not text[last].isspace():
        last += 1
    return first, last


def _encode_documents(vocabulary: Vocabulary, settings: CorpusSettings, text: str) -> tuple[Ids, Ids]:
    """Returns the ids (T,) of a text, a boundary after each document that is not empty, and the place of each."""
    places = np.arange(len(text) + 1)
    if vocabulary.boundary is None:
        return vocabulary.encode(text), places
    between = re.compile(re.escape(prepare(settings.separator, settings)))
    separator = {"lines": LINE_END, "separator": between}.get(settings.documents)
    cuts = [match.span() for match in separator.finditer(text)] if separator else []
    parts = [(begin, end) for (_, begin), (end, _) in zip([(0, 0), *cuts], [*cuts, (len(text), 0)], strict=True)]
    parts = [(begin, end) for begin, end in parts if begin < end]
    boundary, none = np.array([vocabulary.boundary]), np.empty(0, np.int64)
    ids = [each for begin, end in parts for each in (vocabulary.encode(text[begin:end]), boundary)]
    return np.concatenate([none, *ids]), np.concatenate([none, *(places[begin : end + 1] for begin, end in parts)])


def find_edits(predictor: Predictor, ids: Ids, least: float) -> Iterator[Edit]:
    """Yields the best edits of a text (T,) in order, of those that gain `least` nats or more.

    Of edits within NEAR places of one another, only the best is given. Ids may have boundaries, which no edit changes.
    Raises UsageError as `check_can_proofread` does.
    """
    check_can_proofread(predictor)
    predictor = predictor.with_counts(predictor.counts)
    held: list[Edit] = []
    for stop, found in _edits_by_group(predictor, ids, least):
        held += found
        ready = _settled(held, stop)
        yield from _choose_best(held[:ready])
        held = held[ready:]
    yield from _choose_best(held)


def _settled(edits: Sequence[Edit], stop: int) -> int:
    """Returns how many edits have no others near them that are still to come, from place `stop` on."""
    count = len(edits)
    after = stop
    while count and after - edits[count - 1].place <= NEAR:
        after = edits[count - 1].place
        count -= 1
    return count


def _choose_best(edits: Sequence[Edit]) -> list[Edit]:
    """Returns the edits, in order of place, that have no better one near them."""
    kept: list[Edit] = []
    for edit in sorted(edits, key=lambda each: -each.gain):
        if all(abs(edit.place - other.place) > NEAR for other in kept):
            kept.append(edit)
    return sorted(kept, key=lambda each: each.place)


def _edits_by_group(predictor: Predictor, ids: Ids, least: float) -> Iterator[tuple[int, list[Edit]]]:
    """Yields the place after each group of characters, and the edits in it, in order."""
    context, begin = predictor.start(), 0
    while begin < len(ids):
        full = context.recent is None or len(context.recent) == predictor.remembered
        lanes = LANES if full and context.state is not None else 1  # contexts share a batch once they remember as much
        stop = min(len(ids), begin + lanes * STEPS)
        costs, starts, context = _read_group(predictor, ids[begin:stop], context)
        ahead, _, _ = read_rows(predictor, ids[stop : stop + AHEAD, None], context)
        costs = np.concatenate((costs, ahead[:, 0]))
        check_finite(costs)
        found = _Group(predictor, ids, begin, stop, costs, least).find(starts)
        yield stop, sorted(found, key=lambda edit: edit.place)
        begin = stop


def _read_group(predictor: Predictor, ids: Ids, context: Context) -> tuple[Float64s, list[Context], Context]:
    """Returns the costs (T,) of ids, the contexts before every STEPS of them, and the one after all."""
    costs, starts = [], []
    for begin in range(0, len(ids), STEPS):
        starts.append(context)
        nats, _, context = read_rows(predictor, ids[begin : begin + STEPS, None], context)
        costs.append(nats[:, 0])
    return np.concatenate(costs), starts, context


class _Group:
    """The characters from `begin` to `stop` of a text, and the costs of them and of some that follow."""

    def __init__(self, predictor: Predictor, ids: Ids, begin: int, stop: int, costs: Float64s, least: float) -> None:
        self.predictor, self.ids, self.least = predictor, ids, least
        self.begin, self.stop = begin, stop
        self.sums = np.concatenate(([0.0], np.cumsum(costs)))
        fixed = _fixed_ids(predictor.vocabulary)
        self.changeable = ~np.isin(ids, fixed)
        self.usable = ~np.isin(np.arange(predictor.vocabulary.size), [*fixed, predictor.vocabulary.unknown])

    def costs_within(self, places: Ids, reach: int) -> Float64s:
        """Returns what the text as it is costs from each place on (M,), up to `reach` characters."""
        first = places - self.begin
        found: Float64s = self.sums[np.minimum(first + reach, len(self.sums) - 1)] - self.sums[first]
        return found

    def find(self, starts: list[Context]) -> list[Edit]:
        """Returns the edits at all places, given the contexts before every STEPS characters."""
        found: list[Edit] = []
        for places, context in self._contexts(starts):
            budget = self.costs_within(places, NEAR) - self.least  # (M,) that an edit may cost
            rows = np.flatnonzero(budget > 0)
            if rows.size:
                found += self._find_at(places[rows], context.rows(rows.tolist()), budget[rows])
        return found

    def _contexts(self, starts: list[Context]) -> Iterator[tuple[Ids, Context]]:
        """Yields places (M,) and the context of a row for each, before it; all places once."""
        lanes = side_by_side(starts)
        firsts = self.begin + STEPS * np.arange(len(starts))
        held: list[tuple[Ids, Context]] = []
        for step in range(min(STEPS, self.stop - self.begin)):
            places = firsts + step
            inside = places < self.stop
            held.append((places[inside], lanes.rows(np.flatnonzero(inside).tolist())))
            lanes = self.predictor.carry(lanes, self.ids[np.minimum(places, len(self.ids) - 1)][None])
        if fit([context for _, context in held]):
            held = [(np.concatenate([places for places, _ in held]), side_by_side([each for _, each in held]))]
        yield from held

    def _find_at(self, places: Ids, context: Context, budget: Float64s) -> list[Edit]:
        """Returns the edits at places (M,) with a context of a row for each, before it."""
        found: list[Edit] = []
        for begin in range(0, len(places), ROWS):
            some = slice(begin, begin + ROWS)
            rows, edits = self._propose(places[some], context, budget[some], begin)
            for first in range(0, len(rows), ROWS):
                part = slice(first, first + ROWS)
                found += self._judge(edits.take(part), context, rows[part], budget[rows[part]])
        return found

    def _propose(self, places: Ids, context: Context, budget: Float64s, begin: int) -> tuple[Ids, _Edits]:
        """Returns edits whose first character does not cost too much, and the numbers of their contexts' rows."""
        logits = self.predictor.next_logits(context.rows(range(begin, begin + len(places)))).astype(np.float64)
        top = logits.max(1, keepdims=True)
        costs = top + np.log(np.exp(logits - top).sum(1, keepdims=True)) - logits  # (M, V)
        cheap = costs <= budget[:, None]
        ids, size = self.ids, self.predictor.vocabulary.size
        here = ids[places]
        before = np.where(places > 0, ids[places - 1], NONE)
        after = np.where(places + 1 < len(ids), ids[np.minimum(places + 1, len(ids) - 1)], NONE)
        free = self.changeable[places]
        next_free = (after != NONE) & self.changeable[np.minimum(places + 1, len(ids) - 1)]
        cheap_next = (after >= 0) & (after < size) & cheap[np.arange(len(places)), np.clip(after, 0, size - 1)]
        row, new = np.nonzero(cheap & self.usable)
        replaced = free[row] & (new != here[row])
        inserted = new != before[row]  # or it is inserted one place before
        deleted = np.flatnonzero(free & cheap_next & (here != before))
        exchanged = np.flatnonzero(free & next_free & cheap_next & (here != after))
        parts = [
            (row[replaced], new[replaced], None, 1),
            (row[inserted], new[inserted], None, 0),
            (deleted, after[deleted], None, 2),
            (exchanged, after[exchanged], here[exchanged], 2),
        ]
        rows = np.concatenate([rows for rows, *_ in parts])
        second = [np.full(len(rows), NONE) if two is None else two for rows, _, two, _ in parts]
        resumed = np.concatenate([places[rows] + skipped for rows, *_, skipped in parts])
        first = np.concatenate([one for _, one, *_ in parts])
        return rows + begin, _Edits(places[rows], first, np.concatenate(second), resumed)

    def _judge(self, edits: _Edits, context: Context, rows: Ids, budget: Float64s) -> list[Edit]:
        """Returns the edits that gain enough, in both reaches; they begin in these rows of a context."""
        after, spent = context.rows(rows.tolist()), np.zeros(len(rows))
        for begin, end in ((0, FIRST), (FIRST, NEAR + 1)):
            read, inside = edits.read(self.ids, NEAR)
            nats, _, after = read_rows(self.predictor, read[begin:end], after)
            spent += (nats * inside[begin:end]).sum(0)
            kept = np.flatnonzero(spent <= budget)
            edits, spent, budget, rows = edits.take(kept), spent[kept], budget[kept], rows[kept]
            after = after.rows(kept.tolist())
            if not kept.size:
                return []
        read, inside = edits.read(self.ids, AHEAD)
        nats, _, _ = read_rows(self.predictor, read, context.rows(rows.tolist()))
        gains = self.costs_within(edits.places, AHEAD) - (nats * inside).sum(0)
        return [edits.edit(row, float(gains[row])) for row in np.flatnonzero(gains >= self.least).tolist()]


def _fixed_ids(vocabulary: Vocabulary) -> list[int]:
    """Returns the ids that no edit removes or inserts: line ends and the boundary."""
    return [*vocabulary.encode("\n\r").tolist(), *([] if vocabulary.boundary is None else [vocabulary.boundary])]

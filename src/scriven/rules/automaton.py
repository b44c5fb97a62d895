"""Makes an automaton over the symbols of a model from the trees of one or several rules.

Each tree becomes the automaton of its positions (Glushkov): a position is a set of characters in the tree, and a state
is the set of positions that may come next. Sets of positions are ints, whose bits are the positions. A state of the
result has one such set for each rule, so that all rules hold together. Characters that are alike to all rules share a
column of the table; for a model of bytes, the table is then made over bytes. Only states that are reached are made, and
their number is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from scriven.arrays import Bools, Float64s, Ids
from scriven.errors import UsageError
from scriven.rules.alphabet import REFUSED, SURROGATES, ByteRows, Classes, Int32s, classify
from scriven.rules.patterns import (
    Alternatives,
    CharacterSet,
    Node,
    Repeat,
    Selection,
    character_sets,
    count_parts,
)
from scriven.vocabulary import Vocabulary

TRANSITIONS_PER_STATE = 100  # on average, at most
STEPS_PER_STATE = 400  # positions looked at while the states are made, on average
BYTE_STATES = 5  # for each state of a rule, on average, at most, with those inside of characters
PARTS = 5_000  # of a tree, once its repetitions are written out
NEVER = np.iinfo(np.int32).max  # the distance of a state that accepts no text
TOO_LARGE = "write it with fewer repetitions and alternatives, or give fewer rules at once"


class LargeRuleError(UsageError):
    """A rule takes more states, parts or work than it may."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """What may follow in each of S states: `next` (S, C) has the state after a symbol of each column, or REFUSED.

    `columns` (V,) has the column of each symbol. `distance` (S,) is the fewest symbols to a state that accepts, 0 in
    such a state; the first state is 0. With `ends`, a text ends in an accepting state as often as the model would write
    what is refused there; without, texts end by the boundary. `left` is how many more symbols a text may have: after
    every symbol that is allowed, it can still end in an accepting state.
    """

    next: Int32s
    columns: Int32s
    distance: Int32s
    ends: bool

    @property
    def least(self) -> int:
        """The fewest symbols of a text that is accepted."""
        return int(self.distance[0])

    @property
    def missing(self) -> bool:
        """Whether no text at all is accepted."""
        return self.least == NEVER

    def allowed(self, state: int, left: int) -> Bools:
        """Returns which symbols (V,) may follow in a state, if at most `left` more may."""
        after = self.next[state][self.columns]
        found: Bools = (after >= 0) & (self.distance[after] < left)
        return found

    def advance(self, state: int, ids: Ids) -> int:
        """Returns the state after ids (T,). REFUSED stays."""
        for column in self.columns[ids].tolist():
            if state < 0:
                break
            state = self.next.item(state, column)
        return state

    def resume(self, ids: Ids) -> int:
        """Returns the state after ids (T,), or the first one if they are refused, or nothing may follow them."""
        state = self.advance(0, ids)
        return state if state >= 0 and (self.next[state] >= 0).any() else 0

    def constrain(self, logits: Float64s, state: int, left: int) -> Float64s:
        """Returns logits (V,) of the symbols that are allowed; the others are -inf.

        The last one is the end's, in place of `<unk>`: in an accepting state as much as all that is refused, else
        -inf. If nothing is allowed and the text cannot end, it has ended already, and the end is all that is left.
        """
        last, end = len(logits) - 1, -np.inf
        if state < 0 or left <= 0:
            allowed = np.zeros(len(logits), np.bool_)
        else:
            allowed = self.allowed(state, left)
            if self.ends and self.distance[state] == 0:
                end = _log_sum(logits[:last][~allowed[:last]])
        constrained = np.where(allowed, logits, -np.inf)
        constrained[last] = end if allowed.any() else 0.0
        return constrained


class RulePlace(NamedTuple):
    """How far a text has come in its rule: the state, and how many more symbols may follow at most."""

    automaton: Automaton
    state: int
    left: int

    def constrain(self, logits: Float64s) -> Float64s:
        """Returns logits (V,) of the symbols that are allowed, as `Automaton.constrain` does."""
        return self.automaton.constrain(logits, self.state, self.left)

    def advance(self, ids: Ids) -> RulePlace:
        """Returns the place after ids (T,)."""
        return RulePlace(self.automaton, self.automaton.advance(self.state, ids), self.left - len(ids))


def _log_sum(logits: Float64s) -> float:
    """Returns the logarithm of the sum of the exponentials, -inf for none."""
    if not len(logits):
        return -np.inf
    largest = logits.max()
    return float(largest + np.log(np.exp(logits - largest).sum()))


def compile_automaton(nodes: Sequence[Node], vocabulary: Vocabulary, *, until_end: bool, states: int) -> Automaton:
    """Returns the automaton of the texts that match all trees, over the symbols of a vocabulary.

    With `until_end` the boundary ends a text; without, it is the characters of the separator. Raises UsageError for
    rules that need more `states`, and for a model of tokens.
    """
    if vocabulary.unit == "token":
        raise UsageError(
            "rules are about characters, and this model writes tokens; leave the rule out, or train on the text "
            "without --corpus.unit token"
        )
    if any(count_parts(node) > PARTS for node in nodes):
        raise LargeRuleError(f"the rule has more than {PARTS:,} parts with all repetitions written out; {TOO_LARGE}")
    separator = "" if until_end else vocabulary.separator or ""
    classes = classify(character_sets(nodes), vocabulary, separator)
    parts = [_Positions(node, classes.sets, classes.count, states) for node in nodes]
    rows, accepts = _explore(parts, classes.of_text(separator), states)
    after, columns = _table_of_symbols(rows, classes, vocabulary, states)
    after_end, width = after.shape
    table = np.full((after_end + 1, width + 2), REFUSED, np.int32)  # (S, C); the last state is that after an end
    table[:after_end, :width] = after
    accepts += [False] * (after_end - len(rows))  # inside of a character
    if vocabulary.boundary is not None:
        columns[vocabulary.boundary] = width
    if separator:
        table[: len(rows), width] = [row[classes.count] for row in rows]
    ending = until_end and vocabulary.boundary is not None
    if ending:
        table[:after_end, width] = np.where(accepts, after_end, REFUSED)
    distance = _distances([set(row) for row in table.tolist()], [*accepts, True])
    table[np.append(distance, NEVER)[table] == NEVER] = REFUSED  # index -1 is REFUSED
    return Automaton(table, columns, distance, not ending)


def _table_of_symbols(
    rows: list[list[int]], classes: Classes, vocabulary: Vocabulary, states: int
) -> tuple[Int32s, Int32s]:
    """Returns the next states (S, C) after a symbol of each column, and the column (V,) of each symbol.

    Symbols that are never allowed have a column that the table lacks, the next but one after its last.
    """
    if vocabulary.unit == "byte":
        bytewise = ByteRows(classes, partial(check_size, BYTE_STATES * states)).convert(rows)
        table, known = np.unique(bytewise, axis=1, return_inverse=True)
        numbers = known.reshape(-1)
    else:
        table = np.array([row[: classes.count] for row in rows], np.int32).reshape(len(rows), classes.count)
        numbers = np.array(classes.of_text("".join(map(chr, vocabulary.symbols))), np.int32)
        table[:, np.setdiff1d(np.arange(classes.count), numbers)] = REFUSED  # of the separator alone
    columns = np.full(vocabulary.size, table.shape[1] + 1, np.int32)
    columns[: len(vocabulary.symbols)] = numbers
    return table, columns


def unknown_literals(nodes: Sequence[Node], vocabulary: Vocabulary) -> list[str]:
    """Returns the characters that the trees name by themselves and that a model cannot write, each once."""
    literals = {each.literal for each in character_sets(nodes)} - {None}
    if vocabulary.unit == "byte":
        return sorted(each for each in literals if each is not None and ord(each) in SURROGATES)
    return sorted(each for each in literals.difference(map(chr, vocabulary.symbols)) if each is not None)


@dataclass(frozen=True)
class _Fragment:
    """A part of a tree: whether it matches the empty text, and where it begins and ends."""

    empty: bool
    first: int
    last: int


class _Positions:
    """The automaton of a tree's positions. Its states are numbered as they are found; state 0 is the first."""

    def __init__(self, node: Node, sets: dict[CharacterSet, list[int]], classes: int, most: int) -> None:
        self._most = most
        self._follow: list[int] = []
        self._places = dict[CharacterSet, int]()
        whole = self._build(node)
        self._last = whole.last
        self._of_class = [0] * classes  # the positions that a character of each class can have
        for each, places in self._places.items():
            for number in sets[each]:
                self._of_class[number] |= places
        self.looked_at = 0
        self._states = [(whole.first, whole.empty)]
        self._numbers = {self._states[0]: 0}
        self._after: dict[int, int] = {0: REFUSED}  # the state after the positions that matched
        self._rows: dict[int, list[int]] = {}

    def accepts(self, state: int) -> bool:
        """Whether a text may end in a state."""
        return self._states[state][1]

    def row(self, state: int) -> list[int]:
        """Returns the state after a character of each class."""
        if state not in self._rows:
            coming = self._states[state][0]
            self._rows[state] = [self._step(coming & of_class) for of_class in self._of_class]
        return self._rows[state]

    def _step(self, matched: int) -> int:
        found = self._after.get(matched)
        if found is None:
            coming = 0
            for place in _bits(matched):
                coming |= self._follow[place]
                self.looked_at += 1
            state = coming, bool(matched & self._last)
            found = self._after[matched] = self._numbers.setdefault(state, len(self._states))
            if found == len(self._states):
                self._states.append(state)
                check_size(self._most, len(self._states), looked_at=self.looked_at)
        return found

    def _build(self, node: Node) -> _Fragment:
        if isinstance(node, CharacterSet):
            place = 1 << len(self._follow)
            self._follow.append(0)
            self._places[node] = self._places.get(node, 0) | place
            return _Fragment(False, place, place)
        if isinstance(node, Repeat):
            return self._repeat(node)
        if isinstance(node, Selection):
            return self._select(node)
        parts = [self._build(each) for each in node.parts]
        if isinstance(node, Alternatives):
            first, last = 0, 0
            for part in parts:
                first, last = first | part.first, last | part.last
            return _Fragment(any(part.empty for part in parts), first, last)
        whole = _Fragment(True, 0, 0)
        for part in parts:
            whole = self._join(whole, part)
        return whole

    def _join(self, one: _Fragment, other: _Fragment) -> _Fragment:
        for place in _bits(one.last):
            self._follow[place] |= other.first
        return _Fragment(
            one.empty and other.empty,
            one.first | (other.first if one.empty else 0),
            other.last | (one.last if other.empty else 0),
        )

    def _repeat(self, node: Repeat) -> _Fragment:
        least, whole = node.least, _Fragment(True, 0, 0)
        if node.most is None:  # the last copy comes again and again
            part = self._build(node.part)
            if node.separator is None:
                self._join(part, part)
            else:
                self._join(self._join(part, self._build(node.separator)), part)
            whole = _Fragment(part.empty or not least, part.first, part.last)
            least = max(0, least - 1)
        else:  # x{0,3} is (x(x(x)?)?)?, where few positions follow each
            for _ in range(node.most - least):
                joined = self._put_before(node, whole)
                whole = _Fragment(True, joined.first, joined.last)
        for _ in range(least):
            whole = self._put_before(node, whole)
        return whole

    def _put_before(self, node: Repeat, rest: _Fragment) -> _Fragment:
        """Returns one more copy of what is repeated, and the rest after it."""
        part = self._build(node.part)
        if node.separator is None or not rest.first:
            return self._join(part, rest)
        joined = self._join(self._build(node.separator), replace(rest, empty=False))
        return self._join(part, replace(joined, empty=rest.empty))

    def _select(self, node: Selection) -> _Fragment:
        """Builds from the end: `rest` is what may come at a place, without a separator before it."""
        rest = _Fragment(True, 0, 0)
        for part, required in zip(reversed(node.parts), reversed(node.required), strict=True):
            own = self._build(part)
            after = rest
            if rest.first:
                joined = self._join(self._build(node.separator), replace(rest, empty=False))
                after = replace(joined, empty=rest.empty)
            with_it = self._join(own, after)
            without = _Fragment(rest.empty, with_it.first | rest.first, with_it.last | rest.last)
            rest = with_it if required else without
        return rest


def _bits(mask: int) -> list[int]:
    """Returns the numbers of the bits that are set."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found


def check_size(most: int, states: int, transitions: int = 0, looked_at: int = 0) -> None:
    """Raises LargeRuleError for an automaton of more than `most` states, or one that takes as much work."""
    if states > most or transitions > TRANSITIONS_PER_STATE * most or looked_at > STEPS_PER_STATE * most:
        raise LargeRuleError(f"the rule needs more than {most:,} states, or as much work; {TOO_LARGE}")


def _explore(parts: Sequence[_Positions], separator: Sequence[int], most: int) -> tuple[list[list[int]], list[bool]]:
    """Returns the states that are reached, and whether each accepts: the next ones after each class.

    After those come the next ones after all classes of the separator, if there is one.
    """
    start = (0,) * len(parts)
    numbers, found = {start: 0}, [start]
    rows = list[list[int]]()
    while len(rows) < len(found):
        state = found[len(rows)]
        after = list(zip(*(part.row(own) for part, own in zip(parts, state, strict=True)), strict=True))
        after += [_read(parts, state, separator)] if separator else []
        row = []
        for each in after:
            number = REFUSED if min(each) < 0 else numbers.setdefault(each, len(found))
            if number == len(found):
                found.append(each)
            row.append(number)
        rows.append(row)
        check_size(most, len(found), len(rows) * len(row))
    accepts = [all(part.accepts(own) for part, own in zip(parts, state, strict=True)) for state in found]
    return rows, accepts


def _read(parts: Sequence[_Positions], state: tuple[int, ...], classes: Sequence[int]) -> tuple[int, ...]:
    """Returns the state after several characters; any part may have refused one."""
    for each in classes:
        state = tuple(
            part.row(own)[each] if own >= 0 and each >= 0 else REFUSED for part, own in zip(parts, state, strict=True)
        )
    return state


def _distances(after: Sequence[set[int]], accepts: Sequence[bool]) -> Int32s:
    """Returns how many symbols each state (S,) is from one that accepts, NEVER if it reaches none."""
    before: list[list[int]] = [[] for _ in after]
    for state, following in enumerate(after):
        for each in following:
            if each >= 0:
                before[each].append(state)
    distance = np.full(len(after), NEVER, np.int32)
    waiting = deque(state for state, accepted in enumerate(accepts) if accepted)
    distance[list(waiting)] = 0
    while waiting:
        state = waiting.popleft()
        for each in before[state]:
            if distance[each] == NEVER:
                distance[each] = distance[state] + 1
                waiting.append(each)
    return distance

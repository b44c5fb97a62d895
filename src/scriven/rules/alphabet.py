"""The symbols of a model as rules see them: characters in classes, and bytes that spell characters in UTF-8.

Characters that no set in a rule tells apart are in one class. A model of bytes can write every character: its table is
made from one over classes, by the tree of the bytes of all characters. Parts of that tree that lead to the same states
become one state.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scriven.arrays import Bools, Ids
from scriven.rules.patterns import KINDS, CharacterSet
from scriven.vocabulary import UNICODE_SIZE, Vocabulary

REFUSED = -1  # in place of a next state, or of a class
SURROGATES = range(0xD800, 0xE000)  # which have no UTF-8
SPREAD = 64  # values of a byte that continues a character
CONTINUES = slice(0x80, 0xC0)  # these bytes
FIRST_LONG = 0x800 // SPREAD  # 64 characters each: those before are spelled in one or two bytes

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Classes:
    """The classes of all characters that a model can write: of `firsts` (M,), and those up to the next one.

    `numbers` (M,) are their classes, REFUSED for characters that have no UTF-8. `sets` are the classes of each set.
    """

    firsts: list[int]
    numbers: list[int]
    count: int
    sets: dict[CharacterSet, list[int]]

    def of_text(self, text: str) -> list[int]:
        """Returns the class of each character of a text; all of them are among those that the model can write."""
        return [self.numbers[bisect.bisect_right(self.firsts, ord(each)) - 1] for each in text]


def classify(sets: Sequence[CharacterSet], vocabulary: Vocabulary, separator: str) -> Classes:
    """Returns the classes of the characters of a vocabulary and of its separator; of all characters for bytes."""
    known = {*vocabulary.symbols, *map(ord, separator)}
    firsts = _edges_of(sets) if vocabulary.unit == "byte" else sorted(known)
    points = np.array(firsts, np.int64)
    kinds = {name: np.array([bool(test(chr(each))) for each in firsts], np.bool_) for name, test in KINDS.items()}
    members = np.array([_members(each, points, kinds) for each in sets], np.bool_).reshape(len(sets), len(points))
    written = np.full(len(points), True)
    if vocabulary.unit == "byte":
        written = (points < SURROGATES.start) | (points >= SURROGATES.stop)
    alike = dict[bytes, int]()
    packed = np.packbits(members, axis=0).T  # (M, sets / 8)
    numbers = [
        alike.setdefault(row.tobytes(), len(alike)) if possible else REFUSED
        for row, possible in zip(packed, written.tolist(), strict=True)
    ]
    places = [numbers.index(each) for each in range(len(alike))]
    held = {each: np.flatnonzero(members[row, places]).tolist() for row, each in enumerate(sets)}
    return Classes(firsts, numbers, len(alike), held)


def _members(of: CharacterSet, points: Ids, kinds: dict[str, Bools]) -> Bools:
    """Returns which code points (M,) are in a set."""
    found = np.zeros(len(points), np.bool_)
    for first, last in of.ranges:
        found |= (points >= first) & (points <= last)
    for kind in of.kinds:
        found |= kinds[kind] if kind in kinds else ~kinds[kind.lower()]
    found = ~found if of.negated else found
    for first, last in of.without:
        found &= (points < first) | (points > last)
    return found


def _edges_of(sets: Sequence[CharacterSet]) -> list[int]:
    """Returns where, among all code points, one of the sets begins or ends, and where surrogates do."""
    edges = {0, SURROGATES.start, SURROGATES.stop}
    for each in sets:
        for first, last in (*each.ranges, *each.without):
            edges |= {first, last + 1}
        for kind in each.kinds:
            edges.update(_edges_of_kind(kind.lower()))
    return sorted(edges - {UNICODE_SIZE})


@lru_cache(len(KINDS))
def _edges_of_kind(kind: str) -> list[int]:
    """Returns where, among all code points, characters of a kind begin and end."""
    test = KINDS[kind]
    has = np.fromiter((test(chr(point)) for point in range(UNICODE_SIZE)), np.bool_, UNICODE_SIZE)
    return (np.flatnonzero(np.diff(has)) + 1).tolist()


@dataclass
class ByteRows:
    """Turns rows of next states after each class into rows after each byte, with states inside of characters.

    `check` is called with the number of states so far, and raises an error for too many.
    """

    classes: Classes
    check: Callable[[int], None]
    inside: list[Int32s] = field(default_factory=list)  # (64,) next states after each byte that continues

    def __post_init__(self) -> None:
        lengths = np.diff(np.array([*self.classes.firsts, UNICODE_SIZE]))
        points = np.repeat(np.array(self.classes.numbers, np.int32), lengths)  # (UNICODE_SIZE,)
        self._ascii = points[:0x80].copy()
        points[:0x80] = REFUSED  # these have one byte
        self._last, one = _distinct(points.reshape(-1, SPREAD))
        self._two = one[2:FIRST_LONG].copy()
        one[:FIRST_LONG] = len(self._last)  # the index of REFUSED: these have two bytes at most
        self._middle, two = _distinct(one.reshape(-1, SPREAD))
        self._three, four = (
            two[:16],
            np.full((5, SPREAD), len(self._middle)),
        )  # from 0xF0 on, 64 times 64 characters each
        four.flat[16 : len(two)] = two[16:]
        self._four = four
        self._numbers, self._rows = dict[bytes, int](), dict[tuple[int, ...], Int32s]()

    def convert(self, rows: Sequence[Sequence[int]]) -> Int32s:
        """Returns the next states (S, 256) after each byte, of all states: those of the rows first."""
        self._begun = len(rows)
        table = [self._convert_row(tuple(row[: self.classes.count])) for row in rows]
        within = np.full((len(self.inside), 256), REFUSED, np.int32)
        within[:, CONTINUES] = np.reshape(self.inside, (-1, SPREAD))
        return np.concatenate((np.reshape(table, (-1, 256)), within))

    def _convert_row(self, row: tuple[int, ...]) -> Int32s:
        """Returns the next states (256,) after each byte, for one state between characters."""
        if row not in self._rows:
            after = np.array([*row, REFUSED], np.int32)  # index -1 is REFUSED
            last = self._add(after[self._last])
            middle = self._add(last[self._middle])
            found = np.full(256, REFUSED, np.int32)
            found[:0x80] = after[self._ascii]
            found[0xC2:0xE0] = last[self._two]
            found[0xE0:0xF0] = middle[self._three]
            found[0xF0:0xF5] = self._add(middle[self._four])[:-1]
            self._rows[row] = found
        return self._rows[row]

    def _add(self, after: Int32s) -> Int32s:
        """Returns the states (M + 1,) whose next ones (M, 64) are given, new ones if need be; the last is REFUSED."""
        found = np.full(len(after) + 1, REFUSED, np.int32)
        for place in np.flatnonzero((after != REFUSED).any(1)).tolist():
            number = self._numbers.setdefault(after[place].tobytes(), self._begun + len(self.inside))
            if number == self._begun + len(self.inside):
                self.inside.append(after[place])
                self.check(number + 1)
            found[place] = number
        return found


def _distinct(rows: Int32s) -> tuple[Int32s, Int32s]:
    """Returns the distinct rows (K, 64) of some (M, 64), and which one each is (M,)."""
    numbers = dict[bytes, int]()
    packed = np.ascontiguousarray(rows).view(f"V{rows.itemsize * SPREAD}").ravel().tolist()
    places = [numbers.setdefault(row, len(numbers)) for row in packed]
    return np.frombuffer(b"".join(numbers), rows.dtype).reshape(-1, SPREAD), np.array(places, np.int32)

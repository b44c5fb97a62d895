"""Parses regular expressions of a small syntax, which are regular in the strict sense, into trees.

A pattern has literal characters, `.` (any character but a line feed), classes such as `[a-z]` and `[^,;]`, `\\d`,
`\\w`, `\\s` and their opposites, groups, `|`, and the quantifiers `*`, `+`, `?` and `{m,n}`. They mean what they mean
in Python's `re`. All that this module has beyond them is refused, with its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from scriven.errors import UsageError

LONGEST = 10_000  # characters of a pattern
DEEPEST = 50  # groups within one another
MOST_REPEATS = 1000  # of a quantifier
KINDS = {"d": str.isdecimal, "w": lambda each: each.isalnum() or each == "_", "s": str.isspace}  # of characters
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
QUANTIFIERS = "*+?{"
HAVE_NO_PLACE = {
    "^": "the whole text must match, so there are no anchors; leave it out, or write \\^ for the character",
    "$": "the whole text must match, so there are no anchors; leave it out, or write \\$ for the character",
}
OPENINGS = {
    "?=": "looking ahead",
    "?!": "looking ahead",
    "?<=": "looking behind",
    "?<!": "looking behind",
    "?P=": "a reference back to a group",
    "?P<": "a named group",
    "?(": "a condition",
    "?>": "an atomic group",
    "?#": "a comment",
}


@dataclass(frozen=True)
class CharacterSet:
    """A set of characters: ranges of code points, and kinds such as `d`, or `D` for all others; or all but these.

    Those `without` it are never in the set.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    kinds: tuple[str, ...] = ()
    negated: bool = False
    without: tuple[tuple[int, int], ...] = ()

    @property
    def literal(self) -> str | None:
        """The only character of the set, if it was written as one."""
        alone = len(self.ranges) == 1 and not (self.kinds or self.negated or self.without)
        return chr(self.ranges[0][0]) if alone and self.ranges[0][0] == self.ranges[0][1] else None

    def has(self, character: str) -> bool:
        """Whether a character is in the set."""
        point = ord(character)
        found = any(first <= point <= last for first, last in self.ranges)
        found |= any(KINDS[kind.lower()](character) is kind.islower() for kind in self.kinds)
        return found is not self.negated and not any(first <= point <= last for first, last in self.without)


@dataclass(frozen=True)
class Sequence:
    """Parts that follow each other; without parts it is the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    """Parts, one of them alone."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A part that comes `least` to `most` times; None means without an end.

    With a `separator`, that comes between two of them. The part is then never empty.
    """

    part: Node
    least: int
    most: int | None
    separator: Node | None = None

    @property
    def copies(self) -> int:
        """How many copies of the part say the same without counting."""
        return max(1, self.least) if self.most is None else self.most


@dataclass(frozen=True)
class Selection:
    """Parts in their order, with a separator between two. Those that are not required may be left out.

    No part is empty.
    """

    parts: tuple[Node, ...]
    required: tuple[bool, ...]
    separator: Node


Node = CharacterSet | Sequence | Alternatives | Repeat | Selection

ANY = CharacterSet(negated=True)
IN_LINE = CharacterSet(((10, 10),), negated=True)  # any character but a line feed
LINE_END = CharacterSet(((10, 10),))


def literal(text: str) -> Sequence:
    """Returns the tree of exactly this text."""
    return Sequence(tuple(CharacterSet(((ord(each), ord(each)),)) for each in text))


def any_of(characters: str, *, negated: bool = False) -> CharacterSet:
    """Returns the set of the characters of a text, or of all others."""
    points = sorted(set(map(ord, characters)))
    return CharacterSet(tuple((point, point) for point in points), negated=negated)


def repeated(part: Node) -> Repeat:
    """Returns the tree of a part that comes any number of times."""
    return Repeat(part, 0, None)


def character_sets(nodes: Iterable[Node]) -> list[CharacterSet]:
    """Returns the sets of characters in some trees, each once."""
    found, waiting = dict[CharacterSet, None](), deque(nodes)
    while waiting:
        node = waiting.popleft()
        if isinstance(node, CharacterSet):
            found[node] = None
        else:
            waiting.extend(_children(node))
    return list(found)


def _children(node: Sequence | Alternatives | Repeat | Selection) -> tuple[Node, ...]:
    """Returns the parts of a node, and its separator."""
    parts = (node.part,) if isinstance(node, Repeat) else node.parts
    separator = node.separator if isinstance(node, Repeat | Selection) else None
    return parts if separator is None else (*parts, separator)


def count_parts(node: Node) -> int:
    """Returns how many parts a tree has, once its repetitions are written out."""
    known = dict[int, int]()  # by the identity of a part, which may be at many places

    def _count(node: Node) -> int:
        if id(node) not in known:
            known[id(node)] = 1 if isinstance(node, CharacterSet) else _count_inside(node)
        return known[id(node)]

    def _count_inside(node: Sequence | Alternatives | Repeat | Selection) -> int:
        parts = sum(map(_count, _children(node)))
        if isinstance(node, Repeat):
            return 1 + node.copies * parts
        if isinstance(node, Selection):
            parts += (len(node.parts) - 1) * _count(node.separator)
        return 1 + parts

    return _count(node)


def parse(pattern: str) -> Node:
    """Returns the tree of a pattern. Raises UsageError, with the place, for what is not part of the syntax."""
    if len(pattern) > LONGEST:
        raise UsageError(f"the pattern has {len(pattern):,} characters; give at most {LONGEST:,}")
    return _Parser(pattern).whole()


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._place, self._depth = pattern, 0, 0

    def whole(self) -> Node:
        node = self._alternatives()
        if self._place < len(self._pattern):
            self._refuse(") closes no group; write \\) for the character")
        return node

    def _refuse(self, problem: str, place: int | None = None) -> NoReturn:
        place = self._place if place is None else place
        shown = self._pattern if len(self._pattern) <= 60 else self._pattern[:57] + "..."
        raise UsageError(f"pattern {shown!r}, character {place + 1}: {problem}")

    def _next(self) -> str:
        """The next character, "" at the end."""
        return self._pattern[self._place : self._place + 1]

    def _take(self) -> str:
        character = self._next()
        self._place += 1
        return character

    def _alternatives(self) -> Node:
        parts = [self._sequence()]
        while self._next() == "|":
            self._place += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Alternatives(tuple(parts))

    def _sequence(self) -> Node:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._quantified())
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _quantified(self) -> Node:
        if self._next() in QUANTIFIERS:
            self._refuse(f"{self._next()} has nothing before it to repeat; write \\{self._next()} for the character")
        part, begin = self._atom(), self._place
        if self._next() not in (*QUANTIFIERS,):
            return part
        least, most = self._bounds()
        if self._next() in (*QUANTIFIERS,):
            self._refuse("one quantifier follows another; put a group around the first: lazy ones make no difference")
        if most is not None and least > most:
            self._refuse(f"at least {least} and at most {most} contradict each other", begin)
        if max(least, most or 0) > MOST_REPEATS:
            self._refuse(f"a part may be repeated {MOST_REPEATS:,} times at most", begin)
        return Repeat(part, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        """Reads a quantifier."""
        sign, begin = self._take(), self._place - 1
        if sign != "{":
            return (1 if sign == "+" else 0), (1 if sign == "?" else None)
        inside, closed, _ = self._pattern[self._place :].partition("}")
        least, comma, most = inside.partition(",")
        digits = (least + most).isascii() and all(each.isdigit() and len(each) < 9 for each in (least, most) if each)
        if not (closed and digits and least + most):
            self._refuse("{ begins a repetition, such as {3} or {2,5}; write \\{ for the character", begin)
        self._place += len(inside) + 1
        return int(least or 0), (int(most) if most else None if comma else int(least))

    def _atom(self) -> Node:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character in HAVE_NO_PLACE:
            self._refuse(HAVE_NO_PLACE[character])
        self._place += 1
        return IN_LINE if character == "." else any_of(character)

    def _group(self) -> Node:
        begin = self._place
        self._place += 1
        if self._next() == "?" and self._pattern[self._place : self._place + 2] != "?:":
            rest = self._pattern[self._place :]
            found = next((name for opening, name in OPENINGS.items() if rest.startswith(opening)), "a flag")
            self._refuse(f"{found} is not part of this syntax; groups are (...) and (?:...)", begin)
        if self._next() == "?":
            self._place += 2
        self._depth += 1
        if self._depth > DEEPEST:
            self._refuse(f"groups may stand within each other {DEEPEST} deep at most", begin)
        node = self._alternatives()
        if self._take() != ")":
            self._refuse("this group is never closed; add ), or write \\( for the character", begin)
        self._depth -= 1
        return node

    def _escape(self) -> CharacterSet:
        """Reads an escape."""
        begin = self._place
        self._place += 1
        character = self._take()
        if not character:
            self._refuse("nothing follows the backslash; write \\\\ for the character", begin)
        if character.lower() in KINDS:
            return CharacterSet(kinds=(character,))
        if character in CONTROLS:
            return any_of(CONTROLS[character])
        if character.isascii() and character.isdigit():
            self._refuse(
                "references back to a group are not part of this syntax: what matches would not be regular", begin
            )
        if character in "bBAZzG":
            self._refuse(f"\\{character} stands between characters; the whole text must match, so leave it out", begin)
        if character.isalnum():
            self._refuse(f"\\{character} is not known; there are \\d \\w \\s \\D \\W \\S \\n \\t \\r \\f \\v", begin)
        return any_of(character)

    def _class(self) -> CharacterSet:
        """Reads a class in brackets."""
        begin = self._place
        self._place += 1
        negated = self._next() == "^"
        self._place += negated
        ranges, kinds = list[tuple[int, int]](), list[str]()
        while True:
            if self._place >= len(self._pattern):
                self._refuse("this class is never closed; add ], or write \\[ for the character", begin)
            if self._next() == "]" and (ranges or kinds):
                break
            first = self._member()
            if self._next() == "-" and self._pattern[self._place + 1 : self._place + 2] not in ("", "]"):
                self._range(first, ranges)
            elif first.literal is None:
                kinds += first.kinds
            else:
                ranges += first.ranges
        self._place += 1
        return CharacterSet(tuple(sorted(set(ranges))), tuple(dict.fromkeys(kinds)), negated)

    def _member(self) -> CharacterSet:
        return self._escape() if self._next() == "\\" else any_of(self._take())

    def _range(self, first: CharacterSet, ranges: list[tuple[int, int]]) -> None:
        """Reads the rest of a range."""
        begin = self._place
        self._place += 1
        last = self._member()
        if first.literal is None or last.literal is None or first.literal > last.literal:
            self._refuse(
                "a range goes from one character to a later one, as in a-z; write \\- for the character", begin
            )
        ranges.append((ord(first.literal), ord(last.literal)))

"""What ends a line: a line feed (LF), a carriage return (CR, as of old Macs), or both (CR LF, as of Windows)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scriven.errors import InputError

LINE_END = re.compile("\r\n|\r|\n")
OF = {"CR LF": "as of Windows", "CR": "as of old Macs"}


@dataclass
class LineEnds:
    """Counts of line feeds, of carriage returns, and of line feeds that follow a carriage return at once."""

    feeds: int = 0
    returns: int = 0
    pairs: int = 0

    def __add__(self, other: LineEnds) -> LineEnds:
        return LineEnds(self.feeds + other.feeds, self.returns + other.returns, self.pairs + other.pairs)

    def count(self, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces of one text, whose line ends are counted as they pass."""
        returned = False
        for piece in pieces:
            self.pairs += returned and piece.startswith("\n")
            self.add(piece)
            returned = piece.endswith("\r") if piece else returned
            yield piece

    def add(self, text: str) -> None:
        """Count those of a text."""
        self.feeds += text.count("\n")
        if "\r" in text:
            self.returns += text.count("\r")
            self.pairs += text.count("\r\n")

    @property
    def lines(self) -> int:
        """How many line ends of all kinds there are."""
        return self.feeds + self.returns - self.pairs

    @property
    def kinds(self) -> dict[str, int]:
        """How many there are of each kind that there is."""
        counts = {"CR LF": self.pairs, "CR": self.returns - self.pairs, "LF": self.feeds - self.pairs}
        return {kind: count for kind, count in counts.items() if count}

    def __str__(self) -> str:
        """Words for them, such as "CR line ends, as of old Macs" and "mixed line ends: 3 CR LF, 5 LF"."""
        kinds = self.kinds
        if len(kinds) > 1:
            return "mixed line ends: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        kind = next(iter(kinds), "no")
        return f"{kind} line ends" + (f", {OF[kind]}" if kind in OF else "")


def split_lines(text: str) -> list[str]:
    """What is before, between and after the line ends of a text."""
    return (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n")


def lines_of(pieces: Iterable[str], longest: int, name: str, kind: str) -> Iterator[str]:
    """The lines of a text in pieces, each with its end; the last one may have none.

    Raises InputError where one has over `longest` characters, which files of this kind do not have.
    """
    held, length, number = list[str](), 0, 1  # what has no end yet, with how many characters
    returned = False  # whether a carriage return waits, which a line feed may follow
    for piece in pieces:
        text, begin = "\r" * returned + piece, 0
        returned = text.endswith("\r")
        for match in LINE_END.finditer(text, 0, len(text) - returned):
            yield "".join([*held, text[begin : match.end()]])
            held, length, begin, number = [], 0, match.end(), number + 1
        held.append(text[begin : len(text) - returned])
        length += len(held[-1])
        if length > longest:
            raise InputError(f"{name}, line {number:,} has over {longest:,} characters; is it {kind}?")
    if returned or length:
        yield "".join([*held, "\r" * returned])

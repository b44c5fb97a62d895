"""Line ends: a line feed (LF), a carriage return (CR, used by old Macs), or both (CR LF, used by Windows)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scriven.errors import InputError

LINE_END = re.compile("\r\n|\r|\n")
OF = {"CR LF": "as of Windows", "CR": "as of old Macs"}


@dataclass
class LineEnds:
    """Counts of line feeds, of carriage returns, and of pairs of a carriage return and a line feed."""

    feeds: int = 0
    returns: int = 0
    pairs: int = 0

    def __add__(self, other: LineEnds) -> LineEnds:
        return LineEnds(self.feeds + other.feeds, self.returns + other.returns, self.pairs + other.pairs)

    def count(self, pieces: Iterable[str]) -> Iterator[str]:
        """Passes the pieces of one text on, and counts its line ends."""
        returned = False
        for piece in pieces:
            self.pairs += returned and piece.startswith("\n")
            self.add(piece)
            returned = piece.endswith("\r") if piece else returned
            yield piece

    def add(self, text: str) -> None:
        """Counts the line ends of a text."""
        self.feeds += text.count("\n")
        if "\r" in text:
            self.returns += text.count("\r")
            self.pairs += text.count("\r\n")

    @property
    def lines(self) -> int:
        """The number of line ends of all kinds."""
        return self.feeds + self.returns - self.pairs

    @property
    def kinds(self) -> dict[str, int]:
        """The number of line ends of each kind that occurs."""
        counts = {"CR LF": self.pairs, "CR": self.returns - self.pairs, "LF": self.feeds - self.pairs}
        return {kind: count for kind, count in counts.items() if count}

    def __str__(self) -> str:
        """A phrase such as "CR line ends, as of old Macs" or "mixed line ends: 3 CR LF, 5 LF"."""
        kinds = self.kinds
        if len(kinds) > 1:
            return "mixed line ends: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        kind = next(iter(kinds), "no")
        return f"{kind} line ends" + (f", {OF[kind]}" if kind in OF else "")


def split_lines(text: str) -> list[str]:
    """Splits a text at its line ends; a text that ends with one has an empty last part."""
    return (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n")


def lines_of(pieces: Iterable[str], longest: int, name: str, kind: str) -> Iterator[str]:
    """The lines of a text that comes in pieces, each line with its end; the last one may have none.

    Raises InputError if a line has over `longest` characters; `kind` is the kind of file that was expected.
    """
    held, length, number = list[str](), 0, 1  # the line that has not ended yet, its characters, and its number
    returned = False  # whether the last character was a carriage return, so that a line feed may still follow
    for piece in pieces:
        text, begin = "\r" * returned + piece, 0
        returned = text.endswith("\r")
        for match in LINE_END.finditer(text, 0, len(text) - returned):
            yield "".join([*held, text[begin : match.end()]])
            held, length, begin, number = [], 0, match.end(), number + 1
        held.append(text[begin : len(text) - returned])
        length += len(held[-1])
        if length > longest:
            raise InputError(f"{name}, line {number:,} has over {longest:,} characters; is it really {kind}?")
    if returned or length:
        yield "".join([*held, "\r" * returned])

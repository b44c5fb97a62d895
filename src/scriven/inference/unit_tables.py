"""Tables of the units of a scored text: a row for each word, line, document or character, as columns of values."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.inference.boundaries import LineRule, UnitRule
from scriven.inference.surprisal import ENDS, SUMS, Scored, SurprisalSum, SurprisalSums, list_numbers
from scriven.inference.units import SHOWN, UnitReader, Units
from scriven.vocabulary import Vocabulary

Columns = dict[str, list[Any]]  # lists of the same length, by the names of the columns
MEASURES = tuple(SurprisalSums.of(SurprisalSum()).measures())
WORDS = ("word", "text", "characters", "unseen", "ends", "end_bits", "bits")


@dataclass
class TextPlaces:
    """Numbers the lines of one text, or its documents with the empty ones, for the rows of its units.

    `empty` are the numbers, from 0, of the empty documents, which have no units.
    """

    unit: Literal["line", "document"]
    empty: deque[int] = field(default_factory=deque)
    long: int = 0  # units that are shown in part
    next: int = 1  # number of the next document
    _last: tuple[int, int] = -1, 0  # a document without the empty ones, from 0, and its number with them

    def pass_empty(self) -> Iterator[int]:
        """Yields the numbers of the empty documents before the next one with text."""
        while self.empty and self.empty[0] == self.next - 1:
            self.empty.popleft()
            yield self.next
            self.next += 1

    def take(self) -> int:
        """Returns the number of the next document with text."""
        self.next += 1
        return self.next - 1

    def with_empty(self, count: int) -> tuple[list[int | None], list[int]]:
        """Returns rows for the next `count` documents with text, None for an empty one, and the number of each row."""
        rows, numbers = list[int | None](), list[int]()
        for row in range(count):
            empty = list(self.pass_empty())
            rows += [*([None] * len(empty)), row]
            numbers += [*empty, self.take()]
        return rows, numbers

    def number(self, documents: Ids) -> list[int]:
        """Returns the numbers (M,) of documents (M,), which rise from call to call and count no empty ones."""
        distinct, rows = np.unique(documents, return_inverse=True)
        numbers = np.empty(len(distinct), np.int64)
        for row, document in enumerate(distinct.tolist()):
            if document != self._last[0]:
                self._last = document, [*self.pass_empty(), self.take()][-1]
            numbers[row] = self._last[1]
        return cast("list[int]", numbers[rows].tolist())


def row_unit(documents: str, by: str) -> Literal["line", "document"]:
    """Returns the parts of a text that rows are numbered by, for a value of `corpus.documents`: lines, or documents."""
    return "line" if documents in {"none", "lines"} and by != "document" else "document"


def total_columns(vocabulary: Vocabulary) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the usual columns of whole texts, and of all."""
    known = tuple(name for name in MEASURES if vocabulary.boundary is not None or name not in ENDS)
    return tuple(name for name in SUMS if name in known), known


def symbol_column(vocabulary: Vocabulary) -> str:
    """Returns the name of the column of single symbols."""
    return "token" if vocabulary.unit == "token" else "character"


def unit_columns(by: str, vocabulary: Vocabulary, unit: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the usual columns of characters, words, lines or documents, and of all.

    `unit` says what they are numbered by: lines or documents.
    """
    if by == "character":
        of_documents = vocabulary.boundary is not None
        first, end = ([unit], ["end"]) if of_documents else ([], [])
        names = (*first, "position", symbol_column(vocabulary), *end, "unseen", "nats", "bits")
        return names, names
    sums, measures = total_columns(vocabulary)
    known = (unit, *(["word"] if by == "word" else []), "text", *measures)
    usual = WORDS if by == "word" else (*sums, "text")
    return (unit, *(name for name in usual if name in known)), known


def unit_tables(
    vocabulary: Vocabulary,
    pieces: Iterable[Scored],
    rule: UnitRule,
    *,
    places: TextPlaces,
    names: Sequence[str],
) -> Iterator[Columns]:
    """Yields the columns of these names, in parts: those of the units that end in one piece of the text."""
    reader = UnitTableReader(vocabulary, rule, places=places, names=names)
    for piece in pieces:
        yield from reader.read(piece)
    yield from reader.finish()


class UnitTableReader:
    """Makes the columns of the units of a text that comes piece by piece."""

    def __init__(self, vocabulary: Vocabulary, rule: UnitRule, *, places: TextPlaces, names: Sequence[str]) -> None:
        """`names` are the columns; `places` numbers the rows."""
        self._units, self._words, self._places, self._names = (
            UnitReader(vocabulary, rule),
            _WordNumbers(),
            places,
            names,
        )
        self._has_documents = vocabulary.boundary is not None
        self._empty_rows = self._has_documents and isinstance(rule, LineRule)

    def read(self, piece: Scored) -> Iterator[Columns]:
        """Yields the columns of the units that end in the next piece."""
        return map(self._columns, self._units.read(piece))

    def finish(self) -> Iterator[Columns]:
        """Yields the columns of the last units, and of the empty documents after them."""
        yield from map(self._columns, self._units.finish())
        if self._empty_rows and (rest := list(self._places.pass_empty())):
            yield {
                name: rest if name == self._places.unit else [value_without_text(name)] * len(rest)
                for name in self._names
            }

    def _columns(self, some: Units) -> Columns:
        """Returns the columns of some units, with rows for the empty documents before each."""
        places, names = self._places, self._names
        places.long += sum(map(SHOWN.__le__, map(len, some.texts)))
        order: Sequence[int | None] = range(len(some.texts))
        numbers: list[int] = (some.lines + 1).tolist()
        if self._empty_rows:
            order, numbers = places.with_empty(len(some.texts))
        elif self._has_documents:
            numbers = places.number(some.lines)
        values: dict[str, Callable[[], list[Any]]] = {
            "text": partial(list, some.texts),
            "word": partial(self._words.number, some.lines),
            "entropy": partial(_in_bits, some.entropy),
            **{name: partial(_measured, measure) for name, measure in some.sums.measures().items()},
        }
        table = {name: values[name]() for name in names if name != places.unit}
        if len(order) > len(some.texts):
            table = {
                name: [value_without_text(name) if at is None else column[at] for at in order]
                for name, column in table.items()
            }
        return {name: numbers if name == places.unit else table[name] for name in names}


class _WordNumbers:
    """Numbers words within their lines or documents, from 1."""

    def __init__(self) -> None:
        self._line, self._count = -1, 0  # of the last word

    def number(self, lines: Ids) -> list[int]:
        """Returns the numbers (M,) of words, whose lines (M,) are given."""
        places = np.arange(len(lines))
        begins = np.concatenate(([lines[0] != self._line], lines[1:] != lines[:-1]))
        numbers = places - np.maximum.accumulate(np.where(begins, places, -self._count)) + 1
        self._line, self._count = int(lines[-1]), int(numbers[-1])
        return cast("list[int]", numbers.tolist())


def character_tables(
    vocabulary: Vocabulary,
    pieces: Iterable[Scored],
    *,
    places: TextPlaces,
    names: Sequence[str],
    show: Callable[[int], str],
) -> Iterator[Columns]:
    """Yields a row for each character, and one for the end of each document, at the position after its last character.

    For a model of bytes it is a row for each byte. `show` returns an id as text.
    """
    document = position = 0  # of the next character
    for piece in filter(lambda each: each.ids.size, pieces):
        ends = piece.ids == vocabulary.boundary
        ended = np.concatenate(([0], np.cumsum(ends)[:-1]))  # (T,) documents of this piece that ended before
        begins = np.concatenate(([-position], np.flatnonzero(ends) + 1))  # where each document begins
        distinct, at = np.unique(piece.ids, return_inverse=True)
        shown = [show(symbol) for symbol in distinct.tolist()]
        values = {
            places.unit: places.number(document + ended) if vocabulary.boundary is not None else [],
            "position": (np.arange(len(piece.ids)) - begins[ended] + 1).tolist(),
            symbol_column(vocabulary): [shown[each] for each in at.tolist()],
            "end": ends.astype(int).tolist(),
            "unseen": vocabulary.unseen(piece.ids).astype(int).tolist(),
            "nats": piece.nats.tolist(),
            "bits": (piece.nats / math.log(2)).tolist(),
            "entropy": [] if piece.entropy is None else _in_bits(piece.entropy),
        }
        yield {name: values[name] for name in names}
        document += int(ends.sum())
        position = len(piece.ids) - int(begins[-1])


def _measured(measure: Callable[[], npt.NDArray[Any]]) -> list[Any]:
    return list_numbers(measure())


def _in_bits(nats: npt.NDArray[np.float64]) -> list[float | None]:
    """Returns a column of nats (M,) in bits, with None for what is not a number."""
    return list_numbers(nats / math.log(2))


def value_without_text(name: str) -> Any:
    """Returns the value of a column for a document without a character."""
    if name == "text":
        return ""
    if name.endswith(("nats", "bits")):
        return 0.0
    return None if "_per_" in name or name in {"perplexity", "entropy"} else 0

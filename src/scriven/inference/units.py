"""The units of a scored text, such as its words: the cost, the text and the place of each.

Memory is constant for units of any length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.inference.boundaries import Rule
from scriven.inference.surprisal import Scored, SurprisalSum, SurprisalSums, counts_of
from scriven.vocabulary import Vocabulary

SHOWN = 1 << 20  # symbols of a unit, at most, that are returned as text


class Units(NamedTuple):
    """Consecutive units: their sums, and the text of each without what ends it. Of a long one, only the beginning.

    `lines` (M,) are the numbers, from 0, of the lines or documents that the units begin in.
    """

    sums: SurprisalSums
    texts: list[str]
    lines: Ids


def units(vocabulary: Vocabulary, pieces: Iterable[Scored], rule: Rule) -> Iterator[Units]:
    """Yields the units of a text by a rule. Those that end in one piece of the text come together."""
    begun = _Begun(vocabulary, rule)
    for piece in pieces:
        yield from begun.read(piece.ids, piece.nats)
    yield from begun.finish()


class _Begun:
    """The unit that has not ended yet: its sums, its line, and the beginning of its ids."""

    def __init__(self, vocabulary: Vocabulary, rule: Rule) -> None:
        self._vocabulary, self._rule = vocabulary, rule
        self._feed, self._carriage = (int(vocabulary.encode(end)[0]) for end in "\n\r")
        self._line, self._last = 0, -1  # lines that have ended, and the last id of them
        self._waiting = np.empty(0, np.int64), np.empty(0)  # ids and nats that the rule has not decided
        self._clear()

    def read(self, ids: Ids, nats: npt.NDArray[np.float64], *, last: bool = False) -> Iterator[Units]:
        """Yields the units that end in the next ids (T,) with their nats (T,)."""
        ids, nats = (np.concatenate(each) for each in zip(self._waiting, (ids, nats), strict=True))
        ends, decided = self._rule.ends(ids, last=last)
        self._waiting = ids[decided:], nats[decided:]
        yield from self._take_all(ids[:decided], nats[:decided], ends[ends <= decided])

    def finish(self) -> Iterator[Units]:
        """Yields the last units."""
        yield from self.read(np.empty(0, np.int64), np.empty(0), last=True)
        if self._sums.characters.any() or self._sums.ends.any():
            yield self._take()

    def _take_all(self, ids: Ids, nats: npt.NDArray[np.float64], ends: Ids) -> Iterator[Units]:
        if ends.size and not ends[0]:
            if self._sums.characters.any() or self._sums.ends.any():
                yield self._take()
            ends = ends[1:]
        counted, after = counts_of(self._vocabulary, ids, nats), self._lines_after(ids)
        rest = int(ends[-1]) if ends.size else 0
        if rest:
            begun = self._sums.arrays
            sums = SurprisalSums(*(_sums(each, ends, first) for each, first in zip(counted, begun, strict=True)))
            lines = np.concatenate(([self._begun_in], after[ends[:-1] - 1]))
            yield Units(sums, self._texts(ids[:rest], ends), lines)
            self._clear(int(after[rest - 1]))
        self._add(ids[rest:], [each[rest:] for each in counted])
        self._line = int(after[-1]) if after.size else self._line

    def _lines_after(self, ids: Ids) -> Ids:
        """Returns the number of lines (T,), or of documents, that have ended with each of ids (T,)."""
        if self._vocabulary.boundary is not None:
            ended = ids == self._vocabulary.boundary
        else:
            before = np.concatenate(([self._last], ids[:-1]))
            ended = (ids == self._carriage) | ((ids == self._feed) & (before != self._carriage))
        self._last = int(ids[-1]) if ids.size else self._last
        return self._line + np.cumsum(ended)

    def _clear(self, line: int = 0) -> None:
        """Starts a new unit in a line."""
        self._sums = SurprisalSums.of(SurprisalSum())
        self._ids = np.empty(0, np.int64)
        self._begun_in = line

    def _add(self, ids: Ids, counted: Iterable[npt.NDArray[Any]]) -> None:
        """Adds ids (T,) and their counts to the unit."""
        sums = zip(counted, self._sums.arrays, strict=True)
        self._sums = SurprisalSums(*(first + each.sum() for each, first in sums))
        self._ids = np.concatenate((self._ids, ids[: SHOWN - self._ids.size]))

    def _take(self) -> Units:
        """Returns the unit as it is, and starts a new one."""
        shown = self._ids[self._ids != self._vocabulary.boundary]
        unit = Units(self._sums, [self._rule.trim(self._vocabulary.decode(shown))], np.array([self._begun_in]))
        self._clear(self._line)
        return unit

    def _texts(self, ids: Ids, ends: Ids) -> list[str]:
        """Returns the texts of the units that end in ids (T,); the last id is the last unit's."""
        first, vocabulary = int(ends[0]), self._vocabulary
        begun = np.concatenate((self._ids, ids[:first]))[:SHOWN]
        texts = [vocabulary.decode(begun[begun != vocabulary.boundary]), *self._whole(ids[first:], ends - first)]
        return list(map(self._rule.trim, texts))

    def _whole(self, ids: Ids, ends: Ids) -> Iterator[str]:
        """Returns the texts of whole units, which end at `ends[1:]`."""
        if self._vocabulary.boundary is not None:
            ended = np.concatenate(([0], np.cumsum(ids == self._vocabulary.boundary)))
            ids, ends = ids[ids != self._vocabulary.boundary], ends - ended[ends]
        if self._vocabulary.unit == "byte":
            yield from (self._vocabulary.decode(part[:SHOWN]) for part in np.split(ids, ends[1:])[:-1])
            return
        text, begin = self._vocabulary.decode(ids), 0
        for end in ends[1:].tolist():
            yield text[begin : min(end, begin + SHOWN)]
            begin = end


def _sums(values: npt.NDArray[Any], ends: Ids, first: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the sums (M,) of values (T,) between consecutive ends (M,). `first` (1,) is added to the first sum."""
    sums: npt.NDArray[Any] = np.add.reduceat(values[: ends[-1]], np.concatenate(([0], ends[:-1])))
    sums[:1] += first
    return sums

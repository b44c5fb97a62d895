"""The lines of a scored text: the cost and the text of each, in constant memory for lines of any length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.inference.surprisal import Scored, SurprisalSum, SurprisalSums, counts_of
from scriven.vocabulary import Vocabulary

SHOWN = 1 << 20  # symbols of a line, at most, that are returned as text


class Lines(NamedTuple):
    """Consecutive lines: their sums, and the text of each without its line end. Of a long line, only the beginning."""

    sums: SurprisalSums
    texts: list[str]


def lines(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Iterator[Lines]:
    """Yields the lines of a text; of a text of documents, the documents.

    A line feed, a carriage return or both end a line, and count as part of it. The last line may have no end. Lines
    that end in one piece of the text come together.
    """
    begun = _Begun(vocabulary)
    for piece in filter(lambda each: each.ids.size, pieces):
        if begun.returned and int(piece.ids[0]) != begun.feed:
            yield begun.take()
        ends = begun.ends(piece.ids) + 1  # (M,)
        counted = counts_of(vocabulary, piece.ids, piece.nats)
        rest = int(ends[-1]) if ends.size else 0
        if rest:
            firsts = begun.sums.arrays
            sums = SurprisalSums(*(_sums(each, ends, first) for each, first in zip(counted, firsts, strict=True)))
            yield Lines(sums, begun.texts(piece.ids[:rest], ends))
            begun.clear()
        begun.add(piece.ids[rest:], [each[rest:] for each in counted])
    if begun.sums.characters.any():
        yield begun.take()


class _Begun:
    """The line that has not ended yet: its sums, and the beginning of its ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.feed, self.carriage = (int(vocabulary.encode(end)[0]) for end in "\n\r")
        self.clear()

    def clear(self) -> None:
        """Starts a new line."""
        self.sums = SurprisalSums.of(SurprisalSum())
        self.ids = np.empty(0, np.int64)
        self.returned = False  # whether it ends with a carriage return, so that a line feed may still follow

    def add(self, ids: Ids, counted: Iterable[npt.NDArray[Any]]) -> None:
        """Adds ids (T,) and their counts to the line."""
        sums = zip(counted, self.sums.arrays, strict=True)
        self.sums = SurprisalSums(*(first + each.sum() for each, first in sums))
        self.ids = np.concatenate((self.ids, ids[: SHOWN - self.ids.size]))
        self.returned = self.vocabulary.boundary is None and ids.size > 0 and int(ids[-1]) == self.carriage

    def take(self) -> Lines:
        """Returns the line so far, and starts a new one."""
        line = Lines(self.sums, [_without_end(self.vocabulary.decode(self.ids))])
        self.clear()
        return line

    def ends(self, ids: Ids) -> Ids:
        """Returns the places (M,) of the symbols that end lines. A carriage return at the end waits for a line feed."""
        if self.vocabulary.boundary is not None:
            return np.flatnonzero(ids == self.vocabulary.boundary)
        after = np.append(ids[1:], self.feed)  # (T,)
        return np.flatnonzero((ids == self.feed) | ((ids == self.carriage) & (after != self.feed)))

    def texts(self, ids: Ids, ends: Ids) -> list[str]:
        """Returns the texts of the lines that end in ids (T,); the last id is the last line's end."""
        first, vocabulary = int(ends[0]), self.vocabulary
        begun = np.concatenate((self.ids, ids[:first]))[:SHOWN]
        texts = [vocabulary.decode(begun[begun != vocabulary.boundary]), *self._whole(ids[first:], ends - first)]
        return list(map(_without_end, texts))

    def _whole(self, ids: Ids, ends: Ids) -> Iterator[str]:
        """Returns the texts of whole lines, which end at `ends[1:]`."""
        if self.vocabulary.boundary is not None:
            ids, ends = ids[ids != self.vocabulary.boundary], ends - np.arange(ends.size)
        if self.vocabulary.unit == "byte":
            yield from (self.vocabulary.decode(part[:SHOWN]) for part in np.split(ids, ends[1:])[:-1])
            return
        text, begin = self.vocabulary.decode(ids), 0
        for end in ends[1:].tolist():
            yield text[begin : min(end, begin + SHOWN)]
            begin = end


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _sums(values: npt.NDArray[Any], ends: Ids, first: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the sums (M,) of values (T,) between consecutive ends (M,). `first` (1,) is added to the first sum."""
    sums: npt.NDArray[Any] = np.add.reduceat(values[: ends[-1]], np.concatenate(([0], ends[:-1])))
    sums[:1] += first
    return sums

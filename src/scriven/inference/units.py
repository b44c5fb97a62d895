"""The units of a scored text, such as its words: the cost, the text and the place of each.

Memory is constant for units of any length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float64s, Ids
from scriven.inference.boundaries import UnitRule
from scriven.inference.chunks import blocks
from scriven.inference.context import Context
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import Scored, SurprisalSum, SurprisalSums, counts_of, entropies, read_rows
from scriven.kernels import native_library
from scriven.vocabulary import Vocabulary

SHOWN = 1 << 20  # symbols of a unit, at most, that are returned as text


class Units(NamedTuple):
    """Consecutive units: their sums, and the text of each without what ends it. Of a long one, only the beginning.

    `lines` (M,) are the numbers, from 0, of the lines or documents that the units begin in. `entropy` (M,) are the nats
    of entropy before the first id of each, nan if they are not known.
    """

    sums: SurprisalSums
    texts: list[str]
    lines: Ids
    entropy: Float64s


def units(vocabulary: Vocabulary, pieces: Iterable[Scored], rule: UnitRule) -> Iterator[Units]:
    """Yields the units of a text by a rule. Those that end in one piece of the text come together.

    The rule is not used for pieces that have the ends of their units.
    """
    reader = UnitReader(vocabulary, rule)
    for piece in pieces:
        yield from reader.read(piece)
    yield from reader.finish()


def surprisals_of_units(predictor: Predictor, chunks: Iterable[Ids], rule: UnitRule) -> Iterator[Scored]:
    """Yields the surprisal of every id of one text, with the ends of units by a rule, and the entropy before each unit.

    Each unit is read by itself, one after another, which takes longer than `surprisals_of_text`.
    """
    reader = UnitSurprisals(predictor, predictor.start(), rule)
    for block, is_last in _mark_last(blocks(chunks, predictor.chunk_length(1))):
        with native_library.native_threads(1):  # what is read at once is too short to be shared
            reader.add(block, last=is_last)
            while (scored := reader.advance()) is None:
                pass
        yield scored


class UnitSurprisals:
    """The surprisals of a text that comes piece by piece, with the entropy before each of its units.

    Each piece is added, and then read in short steps: a unit, or the part of it in this piece, at a time.
    """

    def __init__(self, predictor: Predictor, context: Context, rule: UnitRule) -> None:
        """The text is read after a context of one row. `rule` is a new one: it remembers the text, too."""
        self._predictor, self._context, self._rule = predictor, context, rule
        self._waiting, self._opened = np.empty(0, np.int64), False  # ids that are not decided; whether a unit is open
        self._steps: Iterator[Scored | None] = iter(())

    def add(self, ids: Ids, *, last: bool) -> None:
        """Adds the next ids (T,). The piece before must have been read."""
        self._steps = self._read(np.concatenate((self._waiting, ids)), last=last)

    def advance(self) -> Scored | None:
        """Reads a unit, or a part of one. Returns the whole piece at its end, and else None."""
        return next(self._steps)

    def _read(self, found: Ids, *, last: bool) -> Iterator[Scored | None]:
        predictor, context = self._predictor, self._context
        ends, decided = self._rule.ends(found, last=last)
        ids, self._waiting, ends = found[:decided], found[decided:], ends[ends <= decided]
        nats, entropy = np.empty(len(ids)), np.full(len(ids), math.nan)
        right = np.empty(len(ids), np.bool_)
        edges = np.unique(np.concatenate(([0], ends, [len(ids)]))).tolist()
        for begin, end in itertools.pairwise(edges):
            if begin or not self._opened or (ends.size and not ends[0]):
                entropy[begin] = entropies(predictor, context)[0]
            some = slice(begin, end)
            costs, likeliest, context = read_rows(predictor, ids[some, None], context)
            nats[some], right[some] = costs[:, 0], likeliest[:, 0]
            yield None
        if len(ids):
            self._opened = not (ends.size and ends[-1] == len(ids))
        self._context = context
        yield Scored(ids, nats, context, right, ends, entropy)


def _mark_last(chunks: Iterable[Ids]) -> Iterator[tuple[Ids, bool]]:
    """Yields each chunk of a text, and whether it is the last one; of an empty text, one without ids."""
    held = np.empty(0, np.int64)
    for chunk in chunks:
        if held.size:
            yield held, False
        held = chunk
    yield held, True


class UnitReader:
    """Divides a text that comes piece by piece into units.

    It keeps the unit that has not ended yet: its sums, its line, and the beginning of its ids.
    """

    def __init__(self, vocabulary: Vocabulary, rule: UnitRule) -> None:
        """`rule` is a new one: it remembers the text, too."""
        self._vocabulary, self._rule = vocabulary, rule
        self._feed, self._carriage = (int(vocabulary.encode(end)[0]) for end in "\n\r")
        self._line, self._last = 0, -1  # lines that have ended, and the last id of them
        self._waiting = np.empty(0, np.int64), np.empty(0)  # ids and nats that the rule has not decided
        self._clear()

    def read(self, piece: Scored) -> Iterator[Units]:
        """Yields the units that end in the next piece."""
        if piece.ends is None:
            yield from self._split(piece.ids, piece.nats, last=False)
        else:
            yield from self._take_all(piece.ids, piece.nats, piece.ends, piece.entropy)

    def finish(self) -> Iterator[Units]:
        """Yields the last units."""
        yield from self._split(np.empty(0, np.int64), np.empty(0), last=True)
        if self._sums.characters.any() or self._sums.ends.any():
            yield self._take()

    def _split(self, ids: Ids, nats: Float64s, *, last: bool) -> Iterator[Units]:
        """Yields the units that end in the next ids (T,) with their nats (T,)."""
        ids, nats = (np.concatenate(each) for each in zip(self._waiting, (ids, nats), strict=True))
        ends, decided = self._rule.ends(ids, last=last)
        self._waiting = ids[decided:], nats[decided:]
        yield from self._take_all(ids[:decided], nats[:decided], ends[ends <= decided])

    def _take_all(self, ids: Ids, nats: Float64s, ends: Ids, entropy: Float64s | None = None) -> Iterator[Units]:
        if ends.size and not ends[0]:
            if self._sums.characters.any() or self._sums.ends.any():
                yield self._take()
            ends = ends[1:]
        counted, after = counts_of(self._vocabulary, ids, nats), self._lines_after(ids)
        rest = int(ends[-1]) if ends.size else 0
        if rest:
            begins, begun = np.concatenate(([0], ends[:-1])), self._sums.arrays
            pairs = zip(counted, begun, strict=True)
            sums = SurprisalSums(*(_sums(each[:rest], begins, first) for each, first in pairs))
            lines = np.concatenate(([self._begun_in], after[ends[:-1] - 1]))
            yield Units(sums, self._texts(ids[:rest], ends), lines, self._entropies(entropy, ends))
            self._clear(int(after[rest - 1]))
        if entropy is not None and not self._ids.size and rest < len(ids):
            self._entropy = float(entropy[rest])
        self._add(ids[rest:], [each[rest:] for each in counted])
        self._line = int(after[-1]) if after.size else self._line

    def _entropies(self, entropy: Float64s | None, ends: Ids) -> Float64s:
        """Returns the entropies (M,) before the units that end in a piece."""
        if entropy is None:
            return np.full(len(ends), math.nan)
        first = self._entropy if self._ids.size else entropy[0]
        return np.concatenate(([first], entropy[ends[:-1]]))

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
        self._begun_in, self._entropy = line, math.nan

    def _add(self, ids: Ids, counted: Iterable[npt.NDArray[Any]]) -> None:
        """Adds ids (T,) and their counts to the unit."""
        sums = zip(counted, self._sums.arrays, strict=True)
        self._sums = SurprisalSums(*(first + each.sum() for each, first in sums))
        self._ids = np.concatenate((self._ids, ids[: SHOWN - self._ids.size]))

    def _take(self) -> Units:
        """Returns the unit as it is, and starts a new one."""
        shown = self._ids[self._ids != self._vocabulary.boundary]
        texts, lines = [self._rule.trim(self._vocabulary.decode(shown))], np.array([self._begun_in])
        unit = Units(self._sums, texts, lines, np.array([self._entropy]))
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
        if self._vocabulary.unit != "character":
            yield from (self._vocabulary.decode(part[:SHOWN]) for part in np.split(ids, ends[1:])[:-1])
            return
        text, until = self._vocabulary.decode(ids), np.minimum(ends[1:], ends[:-1] + SHOWN)
        yield from map(text.__getitem__, map(slice, ends[:-1].tolist(), until.tolist()))


def _sums(values: npt.NDArray[Any], begins: Ids, first: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the sums (M,) of values (T,) from each of `begins` (M,) on. `first` (1,) is added to the first sum."""
    sums: npt.NDArray[Any] = np.add.reduceat(values, begins)
    sums[:1] += first
    return sums

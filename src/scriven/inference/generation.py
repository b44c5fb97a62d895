"""Writing texts, block by block: one, or many side by side, each up to where its own length or its pen ends it.

A text depends on what it goes on from, on its settings and on its random numbers, one for each symbol: not on the
lengths of blocks, nor on the texts beside it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from scriven.arrays import Ids
from scriven.inference.detokenizer import StreamDecoder
from scriven.inference.predictor import Context, Predictor, fit, side_by_side
from scriven.inference.surprisal import overflow
from scriven.settings import SamplingSettings

FIRST = 8  # symbols in a text's first block: that what is read as it comes begins at once
LIVE = 32  # symbols in a block at most, where somebody reads along
UNSEEN = 512  # and where nobody does
ENDING = 16  # of texts side by side that may end at any symbol: what is drawn behind an end is lost
SMOOTH = 1 / 30  # seconds; blocks that take longer come in jerks
ROWS = 64  # texts side by side


@dataclass(eq=False)
class Generation:
    """A text that is being written: who draws its symbols and how, how many may follow, who makes text of them.

    Where the context after its last symbol is wanted (`keep`), a `GenerationBatch` puts it into `end`.
    """

    random: np.random.Generator
    settings: SamplingSettings
    left: int
    pen: StreamDecoder
    keep: bool = False
    end: Context | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more follows."""
        return self.pen.done

    def take(self, ids: Ids) -> tuple[str, int]:
        """The text that is certain with some more ids, and how many of them (T,) it took: as far as it goes."""
        text, taken = self.pen.feed(ids[: self.left])
        self.left -= taken
        return (text if self.left else text + self.pen.flush()), taken


class BlockLength:
    """How long the next block is: twice as long as the last one, up to `most`, but short where blocks take long."""

    def __init__(self, most: int) -> None:
        self.length, self._most = min(FIRST, most), most
        self._begun = 0.0

    def __enter__(self) -> int:
        self._begun = time.monotonic()
        return self.length

    def __exit__(self, *_: object) -> None:
        slow = time.monotonic() - self._begun > SMOOTH
        self.length = max(1, self.length // 2) if slow else min(2 * self.length, self._most)


def generate(predictor: Predictor, context: Context, line: Generation, most: int) -> Iterator[tuple[str, Context]]:
    """The pieces of a text after a context of one row, each with the context after all that was drawn for it.

    Blocks have at most so many symbols. Nothing is drawn beyond the end: the line's generator is then where it would
    be if each symbol had been drawn by itself. Raises InputError once the model's numbers are not finite.
    """
    pace = BlockLength(most)
    _check(context)
    while line.left and not line.done:
        before = line.random.bit_generator.state
        try:
            with pace as length:
                uniforms = line.random.random((min(length, line.left), 1))
                ids, after = predictor.generate(context, line.settings, uniforms)
        except BaseException:  # an interrupt: as if the block had never begun
            line.random.bit_generator.state = before
            raise
        _check(after)
        text, taken = line.take(ids[:, 0])
        if taken < len(ids):
            line.random.bit_generator.state = before
            _, after = predictor.generate(context, line.settings, line.random.random((taken, 1)))
        context = after
        yield text, context


def _check(context: Context) -> None:
    """Raises InputError when what a context foretells is not finite: a model may overflow late in a text."""
    if not context.logits.isfinite().all():
        raise overflow()


class Emitted(NamedTuple):
    """What was written of a line: the text that is certain now, and the ids (T,) that were taken.

    Where `finite` is False the model's numbers overflowed, and the text means nothing.
    """

    line: Generation
    text: str
    ids: Ids
    finite: bool = True


class GenerationBatch:
    """Lines that are written side by side; they may join and leave between two blocks, and leave when done."""

    def __init__(self, predictor: Predictor) -> None:
        """Of no lines."""
        self._predictor = predictor
        self.context: Context | None = None  # of the lines, a row each; None where there are none
        self.lines: list[Generation] = []

    def takes(self, context: Context) -> bool:
        """Whether lines that go on from this context may join now; they always may where there are none."""
        return self.context is None or fit([self.context, context])

    def add(self, lines: Sequence[Generation], context: Context) -> None:
        """Lines that go on from a context of as many rows, which becomes the batch's own: nobody else may know it.

        ValueError for one that the batch does not take.
        """
        self.context = context if self.context is None else side_by_side([self.context, context])
        self.lines += lines

    def drop(self, lines: Collection[Generation]) -> None:
        """Write these no further."""
        self._keep([row for row, line in enumerate(self.lines) if line not in lines])

    def generate(self, length: int) -> list[Emitted]:
        """Write so many symbols of each line. Those that are done are gone then."""
        before = self.context
        if before is None:
            return []
        uniforms = np.empty((length, len(self.lines)))  # (T, N)
        for row, line in enumerate(self.lines):
            uniforms[:, row] = line.random.random(length)
        settings = [line.settings for line in self.lines]
        kept = {row: before.rows([row]) for row, line in enumerate(self.lines) if line.keep}
        ids, self.context = self._predictor.generate(before, settings, uniforms, reuse=True)
        finite = self.context.logits.isfinite().all(1).tolist()  # (N,)
        wrote = []
        for row, (line, drawn) in enumerate(zip(self.lines, np.ascontiguousarray(ids.T), strict=True)):
            text, taken = line.take(drawn)
            wrote.append(Emitted(line, text, drawn[:taken], finite[row]))
            if line.keep and line.done:
                numbers = uniforms[:taken, row : row + 1]
                _, line.end = self._predictor.generate(kept[row], line.settings, numbers)
        self._keep([row for row, line in enumerate(self.lines) if not line.done])
        return wrote

    def _keep(self, rows: list[int]) -> None:
        if self.context is None or len(rows) == len(self.lines):
            return
        self.lines = [self.lines[row] for row in rows]
        self.context = self.context.rows(rows) if rows else None


def generate_many(
    predictor: Predictor, start: Context, lines: Iterable[Generation], ending: bool
) -> Iterator[tuple[Generation, str]]:
    """Lines in their order, each with its whole text; all go on from the same context (of one row), side by side.

    A line that is done makes room for the next one; through a window, once all are done: lines that have seen unequally
    much of it cannot go side by side. `ending`: they may end before their lengths do.

    Raises InputError once the model's numbers are not finite.
    """
    _check(start)
    coming, batch, pace = iter(lines), GenerationBatch(predictor), BlockLength(ENDING if ending else UNSEEN)
    texts: dict[Generation, str] = {}  # in the order of the lines
    while True:
        new = list(islice(coming, ROWS - len(batch.lines) if batch.takes(start) else 0))
        if new:
            batch.add(new, start.rows([0] * len(new)))
            texts.update(dict.fromkeys(new, ""))
        if not texts:
            return
        with pace as length:
            pieces = batch.generate(min(length, max(line.left for line in batch.lines)))
        for line, text, _, is_finite in pieces:
            if not is_finite:
                raise overflow()
            texts[line] += text
        while texts and (first := next(iter(texts))).done:
            yield first, texts.pop(first)

"""Jobs: what a request asks the engine for, how far it has come, and how rows are divided among requests."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scriven.arrays import Ids
from scriven.inference.generation import Generation
from scriven.inference.predictor import Context
from scriven.server.prefill import Details


@dataclass(frozen=True)
class Job:
    """A text to read, and texts to write after it, all from the same context on.

    `told` and `likeliest` say what is told of symbols that are read and written: None nothing, 0 their costs, or how
    many of the likeliest symbols there, too.
    """

    ids: Ids
    context: Context
    lines: tuple[Generation, ...] = ()
    told: int | None = None
    likeliest: int | None = None


class JobUpdate(NamedTuple):
    """What became of a job: of the line with this number, or, where there is none, of what is read.

    The text that is certain now and how many symbols were taken; what is told of them; the context where something is
    done: the text read, or a line of which it is wanted.
    """

    job: int
    line: int | None
    text: str = ""
    symbols: int = 0
    details: Details | None = None
    done: bool = False
    context: Context | None = None


class _Ready(NamedTuple):
    """A line to be written from a row of a context on, once there is room for it."""

    line: Generation
    context: Context
    row: int


class PendingRequest:
    """A request's jobs, on their way; what became of them is in `news`, which `arrived` tells of."""

    def __init__(self, jobs: Sequence[Job], loop: AbstractEventLoop, arrived: Callable[[], None]) -> None:
        """`arrived` is called in the loop's thread."""
        self.waiting = deque(enumerate(jobs))
        self.ready: deque[_Ready] = deque()
        self.rows = 0  # texts of it that are read or written now
        self.news: list[JobUpdate] = []
        self.error: BaseException | None = None
        self.loop = loop
        self.arrived = arrived

    @property
    def wanted(self) -> int:
        """How many rows more it has a use for now."""
        return len(self.waiting) + len(self.ready)


class _Owner(NamedTuple):
    """Whose a reading or a line is."""

    ticket: PendingRequest
    job: int
    line: int | None
    asked: Job


def fair_shares(wanted: Sequence[int], rows: int) -> list[int]:
    """How many rows each gets who wants so many: as many, unless others who get fewer want more, too.

    Of those who want as many the first may get one more. Where there is a row for each, each gets one.
    """
    given = [0] * len(wanted)
    for place, number in enumerate(sorted(range(len(wanted)), key=lambda number: (wanted[number], -number))):
        given[number] = min(wanted[number], rows // (len(wanted) - place))
        rows -= given[number]
    return given


__all__ = ["fair_shares"]

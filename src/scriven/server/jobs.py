"""Jobs: what a request asks the engine for, the updates that it receives, and how requests share the engine's rows."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scriven.arrays import Ids
from scriven.inference.context import Context
from scriven.inference.generation import Generation
from scriven.server.prefill import Prefill, SymbolSurprisals


@dataclass(frozen=True)
class Job:
    """A prompt (T,) to read after `context`, and the texts to generate after it.

    `prompt_logprobs` asks for log-probabilities of the prompt, `logprobs` for those of the generated symbols: None for
    none, 0 for the symbol's own, k for those of the k most likely symbols too.
    """

    ids: Ids
    context: Context
    generations: tuple[Generation, ...] = ()
    prompt_logprobs: int | None = None
    logprobs: int | None = None


class JobUpdate(NamedTuple):
    """Progress of a job: of the generation with this number, or of the prompt if `generation` is None.

    `text` is new text that will not change, `symbols` how many symbols were generated for it, `surprisals` those that
    were asked for. `context` is set once the prompt is read, or once a generation whose context is wanted is done.
    """

    job: int
    generation: int | None
    text: str = ""
    symbols: int = 0
    surprisals: SymbolSurprisals | None = None
    done: bool = False
    context: Context | None = None


class _PausedGeneration(NamedTuple):
    """A generation without a row, and the row of a context that it continues from."""

    generation: Generation
    context: Context
    row: int


class PendingRequest:
    """A request's jobs: those that wait, those that occupy rows, and the updates that were not collected yet."""

    def __init__(self, jobs: Sequence[Job], loop: AbstractEventLoop, notify: Callable[[], None]) -> None:
        """`notify` is called in the loop's thread when there are new `updates`, or an `error`."""
        self.waiting = deque(enumerate(jobs))
        self.paused: deque[_PausedGeneration] = deque()
        self.prefilling: set[Prefill] = set()  # a row each
        self.generating: set[Generation] = set()  # a row each
        self.updates: list[JobUpdate] = []
        self.error: BaseException | None = None
        self.loop = loop
        self.notify = notify

    @property
    def rows(self) -> int:
        """How many rows the request occupies."""
        return len(self.prefilling) + len(self.generating)

    @property
    def wanted(self) -> int:
        """How many more rows it could use now."""
        return len(self.waiting) + len(self.paused)


class _Owner(NamedTuple):
    """The request, the job and its number, and the number of the generation, that a row belongs to."""

    request: PendingRequest
    job: Job
    number: int
    generation: int | None = None


def fair_shares(wanted: Sequence[int], rows: int) -> list[int]:
    """Max-min fair division of `rows` among requests that each want `wanted[i]`.

    No request gets more than it wants. Those that want more than they get differ by one row at most. If there are
    enough rows, each request gets at least one.
    """
    shares = [0] * len(wanted)
    for rank, number in enumerate(sorted(range(len(wanted)), key=lambda number: (wanted[number], -number))):
        shares[number] = min(wanted[number], rows // (len(wanted) - rank))
        rows -= shares[number]
    return shares


__all__ = ["fair_shares"]

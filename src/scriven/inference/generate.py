"""Reading and writing ids. What a model has read is a value, a `Context`: kept, copied and continued at will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scriven.inference.sampling import Ids, draw
from scriven.model import CharLM, State, computing
from scriven.model.language_model import take_rows
from scriven.settings import SamplingSettings
from scriven.vocabulary import Vocabulary

READ_AT_ONCE = 4096  # characters, of all rows together; more is not faster
LOGITS_AT_ONCE = 1 << 22  # values, 16 MB: bounds the memory where there are many rows or symbols


@dataclass(frozen=True)
class Context:
    """What N rows have read: the logits (N, V) of each one's next character, and the state (None before any).

    Where a model looks through a window, the last characters that it read (L, N) are `recent`. Nothing changes a
    context's arrays, so that one context can be continued many times.
    """

    logits: Tensor
    state: State | None = None
    recent: Ids | None = None

    def rows(self, numbers: Sequence[int]) -> Context:
        """The context of the rows whose numbers are given, in that order; a number may be given many times."""
        index = torch.tensor(numbers, device=self.logits.device)
        state = None if self.state is None else take_rows(self.state, index)
        return Context(self.logits[index], state, None if self.recent is None else self.recent[:, list(numbers)])


class Predictor:
    """A model that reads, in chunks of bounded size and in one number format, and learns nothing."""

    def __init__(self, model: CharLM, vocabulary: Vocabulary, precision: str, window: int = 0) -> None:
        """`model` must be in evaluation mode; `precision` is `fp32` or `bf16`.

        With a `window` above 0 the next character is foretold from the last so many, read from a zero state at every
        character anew: a model that was trained on windows knows nothing else. `predict` does not look through it.
        """
        self.model = model
        self.window = window
        self.vocabulary = vocabulary
        self.precision = precision

    def blank(self, rows: int = 1) -> Context:
        """The context of N rows that have read nothing: the zero state, and every symbol equally likely."""
        return Context(torch.zeros(rows, self.model.vocabulary_size, device=self.model.device))

    @property
    def opening(self) -> Ids:
        """What is read before any text (0 or 1 ids): the boundary where texts are made of documents.

        Else one newline, or nothing where the vocabulary has no newline.
        """
        if self.vocabulary.boundary is not None:
            return np.array([self.vocabulary.boundary])
        ids = self.vocabulary.encode("\n")
        return ids[~self.vocabulary.unseen(ids)]

    def start(self) -> Context:
        """The context in which a text begins, and from which its first character is foretold: see `opening`."""
        return self.read(self.blank(), self.opening[:, None])

    def read(self, context: Context, ids: Ids) -> Context:
        """The context after reading ids (T, N), any T, from `context` on; unseen symbols are read as `<unk>`.

        A boundary begins a document: that row's state is zeroed before it is read.
        """
        recent = ids if context.recent is None else np.concatenate((context.recent, ids))
        context = self.carry(context, ids)
        return self._seen(context, recent) if self.window else context

    def carry(self, context: Context, ids: Ids) -> Context:
        """As `read`, never through the window: the state is carried on."""
        length = max(1, READ_AT_ONCE // ids.shape[1])
        for begin in range(0, len(ids), length):
            logits, state = self._step(context, ids[begin : begin + length], since=-1)
            context = Context(logits[-1].clone(), state)  # a copy, so that the rest can be freed
        return context

    def _seen(self, context: Context, ids: Ids) -> Context:
        """The context of rows that see the last of ids (T, N) through the window, and nothing else."""
        recent = ids[-self.window :]
        if not len(recent):
            return context
        logits, _ = self._step(self.blank(recent.shape[1]), recent, since=-1)
        return Context(logits[-1].clone(), context.state, recent)

    def predict(self, context: Context, ids: Ids) -> tuple[Tensor, Context]:
        """Read ids (T, N), at most a chunk: the logits (T, N, V) that foretold each of them, and the context after."""
        logits, state = self._step(context, ids)
        return torch.cat((context.logits[None], logits[:-1])), Context(logits[-1].clone(), state)

    def chunk_length(self, rows: int) -> int:
        """How many characters of N rows are read at once where all their logits are wanted."""
        return max(1, min(READ_AT_ONCE // rows, LOGITS_AT_ONCE // (rows * self.model.vocabulary_size)))

    @torch.inference_mode()
    def _step(self, context: Context, ids: Ids, since: int = 0) -> tuple[Tensor, State]:
        """The logits (t, N, V) after those of ids (T, N) from the one numbered `since` on, and the state at the end."""
        # A single step takes as long as reading the weights, which autocast would convert each time.
        precision = self.precision if len(ids) > 1 else "fp32"
        with computing(self.model.device, precision), threads(1 if ids.shape[1] == 1 else torch.get_num_threads()):
            known = torch.from_numpy(self.vocabulary.clamp(ids)).to(self.model.device)
            _, y, state = self.model.read(known, context.state, self._fresh(ids))  # (T, N, H)
            return self.model.logits(y[since:]), state

    def _fresh(self, ids: Ids) -> Tensor | None:
        """Where a document begins in ids (T, N), on the CPU; None where none does."""
        begins = ids == self.vocabulary.boundary
        return torch.from_numpy(begins) if begins.any() else None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with this many threads.

    Where the work is small, threads mostly wait for one another: on two idle cores two of them write one text 1.4 times
    as fast as one does, but 30 times as slowly where another program keeps a core busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def generate(
    predictor: Predictor,
    context: Context,
    settings: SamplingSettings,
    randoms: Sequence[np.random.Generator],
) -> Iterator[tuple[Ids, Context]]:
    """Write for ever: each step gives one id a row (N,) and the context that they were drawn from, before reading them.

    Row n draws from `randoms[n]` alone, so that its text is the same whatever rows are beside it (as far as matrix
    products of one and of many rows agree: about 1e-6). `<unk>` is never drawn. Where texts are made of documents, a
    row that draws the boundary has ended one, and begins another by reading it.
    """
    never = [predictor.vocabulary.unknown]
    while True:
        uniforms = np.array([random.random() for random in randoms])
        ids = draw(context.logits.cpu().double().numpy(), settings, uniforms, never)
        yield ids, context
        context = predictor.read(context, ids[None])

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

    Nothing changes a context's arrays, so that one context can be continued many times.
    """

    logits: Tensor
    state: State | None = None

    def rows(self, numbers: Sequence[int]) -> Context:
        """The context of the rows whose numbers are given, in that order; a number may be given many times."""
        index = torch.tensor(numbers, device=self.logits.device)
        return Context(self.logits[index], None if self.state is None else take_rows(self.state, index))


class Predictor:
    """A model that reads, in chunks of bounded size and in one number format, and learns nothing."""

    def __init__(self, model: CharLM, vocabulary: Vocabulary, precision: str) -> None:
        """`model` must be in evaluation mode; `precision` is `fp32` or `bf16`."""
        self.model = model
        self.vocabulary = vocabulary
        self.precision = precision

    def blank(self, rows: int = 1) -> Context:
        """The context of N rows that have read nothing: the zero state, and every symbol equally likely."""
        return Context(torch.zeros(rows, self.model.vocabulary_size, device=self.model.device))

    @property
    def opening(self) -> Ids:
        """What is read before any text (0 or 1 ids): one newline, or nothing where the vocabulary has no newline."""
        ids = self.vocabulary.encode("\n")
        return ids[~self.vocabulary.unseen(ids)]

    def start(self) -> Context:
        """The context in which a text begins, and from which its first character is foretold: see `opening`."""
        return self.read(self.blank(), self.opening[:, None])

    def read(self, context: Context, ids: Ids) -> Context:
        """The context after reading ids (T, N), any T, from `context` on; unseen symbols are read as `<unk>`."""
        length = self.chunk_length(ids.shape[1])
        for begin in range(0, len(ids), length):
            _, context = self._step(context, ids[begin : begin + length])
        return context

    def predict(self, context: Context, ids: Ids) -> tuple[Tensor, Context]:
        """Read ids (T, N), at most a chunk: the logits (T, N, V) that foretold each of them, and the context after."""
        logits, after = self._step(context, ids)
        return torch.cat((context.logits[None], logits[:-1])), after

    def chunk_length(self, rows: int) -> int:
        """How many characters of N rows are read at once."""
        return max(1, min(READ_AT_ONCE // rows, LOGITS_AT_ONCE // (rows * self.model.vocabulary_size)))

    @torch.inference_mode()
    def _step(self, context: Context, ids: Ids) -> tuple[Tensor, Context]:
        # A single step takes as long as reading the weights, which autocast would convert each time.
        precision = self.precision if len(ids) > 1 else "fp32"
        with computing(self.model.device, precision), threads(1 if ids.shape[1] == 1 else torch.get_num_threads()):
            known = torch.from_numpy(self.vocabulary.clamp(ids)).to(self.model.device)
            logits, state = self.model(known, context.state)
        return logits, Context(logits[-1].clone(), state)  # (T, N, V); a copy, so that the rest can be freed


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
    products of one and of many rows agree: about 1e-6). `<unk>` is never drawn.
    """
    never = [predictor.vocabulary.unknown]
    while True:
        uniforms = np.array([random.random() for random in randoms])
        ids = draw(context.logits.cpu().double().numpy(), settings, uniforms, never)
        yield ids, context
        context = predictor.read(context, ids[None])

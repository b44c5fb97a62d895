"""What a model has read, as values: a context of one or many rows, and one with weights that learned from the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float32s, Ids, State
from scriven.runs.tensors import finite
from scriven.vocabulary import Vocabulary

LEARNED = "learned."  # begins the names of the arrays of what was learned


@dataclass(frozen=True)
class Context:
    """What N rows have read: the network's logits (N, V) of each row's next character, and the state (None before any).

    With a window or counts, `recent` has the last characters read (L, N); see `Predictor.next_logits`.
    Nothing changes a context's arrays, so one context can be continued many times.
    """

    logits: Float32s
    state: State | None = None
    recent: Ids | None = None

    def rows(self, numbers: Sequence[int]) -> Context:
        """Returns the context of the rows with these numbers, in that order. A number may occur many times."""
        index, state = list(numbers), None
        if self.state is not None:
            state = tuple(tuple(part[index] for part in layer) for layer in self.state)
        return Context(self.logits[index], state, None if self.recent is None else self.recent[:, index])

    def join_recent(self, ids: Ids) -> Ids:
        """Returns the last characters that are known, with ids (T, N) after them."""
        return ids if self.recent is None else np.concatenate((self.recent, ids))


def fit(contexts: Sequence[Context]) -> bool:
    """Whether contexts can share a batch: all or none have a state, and as many last characters are known of each."""
    known = {(each.state is None, None if each.recent is None else len(each.recent)) for each in contexts}
    return len(known) == 1


def side_by_side(contexts: Sequence[Context]) -> Context:
    """Joins contexts into one, row after row.

    Raises ValueError if they do not `fit`.
    """
    if not fit(contexts):
        raise ValueError(
            "contexts share a batch only if all have read something, and as many last characters are known of each"
        )
    states = [context.state for context in contexts if context.state is not None]
    seen = [context.recent for context in contexts if context.recent is not None]
    state = None
    if states:
        by_layer = (zip(*layers, strict=True) for layers in zip(*states, strict=True))
        state = tuple(tuple(np.concatenate(parts) for parts in layer) for layer in by_layer)
    logits = np.concatenate([context.logits for context in contexts])
    return Context(logits, state, np.concatenate(seen, 1) if seen else None)


@dataclass(frozen=True)
class AdaptiveRule:
    """How weights learn from a text while it is read. The numbers are fitted: see docs/adaptive.md."""

    length: int = 64  # characters of a segment
    rate: float = 8e-4  # learning rate; 0 to learn nothing
    beta2: float = 0.999  # of Adam's mean of squares
    pull: float = 4e-3  # share of the way back to the trained weights, at each step
    longest_side: int = 512  # of a matrix that has a basis: a step computes with its square
    memory: float = 0.995  # what is kept of the bases' second moments at a step
    turn: int = 10  # steps from one turn of the bases to the next
    ridge: float = 1e-3  # of the mean second moment: directions without a gradient have a place in a basis, too

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Returns the sizes of the bases for the rows and columns of an array of weights; 0 for none."""
        rows, columns = (n if len(shape) == 2 and n <= self.longest_side else 0 for n in (*shape, 0, 0)[:2])
        return rows, columns

    def basis_values(self, shapes: Sequence[Sequence[int]]) -> int:
        """Returns the number of values of all bases."""
        return sum(n * n for shape in shapes for n in self.sides(shape))


RULE = AdaptiveRule()


@dataclass(frozen=True)
class Learned:
    """The weights (P,) that learned from a text, and what scales their steps.

    That is Adam's mean of squares (P,) and number of steps (), and of `Bases` the second moments (K,) and bases (K,).
    """

    weights: Float32s
    square: Float32s
    steps: Float32s
    moments: Float32s
    bases: Float32s


@dataclass(frozen=True)
class AdaptiveContext(Context):
    """What one row has read and learned. `logits` (1, V) are those of the next character.

    `segment` (t,) has the ids that were not learned from yet, after the last one that was; `state` is the one before
    them. Without a segment, as after writing, `state` is the one after all that was read. `written` (T,) are ids that
    the model wrote after all that; nothing else of the context knows them before `AdaptiveReader.settle`.
    """

    learned: Learned | None = None  # None before anything was learned
    segment: Ids | None = None
    written: Ids | None = None

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the learned arrays and the ids, under names that begin with LEARNED."""
        ids = {"segment": self.segment, "written": self.written}
        found: dict[str, npt.NDArray[Any]] = {name: each for name, each in ids.items() if each is not None}
        if self.learned is not None:
            found |= vars(self.learned)
        return {f"{LEARNED}{name}": value for name, value in found.items()}

    @classmethod
    def of_arrays(cls, context: Context, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Returns a context from the arrays of `to_arrays`.

        Raises TypeError or ValueError if they are not such arrays.
        """
        rest = {name.removeprefix(LEARNED): value for name, value in arrays.items()}
        ids = {name: rest.pop(name) for name in ("segment", "written") if name in rest}
        if not all(each.dtype == np.float32 and finite(each) for each in rest.values()):
            raise ValueError("what was learned is not finite numbers in fp32")
        if not all(each.dtype == np.int64 and each.ndim == 1 for each in ids.values()):
            raise ValueError("its ids are no whole numbers")
        learned = Learned(**rest) if rest else None  # TypeError for other names
        return cls(context.logits, context.state, learned=learned, **ids)

    @property
    def ids_to_read_again(self) -> int:
        """How many ids are read again before the first new one, after the context was opened from a file."""
        return 0 if self.written is None else len(self.written)

    def fits(self, sizes: tuple[int, int], vocabulary: Vocabulary) -> bool:
        """Whether the learned arrays have shapes and values for a model of this vocabulary with sizes P and K."""
        known, learned = self.segment, self.learned
        if learned is not None:
            weights, bases = ((size,) for size in sizes)
            shapes = [tuple(each.shape) for each in vars(learned).values()]
            if shapes != [weights, weights, (), bases, bases]:
                return False
            if bool(learned.steps < 1) or bool((learned.square < 0).any()):
                return False
        if known is not None and not (0 < len(known) <= RULE.length and are_ids(known, vocabulary.size)):
            return False
        return self.written is None or are_ids(self.written, vocabulary.ids)


def are_ids(ids: Ids, count: int) -> bool:
    """Whether all are among the first ids."""
    return bool(((ids >= 0) & (ids < count)).all())

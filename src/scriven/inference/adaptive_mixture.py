"""Learning while reading with ongoing counts: three predictions together, of a network that learns, the trained network
and counts. The network that learns is first mixed with the counts of training, as a trained one is.

As without counts, a text that was read and learned from is a value, a `MixedContext`. Counts are too large for each to
keep: they move from a context to the next one, or are copied. A context that lost them still knows all that was read
and written, and makes them again from that. No bit depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Union

import numpy as np
import numpy.typing as npt

from scriven.arrays import Bools, Float32s, Float64s, Ids, State
from scriven.errors import InputError, UsageError
from scriven.inference.chunks import blocks
from scriven.inference.context import LEARNED, RULE, AdaptiveContext, AdaptiveRule, Context, are_ids
from scriven.inference.ongoing_counts import CountsOfTraining, OngoingCounts
from scriven.inference.predictor import Predictor, check_adaptive
from scriven.runtime import needing_torch
from scriven.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scriven.inference.adaptive import AdaptiveReader

    AnyReader = Union[AdaptiveReader, "AdaptiveMixture"]  # noqa: UP007

JOINED = 1 << 12  # ids that one turn of reading has at least, unless it is the last one
READ_AGAIN_AT_ONCE = 1 << 10  # ids of a history that are read between two calls of `check_stop`


@dataclass(frozen=True)
class History:
    """All that was read and written since the beginning, in turns: whether it was written, and ids (T,).

    Unless it is `kept`, only the empty one is known.
    """

    turns: tuple[tuple[bool, Ids], ...] = ()
    kept: bool = True

    def add(self, ids: Ids, *, written: bool) -> History | None:
        """Returns the history after more ids (T,). Turns of reading are joined; each one of writing stays by itself."""
        if not self.kept:
            return None
        if self.turns and not written:
            last_written, last = self.turns[-1]
            if not last_written and len(last) < JOINED:
                return History((*self.turns[:-1], (False, np.concatenate((last, ids)))))
        return History((*self.turns, (written, ids)))

    def to_arrays(self) -> dict[str, Ids]:
        """Returns the ids (T,) of all turns, and of each whether it was written and its length (M, 2)."""
        ids = np.concatenate([np.empty(0, np.int64), *(ids for _, ids in self.turns)])
        turns = np.array([(written, len(ids)) for written, ids in self.turns], np.int64).reshape(-1, 2)
        return {f"{LEARNED}history": ids, f"{LEARNED}turns": turns}

    @classmethod
    def of_arrays(cls, ids: Ids, turns: Ids) -> History:
        """Returns a history from the arrays of `to_arrays`. Raises ValueError if they are not such arrays."""
        whole = all(each.dtype == np.int64 for each in (ids, turns))
        if not (whole and ids.ndim == 1 and turns.ndim == 2 and turns.shape[1] == 2):
            raise ValueError("the history has no whole numbers")
        written, lengths = turns.T
        if not (are_ids(written, 2) and are_ids(lengths - 1, len(ids)) and lengths.sum() == len(ids)):
            raise ValueError("the turns are not those of the ids")
        parts = np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []
        return cls(tuple(zip((written == 1).tolist(), parts, strict=True)))


@dataclass
class Partners:
    """The other two that predict: the trained network, after all that was read, and ongoing counts.

    They come with the last characters that were read (L, 1), which the counts of training look at.
    """

    trained: AdaptiveContext
    counts: OngoingCounts
    recent: Ids

    def copy(self) -> Partners:
        """Returns independent partners that have read the same."""
        return replace(self, counts=self.counts.copy())


class PartnersSlot:
    """A place for the partners of a context, which may be empty. Many threads may use it."""

    def __init__(self, partners: Partners | None = None) -> None:
        self._partners = partners
        self._lock = threading.Lock()

    def take(self) -> Partners | None:
        """Returns the partners, if any, and empties the place."""
        with self._lock:
            partners, self._partners = self._partners, None
            return partners

    def copy(self) -> Partners | None:
        """Returns a copy of the partners, if any."""
        with self._lock:
            return None if self._partners is None else self._partners.copy()

    def put(self, partners: Partners) -> None:
        """Fills the place."""
        with self._lock:
            self._partners = partners


@dataclass(frozen=True)
class MixedContext(AdaptiveContext):
    """What one row has read and learned, for a mixture.

    `history` has all of it, unless it was not kept. The `partners` have read all but what is `behind`: texts
    that were written. They are made again from the history if the place is empty. Contexts that differ in what was
    written share a place.
    """

    history: History | None = None
    behind: tuple[Ids, ...] = ()
    partners: PartnersSlot = field(default_factory=PartnersSlot, compare=False)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the arrays of an AdaptiveContext, and the history."""
        assert self.history is not None
        return super().to_arrays() | self.history.to_arrays()

    @classmethod
    def of_arrays(cls, context: Context, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Returns a context from the arrays of `to_arrays`.

        Raises KeyError, TypeError or ValueError if they are not such arrays.
        """
        rest = dict(arrays)
        history = History.of_arrays(rest.pop(f"{LEARNED}history"), rest.pop(f"{LEARNED}turns"))
        return replace(super().of_arrays(context, rest), history=history)

    @property
    def ids_to_read_again(self) -> int:
        """How many ids are read again before the first new one: those of the history, and those written after it."""
        turns = () if self.history is None else self.history.turns
        return super().ids_to_read_again + sum(len(ids) for _, ids in turns)

    def fits(self, sizes: tuple[int, int], vocabulary: Vocabulary) -> bool:
        """Whether the learned arrays and the history are of this model."""
        turns = () if self.history is None else self.history.turns
        return super().fits(sizes, vocabulary) and all(are_ids(ids, vocabulary.ids) for _, ids in turns)


class AdaptiveMixture:
    """Reads a text with a network that learns from it, the trained network, and ongoing counts."""

    def __init__(self, predictor: Predictor, rule: AdaptiveRule = RULE) -> None:
        """Raises UsageError for a model that cannot learn while it reads, or has too many symbols to count."""
        self.predictor, self.vocabulary = predictor, predictor.vocabulary
        self._network = network_reader(predictor, rule)
        self._trained = network_reader(predictor, replace(rule, rate=0.0))
        self._counts = CountsOfTraining(predictor, partial(_predict, self._trained))

    def start(self, *, history: bool = True) -> MixedContext:
        """Returns the context at the beginning of a text. Without `history` it must always be read with `reuse`."""
        return MixedContext(**vars(self._network.start()), history=History(kept=history))

    def read(
        self,
        context: AdaptiveContext,
        ids: Ids,
        *,
        reuse: bool = False,
        check_stop: Callable[[], None] = lambda: None,
    ) -> tuple[Float64s, Bools | None, AdaptiveContext]:
        """Returns the nats (T,) that ids (T,) cost, None, and the context after.

        Every id is scored first, and then learned from and counted. With `reuse`, the counts of the given context are
        used up: it is nobody else's, or slow to be read from again. `check_stop` is called again and again while a
        history is read to make counts from it, and may raise to end that. Raises InputError if the training text is
        gone.
        """
        if not len(ids):
            return np.empty(0), None, context
        mixed = self.ready(context, reuse=reuse, check_stop=check_stop)
        partners = _take(mixed)

        def _judge(logits: Float32s, ids: Ids) -> tuple[Float64s, Bools]:
            learned = self._mix(logits, ids[:-1], partners)

            def _judge_both(unlearned: Float32s, ids: Ids) -> tuple[Float64s, Bools]:
                return partners.counts.read(ids, learned, unlearned), np.zeros(len(ids), np.bool_)

            self._remember(ids, partners)
            nats, right, partners.trained = self._trained.read(partners.trained, ids, _judge_both)
            return nats, right

        nats, _, after = self._network.read(_of_network(mixed), ids, _judge)
        history = mixed.history and mixed.history.add(ids, written=False)
        return nats, None, MixedContext(**vars(after), history=history, partners=PartnersSlot(partners))

    def ready(
        self, context: AdaptiveContext, *, reuse: bool = False, check_stop: Callable[[], None] = lambda: None
    ) -> MixedContext:
        """Returns a context whose partners are there, and have read all that it has. The rest is as for `read`.

        Raises InputError if the training text is gone, or the context is from a damaged file.
        """
        mixed = self.settle(context)
        partners, behind = mixed.partners.take() if reuse else mixed.partners.copy(), mixed.behind
        if partners is None:
            partners, behind = self._replay(mixed.history, check_stop), ()
            if not (reuse or mixed.behind or not (mixed.history and mixed.history.turns)):
                mixed.partners.put(partners.copy())
        for ids in behind:
            partners.trained = self._trained.settle(replace(partners.trained, written=ids))
            partners.counts.observe(self.vocabulary.clamp(ids))
            self._remember(ids, partners)
        if not np.array_equal(partners.trained.segment, mixed.segment):  # type: ignore[arg-type]
            raise InputError("the session is damaged: it did not learn from what it read; begin another one")
        return replace(mixed, behind=(), partners=PartnersSlot(partners))

    def settle(self, context: AdaptiveContext) -> MixedContext:
        """Returns a context whose network has read the text that it wrote; see `AdaptiveReader.settle`."""
        assert isinstance(context, MixedContext), "the context is of a network alone"
        written = context.written
        if written is None:
            return context
        history = context.history and context.history.add(written, written=True)
        return replace(self._network.settle(context), history=history, behind=(*context.behind, written))

    def pause(self, context: AdaptiveContext) -> AdaptiveContext:
        """Returns a context that the network can write after; see `AdaptiveReader.pause`. It is not to be read from."""
        return self._network.pause(self.settle(context))

    def state_after(self, context: AdaptiveContext) -> State | None:
        """Returns the recurrent state of the network that learns, after all that was read and written."""
        return self._network.state_after(_of_network(self.settle(context)))

    def writer(self, context: AdaptiveContext) -> Predictor:
        """Returns a predictor with the weights of a context, without counts."""
        return self._network.writer(context)

    def probabilities(self, context: AdaptiveContext) -> Float64s:
        """Returns the probabilities (V,) of the next symbol, by id, after a context that is `ready`."""
        assert isinstance(context, MixedContext), "the context is of a network alone"
        partners = _take(context)
        try:
            learned = self._mix(context.logits, np.empty(0, np.int64), partners)
            return partners.counts.probabilities(learned, partners.trained.logits)
        finally:
            context.partners.put(partners)

    def _mix(self, logits: Float32s, ids: Ids, partners: Partners) -> Float32s:
        """Returns the logits (t + 1, V) before, between and after ids (t,), mixed with the counts of training."""
        context = Context(logits, recent=partners.recent)
        return self.predictor.mix(logits[:, None], context, ids[:, None], self.predictor.counts)[:, 0]

    def _remember(self, ids: Ids, partners: Partners) -> None:
        """Notes that ids (t,) were read."""
        context = Context(np.empty((1, 0), np.float32), recent=partners.recent)
        recent = self.predictor.remember(context, ids[:, None])
        assert recent is not None, "there are counts, which look at some characters"
        partners.recent = recent

    def _replay(self, history: History | None, check_stop: Callable[[], None]) -> Partners:
        """Returns partners that have read a history."""
        assert history is not None, "a context without a history was read twice"
        partners = Partners(self._trained.start(), self._counts.copy(), self.predictor.opening[:, None])
        context: AdaptiveContext = replace(self.start(history=False), partners=PartnersSlot(partners))
        for written, ids in history.turns:
            for piece in [ids] if written else blocks([ids], READ_AGAIN_AT_ONCE):
                check_stop()
                if written:
                    context = self.settle(replace(context, written=piece))
                else:
                    _, _, context = self.read(context, piece, reuse=True)
        return _take(self.ready(context, reuse=True))


def network_reader(predictor: Predictor, rule: AdaptiveRule = RULE) -> AdaptiveReader:
    """Returns what reads and learns with the network alone.

    Raises UsageError for a model that cannot learn while it reads, and without torch.
    """
    with needing_torch("learning while reading"):
        from scriven.inference.adaptive import AdaptiveReader  # noqa: PLC0415 - it imports torch
    return AdaptiveReader(predictor, rule)


def adaptive_reader(predictor: Predictor, rule: AdaptiveRule = RULE) -> AnyReader:
    """Returns what reads and learns: a mixture if the model is mixed with counts, and otherwise its network.

    Raises UsageError for a model that cannot learn while it reads.
    """
    check_adaptive(predictor)
    if predictor.missing_counts:
        raise UsageError(
            f"this model is mixed with counts, which go on counting in native code alone, and there is none: "
            f"{predictor.missing_counts}; the network alone can learn, with --counts none or counts='none'"
        )
    return AdaptiveMixture(predictor, rule) if has_ongoing_counts(predictor) else network_reader(predictor, rule)


def has_ongoing_counts(predictor: Predictor) -> bool:
    """Whether a model has counts that can be continued: those of a training text."""
    return predictor.training_text is not None and predictor.counts is not None


def _take(context: MixedContext) -> Partners:
    partners = context.partners.take()
    assert partners is not None, "the context is not ready"
    return partners


def _of_network(context: MixedContext) -> AdaptiveContext:
    return AdaptiveContext(context.logits, context.state, None, context.learned, context.segment, context.written)


def _predict(trained: AdaptiveReader, ids: Ids) -> Iterator[tuple[Float32s, Ids]]:
    """Yields pieces of a text, ids (t,), with the logits (t, V) of the trained network for them."""
    network = trained.writer(trained.start())
    context = network.start()
    for piece in blocks([ids], network.chunk_length(1)):
        logits, context = network.predict(context, piece[:, None])
        yield logits[:, 0], piece

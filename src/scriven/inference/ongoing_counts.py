"""Ongoing counts: a `ContextMixer` that has read the training text, and continues counting the text that it reads.

Of the training text it has read no more than the last PRIMED characters. A network takes part with its predictions: of
a few of the last of these, so that the counts learn what they are worth, and of all that is read afterwards.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scriven.arrays import Float32s, Float64s, Ids
from scriven.errors import UsageError
from scriven.inference.chunks import StoredText, blocks, last_chunks
from scriven.inference.predictor import Predictor
from scriven.kernels.context_mixing import (
    MOST_SYMBOLS,
    UNUSED,
    ContextMixer,
    Frequencies,
    Kinds,
    kinds_of_symbols,
    memory_bits_for,
)
from scriven.vocabulary import Vocabulary

PRIMED = 4_000_000  # characters of the training text that are counted, at most: the last ones
PREDICTED = 30_000  # of these, the last ones, at most, which a network predicts, too
COUNTED_FOR_EACH_PREDICTED = 32  # at least: the network has learned them, so that they flatter it, most in short texts
LEARNED_AT_ONCE = 1 << 14  # characters that are read between two copies of what was learned
SHARE = 1 << 24  # of a probability 1, as frequencies

ASCII = 128  # code points that keep their numbers

Predict = Callable[[Ids], Iterator[tuple[Float32s, Ids]]]  # pieces of a text, ids (t,), after their logits (t, V)


class OngoingCounts:
    """Counts of a text that are asked before they count. Their memory is freed with them."""

    def __init__(self, vocabulary: Vocabulary, mixer: ContextMixer) -> None:
        """Takes a mixer of the kinds that `number_symbols` returns."""
        self._vocabulary, self._mixer = vocabulary, mixer
        self._numbers, _ = number_symbols(vocabulary)
        weakref.finalize(self, mixer.close)

    @classmethod
    def after(
        cls, vocabulary: Vocabulary, text: StoredText, predict: Predict | None, check_stop: Callable[[], None]
    ) -> OngoingCounts:
        """Returns counts that have read a training text, with the predictions of a network, if any."""
        ids = np.concatenate([np.empty(0, np.int64), *last_chunks(text, vocabulary.boundary, PRIMED)])
        counts = cls(vocabulary, ContextMixer(number_symbols(vocabulary)[1], memory_bits_for(len(ids))))
        most = min(PREDICTED, len(ids) // COUNTED_FOR_EACH_PREDICTED) if predict else 0
        alone, predicted = np.split(vocabulary.clamp(ids), [len(ids) - most])
        for piece in blocks([alone], LEARNED_AT_ONCE):
            check_stop()
            counts.read(piece)
        for logits, piece in predict(predicted) if predict else ():
            check_stop()
            counts._read(piece, [counts._frequencies(logits)] * 2)
        return counts

    def copy(self) -> OngoingCounts:
        """Returns independent counts that have read the same."""
        return OngoingCounts(self._vocabulary, self._mixer.copy())

    def read(self, ids: Ids, *logits: Float32s) -> Float64s:
        """Returns the nats (t,) of known ids (t,), by counts and the logits (t, V) of networks together.

        All nats are NaN if the logits are not finite numbers.
        """
        return self._read(ids, [self._frequencies(each) for each in logits])

    def observe(self, ids: Ids) -> None:
        """Reads known ids (t,) as the context of the next ones, and does not count them."""
        self._mixer.observe(self._numbers[ids])

    def probabilities(self, *logits: Float32s) -> Float64s:
        """Returns the probabilities (V,) of the next symbol by counts and the logits (1, V) of networks together.

        All are NaN if the logits are not finite numbers.
        """
        predictions = [self._frequencies(each) for each in logits]
        known = [each for each in predictions if each is not None]
        if len(known) < len(predictions):
            return np.full(len(self._numbers), math.nan)
        return self._mixer.distribution(*known)[self._numbers]

    def _read(self, ids: Ids, predictions: Sequence[Frequencies | None]) -> Float64s:
        """Reads like `read`, with what `_frequencies` made of the logits."""
        known = [each for each in predictions if each is not None]
        if len(known) < len(predictions):
            return np.full(len(ids), math.nan)
        return self._mixer.read(self._numbers[ids], *known)

    def _frequencies(self, logits: Float32s) -> Frequencies | None:
        """Returns frequencies by number (t, numbers) from logits (t, V); None if these are not finite numbers."""
        if not np.isfinite(logits).all():
            return None
        chances = np.exp(logits - logits.max(1, keepdims=True).astype(np.float64))  # (t, V)
        chances /= chances.sum(1, keepdims=True)
        frequencies = np.zeros((len(chances), self._mixer.symbols), np.uint32)
        frequencies[:, self._numbers] = (chances * SHARE).astype(np.uint32) + np.uint32(1)
        return frequencies


class CountsOfTraining:
    """Ongoing counts after the training text of a model, which they read once, when they are first needed."""

    def __init__(self, predictor: Predictor, predict: Predict | None) -> None:
        """Counts go with the predictions of a network, if any. Raises UsageError for too many symbols."""
        number_symbols(predictor.vocabulary)
        self._predictor, self._predict = predictor, predict
        self._counts: OngoingCounts | None = None
        self._lock = threading.Lock()

    def copy(self) -> OngoingCounts:
        """Returns counts for one text. Raises InputError if the training text is gone."""
        with self._lock:
            if self._counts is None:
                assert self._predictor.training_text is not None
                text, check_stop = self._predictor.training_text(), self._predictor.check_stop
                self._counts = OngoingCounts.after(self._predictor.vocabulary, text, self._predict, check_stop)
            return self._counts.copy()


def number_symbols(vocabulary: Vocabulary) -> tuple[Ids, Kinds]:
    """Returns the number of each symbol (V,), which counts know it by, and the kinds of all numbers.

    Numbers are read bit by bit, and alike symbols should begin alike. So those of ASCII are numbered as there, and
    the others follow. Raises UsageError for more symbols than can be counted.
    """
    known = np.array(vocabulary.symbols, np.int64)
    places = np.arange(vocabulary.size)
    below = int(np.searchsorted(known, ASCII))
    numbers = np.where(places < below, np.append(known, [0, 0])[places], ASCII + places - below)
    if numbers[-1] >= MOST_SYMBOLS:
        raise UsageError(
            f"ongoing counts have at most {MOST_SYMBOLS - ASCII:,} symbols, and this model has {vocabulary.size:,}; "
            "score it without adapting, or a network alone, with --counts none"
        )
    kinds = np.full(numbers[-1] + 1, UNUSED, np.int32)
    kinds[numbers] = kinds_of_symbols(vocabulary)
    return numbers, kinds

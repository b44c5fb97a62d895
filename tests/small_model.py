"""A tiny model of random weights, slow obvious code to compare with, and texts in memory; for tests of inference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from scriven.arrays import Ids
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import SurprisalSum
from scriven.kernels import native_library
from scriven.kernels.counts import NgramCounter, NgramMixture
from scriven.model import CharLM
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

TEXT = "a bad cab, a dab\nbad ace€ and a façade\n" * 9
DOCUMENTS = ["a bad cab", "€", "dab,", "bad", "a", "b", "ace and a façade " * 9, "add", "be", "dead"]


def predictor(letters: str = "\n abcde,", separator: str | None = None) -> Predictor:
    """A model of these letters; of documents where there is a separator."""
    return predictor_of(Vocabulary.of(letters, separator))


def predictor_of(vocabulary: Vocabulary) -> Predictor:
    """A model whose foretelling depends strongly on what it has read."""
    torch.manual_seed(1)
    model = CharLM(ModelSettings(width=8), vocabulary.size).eval()
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(8)
    return Predictor(model, vocabulary, "fp32")


def favour(model: Predictor, symbol: int | None, bias: float) -> None:
    """Makes a symbol likelier everywhere."""
    with torch.no_grad():
        model.model.get_parameter("head.bias")[symbol] = bias


def slow_nats(model: Predictor, ids: Sequence[int], opening: Sequence[int]) -> list[float]:
    """The cost of every id but the opening's, one step at a time, with nothing read before."""
    state, costs = None, []
    row = torch.full((model.vocabulary.size,), -math.log(model.vocabulary.size))
    for place, symbol in enumerate([*opening, *ids]):
        known = min(symbol, model.vocabulary.unknown)
        if place >= len(opening):
            costs.append(-float(row[known]) + (symbol > known) * model.vocabulary.unseen_nats)
        with torch.no_grad():
            logits, state = model.model(torch.tensor([[known]]), state)
        row = torch.log_softmax(logits[0, 0].double(), 0)
    return costs


def cut(ids: Ids, lengths: Sequence[int]) -> Iterator[Ids]:
    """The ids in chunks of these lengths, and the rest."""
    for length in lengths:
        yield ids[:length]
        ids = ids[length:]
    yield ids


class Shelf:
    """A text in memory that is read as one on the disk is; of documents where it is made from several."""

    def __init__(self, *documents: Ids) -> None:
        self.ids = np.concatenate([np.empty(0, np.int64), *documents])
        self.ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
        self.documents = len(documents)
        self.characters = len(self.ids)

    def read(self, start: int, length: int) -> Ids:
        assert 0 <= start <= start + length <= len(self.ids)
        return self.ids[start : start + length]

    def bounds(self, numbers: Ids) -> tuple[Ids, Ids]:
        firsts = np.concatenate(([0], self.ends))[numbers]
        return firsts, self.ends[numbers] - firsts


class Text(Shelf):
    """A training text without documents."""

    def __init__(self, ids: Ids) -> None:
        super().__init__(ids)
        self.documents = 0


def mixture(network: Predictor, text: Shelf) -> Predictor:
    """A network mixed with the counts of a training text. Skips the test without native code, which counts."""
    if native_library.level() == "off":
        pytest.skip(native_library.why())
    vocabulary = network.vocabulary
    with NgramCounter(vocabulary.size, len(text.ids), boundary=vocabulary.boundary) as counter:
        counter.count(vocabulary.clamp(text.ids))
        table, _ = counter.finish()
    counts = NgramMixture(table, np.full((table.longest + 1, 2), 0.5))
    return Predictor(network.model, vocabulary, "fp32", counts=counts, training_text=lambda: text)


def assert_same(left: SurprisalSum, right: SurprisalSum) -> None:
    """Equal as far as products of matrices of several shapes are."""
    assert left.loss.nats == pytest.approx(right.loss.nats, rel=1e-5)
    assert left.loss.end_nats == pytest.approx(right.loss.end_nats, rel=1e-5)
    assert _counts(left) == _counts(right)


def _counts(total: SurprisalSum) -> tuple[int, ...]:
    return total.loss.characters, total.loss.bytes, total.loss.ends, total.unseen

"""Scores against a loop that foretells one character after another, reading one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scriven.inference import generate as generation
from scriven.inference import score
from scriven.inference.generate import Predictor
from scriven.inference.sampling import Ids
from scriven.model import CharLM
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

TEXT = "a bad cab, a dab\nbad ace€ and a façade\n" * 9


def predictor(letters: str = "\n abcde,") -> Predictor:
    torch.set_num_threads(1)  # threads that wait for one another are slow where the machine has other work
    torch.manual_seed(1)
    vocabulary = Vocabulary.of(letters)
    model = CharLM(ModelSettings(width=8), vocabulary.size).eval()
    with torch.no_grad():
        model.head.weight *= 8
    return Predictor(model, vocabulary, "fp32")


def slow_nats(model: Predictor, ids: list[int], opening: list[int]) -> list[float]:
    """The cost of every id but the opening's, one step at a time."""
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


def cut(ids: Ids, lengths: list[int]) -> Iterator[Ids]:
    for length in lengths:
        yield ids[:length]
        ids = ids[length:]
    yield ids


class Shelf:
    """A text in memory behind the reader's two names."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids

    @property
    def characters(self) -> int:
        return len(self.ids)

    def read(self, start: int, length: int) -> Ids:
        assert 0 <= start <= start + length <= len(self.ids)
        return self.ids[start : start + length]


def assert_same(left: score.Tally, right: score.Tally) -> None:
    assert left.loss.nats == pytest.approx(right.loss.nats, rel=1e-5)
    assert (left.loss.characters, left.loss.bytes, left.unseen) == (
        right.loss.characters,
        right.loss.bytes,
        right.unseen,
    )


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=20), at_once=st.integers(1, 60))
def test_surprisals_are_those_of_single_steps_for_every_chunk_length(lengths: list[int], at_once: int) -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "READ_AT_ONCE", at_once)
        pieces = list(score.surprisals(model, cut(ids, lengths), model.start()))
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == ids.tolist()
    nats = np.concatenate([piece.nats for piece in pieces])
    expected = slow_nats(model, ids.tolist(), model.opening.tolist())
    np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-5)


def test_stream_sums_every_character_once() -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    total = score.stream(model, cut(ids, [7, 1, 100]))
    assert total.loss.nats == pytest.approx(sum(slow_nats(model, ids.tolist(), model.opening.tolist())), rel=1e-5)
    assert total.loss.characters == len(TEXT)
    assert total.loss.bytes == len(TEXT.encode())
    assert total.unseen == sum(character not in "\n abcde," for character in TEXT) > 0


def test_without_a_newline_the_first_character_costs_a_uniform_choice() -> None:
    model = predictor("ab")
    assert score.stream(model, [model.vocabulary.encode("a")]).loss.nats == pytest.approx(math.log(3))
    unseen = score.stream(model, [model.vocabulary.encode("\n")])
    assert unseen.loss.nats == pytest.approx(math.log(3) + math.log(0x110000 - 3))
    assert unseen.unseen == 1


@pytest.mark.parametrize("at_once", [1, 90, 4096])
@pytest.mark.parametrize("length", [1, 5, 16, 1000])
def test_windows_are_independent_and_given_one_character(
    length: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once)
    monkeypatch.setattr(score, "WINDOWS_AT_ONCE", 3)
    model = predictor()
    ids = model.vocabulary.encode(TEXT).tolist()
    expected = [
        cost
        for start in range(0, len(ids) - 1, length)
        for cost in slow_nats(model, ids[start + 1 : start + length + 1], ids[start : start + 1])
    ]
    total = score.windows(model, cut(np.array(ids), [50, 3]), length)
    assert total.loss.characters == len(ids) - 1 == len(expected)
    assert total.loss.nats == pytest.approx(sum(expected), rel=1e-5)


def test_a_text_of_one_character_has_no_window() -> None:
    model = predictor()
    assert score.windows(model, [model.vocabulary.encode("a")]) == score.Tally()


@pytest.mark.parametrize("letters", ["\n abcde,", "ab"])
def test_one_lane_is_the_stream(letters: str) -> None:
    model = predictor(letters)
    ids = model.vocabulary.encode(TEXT)
    assert_same(score.lanes(model, Shelf(ids), [0], 1), score.stream(model, [ids]))


@pytest.mark.parametrize("at_once", [1, 60, 4096])
@pytest.mark.parametrize("warm_up", [0, 3, 1000])
def test_lanes_warm_up_and_count_each_character_once(
    warm_up: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once)
    model, count = predictor(), 7
    ids = model.vocabulary.encode(TEXT)
    text = [*model.opening.tolist(), *ids.tolist()]  # character n is text[n + 1]
    expected = 0.0
    for lane in range(count):
        first, end = len(ids) * lane // count, len(ids) * (lane + 1) // count
        begin = max(first - warm_up, -1)
        costs = slow_nats(model, text[begin + 1 : end + 1], [])
        expected += sum(costs[first - begin :])
    total = score.lanes(model, Shelf(ids), range(count), count, warm_up)
    assert total.loss.characters == len(ids)
    assert total.loss.nats == pytest.approx(expected, rel=1e-5)


def test_lanes_shared_among_workers_add_up() -> None:
    model = predictor()
    shelf = Shelf(model.vocabulary.encode(TEXT))
    shares = [score.lanes(model, shelf, range(worker, 12, 3), 12) for worker in range(3)]
    assert_same(shares[0] + shares[1] + shares[2], score.lanes(model, shelf, range(12), 12))


def test_more_lanes_than_characters() -> None:
    model = predictor()
    shelf = Shelf(model.vocabulary.encode("abc"))
    assert_same(score.lanes(model, shelf, range(9), 9), score.stream(model, [shelf.ids]))


@given(
    lengths=st.lists(st.integers(0, 9), max_size=9),
    length=st.integers(1, 9),
    overlap=st.integers(0, 2),
)
def test_blocks_hold_the_text_in_order(lengths: list[int], length: int, overlap: int) -> None:
    ids = np.arange(40)
    made = list(score.blocks(cut(ids, lengths), length, overlap))
    expected = [ids[n : n + length + overlap].tolist() for n in range(0, 40 - overlap, length)]
    assert [block.tolist() for block in made] == expected


def test_chunks_of_a_reader_are_its_text() -> None:
    ids = np.arange(10)
    assert np.concatenate(list(score.chunks_of(Shelf(ids), 4))).tolist() == ids.tolist()


@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_lines_are_cut_after_their_line_feeds(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once)
    model, text = predictor("abc"), "ab\n\n€c\n\n"  # the line feed itself is unseen here
    ids = model.vocabulary.encode(text)
    totals = list(score.lines(model.vocabulary, score.surprisals(model, [ids], model.start())))
    assert [total.loss.characters for total in totals] == [3, 1, 3, 1]
    assert [total.loss.bytes for total in totals] == [3, 1, 5, 1]
    assert [total.unseen for total in totals] == [1, 1, 2, 1]
    assert_same(sum(totals, score.Tally()), score.stream(model, [ids]))

"""Protocols against a loop that reads one character at a time, and shared out among workers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from scriven.errors import UsageError
from scriven.inference import predictor as generation
from scriven.inference import protocols
from scriven.inference.chunks import documents_of
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import SurprisalSum
from small_model import DOCUMENTS, TEXT, Shelf, assert_same, cut, predictor, slow_nats


def test_stream_sums_every_character_once() -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    total = protocols.stream(model, cut(ids, [7, 1, 100]))
    assert total.loss.nats == pytest.approx(sum(slow_nats(model, ids.tolist(), model.opening.tolist())), rel=1e-5)
    assert total.loss.characters == len(TEXT)
    assert total.loss.bytes == len(TEXT.encode())
    assert total.unseen == sum(character not in "\n abcde," for character in TEXT) > 0


def test_without_a_newline_the_first_character_costs_a_uniform_choice() -> None:
    model = predictor("ab")
    assert protocols.stream(model, [model.vocabulary.encode("a")]).loss.nats == pytest.approx(math.log(3))
    unseen = protocols.stream(model, [model.vocabulary.encode("\n")])
    assert unseen.loss.nats == pytest.approx(math.log(3) + math.log(0x110000 - 3))
    assert unseen.unseen == 1


@pytest.mark.parametrize(("length", "at_once"), [(1, 90), (5, 1), (16, 90), (16, 4096), (1000, 1), (1000, 4096)])
def test_windows_are_independent_and_given_one_character(
    length: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once)
    monkeypatch.setattr(protocols, "WINDOWS_AT_ONCE", 3)
    model = predictor()
    ids = model.vocabulary.encode(TEXT).tolist()
    expected = [
        cost
        for start in range(0, len(ids) - 1, length)
        for cost in slow_nats(model, ids[start + 1 : start + length + 1], ids[start : start + 1])
    ]
    total = protocols.windows(model, cut(np.array(ids), [50, 3]), length)
    assert total.loss.characters == len(ids) - 1 == len(expected)
    assert total.loss.nats == pytest.approx(sum(expected), rel=1e-5)


def test_a_text_of_one_character_has_no_window() -> None:
    model = predictor()
    assert protocols.windows(model, [model.vocabulary.encode("a")], 256) == SurprisalSum()


@pytest.mark.parametrize("letters", ["\n abcde,", "ab"])
def test_one_lane_is_the_stream(letters: str) -> None:
    model = predictor(letters)
    ids = model.vocabulary.encode(TEXT)
    assert_same(protocols.lanes(model, Shelf(ids), [0], 1), protocols.stream(model, [ids]))


@pytest.mark.parametrize(("warm_up", "at_once"), [(0, 60), (3, 1), (3, 4096), (1000, 60), (1000, 4096)])
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
    total = protocols.lanes(model, Shelf(ids), range(count), count, warm_up)
    assert total.loss.characters == len(ids)
    assert total.loss.nats == pytest.approx(expected, rel=1e-5)


def test_lanes_shared_among_workers_add_up() -> None:
    model = predictor()
    shelf = Shelf(model.vocabulary.encode(TEXT))
    shares = [protocols.lanes(model, shelf, range(worker, 12, 3), 12) for worker in range(3)]
    assert_same(shares[0] + shares[1] + shares[2], protocols.lanes(model, shelf, range(12), 12))


def test_more_lanes_than_characters() -> None:
    model = predictor()
    shelf = Shelf(model.vocabulary.encode("abc"))
    assert_same(protocols.lanes(model, shelf, range(9), 9), protocols.stream(model, [shelf.ids]))


@pytest.mark.parametrize(("length", "ahead"), [(1, 90), (2, 1), (7, 90), (40, 1), (40, 1 << 14), (1000, 90)])
def test_last_foretells_each_character_after_exactly_so_many(
    length: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "READ_AHEAD", ahead)
    model = predictor()
    ids = model.vocabulary.encode(TEXT[:90]).tolist()
    expected = slow_nats(model, ids[:length], model.opening.tolist())
    for place in range(length, len(ids)):
        expected.append(slow_nats(model, ids[place - length : place + 1], [])[-1])
    total = protocols.last(model, cut(np.array(ids), [50, 3]), length)
    assert total.loss.characters == len(ids) == len(expected)
    assert total.loss.nats == pytest.approx(sum(expected), rel=1e-5)
    assert total.unseen == TEXT[:90].count("€") + TEXT[:90].count("ç") + TEXT[:90].count("f") + TEXT[:90].count("n")


def test_last_of_a_whole_text_is_the_stream() -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    assert_same(protocols.last(model, [ids], len(ids)), protocols.stream(model, [ids]))


# --- names


def test_a_name_gives_its_protocol() -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    for length in (1, 40, 1000):
        assert protocols.protocol(f"window-{length}")(model, [ids]) == protocols.windows(model, [ids], length)
        assert protocols.protocol(f"last-{length}")(model, [ids]) == protocols.last(model, [ids], length)
    assert protocols.protocol("stream")(model, [ids]) == protocols.stream(model, [ids])


@pytest.mark.parametrize(
    "name", ["", "streams", "window", "window-0", "last-", "last--3", "window-2.5", "last-٣", "x\n"]
)
def test_names_that_there_are_not(name: str) -> None:
    with pytest.raises(UsageError, match="stream, documents, window-LENGTH or last-LENGTH"):
        protocols.protocol(name)


def test_documents_need_a_model_of_documents() -> None:
    model = predictor()
    ids = model.vocabulary.encode("abc")
    with pytest.raises(UsageError, match="knows no documents"):
        protocols.protocol("documents")(model, [ids])
    with pytest.raises(UsageError, match="knows no documents"):
        protocols.measure("documents", model, Shelf(ids))


# --- shared out among workers


def shares(name: str, model: Predictor, shelf: Shelf, size: int, **options: int) -> list[SurprisalSum]:
    return [protocols.measure(name, model, shelf, rank=rank, size=size, **options) for rank in range(size)]


@pytest.mark.parametrize(
    ("size", "characters"), [(1, 250), (2, 0), (2, 1), (2, 2), (5, 9), (5, 250), (2, len(TEXT)), (5, len(TEXT))]
)
@pytest.mark.parametrize("name", ["stream", "window-256", "window-7", "window-1", "last-7", "last-300"])
def test_workers_count_each_character_once(name: str, size: int, characters: int) -> None:
    model = predictor()
    shelf = Shelf(model.vocabulary.encode(TEXT))
    whole = protocols.protocol(name)(model, [shelf.ids[: characters or None]])
    parts = shares(name, model, shelf, size, limit_characters=characters)
    assert_same(sum(parts, SurprisalSum()), whole)
    if name in {"window-7", "last-7"} and characters == len(TEXT):
        assert max(part.loss.characters for part in parts) < len(TEXT) / size + 8


@pytest.mark.parametrize("name", ["stream", "window-256", "window-1", "last-7"])
def test_nothing_measures_nothing(name: str) -> None:
    assert protocols.measure(name, predictor(), Shelf(np.empty(0, np.int64))) == SurprisalSum()


def test_a_stream_is_estimated_in_lanes_and_exact_in_one() -> None:
    model = predictor()
    shelf = Shelf(model.vocabulary.encode(TEXT * 9))
    exact = protocols.stream(model, [shelf.ids])
    assert_same(protocols.measure("stream", model, shelf, lanes_at_most=1), exact)
    assert protocols.lane_count(len(shelf.ids)) == 3
    assert_same(sum(shares("stream", model, shelf, 2), SurprisalSum()), protocols.lanes(model, shelf, range(3), 3))


@pytest.mark.parametrize(("characters", "count"), [(0, 1), (1023, 1), (2048, 2), (1 << 30, 64)])
def test_lanes_are_as_many_as_the_text_is_long(characters: int, count: int) -> None:
    assert protocols.lane_count(characters) == count


def document_shelf(model: Predictor, documents: Sequence[str] = DOCUMENTS) -> Shelf:
    return Shelf(*map(model.vocabulary.encode, documents))


@pytest.mark.parametrize("size", [1, 2, 5, 20])
@pytest.mark.parametrize("name", ["documents", "stream", "window-7", "last-3"])
def test_workers_count_each_document_once(name: str, size: int) -> None:
    model = predictor(" abcde,", "\n")
    shelf, boundary = document_shelf(model), int(model.opening[0])
    whole = protocols.protocol(name)(model, documents_of(shelf, boundary))
    assert whole.loss.ends == len(DOCUMENTS)
    assert_same(sum(shares(name, model, shelf, size), SurprisalSum()), whole)


@pytest.mark.parametrize("limit", [1, 9, 10, 11, 0, 10**6])
def test_a_document_that_the_limit_cuts_counts_as_far_as_it_goes_without_its_end(limit: int) -> None:
    model, left, cut = predictor(" abcde,", "\n"), limit or 10**6, []
    for document in DOCUMENTS:
        cut += [document[:left]] if left else []
        left = max(0, left - len(document))
    expected = protocols.measure("documents", model, document_shelf(model, cut)).loss
    found = sum(shares("documents", model, document_shelf(model), 2, limit_characters=limit), SurprisalSum()).loss
    assert found.characters == expected.characters
    assert found.nats == pytest.approx(expected.nats, rel=1e-5)
    assert found.ends == sum(mine == whole for mine, whole in zip(cut, DOCUMENTS, strict=False))

"""Scores against a loop that foretells one character after another, reading one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scriven import kernels
from scriven.arrays import Float64s, Ids
from scriven.inference import predictor as generation
from scriven.inference import surprisal
from scriven.inference.boundaries import LineRule
from scriven.inference.predictor import Predictor
from scriven.inference.protocols import stream
from scriven.inference.units import units
from scriven.loss import Loss
from scriven.vocabulary import Vocabulary
from small_model import DOCUMENTS, TEXT, assert_same, cut, predictor, predictor_of, slow_nats


def lines(model: Predictor, pieces: Iterable[surprisal.Scored]) -> list[surprisal.SurprisalSum]:
    rule = LineRule(model.vocabulary)
    return [line for some in units(model.vocabulary, pieces, rule) for line in some.sums]


@cache  # as no example changes it
def slow_nats_of_text() -> list[float]:
    model = predictor()
    return slow_nats(model, model.vocabulary.encode(TEXT).tolist(), model.opening.tolist())


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=20), at_once=st.integers(1, 60))
def test_surprisals_are_those_of_single_steps_for_every_chunk_length(lengths: list[int], at_once: int) -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "READ_AT_ONCE", at_once)
        pieces = list(surprisal.surprisals(model, cut(ids, lengths), model.start()))
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == ids.tolist()
    nats = np.concatenate([piece.nats for piece in pieces])
    np.testing.assert_allclose(nats, slow_nats_of_text(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_lines_are_cut_after_their_line_feeds(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once)
    model, text = predictor("abc"), "ab\n\n€c\n\n"  # the line feed itself is unseen here
    ids = model.vocabulary.encode(text)
    totals = lines(model, surprisal.surprisals(model, [ids], model.start()))
    assert [total.loss.characters for total in totals] == [3, 1, 3, 1]
    assert [total.loss.bytes for total in totals] == [3, 1, 5, 1]
    assert [total.unseen for total in totals] == [1, 1, 2, 1]
    assert_same(sum(totals, surprisal.SurprisalSum()), stream(model, [ids]))


# --- documents


def with_boundaries(model: Predictor, documents: list[str]) -> Ids:
    """The ids of documents, the boundary after each."""
    return np.concatenate([np.append(model.vocabulary.encode(text), model.opening) for text in documents])


def alone(model: Predictor, documents: list[str]) -> list[float]:
    """What every id of documents costs, each document read by itself."""
    return [
        cost
        for text in documents
        for cost in slow_nats(model, with_boundaries(model, [text]).tolist(), model.opening.tolist())
    ]


def documents_model() -> Predictor:
    return predictor(" abcde,", "\n")


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.text("abc€", min_size=1, max_size=30), max_size=30),
    lengths=st.lists(st.integers(0, 40), max_size=20),
    gathered=st.integers(1, 60),
    rows=st.integers(1, 9),
    at_once=st.integers(1, 40),
)
def test_documents_side_by_side_cost_what_each_costs_alone(
    documents: list[str], lengths: list[int], gathered: int, rows: int, at_once: int
) -> None:
    model = documents_model()
    ids = with_boundaries(model, ["a", *documents])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "READ_AT_ONCE", at_once)
        patch.setattr(surprisal, "GATHERED", gathered)
        patch.setattr(surprisal, "ROWS", rows)
        pieces = list(surprisal.documents(model, cut(ids, lengths)))
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == ids.tolist()
    nats = np.concatenate([piece.nats for piece in pieces])
    np.testing.assert_allclose(nats, alone(model, ["a", *documents]), rtol=1e-4, atol=1e-5)


def test_a_stream_forgets_at_every_boundary() -> None:
    model = documents_model()
    ids = with_boundaries(model, DOCUMENTS)
    pieces = list(surprisal.surprisals(model, cut(ids, [3, 1]), model.start()))
    np.testing.assert_allclose(
        np.concatenate([piece.nats for piece in pieces]), alone(model, DOCUMENTS), rtol=1e-4, atol=1e-5
    )


def test_a_document_that_has_not_ended_is_scored_as_far_as_it_goes() -> None:
    model = documents_model()
    ids = np.concatenate((with_boundaries(model, ["ab", "c"]), model.vocabulary.encode("ab")))
    (whole, begun) = surprisal.documents(model, [ids])
    assert (len(whole.ids), len(begun.ids)) == (5, 2)
    np.testing.assert_allclose(begun.nats, whole.nats[:2], rtol=1e-5)


def test_ends_are_counted_beside_the_characters() -> None:
    model = documents_model()
    total = surprisal.sum_pieces(model.vocabulary, surprisal.documents(model, [with_boundaries(model, DOCUMENTS)]))
    costs = alone(model, DOCUMENTS)
    ends = [place - 1 for place in accumulate(len(text) + 1 for text in DOCUMENTS)]
    assert (total.loss.ends, total.loss.characters) == (len(DOCUMENTS), len("".join(DOCUMENTS)))
    assert total.loss.bytes == len("".join(DOCUMENTS).encode())
    assert total.loss.end_nats == pytest.approx(sum(costs[end] for end in ends), rel=1e-5)
    assert total.loss.total_nats == pytest.approx(sum(costs), rel=1e-5)
    assert total.loss.nats_per_char == pytest.approx(total.loss.nats / total.loss.characters)
    assert total.values()["total_nats"] == total.loss.total_nats
    assert "ends" not in surprisal.SurprisalSum(Loss(1.0, 1)).values()


def test_probabilities_of_all_documents_of_up_to_two_characters_and_of_longer_ones_sum_to_one() -> None:
    """A document's probability is that of its characters and of its end; what is left over is longer documents."""
    model = predictor("ab", "\n")
    symbols, first = "ab€", model.start()
    short = ["", *symbols, *(a + b for a in symbols for b in symbols)]
    share = 0.0
    for text in short:
        copies = (0x110000 - model.vocabulary.size) ** text.count("€")  # as likely as every other unseen character
        (total,) = lines(model, surprisal.surprisals(model, [with_boundaries(model, [text])], first))
        share += copies * math.exp(-total.loss.total_nats)
    longer = sum(
        (0x110000 - model.vocabulary.size) ** text.count("€")
        * math.exp(-surprisal.sum_pieces(model.vocabulary, surprisal.surprisals(model, [ids], first)).loss.nats)
        for text in (a + b + c for a in symbols for b in symbols for c in symbols)
        for ids in [model.vocabulary.encode(text)]
    )
    assert share + longer == pytest.approx(1, rel=1e-5)


def test_each_document_is_a_line_of_its_own() -> None:
    model = documents_model()
    texts = ["ab\n", "c", "€\nb"]  # a line feed is an unseen character here
    rows = lines(model, surprisal.documents(model, [with_boundaries(model, texts)]))
    assert [(row.loss.characters, row.loss.ends, row.unseen) for row in rows] == [(3, 1, 1), (1, 1, 0), (3, 1, 2)]
    assert_same(sum(rows, surprisal.SurprisalSum()), stream(model, [with_boundaries(model, texts)]))


def test_documents_of_bytes() -> None:
    model = predictor_of(Vocabulary.of_bytes("\n"))
    texts = ["é", "ab", "日本語 " * 9]
    rows = lines(model, surprisal.documents(model, [with_boundaries(model, texts)]))
    assert [(row.loss.characters, row.loss.bytes, row.loss.ends) for row in rows] == [(2, 2, 1), (2, 2, 1), (90, 90, 1)]
    assert sum(row.loss.total_nats for row in rows) == pytest.approx(sum(alone(model, texts)), rel=1e-5)


def test_foretold_reads_texts_as_the_vocabulary_has_them() -> None:
    model, plain = documents_model(), predictor()
    for each, ids in ((model, with_boundaries(model, DOCUMENTS)), (plain, plain.vocabulary.encode(TEXT))):
        assert_same(
            surprisal.sum_pieces(each.vocabulary, surprisal.surprisals_of_text(each, [ids])), stream(each, [ids])
        )


# --- in native code


needs_native = pytest.mark.skipif(kernels.level() == "off", reason=kernels.why())


def native(model: Predictor) -> Predictor:
    return Predictor(model.model, model.vocabulary, "fp32", writing="int8")


def join_nats(pieces: Iterable[surprisal.Scored]) -> Float64s:
    return np.concatenate([piece.nats for piece in pieces])


@needs_native
def test_in_int8_what_a_document_costs_depends_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = native(documents_model()), documents_model()
    ids = with_boundaries(model, DOCUMENTS)
    assert (model.reading, plain.reading) == ("int8", "fp32")
    whole = join_nats(surprisal.documents(model, [ids]))
    np.testing.assert_allclose(whole, join_nats(surprisal.documents(plain, [ids])), atol=0.3)
    each = [join_nats(surprisal.documents(model, [with_boundaries(model, [text])])) for text in DOCUMENTS]
    assert np.concatenate(each).tolist() == whole.tolist()
    monkeypatch.setattr(surprisal, "GATHERED", 9)
    monkeypatch.setattr(surprisal, "ROWS", 2)
    monkeypatch.setattr(generation, "READ_AT_ONCE", 5)
    assert join_nats(surprisal.documents(model, cut(ids, [3, 20, 1]))).tolist() == whole.tolist()


@needs_native
def test_in_int8_pieces_change_nothing_and_it_costs_about_as_much_as_in_fp32() -> None:
    model, plain = native(predictor()), predictor()
    ids = model.vocabulary.encode(TEXT)
    whole = join_nats(surprisal.surprisals(model, [ids], model.start()))
    assert join_nats(surprisal.surprisals(model, cut(ids, [7, 1, 100]), model.start())).tolist() == whole.tolist()
    exact = join_nats(surprisal.surprisals(plain, [ids], plain.start()))
    assert abs(whole.mean() - exact.mean()) < 0.01
    assert whole[model.vocabulary.unseen(ids)].min() > model.vocabulary.unseen_nats


@needs_native
def test_in_int8_the_context_goes_on() -> None:
    model = native(predictor())
    ids = model.vocabulary.encode(TEXT)[:, None]
    whole, _, last = surprisal.read_rows(model, ids, model.start())
    middle = model.read(model.start(), ids[:40])
    rest, _, end = surprisal.read_rows(model, ids[40:], middle)
    assert rest.tolist() == whole[40:].tolist()
    assert end.logits.tolist() == last.logits.tolist()

"""The reader of documents: each document once an epoch, whole, in order, whatever else is read beside it."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_text import BOUNDED, Text, next_batch
from scriven.batches import Batch, Cursor, epoch_predictions, epoch_reads, prefetched
from scriven.batches.documents import chunk_length
from scriven.batches.order import documents_at
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Ids

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=30)
ROWS = st.integers(1, 9)
CHUNK = st.integers(1, 8)
BOUNDARY = 5000


def reader(**values: Any) -> ReaderSettings:
    return ReaderSettings.model_validate({"kind": "documents", **values})


def steps(text: Text, settings: ReaderSettings, cursor: Cursor = 0) -> Iterator[tuple[Batch, Cursor]]:
    """Batches without end, each with the cursor after it."""
    while True:
        batch, cursor = next_batch(text, settings, cursor)
        yield batch, cursor


def documents_read(text: Text, settings: ReaderSettings, count: int) -> list[list[tuple[int, int]]]:
    """What rows read and predict from one fresh start to the next, without padding, as they end; `count` or more."""
    rows: list[list[tuple[int, int]]] = [[] for _ in range(settings.batch)]
    ended = []
    for batch, _ in steps(text, settings):
        for row in range(settings.batch):
            for place in range(len(batch.ids)):
                if batch.fresh is not None and batch.fresh[place, row]:
                    ended.append(rows[row])
                    rows[row] = []
                if batch.weights is None or batch.weights[place, row]:
                    rows[row].append((int(batch.ids[place, row]), int(batch.targets[place, row])))
        if len(ended) >= count + settings.batch:
            return [document for document in ended if document]
    raise AssertionError


def whole(text: Text) -> set[tuple[tuple[int, int], ...]]:
    """Each document as it should be read."""
    firsts, lengths = text.bounds(np.arange(text.documents))
    documents = zip(firsts.tolist(), lengths.tolist(), strict=True)
    return {tuple(pairwise([BOUNDARY, *range(first, first + length), BOUNDARY])) for first, length in documents}


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK)
@settings(deadline=None, max_examples=60)
@example(lengths=[1], batch=5, length=1)
@example(lengths=[500, 1, 1, 1], batch=3, length=7)
def test_each_row_reads_whole_documents_from_an_empty_memory(lengths: list[int], batch: int, length: int) -> None:
    text = Text(documents=lengths)
    read = documents_read(text, reader(batch=batch, length=length), 2 * text.documents)
    assert {tuple(document) for document in read} <= whole(text)


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK, seed=st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
@example(lengths=[1], batch=5, length=1, seed=0)
@example(lengths=[500, 1, 1, 1], batch=3, length=7, seed=0)
def test_every_character_and_every_end_counts_once_an_epoch(
    lengths: list[int], batch: int, length: int, seed: int
) -> None:
    """Documents belong to epochs in the order in which they are taken; rows may be in different epochs."""
    text, settings = Text(documents=lengths), reader(batch=batch, length=length, seed=seed)
    counts = [Counter[tuple[int, int]](), Counter[tuple[int, int]]()]
    taken, epochs = 0, [0] * batch  # documents begun; the epoch of what each row reads
    for made, _ in steps(text, settings):
        for row in range(batch):
            if made.fresh is not None and made.fresh[0, row]:
                epochs[row], taken = taken // text.documents, taken + 1
            counted = slice(None) if made.weights is None else made.weights[:, row] > 0
            if epochs[row] < 2:
                pairs = zip(made.ids[counted, row].tolist(), made.targets[counted, row].tolist(), strict=True)
                counts[epochs[row]].update(pairs)
        if taken >= 2 * text.documents and min(epochs) >= 2:
            break
    expected = Counter(pair for document in whole(text) for pair in document)
    assert counts == [expected, expected]
    assert expected.total() == epoch_predictions(text, settings) == epoch_reads(text, settings)  # type: ignore[arg-type]


@given(lengths=LENGTHS, rows=st.integers(1, 4), workers=st.integers(1, 3), length=CHUNK)
@settings(deadline=None, max_examples=40)
def test_workers_lanes_make_up_the_whole_batch(lengths: list[int], rows: int, workers: int, length: int) -> None:
    text, settings = Text(documents=lengths), reader(batch=rows * workers, length=length)
    cursor: Cursor = 0
    for made, after in islice(steps(text, settings), 8):
        shares = [range(worker * rows, (worker + 1) * rows) for worker in range(workers)]
        parts = [next_batch(text, settings, cursor, share) for share in shares]
        assert all(cursor == after for _, cursor in parts)
        for whole_array, name in ((made.ids, "ids"), (made.targets, "targets"), (_weights(made), "weights")):
            arrays = [_weights(part) if name == "weights" else getattr(part, name) for part, _ in parts]
            assert np.array_equal(np.concatenate(arrays, axis=1), whole_array)
        assert np.array_equal(np.concatenate([_fresh(part) for part, _ in parts], axis=1), _fresh(made))
        cursor = after


def _weights(batch: Batch) -> np.ndarray[Any, Any]:
    return np.ones(batch.ids.shape, np.float32) if batch.weights is None else batch.weights


def _fresh(batch: Batch) -> np.ndarray[Any, Any]:
    return np.zeros(batch.ids.shape, np.bool_) if batch.fresh is None else batch.fresh


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK, at=st.integers(0, 10))
@settings(deadline=None, max_examples=40)
def test_what_was_saved_goes_on_with_the_same_batches(lengths: list[int], batch: int, length: int, at: int) -> None:
    text, settings = Text(documents=lengths), reader(batch=batch, length=length)
    made = list(islice(steps(text, settings), at + 6))
    cursor = json.loads(json.dumps(made[at - 1][1] if at else 0))
    again = Text(documents=lengths)  # nothing is remembered about it
    for (expected, after), (batch_again, after_again) in zip(made[at:], steps(again, settings, cursor), strict=False):
        assert after == after_again
        assert np.array_equal(expected.ids, batch_again.ids)
        assert np.array_equal(_weights(expected), _weights(batch_again))
        assert np.array_equal(_fresh(expected), _fresh(batch_again))


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK)
@settings(deadline=None, max_examples=40)
def test_chunks_have_something_to_count_in_every_row(lengths: list[int], batch: int, length: int) -> None:
    for made, _ in islice(steps(Text(documents=lengths), reader(batch=batch, length=length)), 10):
        assert 1 <= len(made.ids) <= length
        assert _weights(made)[0].all()
        assert not _fresh(made)[1:].any()
        assert (np.diff(_weights(made), axis=0) <= 0).all()  # padding is at the end


def test_documents_that_fit_are_not_cut_and_none_is_cut_more_often_than_that_saves() -> None:
    assert chunk_length(np.array([7, 7, 7]), 64) == 7
    assert chunk_length(np.array([6, 7, 7]), 64) == 7
    assert chunk_length(np.array([10**9, 7, 7]), 64) == 7  # it is cut anyway
    assert chunk_length(np.array([65, 65]), 64) == 33  # rather than 64 and 1
    assert chunk_length(np.array([3] * 60 + [60]), 64) == 3
    assert chunk_length(np.array([1]), 1) == 1


@given(left=st.lists(st.integers(1, 40), min_size=1, max_size=12), longest=st.integers(1, 15))
def test_the_chunk_length_is_the_best_by_its_definition(left: list[int], longest: int) -> None:
    def gain(length: int) -> float:
        read = sum(min(each, length) for each in left)
        if read < 0.8 * length * len(left):
            return -math.inf
        chunks = [-(-each // longest) for each in left]
        after = [-(-max(0, each - length) // longest) + 1 for each in left]
        cut = sum((b > a) / a for a, b in zip(chunks, after, strict=True))
        return (read - 4 * cut) / (length + 2)

    candidates = sorted({-(-each // -(-each // longest)) for each in left})
    found = chunk_length(np.array(left), longest)
    assert found in candidates
    assert gain(found) == pytest.approx(max(map(gain, candidates)))


def order(text: Text, settings: ReaderSettings, first: int, count: int) -> Ids:
    return documents_at(text, settings, first, count)  # type: ignore[arg-type]


@given(count=st.integers(1, 400), batch=st.integers(1, 4), first=st.integers(0, 1000), seed=st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=40)
def test_the_order_is_a_function_of_the_position(count: int, batch: int, first: int, seed: int) -> None:
    text, settings = Text(documents=[1 + number % 7 for number in range(count)]), reader(batch=batch, seed=seed)
    stretch = order(text, settings, first, 50)
    assert stretch.tolist() == [int(order(text, settings, first + place, 1)[0]) for place in range(50)]
    epoch = order(text, settings, first // count * count, count)
    assert np.array_equal(np.sort(epoch), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    text = Text(documents=[5] * 300)
    orders = [order(text, reader(batch=2, seed=seed), first, 300).tolist() for seed in (1, 2) for first in (0, 300)]
    assert len(set(map(tuple, orders))) == 4


def padding(lengths: Sequence[int], batch: int, length: int, epochs: float = 1.5) -> float:
    """The share of padding among all places of the batches of some epochs."""
    text, settings = Text(documents=lengths), reader(batch=batch, length=length)
    places = counted = 0
    for made, _ in steps(text, settings):
        places, counted = places + made.ids.size, counted + made.predictions
        if counted > epochs * (text.characters + text.documents):
            return 1 - counted / places
    raise AssertionError


LINES = np.random.default_rng(1)  # the same ones in every test, like those of real texts
CORPORA = {
    "names": np.clip(LINES.normal(6.1, 1.4, 12000).round(), 2, 15),
    "poems": np.clip(LINES.lognormal(3.9, 0.7, 6000).round(), 1, 15000),
    "paragraphs": np.clip(LINES.exponential(250, 4000).round(), 1, 6000),
    "a tenth is long": LINES.permutation(np.concatenate([LINES.integers(2, 30, 1800), np.full(200, 2000)])),
    "one is huge": np.concatenate([[100_000], LINES.integers(2, 30, 8000)]),
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("batch", [64, 256])
def test_padding_is_a_small_share(name: str, batch: int) -> None:
    assert padding(CORPORA[name].astype(int).tolist(), batch, 64) < 0.1


def test_without_padding_there_are_no_weights() -> None:
    made, _ = next(steps(Text(documents=[6] * 10), reader(batch=4, length=16)))
    assert made.weights is None
    assert made.ids.shape == (7, 4)
    assert made.predictions == 28


def test_what_is_prefetched_is_what_would_be_read() -> None:
    text, settings = Text(documents=[3, 20, 1, 7, 7]), reader(batch=2, length=4)
    made = prefetched(text, BOUNDED, settings, 0, range(2))  # type: ignore[arg-type]
    for (batch, cursor), (expected, after) in zip(islice(made, 20), steps(text, settings), strict=False):
        assert np.array_equal(batch.ids, expected.ids)
        assert cursor == after
    made.close()


def test_a_text_without_documents_cannot_be_read_by_documents() -> None:
    with pytest.raises(InputError, match=r"0 characters and no documents .* --corpus\.documents"):
        next_batch(Text(0), reader(), 0)
    with pytest.raises(InputError, match="no documents"):
        epoch_predictions(Text(50), reader())  # type: ignore[arg-type]

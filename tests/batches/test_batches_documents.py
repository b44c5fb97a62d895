"""The reader of documents: each document once an epoch, whole, in order, whatever else is read beside it."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_text import BOUNDED, Text, next_batch
from scriven.arrays import Ids
from scriven.batches import Batch, Cursor, epoch_predictions, epoch_reads, prefetch
from scriven.batches.documents import locate_documents
from scriven.errors import InputError
from scriven.settings import ReaderSettings

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=30)
ROWS = st.integers(1, 9)
CHUNK = st.integers(1, 8)
BOUNDARY = 5000


def reader(**values: Any) -> ReaderSettings:
    return ReaderSettings.model_validate({"kind": "documents", **values})


def steps(text: Text, settings: ReaderSettings, cursor: Cursor = 0, epochs: int = 0) -> Iterator[tuple[Batch, Cursor]]:
    """Batches, each with the cursor after it: without end, or until so many epochs were read."""
    while True:
        batch, cursor = next_batch(text, settings, cursor, None, epochs)
        if not batch.predictions:
            return
        yield batch, cursor


def pairs(batch: Batch, row: int) -> list[tuple[int, int]]:
    """What a row reads and predicts, without padding."""
    counted = _weights(batch)[:, row] > 0
    return list(zip(batch.ids[counted, row].tolist(), batch.targets[counted, row].tolist(), strict=True))


def documents_read(text: Text, settings: ReaderSettings, epochs: int) -> list[tuple[tuple[int, int], ...]]:
    """What rows read and predict from one fresh start to the next, without padding, in so many epochs."""
    rows: list[list[tuple[int, int]]] = [[] for _ in range(settings.batch)]
    ended = []
    for batch, _ in steps(text, settings, 0, epochs):
        for row in range(settings.batch):
            for place, pair in enumerate(pairs(batch, row)):
                if _fresh(batch)[place, row]:
                    ended.append(tuple(rows[row]))
                    rows[row] = []
                rows[row].append(pair)
    return [document for document in [*ended, *map(tuple, rows)] if document]


def whole(text: Text) -> set[tuple[tuple[int, int], ...]]:
    """Each document as it should be read."""
    firsts, lengths = text.bounds(np.arange(text.documents))
    documents = zip(firsts.tolist(), lengths.tolist(), strict=True)
    return {tuple(pairwise([BOUNDARY, *range(first, first + length), BOUNDARY])) for first, length in documents}


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK, pack=st.booleans(), seed=st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
@example(lengths=[1], batch=5, length=1, pack=True, seed=0)
@example(lengths=[500, 1, 1, 1], batch=3, length=7, pack=True, seed=0)
@example(lengths=[500, 1, 1, 1], batch=3, length=7, pack=False, seed=0)
def test_an_epoch_is_each_document_once_from_its_start_to_its_end(
    lengths: list[int], batch: int, length: int, pack: bool, seed: int
) -> None:
    text, settings = Text(documents=lengths), reader(batch=batch, length=length, pack=pack, seed=seed)
    for epochs in (1, 2):
        read = documents_read(text, settings, epochs)
        assert Counter(read) == Counter(dict.fromkeys(whole(text), epochs))
        predictions = sum(map(len, read))
        assert predictions == epochs * (text.characters + text.documents)
    assert epoch_predictions(text, settings) == text.characters + text.documents  # type: ignore[arg-type]
    assert epoch_reads(text, settings) == text.characters + text.documents  # type: ignore[arg-type]


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK, pack=st.booleans())
@settings(deadline=None, max_examples=40)
def test_an_end_after_some_epochs_changes_nothing_before_and_more_may_follow(
    lengths: list[int], batch: int, length: int, pack: bool
) -> None:
    text, settings = Text(documents=lengths), reader(batch=batch, length=length, pack=pack)
    ending = list(steps(text, settings, 0, 2))
    for (made, after), (other, cursor) in zip(ending, steps(text, settings), strict=False):
        if cursor["taken"] > 2 * text.documents:  # type: ignore[index]
            break
        assert after == cursor
        assert np.array_equal(made.ids, other.ids)
    done = ending[-1][1]
    empty, after = next_batch(text, settings, done, None, 2)
    assert (empty.predictions, after, empty.fresh) == (0, done, None)
    following = [made for made, _ in steps(text, settings, done, 3)]
    more = Counter(pair for made in following for row in range(batch) for pair in pairs(made, row))
    assert more == Counter(pair for document in whole(text) for pair in document)


@given(lengths=LENGTHS, rows=st.integers(1, 4), workers=st.integers(1, 3), length=CHUNK, pack=st.booleans())
@settings(deadline=None, max_examples=40)
def test_workers_lanes_make_up_the_whole_batch(
    lengths: list[int], rows: int, workers: int, length: int, pack: bool
) -> None:
    text, settings = Text(documents=lengths), reader(batch=rows * workers, length=length, pack=pack)
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


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK, at=st.integers(0, 10), pack=st.booleans())
@settings(deadline=None, max_examples=40)
def test_what_was_saved_goes_on_with_the_same_batches(
    lengths: list[int], batch: int, length: int, at: int, pack: bool
) -> None:
    text, settings = Text(documents=lengths), reader(batch=batch, length=length, pack=pack)
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
def test_packed_chunks_are_full(lengths: list[int], batch: int, length: int) -> None:
    for made, _ in islice(steps(Text(documents=lengths), reader(batch=batch, length=length)), 10):
        assert made.ids.shape == (length, batch)
        assert made.weights is None
        begins = made.ids == BOUNDARY
        assert np.array_equal(begins, _fresh(made))  # a row begins where it reads a boundary, and nowhere else
        assert np.array_equal(made.targets[:-1], made.ids[1:])  # an end is the next one's start


@given(lengths=LENGTHS, batch=ROWS, length=CHUNK)
@settings(deadline=None, max_examples=40)
def test_without_packing_a_chunk_has_one_document_a_row_and_is_as_long_as_one_needs(
    lengths: list[int], batch: int, length: int
) -> None:
    for made, _ in islice(steps(Text(documents=lengths), reader(batch=batch, length=length, pack=False)), 10):
        weights = _weights(made)
        assert 1 <= len(made.ids) <= length
        assert weights[0].all()
        assert weights[-1].any()
        assert not _fresh(made)[1:].any()
        assert (np.diff(weights, axis=0) <= 0).all()  # padding is at the end
        assert ((made.targets == BOUNDARY) * weights).sum(0).max() <= 1


def test_whole_documents_fit_a_chunk_of_the_longest_without_packing() -> None:
    text, settings = Text(documents=[3, 20, 1, 7, 7, 12]), reader(batch=2, length=21, pack=False)
    made = [batch for batch, _ in steps(text, settings, 0, 1)]
    assert len(made) == 3
    assert all(((each.targets == BOUNDARY) & (_weights(each) > 0)).sum() == 2 for each in made)


def order(text: Text, settings: ReaderSettings, first: int, count: int) -> Ids:
    return locate_documents(text, settings, first, count)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("pack", [True, False])
def test_every_step_sees_the_same_mixture_of_lengths(pack: bool) -> None:
    """Sorted by length, steps had from 2 to 40 characters for an end."""
    lengths = np.clip(np.random.default_rng(1).lognormal(2.5, 0.7, 6000).round(), 1, 400).astype(int)
    text, settings = Text(documents=lengths.tolist()), reader(batch=64, length=400 if not pack else 64, pack=pack)
    ends = [float((_weights(made) * (made.targets == BOUNDARY)).sum() / made.predictions)
            for made, _ in islice(steps(text, settings), 60)]  # fmt: skip
    usual = text.documents / (text.characters + text.documents)
    assert max(abs(share / usual - 1) for share in ends) < 0.35


def test_what_is_prefetched_is_what_would_be_read() -> None:
    text, settings = Text(documents=[3, 20, 1, 7, 7]), reader(batch=2, length=4)
    made = prefetch(text, BOUNDED, settings, 0, range(2))  # type: ignore[arg-type]
    for (batch, cursor), (expected, after) in zip(islice(made, 20), steps(text, settings), strict=False):
        assert np.array_equal(batch.ids, expected.ids)
        assert cursor == after
    made.close()


def test_a_text_without_documents_cannot_be_read_by_documents() -> None:
    with pytest.raises(InputError, match=r"0 characters has no documents to read: .* --corpus\.documents"):
        next_batch(Text(0), reader(), 0)
    with pytest.raises(InputError, match="has no documents"):
        epoch_predictions(Text(50), reader())  # type: ignore[arg-type]

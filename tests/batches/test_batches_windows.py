"""The reader of windows: each window of the text once an epoch, shuffled, from an empty memory."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_text import Text, next_batch, some_batches
from scriven.batches import epoch_predictions, epoch_reads
from scriven.errors import InputError
from scriven.settings import ReaderSettings


def reader(**values: Any) -> ReaderSettings:
    return ReaderSettings.model_validate({"kind": "windows", **values})


def starts(text: Text, settings: ReaderSettings, batches: int) -> list[int]:
    """The first character of each window that counts, in the order in which they are read."""
    made = some_batches(text, settings, batches)
    counted = [slice(None) if each.weights is None else each.weights.any(0) for each in made]
    return [start for each, rows in zip(made, counted, strict=True) for start in each.ids[0, rows].tolist()]


sizes = {"size": st.integers(2, 200), "length": st.integers(1, 30), "stride": st.integers(1, 9)}


@given(**sizes, batch=st.integers(1, 9), seed=st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_every_window_comes_once_in_every_epoch(size: int, length: int, stride: int, batch: int, seed: int) -> None:
    windows = list(range(0, size - length, stride))
    if not windows:
        return
    text, settings = Text(size), reader(length=length, stride=stride, batch=batch, seed=seed)
    steps = -(-len(windows) // batch)  # of an epoch, as Keras has them: the last one may be smaller
    read = starts(text, settings, 2 * steps)
    assert len(read) == 2 * len(windows)
    assert starts(text, settings, steps) == read[: len(windows)]
    assert Counter(read[: len(windows)]) == Counter(read[len(windows) :]) == Counter(windows)
    predictions = [batch.predictions for batch in some_batches(text, settings, steps)]
    assert epoch_predictions(text, settings) == sum(predictions) == len(windows) * length  # type: ignore[arg-type]


@given(**sizes, batch=st.integers(1, 9), cursor=st.integers(0, 10**6))
@settings(deadline=None)
def test_a_window_is_characters_in_a_row_and_begins_afresh(
    size: int, length: int, stride: int, batch: int, cursor: int
) -> None:
    if size <= length:
        return
    made, after = next_batch(Text(size), reader(length=length, stride=stride, batch=batch), cursor)
    assert after == cursor + 1
    assert np.array_equal(made.ids, made.ids[0] + np.arange(length)[:, None])
    assert np.array_equal(made.targets, made.ids + 1)
    windows = len(range(0, size - length, stride))
    counted = min(batch, windows - cursor % -(-windows // batch) * batch)
    assert made.predictions == counted * length
    assert made.weights is None or not made.weights[:, counted:].any()
    assert made.fresh is not None
    assert made.fresh[0].all()
    assert not made.fresh[1:].any()


def test_with_the_loss_on_the_last_character_nothing_else_counts() -> None:
    text, settings = Text(100), reader(length=8, batch=5, loss="last")
    made, _ = next_batch(text, settings, 0)
    assert made.weights is not None
    assert made.weights[-1].tolist() == [1] * 5
    assert not made.weights[:-1].any()
    assert made.predictions == 5
    assert epoch_predictions(text, settings) == 92  # type: ignore[arg-type]
    assert epoch_reads(text, settings) == 92 * 8  # type: ignore[arg-type]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    text = Text(101)
    read = starts(text, reader(length=1, batch=10, seed=1), 20)
    orders = [read[:100], read[100:], starts(text, reader(length=1, batch=10, seed=2), 10), sorted(read[:100])]
    assert all(a != b for a, b in pairwise([*orders, orders[0]]))


def test_the_order_does_not_depend_on_the_batch() -> None:
    text = Text(60)
    assert starts(text, reader(length=9, batch=12), 10) == starts(text, reader(length=9, batch=8), 14)


def test_workers_lanes_make_up_the_whole_batch() -> None:
    text, settings = Text(200), reader(length=5, batch=6, loss="last")
    whole, _ = next_batch(text, settings, 3)
    parts = [next_batch(text, settings, 3, range(i, i + 2))[0] for i in (0, 2, 4)]
    for name in ("ids", "targets", "weights", "fresh"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts], axis=1), getattr(whole, name))
    assert [part.lanes.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]


def test_a_window_can_be_all_of_the_text_but_no_longer() -> None:
    assert starts(Text(11), reader(length=10, batch=3, stride=4), 2) == [0, 0]
    with pytest.raises(InputError, match=r"window of 10 characters .* has 10; give a --reader.length below 10"):
        next_batch(Text(10), reader(length=10), 0)
    with pytest.raises(InputError, match="do not fit into the text, which has 0; give a longer text"):
        epoch_predictions(Text(0), reader())  # type: ignore[arg-type]

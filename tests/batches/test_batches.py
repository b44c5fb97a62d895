"""The stream reader: every character of an epoch predicted once, whatever the sizes; the cursor is all there is."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_text import VOCABULARY, Text, next_batch, some_batches
from scriven import batches
from scriven.batches import epoch_predictions, epoch_reads, prefetch
from scriven.errors import InputError
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary


@given(size=st.integers(2, 300), batch=st.integers(1, 9), length=st.integers(1, 40))
@settings(deadline=None)
def test_lanes_go_on_and_targets_are_the_next_characters(size: int, batch: int, length: int) -> None:
    before = None
    for made in some_batches(Text(size), ReaderSettings(batch=batch, length=length), 4):
        assert made.ids.shape == made.targets.shape == (length, batch)
        assert np.array_equal(made.targets, (made.ids + 1) % size)
        if before is not None:
            assert np.array_equal(made.ids[0], before)
        before = made.targets[-1]


@given(lane=st.integers(1, 20), batch=st.integers(1, 8), length=st.integers(1, 20))
@settings(deadline=None)
def test_an_epoch_predicts_every_character_once(lane: int, batch: int, length: int) -> None:
    size = lane * length * batch  # whole batches: other sizes are covered by lanes going on
    if not 2 <= size <= 300:
        return
    text, reader = Text(size), ReaderSettings(batch=batch, length=length)
    seen: Counter[int] = Counter()
    for made in some_batches(text, reader, lane):
        seen.update(made.targets.flatten().tolist())
    assert seen == Counter(range(size))
    assert seen.total() == epoch_predictions(text, reader) == epoch_reads(text, reader)  # type: ignore[arg-type]


def test_workers_lanes_make_up_the_whole_batch() -> None:
    text, reader = Text(200), ReaderSettings(batch=6, length=5)
    whole, _ = next_batch(text, reader, 3)
    parts = [next_batch(text, reader, 3, range(i, i + 2))[0] for i in (0, 2, 4)]
    assert np.array_equal(np.concatenate([part.ids for part in parts], axis=1), whole.ids)
    assert [part.lanes.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert whole.predictions == 30


def test_some_chunks_begin_with_an_empty_memory_whoever_reads_them() -> None:
    text, reader = Text(200), ReaderSettings(batch=40, length=5, restart=0.1)
    fresh = [np.zeros((5, 40), bool) if each.fresh is None else each.fresh for each in some_batches(text, reader, 100)]
    # 4,000 draws: the share is off by more than 0.02 once in 20,000 such functions, and this one is always the same.
    assert abs(np.mean([rows[0] for rows in fresh]) - 0.1) < 0.02
    assert not any(rows[1:].any() for rows in fresh)
    part, _ = next_batch(text, reader, 7, range(20, 40))
    assert np.array_equal(np.zeros((5, 20), bool) if part.fresh is None else part.fresh, fresh[7][:, 20:])
    never = ReaderSettings(batch=40, length=5, restart=0)
    assert next_batch(text, never, 7)[0].fresh is None


@pytest.mark.parametrize("kind", ["stream", "windows"])
def test_what_is_prefetched_is_what_would_be_read(kind: str) -> None:
    text, reader = Text(90), ReaderSettings.model_validate({"kind": kind, "batch": 2, "length": 7})
    made = prefetch(text, VOCABULARY, reader, 5, range(2))  # type: ignore[arg-type]
    for cursor in range(5, 12):
        batch, after = next(made)
        expected, _ = next_batch(text, reader, cursor)
        assert np.array_equal(batch.ids, expected.ids)
        assert after == cursor + 1
    made.close()


def test_errors_of_the_thread_are_raised_where_the_batch_is_asked_for() -> None:
    made = prefetch(Text(1), VOCABULARY, ReaderSettings(batch=1), 0, range(1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 2 are needed"):
        next(made)


def test_unknown_symbols_are_read_as_unknown() -> None:
    known = Vocabulary.of("ab")
    batch, _ = batches.next_batch(Text(50), known, ReaderSettings(batch=1, length=9), 0)  # type: ignore[arg-type]
    assert batch.ids.max() == 2

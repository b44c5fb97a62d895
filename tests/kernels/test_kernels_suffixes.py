"""Suffix arrays against slow obvious code, in native code and in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_variants import at_each_variant, at_each_variant_and_off

from scriven.arrays import Ids
from scriven.kernels import native_library, suffixes
from scriven.kernels.suffixes import Block, SuffixTable, Text, id_type, sort_suffixes

SYMBOLS, SEPARATOR = 5, 3
SIZES = [SYMBOLS, 300, 70_000]  # how many symbols there might be: ids of one, two and four bytes
TEXTS = st.lists(st.integers(0, SYMBOLS - 1), max_size=40) | st.lists(st.integers(0, 1), max_size=9).map(
    lambda ids: ids * 5
)


def index_of(ids: list[int], symbols: int, block: int, overlap: int, separator: int | None) -> SuffixTable:
    text, blocks = np.array(ids, id_type(symbols)), []
    for first in range(0, len(text), block):
        piece = text[first : first + block + overlap]
        order = sort_suffixes(piece, symbols)
        blocks.append(Block(first, piece, order[order < block]))
    return SuffixTable(blocks, separator)


def is_there(text: list[int], stretch: list[int]) -> bool:
    return any(text[place : place + len(stretch)] == stretch for place in range(len(text) - len(stretch) + 1))


def slow_lengths(text: list[int], ids: list[int], separator: int | None) -> list[int]:
    lengths = []
    for place in range(len(ids)):
        length = 0
        while place + length < len(ids) and ids[place + length] != separator:
            if not is_there(text, ids[place : place + length + 1]):
                break
            length += 1
        lengths.append(length)
    return lengths


def slow_followers(text: list[int], ids: list[int], separator: int | None) -> list[int]:
    if separator in ids:
        return []
    places = [place for place in range(len(ids), len(text)) if text[place - len(ids) : place] == ids]
    return sorted({text[place] for place in places} - {separator})


@at_each_variant_and_off
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one library for all examples
@given(ids=TEXTS, symbols=st.sampled_from(SIZES))
def test_suffixes_are_sorted(variant: str, ids: list[int], symbols: int) -> None:
    order = sort_suffixes(np.array(ids, id_type(symbols)), symbols)
    assert order.dtype == np.int32
    assert order.tolist() == sorted(range(len(ids)), key=lambda place: ids[place:])


@at_each_variant_and_off
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one library for all examples
@given(
    text=TEXTS,
    ids=st.lists(st.integers(0, SYMBOLS), max_size=20),
    symbols=st.sampled_from(SIZES),
    block=st.integers(1, 60),
    separator=st.sampled_from([None, SEPARATOR]),
)
def test_the_longest_stretches_and_what_follows(
    variant: str, text: list[int], ids: list[int], symbols: int, block: int, separator: int | None
) -> None:
    """Any stretch that is at most as long as the overlap is found in one block."""
    index = index_of(text, symbols, block, 20, separator)
    found = index.match(np.array(ids, np.int64))
    assert found.lengths.tolist() == slow_lengths(text, ids, separator)
    for start, (length, place) in enumerate(zip(found.lengths.tolist(), found.places.tolist(), strict=True)):
        assert text[place : place + length] == ids[start : start + length]
    for length in range(min(len(ids), 4)):
        expected = slow_followers(text, ids[:length], separator)
        assert index.followers(np.array(ids[:length], np.int64), SYMBOLS).tolist() == expected
        few = index.followers(np.array(ids[:length], np.int64), 2).tolist()
        assert few == [each for each in expected if each < 2]


@at_each_variant
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    pieces=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    taken=st.lists(st.tuples(st.integers(0, 600), st.integers(1, 300)), max_size=4),
    symbols=st.sampled_from(SIZES),
    block=st.integers(100, 700),
    separator=st.sampled_from([None, SEPARATOR]),
)
def test_long_stretches_are_those_of_the_slow_search(
    variant: str, pieces: list[int], taken: list[tuple[int, int]], symbols: int, block: int, separator: int | None
) -> None:
    """Also where the text has them several times, with and without changes, and where documents end within them."""
    letters = np.random.default_rng(1).integers(0, 3, (4, 90))
    letters[2] = letters[1]
    letters[2, 60] = SEPARATOR
    letters[3] = 1
    text = letters[pieces].ravel().tolist()
    index = index_of(text, symbols, block, 200, separator)
    ids = np.array([each for first, length in taken for each in text[first : first + length]], np.int64)
    fast, slow = index.match(ids), index._match_plain(ids, lambda: None)
    assert fast.lengths.tolist() == slow.lengths.tolist()
    assert fast.places.tolist() == slow.places.tolist()


RUNS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 300)), min_size=1, max_size=4)


def repetitive(runs: list[tuple[int, int]]) -> list[int]:
    """A text of runs: the first few of the same ids again and again, each with its length."""
    return [each for period, length in runs for each in ([0, 1, 1, 2][:period] * length)[:length]]


@at_each_variant
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(text=RUNS, runs=RUNS, symbols=st.sampled_from(SIZES), block=st.integers(100, 700), cut=st.integers(1, 1200))
def test_stretches_of_texts_that_repeat_themselves(
    variant: str, text: list[tuple[int, int]], runs: list[tuple[int, int]], symbols: int, block: int, cut: int
) -> None:
    """No stretch is read again from each place of a run, however long it is; a document may end within one."""
    index = index_of(repetitive(text), symbols, block, 1200, SEPARATOR)
    ids = repetitive(runs)
    ids[cut:cut] = [SEPARATOR]
    fast, slow = index.match(np.array(ids, np.int64)), index._match_plain(np.array(ids, np.int64), lambda: None)
    assert fast.lengths.tolist() == slow.lengths.tolist()
    assert fast.places.tolist() == slow.places.tolist()


@at_each_variant
def test_a_text_is_found_in_itself(variant: str) -> None:
    text: Text = np.random.default_rng(1).integers(0, 4, 400_000).astype(np.uint8)
    index = SuffixTable([Block(0, text, sort_suffixes(text, 4))])
    found = index.match(text.astype(np.int64))
    assert found.lengths.tolist() == list(range(len(text), 0, -1))
    assert not (found.places - np.arange(len(text)))[:-100].any()  # the last few stretches are in other places, too


@at_each_variant_and_off
def test_places_of_a_damaged_order_are_not_looked_at(variant: str) -> None:
    text: Text = np.array([0, 1, 0, 1], np.uint8)
    order = np.array([-5, 1 << 30, 0, 4], np.int32)
    if variant != "off":
        index = SuffixTable([Block(0, text, order)])
        index.match(np.array([0, 1, 2]))
        index.followers(np.array([0]), 2)


@pytest.mark.skipif(native_library.level() == "off", reason="numpy sorts any ids")
def test_ids_beyond_the_symbols_are_refused() -> None:
    with pytest.raises(RuntimeError, match="suffix_sort"):
        sort_suffixes(np.array([0, 7, 1], np.uint8), 7)


def test_blocks_have_one_type() -> None:
    narrow, order = np.zeros(1, np.uint8), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="types"):
        SuffixTable([Block(0, narrow, order), Block(1, narrow.astype(np.uint16), order)])
    with pytest.raises(ValueError, match="int64"):
        SuffixTable([Block(0, narrow, order.astype(np.int64))])


@at_each_variant_and_off
def test_an_empty_index_has_nothing(variant: str) -> None:
    nothing: Ids = np.empty(0, np.int64)
    index = SuffixTable([])
    assert index.match(np.arange(3)).lengths.tolist() == [0, 0, 0]
    assert index.followers(nothing, 4).tolist() == []
    assert sort_suffixes(np.empty(0, np.uint8), 1).tolist() == []


@at_each_variant_and_off
def test_pieces_give_the_same_as_the_whole_and_may_be_ended(variant: str) -> None:
    random = np.random.default_rng(3)
    text = random.integers(0, 3, 3000).tolist()
    ids = np.array([*text[100:2100], *random.integers(0, 3, 500), SEPARATOR, *text[:1900]], np.int64)
    index, calls = index_of(text, SYMBOLS, 700, 3000, SEPARATOR), 0

    def check_stop() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise TimeoutError

    places = suffixes.PLACES_AT_ONCE
    assert len(ids) > places  # more than one piece
    whole = index.match(ids)
    with pytest.MonkeyPatch.context() as patch:
        for at_once in (1, 100, 1 << 20) if variant != "off" else (1,):  # numpy takes one place after the other
            patch.setattr(suffixes, "PLACES_AT_ONCE", at_once)
            found = index.match(ids)
            assert found.lengths.tolist() == whole.lengths.tolist()
            for place in (0, 1, 1999, 2501, 4000):
                there, length = int(found.places[place]), int(found.lengths[place])
                assert text[there : there + length] == ids[place : place + length].tolist()
        patch.setattr(suffixes, "PLACES_AT_ONCE", 100)
        with pytest.raises(TimeoutError):
            index.match(ids, check_stop)
    assert whole.lengths[0] >= 2000

"""N-gram models in native code are those of slow, obvious Python, and their probabilities sum to 1."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_variants import VARIANTS, at_each_variant, kernels_of
from slow_counts import Discounts, SlowNgrams, held_out_places

from scriven.kernels import counts
from scriven.kernels.counts import Counted, NgramCounter, NgramMixture, NgramTable

pytestmark = pytest.mark.skipif(not VARIANTS, reason="there is no native library")
MB = 1 << 20
Rows = dict[tuple[int, ...], Counter[int]]  # how often symbols come after each context


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels_of(request.param):
        yield request.param


def make(ids: Sequence[int] | npt.NDArray[Any], symbols: int, **values: Any) -> tuple[NgramTable, Counted]:
    array = np.asarray(ids, np.int64)
    with NgramCounter(symbols, array.size, **values) as counter:
        for piece in np.array_split(array, 3):
            counter.count(piece)
        return counter.finish()


def written(seed: int, size: int, symbols: int) -> npt.NDArray[np.int64]:
    """A text with some order in it: each symbol is often what followed the same two symbols before."""
    random, ids = np.random.default_rng(seed), [0, 0]
    usual = random.integers(0, symbols, (symbols, symbols))
    for _ in range(size):
        ids.append(int(usual[ids[-2], ids[-1]]) if random.random() < 0.6 else int(random.zipf(1.5)) % symbols)
    return np.array(ids[2:], np.int64)


@cache  # each library is compared with the same
def slow_of_long_text(symbols: int, boundary: int | None, longest: int) -> tuple[SlowNgrams, Rows]:
    slow = SlowNgrams(written(symbols, 6000, symbols).tolist(), symbols, boundary, longest)
    return slow, slow.count_continuations()


def check(table: NgramTable, slow: SlowNgrams, contexts: Sequence[Sequence[int]], rows: Rows | None = None) -> None:
    rows, discounts = rows or slow.count_continuations(), table.arrays["discounts"].tolist()
    for context in contexts:
        found = table.distribution(np.array([context], np.int64).reshape(1, -1))[0]
        assert found == pytest.approx(slow.distribution(context, discounts, rows), rel=1e-12)
        assert abs(found.sum() - 1) < 1e-12
        assert found.min() > 0


TEXTS = st.integers(1, 5).flatmap(lambda symbols: st.tuples(st.just(symbols), st.lists(st.integers(0, symbols - 1))))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(TEXTS, st.integers(0, 5), st.booleans(), st.data())
def test_a_table_has_the_probabilities_of_slow_code(
    text: tuple[int, list[int]], longest: int, documents: bool, data: st.DataObject
) -> None:
    symbols, ids = text
    boundary = symbols - 1 if documents else None
    table, counted = make(ids, symbols, boundary=boundary, longest=longest)
    assert counted.characters == len(ids)
    assert set(counted.pruned) == {0}
    contexts = data.draw(st.lists(st.lists(st.integers(0, symbols - 1), max_size=8), max_size=8))
    contexts += [ids[begin:end] for begin, end in ((0, 0), (0, 2), (3, 9), (len(ids) - 6, len(ids)))]
    check(table, SlowNgrams(ids, symbols, boundary, longest), contexts)


@at_each_variant
@pytest.mark.parametrize(
    ("symbols", "longest", "documents"),
    [(3, 5, False), (30, 8, True), (255, 8, False), (257, 6, False), (300, 15, True)],
)
def test_long_texts(variant: str, symbols: int, longest: int, documents: bool) -> None:
    longest = counts.longest_context(symbols, longest)
    ids, boundary = written(symbols, 6000, symbols), symbols - 1 if documents else None
    table, counted = make(ids, symbols, boundary=boundary, longest=longest)
    contexts = [ids[place - 20 : place].tolist() for place in range(20, len(ids), 499)]
    slow, rows = slow_of_long_text(symbols, boundary, longest)
    check(table, slow, [*contexts, [], [symbols - 1]], rows)
    assert counted.held_out == 600


def test_discounts_are_fitted_to_what_is_held_out() -> None:
    ids, usual = written(2, 6000, 9), [[[0.8176, 1.1488, 1.5]] * 4] * 7
    table, counted = make(ids, 9, boundary=8, longest=6)
    text, places = [8, *ids.tolist()], held_out_places(len(ids))
    slow = SlowNgrams(ids.tolist(), 9, 8, 6, places)
    rows = slow.count_continuations()

    def cost(discounts: Discounts) -> float:
        p = [slow.probability(text[: place + 1], text[place + 1], discounts, rows) for place in places]
        return float(-np.log(p).mean())

    assert counted.held_out == len(places) == 600
    assert counted.usual_nats == pytest.approx(cost(usual), rel=1e-6)
    assert counted.nats == pytest.approx(cost(table.arrays["discounts"].tolist()), rel=1e-6)
    assert counted.nats < counted.usual_nats - 0.01


def test_scores_are_the_logarithms_of_the_distribution() -> None:
    ids = written(5, 3000, 12)
    table, _ = make(ids, 12, boundary=11)
    rows = written(6, 400, 12).reshape(4, 100)
    nats = table.score(rows, first=3)
    assert nats.shape == (4, 97)
    for row in range(4):
        for place in range(3, 100):
            p = table.distribution(rows[row : row + 1, :place])[0, rows[row, place]]
            assert nats[row, place - 3] == pytest.approx(-np.log(p), rel=1e-14, abs=1e-15)


def test_a_mixture_has_sums_of_logits() -> None:
    ids = written(5, 3000, 12)
    table, _ = make(ids, 12, boundary=11)
    text, logits = written(6, 300, 12).reshape(60, 5), np.random.default_rng(1).normal(size=(40, 5, 12))
    weights = np.random.default_rng(2).random((9, 2))
    for mixture in (NgramMixture(table, weights), NgramMixture.alone(table)):
        mixed = logits.astype(np.float32)
        mixture.mix(mixed, text)
        for place in (0, 7, 39):
            for row in range(5):
                before = text[: place + 21, row]
                p = table.distribution(before[None])[0]
                own = [
                    network * logits[place, row].astype(np.float32) + counts * np.log(p)
                    for network, counts in mixture.weights
                ]
                assert min(np.abs(mixed[place, row] - each).max() for each in own) < 1e-6
    alone = logits.astype(np.float32)
    NgramMixture.alone(table).mix(alone, text, threads=3)
    assert np.abs(np.exp(alone.astype(np.float64)).sum(-1) - 1).max() < 1e-6
    wrongs: list[Any] = [logits, alone[:, :4], alone[::2], np.concatenate((alone, alone))]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="logits"):
            NgramMixture.alone(table).mix(wrong, text)
    with pytest.raises(ValueError, match="weights must be"):
        NgramMixture(table, weights[1:])


@pytest.mark.parametrize(("symbols", "budget"), [(4, 3 * 64 << 10), (6, 64 << 10), (90, 64 << 10)])
def test_a_text_is_counted_in_pieces_and_pruned(symbols: int, budget: int) -> None:
    """Where nothing is pruned, sorted pieces merge into the table of the whole text."""
    ids = written(symbols, 9000, symbols)
    table, counted = make(ids, symbols, longest=5, budget=budget)
    whole, _ = make(ids, symbols, longest=5)
    assert (max(counted.pruned_early) > 0) == (symbols > 4)
    if symbols == 4:
        assert all(np.array_equal(table.arrays[name], whole.arrays[name]) for name in whole.arrays)
    p = table.distribution(np.lib.stride_tricks.sliding_window_view(ids, 6)[::91])
    assert np.abs(p.sum(1) - 1).max() < 1e-12
    assert p.min() > 0
    assert table.score(ids[None]).mean() < np.log(symbols)


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4, 0.2, 0.1, 0])
def test_a_table_is_pruned_to_a_size(share: float) -> None:
    ids = written(9, 6000, 20)
    whole, _ = make(ids, 20, boundary=19)
    table, counted = make(ids, 20, boundary=19, table_bytes=int(share * whole.bytes))
    assert table.bytes < 1.2 * share * whole.bytes + 2500
    assert list(counted.pruned) == sorted(counted.pruned)
    assert max(counted.pruned) > 0
    slow = SlowNgrams(ids.tolist(), 20, 19, 8)
    slow.prune(counted.pruned)
    check(table, slow, [ids[place - 9 : place].tolist() for place in range(9, len(ids), 555)])


@pytest.mark.parametrize(
    ("name", "ids", "symbols"),
    [
        ("nothing", [], 3),
        ("one symbol", [1], 3),
        ("the same symbol", [1] * 20_000, 3),
        ("one line", [*range(40)] * 2_000, 42),
        ("random bytes", np.random.default_rng(1).integers(0, 256, 60_000), 257),
        ("a large alphabet", np.random.default_rng(2).zipf(1.2, 30_000) % 7433, 7433),
        ("of one symbol", [0] * 3000, 1),
        ("a very large alphabet", np.arange(3000) * 300 % 70_000, 70_000),
    ],
)
def test_texts_at_the_edge(name: str, ids: Any, symbols: int) -> None:
    ids = np.asarray(ids, np.int64)
    table, _ = make(ids, symbols)
    tail = ids[-40:] if ids.size else np.zeros(4, np.int64)
    p = table.distribution(np.lib.stride_tricks.sliding_window_view(tail, max(1, tail.size // 2)))
    assert np.isfinite(p).all()
    assert p.min() > 0
    assert np.abs(p.sum(1) - 1).max() < 1e-12
    if ids.size > 10_000 and symbols < 100:
        assert table.score(ids[None]).mean() < 1e-2
    again = NgramTable(symbols, None, table.reach, table.arrays)
    assert np.array_equal(again.distribution(tail[None]), table.distribution(tail[None]))


def test_the_bits_are_the_same_at_each_level_and_for_any_threads() -> None:
    ids, seals = written(3, 20_000, 60), set()
    for variant in VARIANTS:
        with kernels_of(variant):
            table, counted = make(ids, 60, boundary=59, budget=MB)
            for threads in (1, 2, 5):
                parts = [*table.arrays.values(), table.score(ids[None], threads=threads), table.distribution(ids[None])]
                seals.add(hashlib.sha256(repr(counted).encode() + b"".join(part.tobytes() for part in parts)).digest())
    assert len(seals) == 1


@pytest.mark.parametrize("name", sorted(counts.ARRAYS))
def test_damaged_tables_are_refused_or_harmless(name: str) -> None:
    """Whatever is in a file, native code stays within the arrays, and what it accepts gives probabilities."""
    ids, random = np.concatenate((written(4, 3000, 300), np.ones(400, np.int64))), np.random.default_rng(1)
    for symbols in (20, 300):
        table, _ = make(ids % symbols, symbols, longest=4)
        for _ in range(150):
            changed = {key: array.copy() for key, array in table.arrays.items()}
            flat = changed[name].reshape(-1).view(np.uint8)
            flat[random.integers(0, flat.size)] = random.integers(0, 256)
            try:
                read = NgramTable(symbols, None, table.reach, changed)
            except ValueError:
                continue
            p = read.distribution(np.lib.stride_tricks.sliding_window_view(ids[:40] % symbols, 6))
            assert np.abs(p.sum(1) - 1).max() < 1e-9
            assert p.min() > 0


def test_arrays_of_other_shapes_are_refused() -> None:
    table, _ = make(np.concatenate((written(4, 300, 9), np.ones(600, np.int64))), 9)
    for name, array in table.arrays.items():
        for other in (array[:-1], array.astype(np.float32), array[None]):
            with pytest.raises(ValueError, match=r"not|belong"):
                NgramTable(9, None, table.reach, {**table.arrays, name: other})
    with pytest.raises(ValueError, match="the arrays of n-grams are"):
        NgramTable(9, None, table.reach, {})
    for symbols, boundary, reach in ((8, None, 8), (9, 9, 8), (9, None, 7), (9, None, 9), (300, None, 8)):
        with pytest.raises(ValueError, match=r"not|belong"):
            NgramTable(symbols, boundary, reach, table.arrays)


def test_what_cannot_be_counted_is_refused() -> None:
    for symbols, longest in ((0, 1), (9, 16), (7433, 9), (5 << 20, 1)):
        with pytest.raises(RuntimeError, match="not allowed"):
            NgramCounter(symbols, 10, longest=longest)
    with NgramCounter(5, 10) as counter, pytest.raises(RuntimeError, match="not allowed"):
        counter.count(np.array([1, 5]))
    table, _ = make([1, 2, 3], 5)
    with pytest.raises(RuntimeError, match="not allowed"):
        table.score(np.array([[5]]))
    with pytest.raises(ValueError, match="no place 2"):
        table.score(np.array([[1]]), first=2)
    with pytest.raises(ValueError, match="ids must be"):
        table.distribution(np.array([1]))
    assert table.score(np.empty((0, 3), np.int64)).shape == (0, 3)
    assert table.distribution(np.empty((0, 3), np.int64)).shape == (0, 5)

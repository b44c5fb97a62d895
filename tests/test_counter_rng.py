"""Seeded permutations without a list: every number once, another order for every seed."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from scriven.arrays import Ids
from scriven.counter_rng import permute, seeds


def shuffle(size: int, seed: int, number: int = 0) -> Ids:
    return permute(np.arange(size), size, seeds(seed, np.array([number])))


@given(size=st.integers(0, 3000), seed=st.integers(0, 2**63 - 1), number=st.integers(0, 2**40))
@example(size=1, seed=0, number=0)
@example(size=2, seed=0, number=0)
@example(size=64, seed=1, number=0)
@example(size=65, seed=1, number=0)
def test_every_number_comes_once(size: int, seed: int, number: int) -> None:
    assert np.array_equal(np.sort(shuffle(size, seed, number)), np.arange(size))


@given(places=st.lists(st.integers(0, 10**15 - 1), max_size=20), seed=st.integers(0, 2**63 - 1))
def test_huge_ranges_are_permuted_as_well(places: list[int], seed: int) -> None:
    found = permute(np.array(places, np.int64), 10**15, seeds(seed, np.array([1])))
    assert ((found >= 0) & (found < 10**15)).all()
    assert len(set(found.tolist())) == len(set(places))


def test_places_of_several_ranges_are_each_in_their_own() -> None:
    numbers = np.array([0, 1, 0, 2])
    together = permute(np.array([3, 3, 4, 5]), 10, seeds(7, numbers))
    assert together.tolist() == [shuffle(10, 7, n)[p] for n, p in zip(numbers.tolist(), [3, 3, 4, 5], strict=True)]


def test_seeds_and_numbers_give_orders_of_their_own() -> None:
    orders = {tuple(shuffle(50, seed, number).tolist()) for seed in range(20) for number in range(20)}
    assert len(orders) == 400


def test_all_places_are_about_equally_likely() -> None:
    count, size = 5_000, 100
    keys = seeds(7, np.arange(count))
    for place in (0, 1, 50, 99):
        found = np.bincount(permute(np.full(count, place), size, keys), minlength=size)
        # Chi-squared of 99 degrees of freedom is above 180 once in a million; the numbers are always the same.
        assert ((found - count / size) ** 2 / (count / size)).sum() < 180


def test_neighbours_are_not_neighbours_afterwards() -> None:
    order = shuffle(100_000, 3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, np.arange(order.size))[0, 1]) < 0.02

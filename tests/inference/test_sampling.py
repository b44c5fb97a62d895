"""Sampling against slow code that follows the documented rules symbol by symbol."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.inference import sampling
from scriven.sampling_settings import SamplingSettings

# Multiples of 1/4 make ties frequent.
LOGITS = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=2, max_size=12)


def slow_rank(weights: list[float]) -> list[int]:
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))


def slow_draw(logits: list[float], settings: SamplingSettings, uniform: float, never: set[int]) -> int:
    symbols = [i for i in range(len(logits)) if i not in never]
    if settings.temperature == 0:
        return min(symbols, key=lambda i: (-logits[i], i))
    top = max(logits[i] for i in symbols)
    weights = [math.exp((logits[i] - top) / settings.temperature) if i in symbols else 0.0 for i in range(len(logits))]
    if settings.top_k:
        kept = slow_rank(weights)[: settings.top_k]
        weights = [w if i in kept else 0.0 for i, w in enumerate(weights)]
    if settings.top_p < 1:
        kept, held = [], 0.0
        for i in slow_rank(weights):
            kept.append(i)
            held += weights[i]
            if held >= settings.top_p * sum(sorted(weights, reverse=True)):
                break
        weights = [w if i in kept else 0.0 for i, w in enumerate(weights)]
    weights = [w if w >= settings.min_p * max(weights) else 0.0 for w in weights]
    limit, passed = uniform * sum(weights), 0.0
    for i, weight in enumerate(weights):
        passed += weight
        if passed > limit:
            return i
    raise AssertionError("unreachable")


@given(
    logits=LOGITS,
    settings=st.builds(
        SamplingSettings,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        top_k=st.integers(0, 13),
        top_p=st.sampled_from([1.0, 0.97, 0.61, 0.11, 1e-9]),
        min_p=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    ),
    uniform=st.floats(0, 1, exclude_max=True),
    never=st.sets(st.integers(0, 1), max_size=1),
)
def test_draw_follows_the_rules(
    logits: list[float], settings: SamplingSettings, uniform: float, never: set[int]
) -> None:
    drawn = sampling.draw(np.array([logits]), settings, np.array([uniform]), sorted(never))
    assert drawn.tolist() == [slow_draw(logits, settings, uniform, never)]


@given(rows=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_its_neighbours(rows: list[tuple[int, int, int]]) -> None:
    settings = SamplingSettings(top_k=2, top_p=0.8, min_p=0.01)
    logits, uniforms = np.array(rows, np.float64), np.linspace(0, 0.99, len(rows))
    together = sampling.draw(logits, settings, uniforms)
    alone = [sampling.draw(logits[[n]], settings, uniforms[[n]])[0] for n in range(len(rows))]
    assert together.tolist() == alone


def test_equally_likely_symbols_rank_by_id() -> None:
    weights = np.ones((1, 4))
    assert sampling.keep_top_k(weights, 2).tolist() == [[1, 1, 0, 0]]
    assert sampling.keep_top_p(weights, 0.5).tolist() == [[1, 1, 0, 0]]
    assert sampling.keep_top_p(weights, 0.51).tolist() == [[1, 1, 1, 0]]
    assert sampling.likeliest(weights).tolist() == [0]


def test_filters_leave_the_likeliest_at_least() -> None:
    weights = np.array([[0.1, 0.6, 0.3]])
    assert sampling.keep_top_p(weights, 1e-300).tolist() == [[0, 0.6, 0]]
    assert sampling.keep_min_p(weights, 1.0).tolist() == [[0, 0.6, 0]]


def test_each_filter_sees_what_the_one_before_left() -> None:
    """After top-k 2 the shares are 0.6 and 0.4, so that top-p 0.55 keeps one; of all four it would keep two."""
    logits = np.log(np.array([[0.3, 0.2, 0.2, 0.2, 0.1]]))
    settings = SamplingSettings(temperature=1, top_k=2, top_p=0.55)
    assert {int(sampling.draw(logits, settings, np.array([u]))[0]) for u in np.linspace(0, 0.999, 50)} == {0}


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    settings = SamplingSettings(temperature=temperature)
    assert sampling.draw(np.array([[-3.0, 2.0, 1.0]]), settings, np.array([0.999])).tolist() == [1]


def test_a_symbol_without_weight_is_never_picked() -> None:
    weights = np.array([[0.0, 1.0, 0.0, 1.0, 0.0]])
    uniforms = [0.0, 0.25, 0.5, 0.75, math.nextafter(1, 0)]
    assert [int(sampling.pick(weights, np.array([u]))[0]) for u in uniforms] == [1, 1, 3, 3, 3]


def test_frequencies_are_the_probabilities() -> None:
    """20,000 draws: each frequency lies within 5 standard errors, which fails by chance once in 300,000 seeds."""
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    uniforms = np.random.default_rng(1).random(20_000)
    logits = np.repeat(np.log(probabilities)[None], len(uniforms), 0)
    drawn = sampling.draw(logits, SamplingSettings(temperature=1), uniforms)
    error = np.abs(np.bincount(drawn, minlength=4) / len(uniforms) - probabilities)
    assert (error < 5 * np.sqrt(probabilities * (1 - probabilities) / len(uniforms))).all()

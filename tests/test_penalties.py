"""Penalties, DRY, typical and mirostat: against slow obvious code, and native code against numpy."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scriven.errors import UsageError
from scriven.inference import sampling
from scriven.inference.generation import GenerationBatch, GenerationOptions
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.penalties import Past, adjust, begin_past
from scriven.rules import Rule
from scriven.sampling_settings import SamplingSettings
from scriven.settings import Settings
from scriven.trained_model import Model
from small_model import Text, mixture, predictor

LETTERS = "\n abcdefgh."
WAYS = [None, *(["fp32"] if native_library.level() != "off" else [])]  # numpy and native code
SETTINGS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.7, "repeat_last_n": 5},
    {"presence_penalty": 1.5, "frequency_penalty": -0.3, "temperature": 0.0},
    {"frequency_penalty": 0.5, "repeat_last_n": 0},
    {"dry_multiplier": 3.0, "dry_allowed_length": 2, "temperature": 0.3},
    {"dry_multiplier": 9.0, "dry_allowed_length": 1, "dry_base": 100.0, "dry_penalty_last_n": 9, "temperature": 0.0},
    {"typical_p": 0.5},
    {"typical_p": 0.8, "top_k": 6, "top_p": 0.9, "min_p": 0.3},
    {"mirostat_tau": 1.5},
    {"mirostat_tau": 3.0, "mirostat_eta": 1.0, "top_k": 7, "presence_penalty": 0.5},
]


def model_of(way: str | None, *, counts: bool = False) -> Model:
    plain = predictor(LETTERS, None)
    mixed = (
        mixture(plain, Text(plain.vocabulary.encode("a bad cab. a face\nbehead a cafe\n" * 40))) if counts else plain
    )
    return Model(Predictor(plain.model, plain.vocabulary, "fp32", writing=way, counts=mixed.counts), Settings())


def slow_adjust(logits: list[float], settings: SamplingSettings, ids: list[int]) -> list[float]:
    found = list(logits)
    last = ids[max(0, len(ids) - settings.repeat_last_n) :] if settings.repeat_last_n else []
    for symbol in set(last):
        value, factor = found[symbol], settings.repetition_penalty
        value = value / factor if value > 0 else value * factor
        found[symbol] = value - settings.presence_penalty - settings.frequency_penalty * last.count(symbol)
    recent = ids[-settings.dry_penalty_last_n :]
    for symbol in range(len(found)):
        lengths = [
            length
            for length in range(1, min(64, len(recent)) + 1)
            for place in range(len(recent) - length)
            if recent[place : place + length] == recent[-length:] and recent[place + length] == symbol
        ]
        if lengths and max(lengths) >= settings.dry_allowed_length:
            power = settings.dry_base ** (max(lengths) - settings.dry_allowed_length)
            found[symbol] -= min(settings.dry_multiplier * power, 1e6)
    return found


@given(
    ids=st.lists(st.integers(0, 3), max_size=20),
    logits=st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=4, max_size=4),
    factor=st.sampled_from([1.0, 0.5, 1.5]),
    penalties=st.tuples(st.sampled_from([0.0, 0.5, -1.0]), st.sampled_from([0.0, 0.25])),
    lengths=st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 20)),
    dry=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_logits_change_as_the_formulas_say(
    ids: list[int],
    logits: list[float],
    factor: float,
    penalties: tuple[float, float],
    lengths: tuple[int, int, int],
    dry: float,
) -> None:
    settings = SamplingSettings(
        repetition_penalty=factor,
        presence_penalty=penalties[0],
        frequency_penalty=penalties[1],
        repeat_last_n=lengths[0],
        dry_multiplier=dry,
        dry_allowed_length=lengths[1],
        dry_penalty_last_n=lengths[2],
    )
    found = adjust(np.array(logits), settings, Past(np.array(ids, np.int64), np.zeros(1)))
    assert np.allclose(found, slow_adjust(logits, settings, ids), rtol=1e-6)


@given(
    parts=st.lists(st.tuples(st.sampled_from([[0], [1], [0, 1], [2, 2, 0]]), st.integers(1, 70)), max_size=4),
    last=st.integers(1, 300),
)
@settings(max_examples=20)
def test_dry_finds_long_repetitions_too(parts: list[tuple[list[int], int]], last: int) -> None:
    ids = [each for part, times in parts for each in part * times][-200:]
    asked = SamplingSettings(dry_multiplier=0.5, dry_base=1.1, dry_allowed_length=5, dry_penalty_last_n=last)
    found = adjust(np.zeros(4), asked, Past(np.array(ids, np.int64), np.zeros(1)))
    assert np.allclose(found, slow_adjust([0.0] * 4, asked, ids), rtol=1e-6)


def test_dry_is_quick_in_a_run_of_one_character() -> None:
    asked = SamplingSettings(dry_multiplier=1, dry_penalty_last_n=4096)
    past, begun = Past(np.zeros(4096, np.int64), np.zeros(1)), time.process_time()
    for _ in range(20):
        adjust(np.zeros(4), asked, past)
    assert time.process_time() - begun < 0.2  # 0.5 s if each place is compared by itself


def test_typical_keeps_those_near_the_entropy() -> None:
    """Of 0.6, 0.2, 0.1 and 0.1 the entropy is 1.57 bits; their surprises are 0.74, 2.32, 3.32 and 3.32."""
    weights = np.array([0.6, 0.2, 0.1, 0.1])
    assert sampling.keep_typical(weights, 0.15).tolist() == [0, 0.2, 0, 0]
    assert sampling.keep_typical(weights, 0.7).tolist() == [0.6, 0.2, 0, 0]
    assert sampling.keep_typical(weights, 0.85).tolist() == [0.6, 0.2, 0.1, 0]
    assert sampling.keep_typical(weights, 0.999).tolist() == weights.tolist()


def test_mirostat_moves_its_bound_by_the_error() -> None:
    settings = SamplingSettings(temperature=1, mirostat_tau=1.5, mirostat_eta=0.5)
    past, logits = Past(np.empty(0, np.int64), np.array([3.0])), np.log(np.array([0.6, 0.2, 0.15, 0.05]))
    drawn = sampling.draw_after(logits, settings, 0.999, past)
    assert drawn == 2  # 0.05 costs 4.3 bits
    assert past.bound[0] == pytest.approx(3.0 - 0.5 * (-math.log2(0.15) - 1.5))
    past.bound[0] = 0.1
    assert sampling.draw_after(logits, settings, 0.999, past) == 0  # nothing is below the bound


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_native_code_and_numpy_write_the_same(number: int, *, counts: bool) -> None:
    numpy, *native = [model_of(way, counts=counts) for way in WAYS]
    for seed, rule in enumerate((None, None, Rule.regex("[a-d \\n]{9,}"))):
        asked: dict[str, Any] = {"length": 60, "seed": seed, "temperature": 1.0, "rule": rule, **SETTINGS[number]}
        expected = numpy.sample("a bad", **asked)
        for other in native:
            assert other.sample("a bad", **asked) == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_text_does_not_depend_on_others_nor_on_blocks(way: str | None) -> None:
    model, lines = model_of(way), []
    for seed, more in enumerate([{}, *SETTINGS]):
        whole = model.sample(length=70, seed=seed, **more)
        assert "".join(model.stream(length=70, seed=seed, piece=3, **more)) == whole
        stopped = model.sample(length=70, seed=seed, stop=["a"], **more)
        session = model.session(seed=seed)
        assert "".join(session.write(length=70, stop=["a"], **more)) == stopped == whole.partition("a")[0]
        lines.append((whole, GenerationOptions(70, filters={**more})))  # type: ignore[typeddict-item]
    batch, random = GenerationBatch(model.predictor), map(np.random.default_rng, range(len(lines)))
    texts = [each.begin(model.vocabulary, next(random)) for _, each in lines]
    batch.add(texts, model.predictor.start().rows([0] * len(texts)))
    written = dict.fromkeys(texts, "")
    while batch.generations:
        for each in batch.generate(9):
            written[each.generation] += each.text
    assert [*written.values()] == [whole for whole, _ in lines]


@pytest.mark.parametrize("way", WAYS)
def test_a_bias_rules_symbols_in_or_out(way: str | None) -> None:
    model = model_of(way)
    bias, settings = np.zeros(model.vocabulary.size, np.float32), SamplingSettings(temperature=1)
    bias[model.vocabulary.encode("a")] = 100
    past, start = begin_past(settings, bias), model.predictor.start()
    ids, _ = model.predictor.generate(start, settings, np.random.default_rng(1).random((20, 1)), pasts=[past])
    assert model.decode(ids[:, 0]) == "a" * 20


def test_dry_ends_a_loop_and_mirostat_keeps_the_surprise() -> None:
    model = model_of(WAYS[-1])
    loop = model.sample(length=300, temperature=0)
    free = model.sample(length=300, temperature=0, dry_multiplier=2.0, dry_allowed_length=3)
    assert len({free[place : place + 12] for place in range(288)}) > 2 * len(
        {loop[place : place + 12] for place in range(288)}
    )
    for tau in (2.4, 2.8):  # the likeliest characters alone cost 2.3 bits
        text = model.sample(length=2000, seed=1, temperature=1.0, mirostat_tau=tau)
        bits = model.session(seed=1).score(text).total_nats / math.log(2) / 2000
        assert bits == pytest.approx(tau, abs=0.12)  # and `<unk>` some that is never drawn


def test_wrong_values_are_named() -> None:
    model = model_of(None)
    wrong: dict[str, Any] = {"typical_p": 0, "mirostat_tau": -1, "repeat_last_n": 5000, "dry_allowed_length": 0}
    for name, value in {**wrong, "nonsense": 1}.items():
        asked: dict[str, Any] = {name: value}
        with pytest.raises(UsageError, match=name):
            model.sample(length=3, **asked)

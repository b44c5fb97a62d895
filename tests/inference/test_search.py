"""The likeliest texts, against a list of all texts."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.arrays import Ids
from scriven.errors import InputError, UsageError
from scriven.inference.generation import GenerationOptions
from scriven.inference.predictor import Predictor
from scriven.inference.sampling import WIDEST
from scriven.inference.search import BeamOptions, MiddleOptions, MiddleSearch, find_likeliest
from scriven.inference.surprisal import read_rows
from scriven.kernels import native_library
from scriven.rules import Rule
from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.trained_model import Model, load
from scriven.vocabulary import Vocabulary
from small_model import Text, favour, mixture, predictor
from test_session import make_run

LETTERS = "ab c"
NATIVE = native_library.level() != "off"


def model_of(*, separator: str | None = None, counts: bool = False, writing: str | None = None) -> Model:
    plain = predictor(LETTERS, separator)
    if separator is not None:
        favour(plain, plain.vocabulary.boundary, -1)
    mixed = mixture(plain, Text(plain.vocabulary.encode("a bac cab ba ab ca" * 9))) if counts else plain
    return Model(Predictor(plain.model, plain.vocabulary, "fp32", writing=writing, counts=mixed.counts), Settings())


def written_nats(model: Model, prompt: str, ids: Ids) -> float:
    """-ln of the probability of drawing exactly these ids at temperature 1, one after another."""
    predictor, nats = model.predictor, 0.0
    context = predictor.read(predictor.start(), model.encode(prompt)[:, None])
    for symbol in ids.tolist():
        logits = predictor.next_logits(context, writing=True)[0].astype(np.float64)
        logits[model.vocabulary.unknown] = -np.inf
        nats += math.log(np.exp(logits).sum()) - logits[symbol]
        context = predictor.read(context, np.array([[symbol]]))
    return nats


def all_texts(model: Model, prompt: str, length: int, stop: str = "") -> list[tuple[float, str]]:
    """Every text of a model, with its nats, from the likeliest on."""
    found, end = [], model.vocabulary.boundary
    for size in range(length + 1):
        for each in itertools.product(range(len(LETTERS)), repeat=size):
            ids = np.array(each, np.int64)
            text = model.decode(ids)
            if stop and stop in text[:-1]:
                continue
            if end is not None and size < length:
                found.append((written_nats(model, prompt, np.append(ids, end)), text))
            elif stop and text.endswith(stop):
                found.append((written_nats(model, prompt, ids), text.removesuffix(stop)))
            elif size == length:
                found.append((written_nats(model, prompt, ids), text))
    return sorted(found)


@pytest.mark.parametrize("counts", [False, *([True] if NATIVE else [])])
@pytest.mark.parametrize(("separator", "stop"), [(None, ""), (None, "b"), ("\n", "")])
def test_a_wide_beam_finds_what_a_list_of_all_texts_has(separator: str | None, stop: str, *, counts: bool) -> None:
    model = model_of(separator=separator, counts=counts)
    expected = all_texts(model, "ab", 4, stop)
    found = model.find_likeliest("ab", beam=len(LETTERS) ** 4, count=40, length=4, stop=[stop] if stop else [])
    assert [*found] == [text for _, text in expected[:40]]
    assert [-(text.log_probability or 0) for text in found] == pytest.approx([nats for nats, _ in expected[:40]])
    if separator is not None:
        assert {text.ended for text in found if len(text) < 4} == {True}
    elif not stop:
        assert not any(text.ended for text in found)


@given(width=st.integers(1, 6), length=st.integers(0, 6), prompt=st.text(LETTERS, max_size=4))
def test_a_beam_gives_texts_in_order_with_their_probabilities(width: int, length: int, prompt: str) -> None:
    model = model_of()
    found = model.find_likeliest(prompt, beam=width, count=width, length=length)
    assert len(set(found)) == len(found) == min(width, len(LETTERS) ** length)
    nats = [written_nats(model, prompt, model.encode(text)) for text in found]
    assert [-(text.log_probability or 0) for text in found] == pytest.approx(nats, abs=1e-4)
    assert nats == sorted(nats)
    if width == 1:
        assert found == [model.sample(prompt, length=length, temperature=0)]


def test_a_beam_obeys_rules_and_counts_their_end() -> None:
    for separator in (None, "\n"):
        model = model_of(separator=separator)
        rule = Rule.regex("a[bc]{1,3}|ca?")
        found = model.find_likeliest("b", beam=64, count=5, length=6, rule=rule)
        texts = {"".join(each) for size in range(1, 5) for each in itertools.product("abc", repeat=size)}
        costs = {
            text: model.rule_nats(text, rule, prompt="b", length=6)
            for text in texts
            if re.fullmatch("a[bc]{1,3}|ca?", text)
        }
        assert found == sorted(costs, key=costs.__getitem__)[:5]
        assert [-(text.log_probability or 0) for text in found] == pytest.approx([costs[text] for text in found])
        assert all(text.ended for text in found)


@pytest.mark.skipif(not NATIVE, reason="native code writes in int8")
def test_native_code_finds_the_same_twice() -> None:
    model = model_of(writing="int8")
    found = model.find_likeliest("ab", beam=8, count=8, length=30)
    assert found == model.find_likeliest("ab", beam=8, count=8, length=30)
    assert found[0].log_probability == pytest.approx(-written_nats(model, "ab", model.encode(found[0])), abs=1e-3)


def test_bytes_of_a_character_are_one_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = load(make_run(tmp_path_factory.mktemp("runs") / "bytes", Vocabulary.of_bytes(), {"unit": "byte"}))
    found = model.find_likeliest("é", beam=4, count=4, length=3)
    assert len(found) == 4
    assert all(isinstance(text, str) for text in found)


def test_what_is_out_of_range_is_refused() -> None:
    model = model_of()
    for arguments, said in (
        ({"beam": 0}, "beam 0: give 1 or more"),
        ({"beam": WIDEST + 1}, "give at most 1,024"),
        ({"beam": 2, "count": 3}, "count 3: a beam of 2 finds no more"),
        ({"until_end": True}, "no text of this model ends by itself"),
        ({"rule": Rule.regex("a{9}"), "length": 3}, "the shortest text that obeys has 9"),
        ({"rule": Rule.regex("a"), "stop": ["b"]}, "a stop string ends a text anywhere"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            model.find_likeliest(**arguments)
    broken = model_of().predictor
    favour(broken, 0, math.inf)
    with pytest.raises(InputError, match="the model overflows"):
        find_likeliest(broken, broken.start(), BeamOptions(2, 3))


# --- the middle of a text


def middles(model: Model, prompt: str, suffix: str, length: int, *, ends: bool = False) -> dict[str, float]:
    """The probability of every middle, by the model's probabilities of all texts."""
    weights = {}
    for size in range(length + 1):
        for each in itertools.product(range(len(LETTERS)), repeat=size):
            middle = model.decode(np.array(each, np.int64))
            before = written_nats(model, prompt, model.encode(middle))
            after = [*model.encode(suffix).tolist(), *([model.vocabulary.boundary] if ends else [])]
            weights[middle] = math.exp(-before - read_nats(model, prompt + middle, np.array(after)))
    total = sum(weights.values())
    return {middle: weight / total for middle, weight in weights.items()}


def read_nats(model: Model, prompt: str, ids: Ids) -> float:
    """What reading these ids costs after a prompt."""
    predictor = model.predictor
    context = predictor.read(predictor.start(), model.encode(prompt)[:, None])
    return float(read_rows(predictor, ids[:, None], context)[0].sum())


@pytest.mark.parametrize("separator", [None, "\n"])
@pytest.mark.parametrize("counts", [False, *([True] if NATIVE else [])])
def test_middles_are_drawn_as_often_as_both_sides_say(separator: str | None, *, counts: bool) -> None:
    model = model_of(separator=separator, counts=counts)
    expected = middles(model, "a", "bc", 3, ends=separator is not None)
    context = model.predictor.read(model.predictor.start(), model.encode("a")[:, None])
    after = model.suffix_ids("bc", until_end=separator is not None)
    options = MiddleOptions(GenerationOptions(3, until_end=separator is not None, temperature=1.0), 1000)
    search = MiddleSearch(model.predictor, context, after, options, np.random.default_rng(1))
    while search.advance():
        pass
    found = Counter(search.choose().text for _ in range(3000))
    assert set(found) <= set(expected)
    assert sum(abs(found[middle] / 3000 - chance) for middle, chance in expected.items()) / 2 < 0.1
    assert sum(abs(1 / len(expected) - chance) for chance in expected.values()) / 2 > 0.2


def test_a_beam_gives_the_likeliest_middle() -> None:
    for separator in (None, "\n"):
        model = model_of(separator=separator)
        for prompt, suffix in (("a", "bc"), ("", "ca b"), ("bb", "a" * 20)):
            expected = middles(model, prompt, suffix, 3, ends=separator is not None)
            found = model.infill(prompt, suffix, length=3, draws=64, temperature=0)
            assert expected[found] == max(expected.values())
            assert found.effective_draws is None


def test_the_effective_number_of_draws_is_theirs_if_all_are_alike() -> None:
    model = model_of()
    favour(model.predictor, 0, 30.0)  # every text is of one letter
    letter = model.decode([0])
    found = model.infill(letter, letter, length=4, draws=32, seed=1)
    assert set(found) <= {letter}
    assert found.effective_draws == pytest.approx(32, rel=1e-3)  # though each draw has five places
    assert found.ended


def test_a_draw_has_the_weight_of_all_its_beginnings() -> None:
    model = model_of()
    context = model.predictor.read(model.predictor.start(), model.encode("a")[:, None])
    options = MiddleOptions(GenerationOptions(6), 20)
    search = MiddleSearch(model.predictor, context, model.encode("b"), options, np.random.default_rng(3))
    while search.advance():
        pass
    weights = [0.0] * 20
    for number, nats in zip(search._numbers.tolist(), search._nats.tolist(), strict=True):
        weights[number] += math.exp(-nats)
    expected = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    assert search.choose().effective_draws == pytest.approx(expected)
    assert 1 <= expected <= 20 < len(search._nats)


def test_a_middle_obeys_its_rule_and_does_not_end_the_document() -> None:
    for separator in (None, "\n"):
        model = model_of(separator=separator)
        rule = Rule.regex("b[ac]{2,4}")
        for seed in range(5):
            assert re.fullmatch("b[ac]{2,4}", model.infill("a", "b", length=6, draws=16, rule=rule, seed=seed))
        assert re.fullmatch("b[ac]{2,4}", model.infill("a", "b", length=6, draws=16, rule=rule, temperature=0))
    texts = [model.infill("a", "b", length=9, draws=8, seed=seed) for seed in range(30)]
    assert not any("\n" in text for text in texts)
    assert len(set(texts)) > 3


@pytest.mark.skipif(not NATIVE, reason="native code writes in int8")
def test_a_middle_depends_on_its_seed_alone() -> None:
    model = model_of(writing="int8", separator="\n")
    arguments = {"length": 12, "draws": 40, "presence_penalty": 0.5, "top_k": 3}
    found = [model.infill("ab", "ca ab ca ba ab ca", seed=seed, **arguments) for seed in (1, 2, 1)]  # type: ignore[arg-type]
    assert found[0] == found[2]
    assert found[0].effective_draws == found[2].effective_draws
    assert 1 <= (found[0].effective_draws or 0) <= 40


def test_ends_of_documents_after_a_middle() -> None:
    model = model_of(separator="\n")
    model.settings = validate({"corpus": {"documents": "lines"}})
    end = model.vocabulary.boundary
    assert model.suffix_ids("ab", until_end=True).tolist() == [*model.encode("ab"), end]
    assert model.suffix_ids("ab\nc", until_end=True).tolist() == [*model.encode("ab"), end]
    assert model.suffix_ids("ab", until_end=False).tolist() == [*model.encode("ab")]


def test_a_middle_that_cannot_be_is_refused() -> None:
    model = model_of()
    for arguments, said in (
        ({"suffix": ""}, "suffix is empty"),
        ({"draws": 0}, "draws 0: give 1 or more"),
        ({"draws": WIDEST + 1}, "give at most 1,024"),
        ({"length": -1}, "length -1: give 0 or more"),
        ({"rule": Rule.regex("a{9}"), "length": 3}, "the shortest text that obeys has 9"),
        ({"until_end": True}, "no text of this model ends by itself"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            model.infill(**({"prompt": "a", "suffix": "b"} | arguments))

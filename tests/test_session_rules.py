"""Texts that obey rules: every one of them, and with the probabilities that docs/rules.md promises."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scriven.errors import UsageError
from scriven.inference.generation import GenerationBatch, GenerationOptions
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.rules import Rule
from scriven.settings import Settings
from scriven.trained_model import Model, load_session
from scriven.vocabulary import Vocabulary
from small_model import Text, favour, mixture, predictor, predictor_of
from test_session import LETTERS
from test_session import model as model  # noqa: PLC0414 - a fixture

WAYS = [None, *(["fp32", "int8"] if native_library.level() != "off" else [])]  # numpy and native code
LENGTH = 24
RULES = {
    "a name": (Rule.regex("[a-c][d-h]{2,5}( [a-c][d-h]+)?"), r"[a-c][d-h]{2,5}( [a-c][d-h]+)?"),
    "a code": (Rule.regex("([a-h]{3}\\.){3}[^\\n ]"), r"([a-h]{3}\.){3}[^\n ]"),
    "a choice": (Rule.choice(["bad", "a cab", "face"]), "bad|a cab|face"),
    "few letters": (Rule.allow("abc\n") & Rule.contains("cab"), r"[abc\n]*cab[abc\n]*"),
    "no vowels": (Rule.forbid("ae") & Rule.contains("b.\nd"), r"(?s)[^ae]*b\.\nd[^ae]*"),
    "an acrostic": (Rule.acrostic("fed") & Rule.rhyme("ad"), r"f.*ad\ne(.*)ad\nd.*ad|f.*ad\nead\nd.*ad"),
}


def of_way(way: str | None, *, separator: str | None = None, counts: bool = False) -> Predictor:
    plain = predictor(LETTERS if separator is None else LETTERS.replace("\n", ""), separator)
    if separator is not None:
        favour(plain, plain.vocabulary.boundary, -1)
    mixed = (
        mixture(plain, Text(plain.vocabulary.encode("a bad cab. a face\nbehead a cafe\n" * 40))) if counts else plain
    )
    return Predictor(plain.model, plain.vocabulary, "fp32", writing=way, counts=mixed.counts)


def model_of(way: str | None, *, separator: str | None = None, counts: bool = False) -> Model:
    return Model(of_way(way, separator=separator, counts=counts), Settings())


@pytest.mark.parametrize("name", RULES)
def test_every_text_obeys(name: str, pytestconfig: pytest.Config) -> None:
    rule, pattern = RULES[name]
    count = 10_000 if pytestconfig.getoption("--thorough") else 300
    model = model_of(WAYS[-1])
    for settings in ({}, {"temperature": 2.0, "top_k": 3}, {"top_p": 0.5, "min_p": 0.1, "temperature": 0.5}):
        for text in model.samples(count, length=LENGTH, rule=rule, seed=1, **settings):  # type: ignore[arg-type]
            assert re.fullmatch(pattern, text), text
            assert len(text) <= LENGTH


@pytest.mark.parametrize("counts", [False, *([True] if native_library.level() != "off" else [])])
@pytest.mark.parametrize("separator", [None, "\n"])
@pytest.mark.parametrize("name", ["a name", "few letters"])
def test_native_code_and_numpy_write_the_same(name: str, separator: str | None, *, counts: bool) -> None:
    rule = RULES[name][0] if separator is None else Rule.regex("[a-c][d-h ]*|.*bad.*")
    numpy, *native = [model_of(way, separator=separator, counts=counts) for way in WAYS[:2]]
    for seed in range(20):
        settings = [{}, {"top_k": 2}, {"top_p": 0.7, "min_p": 0.01}, {"temperature": 0.0}][seed % 4]
        expected = numpy.sample("a ba", length=LENGTH, seed=seed, rule=rule, **settings)  # type: ignore[arg-type]
        for other in native:
            assert other.sample("a ba", length=LENGTH, seed=seed, rule=rule, **settings) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("separator", [None, "\n"])
def test_a_text_does_not_depend_on_others_nor_on_blocks(way: str | None, separator: str | None) -> None:
    model = model_of(way, separator=separator)
    rule = Rule.regex("[a-d ]+") & Rule.contains("ab")
    texts = list(model.samples(9, "bad", length=LENGTH, seed=4, rule=rule))
    assert len(set(map(len, texts))) > 1
    for seed, text in enumerate(texts, 4):
        for piece in (1, 5, 64):
            assert "".join(model.stream("bad", length=LENGTH, seed=seed, rule=rule, piece=piece)) == text


@pytest.mark.parametrize("way", WAYS[1:])
def test_rows_with_and_without_rules_share_a_batch(way: str) -> None:
    predictor = of_way(way)
    options = [GenerationOptions(LENGTH, rule=each) for each in (None, RULES["a name"][0], None, RULES["a choice"][0])]
    batch, alone = GenerationBatch(predictor), []
    lines = [each.begin(predictor.vocabulary, np.random.default_rng(row)) for row, each in enumerate(options)]
    batch.add(lines, predictor.start().rows([0] * 4))
    written = dict.fromkeys(lines, "")
    while batch.generations:
        for each in batch.generate(7):
            written[each.generation] += each.text
            if not each.generation.left:
                batch.drop([each.generation])
    model = Model(predictor, Settings())
    for row, asked in enumerate(options):
        alone.append(model.sample(length=LENGTH, seed=row, rule=asked.rule))
    assert [*written.values()] == alone


def chances(model: Model, text: str) -> dict[str, float]:
    """What the model itself gives each character after a text, by the slowest way."""
    session = model.session(seed=0)
    for character in text:
        session.read(character)
    probabilities = session.next(writing=True)
    return dict(zip(map(chr, model.vocabulary.symbols), probabilities.tolist(), strict=False)) | {
        "": float(probabilities[model.vocabulary.boundary]) if model.vocabulary.boundary is not None else 0.0
    }


def slow_probability(model: Model, language: set[str], text: str) -> float:
    """The product of masked, renormalised probabilities of writing one text of a finite language."""
    product = 1.0
    for place in range(len(text) + 1):
        before, given = text[:place], chances(model, text[:place])
        allowed = {each[place] for each in language if len(each) > place and each.startswith(before)}
        weights = {each: given[each] for each in allowed}
        if before in language:
            refused = sum(given[each] for each in given if each and each not in allowed)
            weights[""] = given[""] if model.ends_texts else refused if allowed else 1.0
        if place == max(map(len, language)):
            break  # the length is used up
        product *= weights.get(text[place : place + 1], 0.0) / sum(weights.values())
    return product


@pytest.mark.parametrize("separator", [None, "\n"])
@pytest.mark.parametrize("counts", [False, *([True] if native_library.level() != "off" else [])])
def test_a_text_has_the_product_of_masked_probabilities(separator: str | None, *, counts: bool) -> None:
    model = model_of(None, separator=separator, counts=counts)
    rule = Rule.regex("a?[bc]{1,2}d?|bad")
    texts = {"".join(each) for length in range(5) for each in itertools.product("abcd", repeat=length)}
    language = {each for each in texts if re.fullmatch("a?[bc]{1,2}d?|bad", each)}
    expected = {text: slow_probability(model, language, text) for text in language}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-12)
    for text in texts:
        found = math.exp(-model.rule_nats(text, rule, length=4))
        assert found == pytest.approx(expected.get(text, 0.0), rel=1e-9, abs=1e-15)
    assert math.isinf(model.rule_nats("abcdd", rule, length=4))
    assert math.isinf(model.rule_nats("é", rule, length=4))


def test_texts_come_as_often_as_their_probability_says() -> None:
    model = model_of(WAYS[-1])
    rule, count = Rule.regex("[ab]{1,2}"), 20_000
    often = Counter(map(str, model.samples(count, length=2, seed=1, temperature=1.0, rule=rule)))
    for text in ("a", "b", "aa", "ab", "ba", "bb"):
        chance = math.exp(-model.rule_nats(text, rule, length=2))
        assert abs(often[text] - count * chance) < 5 * math.sqrt(count * chance * (1 - chance)) + 1  # 5 sigma
    assert sum(often.values()) == count


def test_the_mask_is_not_the_conditional_probability() -> None:
    """The mask looks one symbol ahead: what is rare in the end is found too often. docs/rules.md says so."""
    model = model_of(None)
    language = ["aab", "bcd"]
    own = [math.prod(chances(model, text[:place])[text[place]] for place in range(3)) for text in language]
    conditional = own[0] / sum(own)
    masked = math.exp(-model.rule_nats("aab", Rule.choice(language), length=3))
    given = chances(model, "")
    assert masked == pytest.approx(given["a"] / (given["a"] + given["b"]))
    assert abs(masked - conditional) > 0.01


def test_the_end_by_a_rule_takes_a_random_number_and_leaves_no_trace() -> None:
    for way in WAYS:
        model = model_of(way)
        session, slow = model.session(seed=3), model.session(seed=3)
        rule = Rule.regex("[a-d]+")
        for _ in range(6):
            assert "".join(session.write(LENGTH, rule=rule)) == "".join(slow.write(LENGTH, rule=rule, piece=1))
        assert "".join(session.write(9)) == "".join(slow.write(9, piece=1))


def test_a_session_forks_and_is_saved_between_rules(model: Model, tmp_path: Path) -> None:
    rule = Rule.regex("[a-d]+") & Rule.contains("cab")
    session = model.session(seed=5)
    session.read("a bad ")
    first = "".join(session.write(12, rule=rule))
    assert "cab" in first
    fork = session.fork()
    session.save(tmp_path / "saved")
    texts = {"".join(each.write(12, rule=rule)) for each in (session, fork, load_session(tmp_path / "saved", model))}
    assert len(texts) == 1


def test_a_plain_text_ends_as_often_as_the_model_would_break_the_rule() -> None:
    model = model_of(None)
    whole = model.sample(length=50, seed=2, rule=Rule.contains("dad"))
    assert len(whole) == 50  # nothing is refused once it has come
    texts = list(model.samples(50, length=50, seed=2, rule=Rule.regex("[a-h]+")))
    assert all(text.ended for text in texts if len(text) < 50)
    assert max(map(len, texts)) < 50


def test_a_rule_that_cannot_hold_is_refused_before_anything_is_written(model: Model) -> None:
    for rule, length, said in (
        (Rule.regex("[ab]{9}"), 8, "the shortest text that obeys has 9 characters, and length is 8; give at least 9"),
        (Rule.contains("x"), 8, "does not know 'x'"),
        (Rule.allow("a") & Rule.contains("b"), 8, "contradict each other"),
        ("a+", 8, "rule 'a+': give one such as scriven.Rule.regex"),
    ):
        for call in (model.stream, model.sample, model.session().write):
            with pytest.raises(UsageError, match=re.escape(said)):
                call(length=length, rule=rule)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a stop string ends a text anywhere"):
        model.sample(stop=["a"], rule=Rule.regex("a+"))
    assert model.sample(length=0, rule=Rule.regex("a*")) == ""


@pytest.mark.parametrize("way", WAYS)
def test_a_boundary_is_a_line_end_where_texts_do_not_end_with_it(way: str | None) -> None:
    model, rule = model_of(way, separator="\n"), Rule.acrostic("bad") & Rule.rhyme("e")
    for text in model.samples(10, length=30, rule=rule, seed=1, until_end=False):
        assert [line[0] + line[-1] for line in text.split("\n")] == ["be", "ae", "de"]


WIDE = {
    "any": ("(.|\n)*", Rule.regex("(.|\n)*")),
    "letters": ("\\w+ \\w+", Rule.regex("\\w+ \\w+")),
    "two characters": ("[^a]{2}", Rule.regex("[^a]{2}")),
    "Chinese": ("[一-龥]{1,3}。", Rule.regex("[一-龥]{1,3}。")),
    "rhymes": ("(.*é\n)*.*é", Rule.rhyme("é")),
}


def bytes_model(way: str | None, separator: str | None = None) -> Model:
    plain = predictor_of(Vocabulary.of_bytes(separator))
    if separator is not None:
        favour(plain, plain.vocabulary.boundary, 3)
    return Model(Predictor(plain.model, plain.vocabulary, "fp32", writing=way), Settings())


@pytest.mark.parametrize("separator", [None, "\n"])
@pytest.mark.parametrize("name", WIDE)
def test_every_text_of_a_model_of_bytes_obeys_and_is_utf8(name: str, separator: str | None) -> None:
    pattern, rule = WIDE[name]
    numpy, *native = [bytes_model(way, separator) for way in WAYS[:2]]
    for length in (12, 13, 14, 15):
        texts = list(numpy.samples(20, length=length, rule=rule, seed=1, temperature=2.0))
        for text in texts:
            assert re.fullmatch(pattern, text), text
            assert len(text.encode()) <= length
            assert "\ufffd" not in text or "\ufffd".encode() in text.encode()
        for other in native:
            assert list(other.samples(20, length=length, rule=rule, seed=1, temperature=2.0)) == texts


def test_the_length_of_a_rule_is_counted_in_bytes() -> None:
    model = bytes_model(None)
    assert model.sample(length=6, rule=Rule.regex("[一-龥]{2}"), seed=1)
    with pytest.raises(UsageError, match="has 6 bytes, and length is 5; give at least 6"):
        model.sample(length=5, rule=Rule.regex("[一-龥]{2}"))


def test_a_text_of_bytes_has_the_product_of_masked_probabilities() -> None:
    """Over all texts of a small language, the probabilities add up to 1."""
    model, rule = bytes_model(None), Rule.regex("(é|中|a){1,2}")
    texts = ["".join(each) for length in (1, 2) for each in itertools.product("é中a", repeat=length)]
    chances_of = {text: math.exp(-model.rule_nats(text, rule, length=6)) for text in texts}
    assert sum(chances_of.values()) == pytest.approx(1, abs=1e-9)
    assert all(chance > 0 for chance in chances_of.values())
    assert math.isinf(model.rule_nats("é中b", rule, length=6))


def test_a_model_of_bytes_writes_json() -> None:
    model = bytes_model(WAYS[-1])
    schema = {"type": "object", "properties": {"größe": {"type": "integer"}, "b": {"type": "string", "maxLength": 3}}}
    rule = Rule.json_schema(schema | {"required": ["größe"]})
    for text in model.samples(20, length=60, rule=rule, seed=1, temperature=2.0):
        found = json.loads(text)
        assert isinstance(found["größe"], int)
        assert len(found.get("b", "")) <= 3

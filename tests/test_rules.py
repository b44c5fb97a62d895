"""Rules as automata, against Python's `re` and obvious code."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scriven
from scriven.errors import UsageError
from scriven.rules import Rule
from scriven.rules.automaton import REFUSED
from scriven.vocabulary import Vocabulary

LETTERS = "\n\t aAbé_1٣,ß"
VOCABULARY = Vocabulary.of(LETTERS)


def obeys(rule: Rule, text: str, vocabulary: Vocabulary = VOCABULARY) -> bool:
    """Whether the automaton accepts a text."""
    automaton = rule.compile(vocabulary)
    state = automaton.advance(0, vocabulary.encode(text))
    return state != REFUSED and automaton.distance[state] == 0


atoms = st.sampled_from(
    [
        "a",
        "b",
        "é",
        ".",
        "\\d",
        "\\w",
        "\\s",
        "\\D",
        "\\W",
        "\\S",
        "\\n",
        "[ab]",
        "[^a]",
        "[a-é_]",
        "[^\\d,]",
        "\\.",
        "()",
    ]
)


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    quantifiers = st.sampled_from(["*", "+", "?", "{2}", "{0}", "{,2}", "{1,}", "{1,3}"])
    return st.one_of(
        st.lists(parts, max_size=3).map("".join).map("({})".format),
        st.lists(parts, min_size=2, max_size=3).map("|".join).map("(?:{})".format),
        st.tuples(parts.map("(?:{})".format), quantifiers).map("".join),
    )


patterns = st.recursive(atoms, grown, max_leaves=8)
texts = st.text(st.sampled_from(LETTERS), max_size=7)


@given(pattern=patterns, text=texts, other=patterns)
def test_a_pattern_means_what_it_means_in_python(pattern: str, text: str, other: str) -> None:
    def matches(each: str) -> bool:
        return re.fullmatch(each, text) is not None

    try:
        assert obeys(Rule.regex(pattern), text) == matches(pattern)
    except UsageError as error:
        assert "no text" in str(error)
        assert not matches(pattern)
    try:
        assert obeys(Rule.regex(pattern) & Rule.regex(other), text) == (matches(pattern) and matches(other))
    except UsageError as error:
        assert "no text" in str(error)
        assert not (matches(pattern) and matches(other))


@pytest.mark.parametrize("pattern", ["[]a]+", "[^]a]", "[a-]", "a{2}", "[\\]\\-]", "}", "]", "\\{", "a|", "|", ""])
def test_brackets_and_braces_mean_what_they_mean_in_python(pattern: str) -> None:
    vocabulary = Vocabulary.of("a]-{}b")
    for text in ("", "a", "]", "-", "{", "}", "aa", "]a", "b"):
        assert obeys(Rule.regex(pattern), text, vocabulary) == (re.fullmatch(pattern, text) is not None)


@given(text=texts)
def test_the_other_rules_mean_what_they_say(text: str) -> None:
    lines = text.split("\n")
    assert obeys(Rule.allow("aé\n"), text) == set(text).issubset("aé\n")
    assert obeys(Rule.forbid("aé"), text) == (not set(text) & set("aé"))
    assert obeys(Rule.contains("a\nb"), text) == ("a\nb" in text)
    assert obeys(Rule.acrostic("ab"), text) == ([each[:1] for each in lines] == ["a", "b"])
    assert obeys(Rule.rhyme("é"), text) == all(each.endswith("é") for each in lines)
    assert obeys(Rule.choice(["a", "a\nb", ""]), text) == (text in ("a", "a\nb", ""))


@given(pattern=patterns, text=texts)
def test_a_distance_is_the_length_of_the_shortest_rest(pattern: str, text: str) -> None:
    automaton = Rule.regex(f"(?:{pattern})|a{{9}}").compile(VOCABULARY)
    state = automaton.advance(0, VOCABULARY.encode(text))
    if state == REFUSED:
        return
    reached, steps = {state}, 0
    while not any(automaton.distance[each] == 0 for each in reached):
        reached = {int(after) for each in reached for after in automaton.next[each] if after >= 0}
        steps += 1
    assert automaton.distance[state] == steps


@pytest.mark.parametrize(
    ("pattern", "place", "said"),
    [
        ("^a", 1, "no anchors"),
        ("a$", 2, "no anchors"),
        ("a\\b", 2, "stands between characters"),
        ("(a)\\1", 4, "references back"),
        ("(?=a)", 1, "looking ahead"),
        ("a(?<!b)", 2, "looking behind"),
        ("(?P<n>a)", 1, "a named group"),
        ("(?i)a", 1, "a flag"),
        ("a**", 3, "one quantifier follows another"),
        ("a*?", 3, "one quantifier follows another"),
        ("*a", 1, "nothing before it"),
        ("(a", 1, "never closed"),
        ("a)", 2, "closes no group"),
        ("[a", 1, "never closed"),
        ("a\\", 2, "nothing follows"),
        ("a{", 2, "begins a repetition"),
        ("a{3,2}", 2, "contradict"),
        ("a{9999}", 2, "1,000 times at most"),
        ("[b-a]", 3, "later one"),
        ("[a-\\d]", 3, "later one"),
        ("\\p{L}", 1, "\\p is not known"),
        ("(" * 60 + ")" * 60, 51, "50 deep"),
    ],
)
def test_what_is_not_part_of_the_syntax_is_refused_with_its_place(pattern: str, place: int, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Rule.regex(pattern)
    assert f"character {place}:" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a|b)*a(a|b){20}",
        "((a{1000}){1000}){1000}",
        "((()*){1000}){1000}",
        "(a|||||||){1000}" * 9,
        "(a?){1000}" * 4 + "b",
        "a" * 10_001,
    ],
)
def test_hostile_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"the rule (needs|has) more than|give at most"):
        Rule.regex(pattern).compile(VOCABULARY, states=1000)


def test_what_no_text_obeys_is_refused_with_the_reason() -> None:
    for rule, said in (
        (Rule.regex("ax"), "does not know 'x' (U+0078)"),
        (Rule.contains("zya"), "does not know 'y' (U+0079), 'z' (U+007A)"),
        (Rule.regex("a+") & Rule.contains("b"), "these contradict each other"),
        (Rule.regex("[x-z]"), "no text of the characters that this model knows"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            rule.compile(VOCABULARY)
    with pytest.raises(UsageError, match="a model of bytes"):
        Rule.allow("a").compile(Vocabulary.of_bytes())
    assert obeys(Rule.regex("a|x"), "a")


def test_empty_values_and_line_ends_are_refused() -> None:
    for make in (Rule.allow, Rule.forbid, Rule.contains, Rule.acrostic, Rule.rhyme):
        with pytest.raises(UsageError, match="is empty"):
            make("")
    for make in (Rule.acrostic, Rule.rhyme):
        with pytest.raises(UsageError, match="about single lines"):
            make("a\nb")
    with pytest.raises(UsageError, match="at least one text"):
        Rule.choice([])


def test_a_rule_is_a_value() -> None:
    rule = scriven.Rule.regex("a+") & scriven.Rule.forbid("b")
    assert rule == eval(repr(rule), {"Rule": Rule})
    assert hash(rule) == hash(Rule.regex("a+") & Rule.forbid("b"))


def test_the_boundary_ends_a_text_or_is_its_separator() -> None:
    names = Vocabulary.of("abc", "\n")
    separated = Rule.acrostic("ab").compile(names)
    ids = np.array([0, 2, names.boundary, 1])
    assert separated.ends
    assert separated.distance[separated.advance(0, ids)] == 0
    assert separated.least == 3
    ended = Rule.regex("ab?").compile(names, until_end=True)
    assert not ended.ends
    after = ended.advance(0, np.array([0, names.boundary]))
    assert ended.distance[after] == 0
    assert not ended.allowed(after, 9).any()
    assert ended.allowed(ended.advance(0, np.array([0])), 1).nonzero()[0].tolist() == [1, names.boundary]

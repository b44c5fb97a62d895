"""Rules as automata, against Python's `re` and obvious code."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scriven
from scriven.errors import UsageError
from scriven.rules import Rule
from scriven.rules.alphabet import REFUSED
from scriven.vocabulary import Vocabulary

LETTERS = "\n\t aAbé_1٣,ß"
VOCABULARY = Vocabulary.of(LETTERS)
BYTES = Vocabulary.of_bytes()
SPELLED = "a\n\x7f\x80\u07ff\u0800é٣\ud7ff\ue000\uffff\U00010000\U0003ffff\U00040000\U0010ffff中"  # 1 to 4 bytes


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
    for vocabulary in (VOCABULARY, BYTES):
        with pytest.raises(UsageError, match=re.escape("does not know '\\udcff' (U+DCFF)")):
            Rule.contains("\udcff").compile(vocabulary)
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
    assert separated.advance(0, ids) != REFUSED
    assert separated.distance[separated.advance(0, ids)] == 0
    assert separated.least == 3
    apart = Rule.regex("a\n\nb|a\nccccb").compile(Vocabulary.of("abc", "\n\n"))
    assert apart.least == 3  # the second way needs a line feed alone, which no symbol is
    assert not apart.allowed(apart.advance(0, np.array([0])), 2)[2]
    assert Rule.regex("a\nb|acccc").compile(Vocabulary.of("abc", "\n\n")).least == 5
    ended = Rule.regex("ab?").compile(names, until_end=True)
    assert not ended.ends
    after = ended.advance(0, np.array([0, names.boundary]))
    assert ended.distance[after] == 0
    assert not ended.allowed(after, 9).any()
    assert ended.allowed(ended.advance(0, np.array([0])), 1).nonzero()[0].tolist() == [1, names.boundary]


# --- models of bytes


wide = st.recursive(
    st.sampled_from(
        ["a", "é", ".", "\\d", "\\w", "\\W", "\\s", "\\S", "[^é]", "[é-中]", "[\u07ff-\U00040000]", "[^\\w]"]
    ),
    grown,
    max_leaves=6,
)


def matching(pattern: str, data: bytes) -> bool:
    """Whether bytes are UTF-8 of a text that matches."""
    try:
        return re.fullmatch(pattern, data.decode()) is not None
    except UnicodeDecodeError:
        return False


def accepts(rule: Rule, data: bytes) -> bool:
    automaton = rule.compile(BYTES)
    state = automaton.advance(0, np.frombuffer(data, np.uint8).astype(np.int64))
    return state != REFUSED and automaton.distance[state] == 0


@settings(max_examples=40)
@given(
    pattern=wide,
    text=st.text(st.sampled_from(SPELLED), max_size=5),
    junk=st.binary(max_size=4),
    place=st.integers(0, 9),
)
def test_bytes_obey_if_they_are_the_utf8_of_a_text_that_matches(
    pattern: str, text: str, junk: bytes, place: int
) -> None:
    data = text.encode()
    for each in (data, data[:-1], data[:place] + junk + data[place:], junk):
        try:
            assert accepts(Rule.regex(pattern), each) == matching(pattern, each)
        except UsageError as error:
            assert "no text" in str(error)
            assert not matching(pattern, each)


@pytest.mark.parametrize("pattern", ["\\w", "[^é-中\\s]"])
def test_every_character_is_allowed_byte_by_byte_as_python_has_it(pattern: str) -> None:
    """Of all code points, and of all two bytes."""
    automaton, matches = Rule.regex(pattern).compile(BYTES), re.compile(pattern).fullmatch
    points = np.array([point for point in range(0x110000) if not 0xD800 <= point < 0xE000], "<u4")
    text = points.tobytes().decode("utf-32-le")
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    begins = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
    table, state = automaton.next[:, automaton.columns], np.zeros(len(points), np.int64)  # (S, V), (points,)
    for place in range(4):
        more = begins[:-1] + place < begins[1:]
        state[more] = np.where(state[more] < 0, REFUSED, table[state[more], data[begins[:-1][more] + place]])
    found = (state != REFUSED) & (automaton.distance[state] == 0)
    assert np.array_equal(found, [matches(each) is not None for each in text])
    firsts = np.repeat(table[0, :256], 256)
    both = np.where(firsts < 0, REFUSED, table[firsts, np.tile(np.arange(256), 256)])
    two = (both != REFUSED) & (automaton.distance[both] == 0)
    assert two.tolist() == [matching(pattern, bytes([one, other])) for one in range(256) for other in range(256)]


@settings(max_examples=40)
@given(pattern=wide, data=st.text(st.sampled_from(SPELLED), max_size=4).map(str.encode), cut=st.integers(0, 12))
def test_a_distance_in_bytes_is_that_to_the_end_of_a_text(pattern: str, data: bytes, cut: int) -> None:
    automaton = Rule.regex(f"(?:{pattern})|中{{2}}").compile(BYTES)
    state = automaton.advance(0, np.frombuffer(data[:cut], np.uint8).astype(np.int64))
    if state == REFUSED:
        return
    reached, steps = {state}, 0
    while not any(automaton.distance[each] == 0 for each in reached):
        reached = {int(after) for each in reached for after in automaton.next[each] if after >= 0}
        steps += 1
    assert automaton.distance[state] == steps


def test_states_inside_of_characters_are_few_and_counted() -> None:
    assert len(Rule.regex("[a-z]+").compile(BYTES).next) == 2 + 1
    assert len(Rule.regex(".*").compile(BYTES).next) == 1 + 7 + 1  # one for each form of what the first byte leaves
    assert len(Rule.regex(".*中.*").compile(BYTES).next) < 20
    assert len(Rule.regex("\\w{1,3}").compile(BYTES, states=1000).next) < 1000
    with pytest.raises(UsageError, match="more than 5,000 states"):
        Rule.regex("\\w{1,100}").compile(BYTES, states=1000)


def test_the_boundary_of_bytes_ends_a_text_or_is_its_separator() -> None:
    names = Vocabulary.of_bytes("\né")
    ids = np.array([*b"a", names.boundary, *b"b"])
    separated = Rule.regex("a\né[bc]").compile(names)
    assert separated.advance(0, ids) != REFUSED
    assert separated.distance[separated.advance(0, ids)] == 0
    assert separated.least == 3
    ended = Rule.regex("é?").compile(names, until_end=True)
    inside = ended.advance(0, np.array([0xC3]))
    assert ended.allowed(inside, 9).nonzero()[0].tolist() == [0xA9]
    assert ended.allowed(ended.advance(0, np.array([0xC3, 0xA9])), 9).nonzero()[0].tolist() == [names.boundary]

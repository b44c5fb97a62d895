"""Words and other units: where they end, what they cost, and that nothing is lost in any pieces of any text."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.errors import InputError, UsageError
from scriven.inference.boundaries import Punctuation, SeparatorRule, Spaces, UnitRule, WordRule, make_rule
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import Scored, surprisals_of_text
from scriven.inference.units import surprisals_of_units, units
from scriven.kernels import native_library
from scriven.vocabulary import Vocabulary
from small_model import predictor, slow_nats

CHARACTERS = Vocabulary.of("\n\r ab'.,|́")
LINES = Vocabulary.of(" ab'.,́", "\n")
VOCABULARIES = {"characters": CHARACTERS, "bytes": Vocabulary.of_bytes(), "lines": LINES}
# Marks, joiners, flags, jamos, text from right to left, line ends, lone surrogates, and characters beyond 16 bits.
PIECES = [*"ab .,'-\n\r\t\u0301\u200d\u00a0של\u05b0\u0600ᄒ\u1161\u11ab\udc80\ud800👩❤\ufe0f🇫🇷🏽ำ中", "\r\n", "é"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
KINDS = st.sampled_from(sorted(VOCABULARIES))


def ids_of(vocabulary: Vocabulary, text: str) -> np.ndarray:
    """The ids of a text as a file with these characters gives them; documents end where the letter n would stand."""
    ids = vocabulary.encode_read(text)
    return ids if vocabulary.boundary is None else np.append(ids, vocabulary.boundary)


def split(vocabulary: Vocabulary, ids: np.ndarray, rule: UnitRule, sizes: Sequence[int] = ()) -> list[str]:
    """The texts of the units, as their ids say."""
    nats = np.random.default_rng(1).random(len(ids))
    parts = np.minimum(np.cumsum(sizes), len(ids)).astype(int) if sizes else []
    pieces = [
        Scored(part, cost, predictor().start(), part > 0)
        for part, cost in zip(np.split(ids, parts), np.split(nats, parts), strict=True)
    ]
    found = [one for some in units(vocabulary, pieces, rule) for one in some.sums]
    assert math.isclose(sum(one.loss.total_nats for one in found), nats.sum(), rel_tol=1e-9, abs_tol=1e-9)
    lengths = [one.loss.characters + one.loss.ends for one in found]
    assert sum(lengths) == len(ids) and all(lengths)
    return [str(part.tolist()) for part in np.split(ids, np.cumsum(lengths)[:-1])] if lengths else []


@given(TEXTS, st.lists(st.integers(0, 4), max_size=8), KINDS, st.data())
def test_units_add_up_and_are_the_same_in_any_pieces(
    text: str, sizes: list[int], kind: str, data: st.DataObject
) -> None:
    vocabulary, by = VOCABULARIES[kind], data.draw(st.sampled_from(["word", "line", "document"]))
    options: dict[str, Any] = data.draw(
        st.fixed_dictionaries(
            {"spaces": st.sampled_from(["after", "before"]), "punctuation": st.sampled_from(["with", "apart"])}
        )
    )
    ids = ids_of(vocabulary, text)
    whole, cut = (split(vocabulary, ids, make_rule(vocabulary, by, **options), each) for each in ((), sizes))
    assert whole == cut


def words(text: str, spaces: Spaces = "after", punctuation: Punctuation = "with") -> list[str]:
    """The words of a text, with their white space."""
    vocabulary = Vocabulary.of(text)
    return [
        vocabulary.decode(np.array(eval(part)))
        for part in split(vocabulary, vocabulary.encode(text), WordRule(vocabulary, spaces, punctuation))
    ]


@given(st.text("ab \n\t'.", max_size=20))
def test_words_end_at_white_space(text: str) -> None:
    assert words(text) == re.findall(r"^\s+|\S+\s*", text)
    assert words(text, "before") == re.findall(r"\s*\S+|\s+$", text)


def test_punctuation_can_be_apart() -> None:
    text = "“Don't,” she said: 3.14 well-known—end... a.b, (x)"
    expected = ["“", "Don't", ",” ", "she ", "said", ": ", "3.14 ", "well-known", "—", "end", "... ", "a.b", ", "]
    assert words(text, punctuation="apart") == [*expected, "(", "x", ")"]
    assert words("it, is", "before", "apart") == ["it", ",", " is"]
    assert words("a' b", punctuation="apart") == ["a", "' ", "b"]


@pytest.mark.parametrize(
    "text", ["a \u0301b", "👩\u200d❤\ufe0f\u200d👨a", "🇫🇷🇩🇪a", "don\u0301't\u0301x", "a\r\nb", "\u0600 1"]
)
@pytest.mark.parametrize("spaces", ["after", "before"])
def test_what_is_read_as_one_character_is_never_cut(text: str, spaces: Spaces) -> None:
    """The clusters are those of another implementation of UAX #29."""
    clusters = pytest.importorskip("regex").findall(r"\X", text)
    places = set(itertools.accumulate(map(len, clusters)))
    for punctuation in ("with", "apart"):
        found = words(text, spaces, punctuation)
        assert set(itertools.accumulate(map(len, found))) <= places


@given(TEXTS, st.sampled_from(["after", "before"]), st.sampled_from(["with", "apart"]))
def test_no_cluster_of_any_text_is_cut(text: str, spaces: Spaces, punctuation: Punctuation) -> None:
    regex = pytest.importorskip("regex")
    text = text.replace("\ud800", "").replace("\udc80", "")
    places = set(itertools.accumulate(map(len, regex.findall(r"\X", text))))
    assert set(itertools.accumulate(map(len, words(text, spaces, punctuation)))) <= places


def separate(vocabulary: Vocabulary, text: str, sizes: Sequence[int] = ()) -> list[str]:
    rule = SeparatorRule(vocabulary, "|")
    ids = vocabulary.encode(text)
    cut = np.minimum(np.cumsum(sizes), len(ids)).astype(int) if sizes else []
    kept = np.concatenate([np.empty(0, np.int64), *rule.remove_from(np.split(ids, cut))])
    return [vocabulary.decode(np.array(eval(part))) for part in split(vocabulary, kept, rule, sizes)]


@given(
    st.text("ab |\n", max_size=20), st.lists(st.integers(0, 4), max_size=8), st.sampled_from(["characters", "bytes"])
)
def test_separators_end_words_and_are_not_read(text: str, sizes: list[int], kind: str) -> None:
    expected = [part for part in re.split(r"\||(?<=\n)", text) if part]
    assert separate(VOCABULARIES[kind], text, sizes) == expected


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("text", ["ab a|\u0301b", "🇫|🇷", "👩\u200d|❤", "\r|\n"])
def test_a_separator_that_cuts_a_character_is_refused(kind: str, text: str) -> None:
    with pytest.raises(InputError, match=r"the separator '\|' after character \d+ of the text cuts"):
        separate(VOCABULARIES[kind], text)


def test_a_separator_is_one_character() -> None:
    for separator, vocabulary in (("||", CHARACTERS), ("\n", CHARACTERS), ("·", Vocabulary.of_bytes())):
        with pytest.raises(UsageError, match="--separator"):
            SeparatorRule(vocabulary, separator)


def unit_nats(model: Predictor, text: str, spaces: Spaces) -> list[float]:
    ids = ids_of(model.vocabulary, text)
    pieces = surprisals_of_text(model, [ids])
    found = units(model.vocabulary, pieces, WordRule(model.vocabulary, spaces))
    return [nats for some in found for nats in (some.sums.nats + some.sums.end_nats).tolist()]


@pytest.mark.parametrize("separator", [None, "\n"])
def test_a_word_costs_what_all_continuations_say(separator: str | None) -> None:
    """P(the next word is w) is the sum over all texts that begin so, by slow code that knows nothing of words.

    With the space after it, words exclude each other; in documents, the end of one ends a word too.
    """
    model = predictor("ab ", separator)
    opening = [] if model.vocabulary.boundary is None else [model.vocabulary.boundary]
    space = int(model.vocabulary.encode(" ")[0])
    length, given = 3, model.vocabulary.encode("b ").tolist()
    chances: dict[str, float] = {}
    before = math.exp(-sum(slow_nats(model, given, opening)))
    for after in itertools.product(range(model.vocabulary.size), repeat=length):
        chance = math.exp(-sum(slow_nats(model, [*given, *after], opening))) / before
        ends = [place for place, each in enumerate(after) if each in {space, model.vocabulary.boundary}]
        if ends and ends[0] > 0:
            chances[str(after[: ends[0] + 1])] = chances.get(str(after[: ends[0] + 1]), 0) + chance
    for word in ("a ", "ab ", "bb "):
        nats = unit_nats(model, f"b {word}a", "after")[1]
        assert math.exp(-nats) == pytest.approx(chances[str(tuple(model.vocabulary.encode(word).tolist()))], rel=1e-6)
    if separator:
        nats = unit_nats(model, "b ab", "after")[1]
        ids = (*model.vocabulary.encode("ab").tolist(), model.vocabulary.boundary)
        assert math.exp(-nats) == pytest.approx(chances[str(ids)], rel=1e-6)


def test_with_the_space_before_it_a_word_is_a_beginning() -> None:
    """P(the text continues with " ab"), also where the word goes on: the sum over all texts that begin so."""
    model = predictor("ab ")
    given, word = model.vocabulary.encode("b").tolist(), model.vocabulary.encode(" ab").tolist()
    before = math.exp(-sum(slow_nats(model, given, [])))
    begun = sum(
        math.exp(-sum(slow_nats(model, [*given, *after], []))) / before
        for after in itertools.product(range(model.vocabulary.size), repeat=4)
        if list(after[:3]) == word
    )
    assert math.exp(-unit_nats(model, "b ab a", "before")[1]) == pytest.approx(begun, rel=1e-6)


def test_a_long_text_adds_up() -> None:
    """10^5 lines in pieces of odd sizes, a word of 300,000 characters among them."""
    text = "".join(f"a {'b' * (place % 7)}\n" for place in range(100_000)) + "a" * 300_000
    ids = CHARACTERS.encode(text)
    whole = split(CHARACTERS, ids, WordRule(CHARACTERS), [9973] * (len(ids) // 9973))
    assert len(whole) == len(text.split())


def test_two_texts_read_by_turns_leave_the_number_of_threads_as_it_was() -> None:
    """It stayed at one in that thread, for good, if the text that was begun first was read to its end first."""
    reads = predictor()
    ids = reads.vocabulary.encode("a bad cab")
    with native_library.native_threads(3):
        one, other = (surprisals_of_units(reads, [ids], WordRule(reads.vocabulary)) for _ in range(2))
        next(one), next(other)
        assert native_library.threads() == 3
        assert not [*one, *other]
        assert native_library.threads() == 3

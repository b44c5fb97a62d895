"""The share of a text's words that are known."""

import math

import pytest

from scriven.training.evaluation import known_share, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop -- it's 9 o'clock!", ["don't", "stop", "it's", "o'clock"]),
        ("'Tis the dogs' house_cat.", ["tis", "the", "dogs", "house", "cat"]),
        ("Straße, ÉTÉ; привет", ["strasse", "été", "привет"]),
        ("...\n 12", []),
    ],
)
def test_words_are_letters_in_a_row(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_the_last_word_may_be_cut_and_does_not_count() -> None:
    assert known_share("The cat sat on thr", {"the", "cat", "on"}) == 0.75


def test_a_text_without_words_has_no_share() -> None:
    assert math.isnan(known_share("123 cut", {"cut"}))

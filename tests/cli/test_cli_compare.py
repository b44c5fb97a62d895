"""`scriven compare`: the interval of a difference, by drawn documents; and what cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_cli_score_columns import LETTERS, make_run

import scriven
from conftest import Command
from scriven.inference.comparison import compare_losses
from scriven.vocabulary import Vocabulary

LINES = ["ab bad", "a cab", "", "bad", "face", "a b c d", "dab", "cab cab"] * 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, lines = tmp_path_factory.mktemp("runs"), {"documents": "lines"}
    return {
        "first": make_run(folder / "first", lines, Vocabulary.of(LETTERS, "\n")),
        "second": make_run(folder / "second", lines, Vocabulary.of(LETTERS, "\n"), seed=5),
        "text": make_run(folder / "text", {}, Vocabulary.of(LETTERS)),
    }


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES) + "\n", "utf-8")
    return str(path)


def test_the_interval_has_the_difference_in_it(runs: dict[str, str], text: str, command: Command) -> None:
    found = json.loads(command("compare", runs["first"], runs["second"], text, "--json").out)
    first, second = (scriven.load(runs[name]).score("\n".join(LINES)) for name in ("first", "second"))
    expected = [score.total_nats / score.characters / math.log(2) for score in (first, second)]
    assert [found["first_bits_per_char"], found["second_bits_per_char"]] == pytest.approx(expected, rel=1e-5)
    low, high = found["interval"]
    assert low < found["difference"] < high and found["difference"] == pytest.approx(expected[0] - expected[1])
    assert found["documents"] == 28 and found["better"] == ("first" if high < 0 else "second" if low > 0 else "neither")
    turned = json.loads(command("compare", runs["second"], runs["first"], text, "--json").out)
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert turned["interval"] == pytest.approx([-high, -low])
    words = command("compare", runs["first"], runs["second"], text).out
    assert "difference" in words and "(95 %)" in words


def test_a_model_is_no_better_than_itself(runs: dict[str, str], text: str, command: Command) -> None:
    found = json.loads(command("compare", runs["first"], runs["first"], text, "--json").out)
    assert (found["difference"], found["interval"], found["better"]) == (0.0, [0.0, 0.0], "neither")


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    """95 of 100, of losses whose true difference is known; the odds that fewer than 88 of 100 do are below 0.5 %."""
    random, held = np.random.default_rng(3), 0
    for _ in range(100):
        characters = random.integers(5, 50, 200).astype(float)
        first = characters * math.log(2) * (2 + random.normal(0, 0.3, 200))
        found = compare_losses(first, first - 0.1 * characters * math.log(2) * random.normal(1, 2, 200), characters)
        held += found.low <= 0.1 <= found.high
    assert held >= 88


def test_samples_are_the_same_with_the_same_seed_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    first, second, characters = random.random(50), random.random(50), np.full(50, 10.0)
    whole = compare_losses(first, second, characters, samples=100)
    monkeypatch.setattr("scriven.inference.comparison.DRAWN_AT_ONCE", 700)
    assert compare_losses(first, second, characters, samples=100) == whole
    assert compare_losses(first, second, characters, samples=100, seed=2) != whole


def test_one_document_is_too_few(runs: dict[str, str], text: str, command: Command) -> None:
    done = command("compare", runs["text"], runs["text"], text)
    assert done.code == 3 and "there is 1 document to draw from" in done.err and "--by line" in done.err
    done = command("compare", runs["text"], runs["text"], text, "--by", "line")
    assert done.code == 0 and "too narrow" not in done.err
    few = command("compare", runs["text"], runs["text"], text, text)
    assert few.code == 0 and "2 documents are few to draw from" in few.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{first} {second}", "needs a text"),
        ("{first} {second} -", "can be read only once"),
        ("{first} {second} {text} --samples 0", "give 1 or more samples"),
    ],
)
def test_what_cannot_be_compared(words: str, said: str, runs: dict[str, str], text: str, command: Command) -> None:
    done = command("compare", *(word.format_map({**runs, "text": text}) for word in words.split()))
    assert (done.code, done.out) == (2, "") and said in done.err

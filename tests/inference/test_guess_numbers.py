"""How many guesses it takes to come to a text: the estimate against texts that are all written out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import scriven
from conftest import Command
from random_run import make_random_run
from scriven.errors import UsageError
from scriven.inference import guess_numbers
from scriven.inference.guess_numbers import GuessSamples, draw_guess_samples
from scriven.inference.predictor import Predictor
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary

LINES = {"corpus": {"documents": "lines"}, "reader": {"kind": "documents"}}
WORDS = ["a", "b", "ab", "ba", "c", "abc", "aabb", "cab", "bcab", "ccc"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_run(tmp_path_factory.mktemp("runs") / "names", Vocabulary.of("abc", "\n"), **LINES)


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return scriven.load(run)


def likelier(predictor: Predictor, limit: float) -> list[float]:
    """The nats of all texts that cost less than `limit`, by slow obvious code: every beginning that is likely enough.

    As in guesses, the end is a symbol and `<unk>` is none.
    """
    boundary, found, todo = predictor.vocabulary.boundary, [], [(0.0, predictor.start())]
    while todo:
        nats, context = todo.pop()
        logits = predictor.next_logits(context)[0].astype(np.float64)
        costs = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits
        for symbol in range(predictor.vocabulary.unknown):
            total = nats + float(costs[symbol])
            if total < limit:
                if symbol == boundary:
                    found.append(total)
                else:
                    todo.append((total, predictor.read(context, np.array([[symbol]]))))
    return found


def test_guesses_are_those_of_writing_out_all_texts(model: Model) -> None:
    """The interval holds for all but 1 of 20 texts; the odds that it fails for one of these are far below that."""
    rows = model.rank_texts(WORDS, samples=4000)
    for word, row in zip(WORDS, rows, strict=True):
        nats = model.score(word).total_nats
        fewest, most = (1 + len(likelier(model.predictor, nats + rounded)) for rounded in (-1e-4, 1e-4))
        assert row["text"] == word and row["bits"] == pytest.approx(nats / math.log(2), rel=1e-4)
        assert row["low"] * (1 - 1e-9) <= most and fewest <= row["high"]
        assert fewest / 2 <= row["guesses"] <= 2 * most
        assert row["log10_guesses"] == pytest.approx(math.log10(row["guesses"]))
    assert max(row["guesses"] for row in rows) > 20


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Texts of 1 to 30 letters of two kinds, each letter and the end with a probability that is known."""
    chances = {"a": 0.6, "b": 0.25, "end": 0.15}
    costs = {name: -math.log(chance) for name, chance in chances.items()}
    random, asked, held = np.random.default_rng(2), 6 * costs["b"] + costs["end"], 0
    exact = 1 + sum(
        math.comb(n, b)
        for n in range(80)
        for b in range(n + 1)
        if (n - b) * costs["a"] + b * costs["b"] + costs["end"] < asked - 1e-6
    )
    for _ in range(100):
        lengths = random.geometric(chances["end"], 1000) - 1
        of_b = random.binomial(lengths, chances["b"] / (chances["a"] + chances["b"]))
        nats = np.sort((lengths - of_b) * costs["a"] + of_b * costs["b"] + costs["end"])
        middle, low, high = GuessSamples(nats, nats, 1000).estimate(np.array([asked]))
        held += bool(low[0] <= math.log(exact) <= high[0])
        assert math.log(exact / 2) < middle[0] < math.log(2 * exact)
    assert held >= 95


def test_the_guesses_are_within_the_interval(model: Model) -> None:
    for seed in range(8):
        for row in model.rank_texts(WORDS, samples=200, seed=seed):
            assert row["low"] <= row["guesses"] * (1 + 1e-9)
            assert row["high"] is None or row["guesses"] <= row["high"] * (1 + 1e-9)


def test_texts_that_do_not_end_are_counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess_numbers, "LONGEST", 2)
    monkeypatch.setattr(guess_numbers, "BLOCK", 2)
    drawn = draw_guess_samples(model.predictor, 1000, seed=1)
    assert 0 < len(drawn.nats) < drawn.count == 1000 and math.isfinite(drawn.cut)
    _, low, high = drawn.estimate(np.array([drawn.cut - 1, drawn.cut + 1]))
    assert np.isfinite(low).all() and np.isnan(high).tolist() == [False, True]


def test_samples_are_the_same_with_the_same_seed(model: Model) -> None:
    first, again, other = (model.rank_texts(["ab"], samples=300, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_very_unlikely_texts_have_numbers_too(model: Model) -> None:
    (row,) = model.rank_texts(["bac" * 500], samples=100)
    assert row["low"] > 20 and row["guesses"] > 1e4 and row["high"] is None and row["bits"] > 1000


def test_the_command_says_what_python_says(run: Path, model: Model, tmp_path: Path, command: Command) -> None:
    done = command("rank", str(run), "ab", "cab", "xa", "--samples", "500", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows == model.rank_texts(["ab", "cab", "xa"], samples=500)
    assert rows[2]["guesses"] is None and rows[2]["bits"] > 0
    assert "the model does not know x (U+0078), so no guess comes to texts with it: their numbers are empty" in done.err
    assert "does not know" not in command("rank", str(run), "ab", "--samples", "9").err
    table = command("rank", str(run), "ab", "xa", "--samples", "500").out.splitlines()
    assert table[0].split("\t") == ["text", "bits", "guesses", "low", "high", "log10_guesses"]
    assert table[1].split("\t")[2] == f"{rows[0]['guesses']:.0f}" and table[2].endswith("\t\t\t\t")
    path = tmp_path / "words.txt"
    path.write_text("ab\n\ncab\nxa\n", "utf-8")
    done = command("rank", str(run), "--file", str(path), "--samples", "500", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {**row, "bits": pytest.approx(row["bits"])} for row in rows
    ]
    assert "1 empty text" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs texts"),
        (["ab", "--file", "x"], "not both"),
        (["a\nb"], "several documents"),
        ([""], "is empty"),
        (["ab", "--samples", "1"], "2 or more"),
        (["ab", "--seed", "-1"], "0 or more"),
    ],
)
def test_what_cannot_be_ranked(words: list[str], said: str, run: Path, command: Command) -> None:
    done = command("rank", str(run), *words)
    assert (done.code, done.out) == (2, "") and said in done.err


def test_a_model_without_documents_has_no_guesses(tmp_path: Path, command: Command) -> None:
    done = command("rank", str(make_random_run(tmp_path / "text")), "ab")
    assert done.code == 2 and "corpus.documents lines" in done.err
    model = scriven.load(tmp_path / "text")
    for call in (lambda: model.rank_texts(["ab"]), lambda: draw_guess_samples(model.predictor, 9, seed=1)):
        with pytest.raises(UsageError, match="never end"):
            call()

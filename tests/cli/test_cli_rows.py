"""What commands print: a hostile folder never commands the terminal, and a line of JSON is JSON to any reader."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import scriven
from conftest import Command
from scriven import strict_json
from scriven.cli.tables import Verbatim, cell, write_tables
from scriven.corpus.build import build
from scriven.model import CharLM
from scriven.runs import create_run, open_run
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary

SOURCE = Path(__file__).parents[2] / "src" / "scriven"
HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
LETTERS = "\n abcdefgh"


def make_run(folder: Path, corpus: Path, vocabulary: Vocabulary, *, overflows: bool = False) -> str:
    """A run of random weights; or of finite ones whose logits are infinite, whatever computes them."""
    torch.manual_seed(1)
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": {"invalid": "bytes"}})
    weights = CharLM(settings.model, vocabulary.size).state_dict()
    if overflows:
        weights["layers.0.rnn.bias_ih_l0"][:] = 50  # all hidden values are 0.76 or more
        weights["head.weight"][::2], weights["head.weight"][1::2] = 3e38, -3e38
    run = create_run(folder, settings, vocabulary, {"texts": [HOSTILE], "corpus": str(corpus), HOSTILE: HOSTILE})
    validation = {"nats": 20.0, "characters": 10, "bytes": 10}
    run.save(weights, {}, {"step": 1, "characters": 34, "validation": validation}, best=1)
    return str(run.path)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of a hostile name, in a folder of a hostile name."""
    folder = tmp_path_factory.mktemp("texts") / HOSTILE
    folder.mkdir()
    path = folder / f"{HOSTILE}.txt"
    path.write_bytes(b"abc\r\nde fgh\n" * 30)
    return path


@pytest.fixture(scope="module")
def corpus(text: Path) -> Path:
    settings = validate({"corpus": {"invalid": "bytes"}}).corpus
    return build([str(text)], settings, text.parent / "corpus")


@pytest.fixture(scope="module")
def run(text: Path, corpus: Path) -> str:
    return make_run(text.parent / "run", corpus, Vocabulary.of(LETTERS))


@pytest.fixture(scope="module")
def overflowing(text: Path, corpus: Path) -> str:
    return make_run(text.parent / "large", corpus, Vocabulary.of(LETTERS), overflows=True)


@pytest.mark.parametrize(
    "words",
    [
        "info {run}",
        "corpus info {corpus}",
        "corpus check {corpus}",
        "corpus merge {corpus}",
        "doctor {run}",
        "evaluate {run}",
        "evaluate {run} {text}",
        "score {run} {text}",
        "score {run} {text} --by line",
        "score {run} {text} {text}",
        "novelty {run} {text}",
        "sample {run} --novelty --until-end",
        "sample {run} --length 3",
        "sample {run} --checkpoint 7",
        "sample {text}",
        "train {text}.missing --steps 1",
        "train {text} --steps 1 --recipe {text}",
        "train {text} --steps 1 --settings {text}",
        "info {text} {text}",
        "recipe show {text}",
        "{text}",
        "score {run} --{text}",
        "score {run} {text} --device {text}",
        "train {text} --model.width {text}",
    ],
)
def test_nothing_commands_the_terminal(words: str, run: str, corpus: Path, text: Path, command: Command) -> None:
    done = command(*(word.format(run=run, corpus=corpus, text=text) for word in words.split()))
    assert done.out or done.err
    assert not set("\x1b\x07\x9b\u202e") & set(done.out + done.err)


def test_a_path_is_a_product(text: Path, command: Command, tmp_path: Path) -> None:
    """A script takes what `corpus build` prints as the folder that it is; a person at a terminal reads it."""
    folder = tmp_path / HOSTILE
    done = command("corpus", "build", str(text), "-o", str(folder))
    assert done.out == f"{folder}\n"
    assert "\x1b" not in done.err


@pytest.mark.parametrize("words", ["score {run} {text}", "evaluate {run} {text}", "score {run} {text} --by line"])
def test_a_model_that_overflows_is_one_sentence(words: str, overflowing: str, text: Path, command: Command) -> None:
    for form in ([], ["--json"]):
        done = command(*(word.format(run=overflowing, text=text) for word in words.split()), *form)
        assert (done.code, done.out) == (3, "")
        assert "scriven: the model overflows" in done.err


def test_weights_whose_sum_overflows_are_the_same_sentence(
    corpus: Path, text: Path, tmp_path: Path, command: Command
) -> None:
    """Not also a warning of NumPy's, which shows a line of our code: it is an error in tests."""
    run = open_run(make_run(tmp_path / "run", corpus, Vocabulary.of(LETTERS)))
    weights = {name: torch.full_like(each, 3e38) for name, each in run.checkpoint("best").weights().items()}
    run.save(weights, {}, {"step": 2, "validation": {}}, best=2)
    for words in (("score", str(run.path), str(text)), ("sample", str(run.path))):
        done = command(*words)
        assert (done.code, done.out, done.err.count("scriven: the model overflows")) == (3, "", 1)


def test_a_model_that_overflows_is_the_same_error_in_python(overflowing: str) -> None:
    model = scriven.load(overflowing)
    calls: list[Callable[[], object]] = [
        lambda: model.score("abc"),
        lambda: model.session().score("abc"),
        model.sample,
        lambda: list(model.stream()),
        lambda: list(model.samples(2)),
    ]
    for call in calls:
        with pytest.raises(scriven.InputError, match="the model overflows"):
            call()


def test_half_characters_are_not_in_json(text: Path, corpus: Path, tmp_path: Path, command: Command) -> None:
    """A model of characters that keeps invalid bytes knows them as lone surrogates; JSON's readers refuse those."""
    run = make_run(tmp_path / "run", corpus, Vocabulary.of(LETTERS + "\udc80\udcff"))
    (tmp_path / "bytes.txt").write_bytes(b"ab\xff\x80\\c\n")
    done = command("sample", run, "--json", "--prompt", "a\udcff", "--length", "200", "--seed", "1")
    row = json.loads(done.out)
    assert row["prompt"] == "a\ufffd"
    assert "\ufffd" in row["text"] and row["text"].encode()
    done = command("score", run, str(tmp_path / "bytes.txt"), "--by", "character", "--json")
    assert [json.loads(line)["character"] for line in done.out.splitlines()] == [*"ab", r"\xff", r"\x80", *"\\c\n"]
    done = command("score", run, str(tmp_path / "bytes.txt"), "--by", "character")
    assert [line.split("\t")[1] for line in done.out.splitlines()[1:]] == [*"ab", r"\xff", r"\x80", r"\\", "c", r"\n"]


@given(st.text(st.characters(exclude_categories=())))
@example("\\udc80 \\ \ud83d\ud83d\ude00\udc80\ud800")
def test_json_has_whole_characters_only(text: str) -> None:
    written = strict_json.write({text: [text, 1.5, None]})
    assert written.isascii() and "\n" not in written
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ((name, values),) = json.loads(written).items()
    assert [name, *values] == [whole, whole, 1.5, None]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_finite_numbers_only(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.write({"a": [number]})


@pytest.mark.parametrize("path", [*sorted((SOURCE / "cli").glob("*.py")), SOURCE / "report" / "terminal.py"])
def test_commands_write_json_in_one_place(path: Path) -> None:
    """So that no number in it is NaN, which `json.dumps` writes where nobody forbids it."""
    names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert "json" not in names


@given(st.lists(st.text() | st.integers() | st.floats() | st.booleans() | st.none(), min_size=1))
def test_a_cell_does_not_depend_on_the_others_of_its_column(values: list[Any]) -> None:
    """Columns whose values are all of one kind are printed by a faster way."""
    for column in (values, *([value, value] for value in values)):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            write_tables([{"a": column, "b": column}], "tsv")
        rows = printed.getvalue().split("\n")
        assert rows == ["a\tb", *(f"{cell(value)}\t{cell(value)}" for value in column), ""]


def test_cells_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_tables([{"a": ["é\\n\n\t\u200b"], "b": [None], "c": [Verbatim(r"\xff")], "d": [0.5]}], "tsv")
    assert capsys.readouterr().out == "a\tb\tc\td\né\\\\n\\n\\t\\u200b\t\t\\xff\t0.500000\n"

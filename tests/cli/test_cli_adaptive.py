"""`evaluate --protocol adaptive` and `score --adapt`: own labels, and the run stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_score import make_run

from conftest import Command
from scriven.trained_model import load
from scriven.vocabulary import Vocabulary

TEXT = "bad cab\na deaf dad\nfed a bee\n" * 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "text": make_run(folder / "text", {}, Vocabulary.of("\n abcdefg")),
        "lines": make_run(folder / "lines", {"documents": "lines"}, Vocabulary.of("\n abcdefg", "\n")),
    }


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return str(tmp_path / "text.txt")


@pytest.mark.parametrize("kind", ["text", "lines"])
def test_every_number_says_that_it_is_adaptive(kind: str, runs: dict[str, str], text: str, command: Command) -> None:
    files = {path: path.read_bytes() for path in Path(runs[kind]).rglob("*") if path.is_file()}
    measured = json.loads(command("evaluate", runs[kind], text, "--protocol", "adaptive", "--json").out)
    scored = json.loads(command("score", runs[kind], text, "--adapt", "--json").out)
    static = json.loads(command("score", runs[kind], text, "--json").out)
    assert measured["protocol"] == scored["protocol"] == "adaptive"
    assert "protocol" not in static
    assert measured["precision"] == scored["precision"] == "fp32"
    assert measured["nats"] == scored["nats"] != static["nats"]
    assert measured["characters"] == static["characters"]
    assert "protocol          adaptive\n" in command("score", runs[kind], text, "--adapt").out
    head, first, *_ = command("score", runs[kind], text, "--adapt", "--by", "line").out.splitlines()
    assert (head.split("\t")[0], first.split("\t")[0]) == ("protocol", "adaptive")
    assert files == {path: path.read_bytes() for path in Path(runs[kind]).rglob("*") if path.is_file()}


def test_rows_of_lines_add_up(runs: dict[str, str], text: str, command: Command) -> None:
    rows = [
        json.loads(row)
        for row in command("score", runs["text"], text, "--adapt", "--by", "line", "--json").out.splitlines()
    ]
    whole = json.loads(command("score", runs["text"], text, "--adapt", "--json").out)
    assert sum(row["nats"] for row in rows) == pytest.approx(whole["nats"])
    assert load(runs["text"]).score(TEXT, adapt=True).nats == pytest.approx(whole["nats"])
    assert repr(load(runs["text"]).score(TEXT, adapt=True)).startswith("Score(adaptive: ")


def test_each_file_begins_with_the_trained_weights(runs: dict[str, str], text: str, command: Command) -> None:
    first, second = (
        json.loads(row)["nats"]
        for row in command("score", runs["text"], text, text, "--adapt", "--json").out.splitlines()
    )
    assert first == second


def test_documents_alone(runs: dict[str, str], text: str, command: Command) -> None:
    alone = json.loads(command("score", runs["lines"], text, "--adapt-documents", "--json").out)
    measured = json.loads(command("evaluate", runs["lines"], text, "--protocol", "adaptive-documents", "--json").out)
    static = json.loads(command("score", runs["lines"], text, "--json", "--precision", "fp32").out)
    assert alone["protocol"] == measured["protocol"] == "adaptive-documents"
    assert alone["nats"] == measured["nats"] == pytest.approx(static["nats"])  # all are shorter than a segment
    refused = command("score", runs["text"], text, "--adapt-documents")
    assert refused.code == 2
    assert "this model knows no documents; use adaptive" in refused.err

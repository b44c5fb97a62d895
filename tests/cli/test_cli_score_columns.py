"""`scriven score`: columns of the entropy, of the counts and of another run; regions; all checkpoints of a run."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scriven
from conftest import Command, Done
from scriven.inference.surprisal import entropies
from scriven.kernels import native_library
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary

LETTERS = "\n abcdefg"
TEXT = "ab bad\n\na cab, \n  ég\n"


def make_run(folder: Path, corpus: dict[str, Any], vocabulary: Vocabulary, *, seed: int = 1, saves: int = 1) -> str:
    kind = {"reader": {"kind": "documents"}} if vocabulary.separator is not None else {}
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": corpus, "monitor": {"keep": "all"}, **kind})
    run = create_run(folder, settings, vocabulary, {"texts": [], "corpus": ""})
    for step in range(1, saves + 1):
        torch.manual_seed(seed + step)
        run.save(CharLM(settings.model, vocabulary.size).state_dict(), {}, {"step": step, "validation": {}}, best=step)
    return str(run.path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Runs of one text, with two checkpoints; of other letters; of lines; of bytes; of whole files."""
    folder, lines = tmp_path_factory.mktemp("runs"), {"documents": "lines"}
    return {
        "text": make_run(folder / "text", {}, Vocabulary.of(LETTERS), saves=2),
        "other": make_run(folder / "other", {}, Vocabulary.of("\n abcde,"), seed=7),
        "lines": make_run(folder / "lines", lines, Vocabulary.of(LETTERS, "\n")),
        "bytes": make_run(folder / "bytes", {"unit": "byte"}, Vocabulary.of_bytes()),
        "files": make_run(folder / "files", {"documents": "files"}, Vocabulary.of(LETTERS, "")),
    }


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return str(path)


def rows(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.parametrize("kind", ["text", "lines", "bytes"])
@pytest.mark.parametrize("by", ["word", "line", "character"])
def test_the_entropy_is_that_before_the_row(
    kind: str, by: str, runs: dict[str, str], text: str, command: Command
) -> None:
    """And the surprisals are those without it."""
    exact = ["score", runs[kind], text, "--precision", "fp32", "--by", by, "--json"]  # bf16 differs by pieces read
    plain = rows(command(*exact, "--columns", "nats,unseen"))
    found = rows(command(*exact, "--columns", "nats,unseen,entropy"))
    assert [row["nats"] for row in found] == pytest.approx([row["nats"] for row in plain], rel=1e-5)
    model = scriven.load(runs[kind], precision="fp32").predictor
    known = [row["entropy"] for row in found if row["entropy"] is not None]
    start = float(entropies(model, model.start())[0]) / math.log(2)
    assert known[0] == pytest.approx(start, rel=1e-5)
    assert all(0 < each <= math.log2(model.vocabulary.size) + 1e-6 for each in known)
    if kind == "lines" and by == "line":
        assert known == pytest.approx([start] * 3, rel=1e-5)
        assert [row["entropy"] is None for row in found] == [False, True, False, False]


def test_the_entropy_is_the_same_in_python(runs: dict[str, str], text: str, command: Command) -> None:
    told = rows(command("score", runs["text"], text, "--by", "word", "--columns", "entropy", "--json"))
    found = scriven.load(runs["text"]).score_units(TEXT, entropy=True)
    assert [row["entropy"] for row in found] == pytest.approx([row["entropy"] for row in told], rel=1e-5)
    assert "entropy" not in scriven.load(runs["text"]).score_units(TEXT)[0]


@pytest.mark.parametrize("pair", [("text", "other"), ("text", "bytes"), ("text", "lines")])
@pytest.mark.parametrize("by", ["word", "total"])
def test_another_run_stands_beside(
    pair: tuple[str, str], by: str, runs: dict[str, str], text: str, command: Command
) -> None:
    run, other = (runs[name] for name in pair)
    if pair[1] == "lines":  # a line of white space begins with it, and its end is no character
        Path(text).write_text("ab bad\na cab\n", "utf-8")
    theirs_named = "against_total_bits" if pair[1] == "lines" else "against_bits"
    words = ["--by", by, "--columns", f"bits,{theirs_named},log_ratio", "--json"]
    found = rows(command("score", run, text, "--against", other, *words))
    theirs = rows(command("score", other, text, "--by", by, "--columns", "all", "--json"))
    expected = [row.get("total_bits", row["bits"]) for row in theirs]
    assert [row[theirs_named] for row in found] == pytest.approx(expected, rel=1e-5)
    ratios = [row[theirs_named] - row["bits"] for row in found]
    assert [row["log_ratio"] for row in found] == pytest.approx(ratios, rel=1e-4, abs=1e-4)


def test_usual_columns_of_two_runs(runs: dict[str, str], text: str, command: Command) -> None:
    head = command("score", runs["text"], text, "--against", runs["other"], "--by", "word").out.splitlines()[0]
    assert head.split("\t")[-3:] == ["bits", "against_bits", "log_ratio"]
    head = command("score", runs["lines"], text, "--against", runs["lines"]).out.splitlines()[0]
    assert head.split("\t")[-3:] == ["precision", "against_total_bits", "log_ratio"]


def test_a_run_beside_itself_expects_the_same(runs: dict[str, str], text: str, command: Command) -> None:
    for by in ("character", "word", "line", "document"):
        done = command("score", runs["lines"], text, "--by", by, "--against", runs["lines"], "--json")
        assert {row["log_ratio"] for row in rows(done)} == {0.0}


@pytest.mark.parametrize(
    ("pair", "words", "said"),
    [
        (("text", "bytes"), "--by character", "reads characters, and"),
        (("text", "files"), "--by line", "numbers rows by line, and"),
        (("text", "other"), "--by word --columns log_ratio,against_bit", "did you mean against_bits?"),
        (("text", ""), "--by word --columns log_ratio", "there is no such column here"),
    ],
)
def test_runs_that_cannot_stand_beside(
    pair: tuple[str, str], words: str, said: str, runs: dict[str, str], text: str, command: Command
) -> None:
    against = ["--against", runs[pair[1]]] if pair[1] else []
    done = command("score", runs[pair[0]], text, *against, *words.split())
    assert (done.code, done.out) == (2, "") and said in done.err


def test_rows_that_differ_are_refused(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    """White space at the start of a line is a row of its own if lines are documents."""
    path = tmp_path / "text.txt"
    path.write_text("ab\n  bad\n", "utf-8")
    done = command("score", runs["text"], str(path), "--by", "word", "--against", runs["lines"])
    assert done.code == 3 and "divide this text into different rows (columns line, word)" in done.err


def test_a_run_without_counts_has_no_columns_of_them(runs: dict[str, str], text: str, command: Command) -> None:
    done = command("score", runs["text"], text, "--by", "word", "--columns", "counts_bits")
    assert done.code == 3 and "has no counts of its training text" in done.err


@pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())
@pytest.mark.parametrize("documents", ["none", "lines"])
def test_counts_stand_beside(documents: str, tmp_path: Path, text: str, command: Command) -> None:
    """A model of counts alone is what its counts say; the notes are printed once."""
    (tmp_path / "book.txt").write_text("ab bad a cab\nbad cab, abc\n" * 40, "utf-8")
    path = str(tmp_path / "run")
    words = ["--model.kind", "counts", "--corpus.documents", documents, "-o", path, "--quiet"]
    assert command("train", str(tmp_path / "book.txt"), *words).code == 0
    for by in ("line", "word", "character"):
        columns = "bits,counts_bits,entropy,counts_entropy"
        done = command("score", path, text, "--by", by, "--columns", columns, "--json")
        assert [row["counts_bits"] for row in rows(done)] == [row["bits"] for row in rows(done)]
        assert [row["counts_entropy"] for row in rows(done)] == [row["entropy"] for row in rows(done)]
        assert done.err.count("empty line") <= 1


def test_every_checkpoint_has_rows(runs: dict[str, str], text: str, command: Command) -> None:
    found = rows(command("score", runs["text"], text, "--by", "line", "--checkpoints", "all", "--json"))
    expected = [
        {"file": row.pop("file"), "step": step, **row}
        for step in (1, 2)
        for row in rows(command("score", runs["text"], text, "--by", "line", "--checkpoint", str(step), "--json"))
    ]
    assert found == expected
    total = command("score", runs["text"], text, "--checkpoints", "all").out.splitlines()
    assert [line.split("\t")[0] for line in total] == ["step", "1", "2"]
    done = command("score", runs["text"], text, "--checkpoints", "all", "--checkpoint", "1")
    assert (done.code, done.out) == (2, "") and "drop one of them" in done.err


def test_standard_input_is_read_once(runs: dict[str, str], command: Command) -> None:
    for words in (["--against", runs["other"]], ["--checkpoints", "all"]):
        done = command("score", runs["text"], "-", *words)
        assert done.code == 2 and f"{words[0]} reads the text several times" in done.err


ITEMS = 'item,condition,region,text\n1,a,1,ab bad\n1,a,2,"cab, g"\n1,b,1,ab\n1,b,2,\n1,b,3,bad\n'


@pytest.mark.parametrize("kind", ["text", "lines", "bytes"])
def test_regions_are_appended_to(kind: str, runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "items.csv"
    path.write_text(ITEMS, "utf-8")
    words = ["--by", "region", "--regions", str(path)]
    done = command("score", runs[kind], *words, "--csv")
    found = list(csv.DictReader(io.StringIO(done.out)))
    given = list(csv.DictReader(io.StringIO(ITEMS)))
    assert [{name: row[name] for name in given[0]} for row in found] == given
    assert [int(row["characters"]) for row in found] == [7, 6, 3, 0, 3]
    assert (found[3]["bits"], found[3]["entropy"]) == ("0.0", "")
    total = "total_nats" if kind == "lines" else "nats"
    asked = rows(command("score", runs[kind], *words, "--columns", f"item,{total}", "--json"))
    for begin, end, whole in ((0, 2, "ab bad cab, g"), (2, 5, "ab bad")):
        score = scriven.load(runs[kind]).score(whole)
        assert sum(row[total] for row in asked[begin:end]) == pytest.approx(score.total_nats, rel=1e-5)


def test_regions_of_two_runs(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "items.csv"
    path.write_text(ITEMS, "utf-8")
    words = ["--by", "region", "--regions", str(path), "--json"]
    found = rows(command("score", runs["text"], *words, "--against", runs["bytes"]))
    theirs = rows(command("score", runs["bytes"], *words))
    assert [row["against_bits"] for row in found] == pytest.approx([row["bits"] for row in theirs], rel=1e-6)
    ratios = np.array([row["against_bits"] - row["bits"] for row in found])
    assert [row["log_ratio"] for row in found] == pytest.approx(ratios, abs=1e-9)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--by region", 2, "--by region and --regions items.csv need each other"),
        ("--regions items.csv", 2, "--by region and --regions items.csv need each other"),
        ("items.csv --by region --regions items.csv", 2, "drop items.csv"),
        ("--by region --regions items.csv --punctuation apart", 2, "add --by word"),
        ("--by region --regions items.csv --adapt", 2, "drop --adapt"),
        ("items.csv --by word --join=", 2, "--join says what stands between regions"),
        ("--by region --regions bits.csv", 3, "has a column bits already"),
        ("--by region --regions short.csv", 3, "short.csv, line 1: it has no column 'region'"),
    ],
)
def test_regions_that_are_refused(
    words: str,
    code: int,
    said: str,
    runs: dict[str, str],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("items.csv").write_text(ITEMS)
    Path("bits.csv").write_text("item,condition,region,text,bits\n1,a,1,ab,3\n")
    Path("short.csv").write_text("item,condition,text\n1,a,ab\n")
    done = command("score", runs["text"], *words.split())
    assert (done.code, done.out) == (code, "") and said in done.err

"""`scriven score`: a row for every line of a file, with its number there and its text; several files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scriven
from conftest import Command, Done
from scriven.corpus.decoding import LINE_END
from scriven.inference.boundaries import LineRule
from scriven.inference.surprisal import Scored
from scriven.inference.units import units
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary
from small_model import predictor

LETTERS = "\n abcdefg"
ENDS = ["\n", "\r\n", "\r"]


def make_run(folder: Path, corpus: dict[str, Any], vocabulary: Vocabulary) -> str:
    kind = {"reader": {"kind": "documents"}} if vocabulary.separator is not None else {}
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": corpus, **kind})
    torch.manual_seed(1)
    run = create_run(folder, settings, vocabulary, {"texts": [], "corpus": ""})
    run.save(CharLM(settings.model, vocabulary.size).state_dict(), {}, {"step": 1, "validation": {}}, best=1)
    return str(run.path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run of one text, one of lines, one of bytes, one of lines of bytes, one of pieces between separators."""
    folder = tmp_path_factory.mktemp("runs")
    of_lines, pieces = {"documents": "lines"}, {"documents": "separator", "separator": "%%"}
    return {
        "text": make_run(folder / "text", {}, Vocabulary.of(LETTERS)),
        "lines": make_run(folder / "lines", of_lines, Vocabulary.of(LETTERS, "\n")),
        "bytes": make_run(folder / "bytes", {"unit": "byte"}, Vocabulary.of_bytes()),
        "lines of bytes": make_run(folder / "both", {"unit": "byte", **of_lines}, Vocabulary.of_bytes("\n")),
        "pieces": make_run(folder / "pieces", pieces, Vocabulary.of(LETTERS, "%%")),
    }


def rows(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


LINES = ["", "ab", "", "", "é\tg", "a\\b", "", "bad cab", ""]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", ["text", "lines", "bytes", "lines of bytes"])
@pytest.mark.parametrize("ended", [True, False])
def test_every_line_of_the_file_has_a_row(
    kind: str, end: str, ended: bool, runs: dict[str, str], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(end.join(LINES) + (end if ended else "last"), "utf-8", newline="")
    expected = LINES if ended else [*LINES[:-1], "last"]
    found = rows(command("score", runs[kind], str(path), "--by", "line", "--json"))
    assert [(row["line"], row["text"]) for row in found] == list(enumerate(expected, 1))
    (total,) = rows(command("score", runs[kind], str(path), "--json"))
    for name in ("characters", "bytes", "unseen", "nats", *(["ends", "total_nats"] if "lines" in kind else [])):
        assert sum(row[name] for row in found) == pytest.approx(total[name], rel=1e-6)
    assert all((row["nats_per_char"] is None) == (row["characters"] == 0) for row in found)


def test_rows_stand_beside_their_lines(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    """As `paste FILE <(scriven score RUN FILE --by line | tail -n +2)` puts them; a table's text is escaped."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(LINES) + "\n", "utf-8")
    for kind in ("text", "lines"):
        head, *below = command("score", runs[kind], str(path), "--by", "line").out.splitlines()
        names = head.split("\t")
        assert (names[0], names[-1]) == ("line", "text")
        assert len(below) == len(path.read_text("utf-8").splitlines())
        for number, (line, row) in enumerate(zip(LINES, below, strict=True), 1):
            cells = dict(zip(names, row.split("\t"), strict=True))
            assert (cells["line"], cells["text"]) == (str(number), line.replace("\\", r"\\").replace("\t", r"\t"))
            assert (cells["bits_per_char"] == "") == (cells["characters"] == "0")


def test_lines_without_a_character_have_rows_too(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n\n\n")
    for kind in ("text", "lines"):
        assert [row["line"] for row in rows(command("score", runs[kind], str(path), "--by", "line", "--json"))] == [
            1,
            2,
            3,
        ]
    assert "is empty" in command("score", runs["lines"], str(path)).err


def test_documents_are_numbered_as_they_stand(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "pieces.txt"
    path.write_text("%%ab%%%%c\nd%%")
    done = command("score", runs["pieces"], str(path), "--by", "line", "--json")
    assert [(row["document"], row["text"]) for row in rows(done)] == [(1, ""), (2, "ab"), (3, ""), (4, "c\nd")]
    assert done.err == "note: 2 empty documents were skipped; their rows have no surprisal\n"
    done = command("score", runs["pieces"], str(path), "--by", "character", "--json")
    assert [(row["document"], row["position"]) for row in rows(done)] == [
        (2, 1),
        (2, 2),
        (2, 3),
        *((4, n) for n in range(1, 5)),
    ]


@pytest.mark.parametrize("by", ["total", "line", "character"])
def test_several_files_are_read_each_from_its_beginning(
    by: str, runs: dict[str, str], tmp_path: Path, command: Command
) -> None:
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    for name, text in zip(names, ("ab\n\ncd", "bad\r\ncab\r\n"), strict=True):
        Path(name).write_text(text, newline="")
    for run in (runs["lines"], runs["text"]):
        both = rows(command("score", run, *names, "--by", by, "--json"))
        alone = [rows(command("score", run, name, "--by", by, "--json")) for name in names]
        assert both == [*alone[0], *alone[1]]
        assert {row["file"] for row in alone[1]} == {names[1]}
    done = command("score", runs["text"], *names, "--by", by, "--tsv")
    head, *below = done.out.splitlines()
    assert head.split("\t")[0] == "file"
    assert [row.split("\t")[0] for row in below] == [row["file"] for row in both]
    assert f"note: {names[1]}: the text has CR LF line ends" in done.err


def test_files_are_told_apart_in_words(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    for name in ("a.txt", "b.txt", "empty.txt"):
        (tmp_path / name).write_text("" if name == "empty.txt" else "ab\n")
    done = command("score", runs["text"], str(tmp_path))
    first, second = done.out.split("\n\n")
    assert [block.splitlines()[0].split() for block in (first, second)] == [
        ["file", str(tmp_path / name)] for name in ("a.txt", "b.txt")
    ]
    assert done.code == 3 and "empty.txt is empty, so there is nothing to score" in done.err
    assert "file" not in command("score", runs["text"], str(tmp_path / "a.txt")).out


def test_a_file_is_needed(runs: dict[str, str], command: Command) -> None:
    assert command("score", runs["text"]).code == 2


def test_of_a_long_line_its_beginning_is_shown(
    runs: dict[str, str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scriven.inference.units.SHOWN", 5)
    monkeypatch.setattr("scriven.inference.unit_tables.SHOWN", 5)
    path = tmp_path / "long.txt"
    path.write_text("abcdefg\nab\nabcdefgabc\n")
    for kind in ("text", "lines", "bytes"):
        done = command("score", runs[kind], str(path), "--by", "line", "--json")
        assert [row["text"] for row in rows(done)] == ["abcde", "ab", "abcde"]
        assert "note: of 2 lines only the first 5 characters are shown\n" in done.err


@given(st.text("ab\r\n", max_size=12), st.lists(st.integers(1, 4), max_size=6), st.sampled_from(["character", "byte"]))
def test_lines_are_the_same_in_any_pieces(text: str, sizes: list[int], unit: str) -> None:
    """As the corpus knows them: a line feed, a carriage return or both end one."""
    vocabulary = Vocabulary.of("\nab") if unit == "character" else Vocabulary.of_bytes()
    ids, context = vocabulary.encode(text), predictor().start()
    parts = np.split(ids, np.minimum(np.cumsum(sizes), len(ids)) if sizes else [])
    pieces = [Scored(part, np.ones(len(part)), context, part > 0) for part in parts]
    found = list(units(vocabulary, pieces, LineRule(vocabulary)))
    *ended, last = LINE_END.split(text)
    assert [each for some in found for each in some.texts] == [*ended, *([last] if last else [])]
    whole = [len(match[0]) for match in LINE_END.finditer(text)]
    lengths = [len(line) + end for line, end in zip(ended, whole, strict=True)] + ([len(last)] if last else [])
    assert [each.loss.characters for some in found for each in some.sums] == lengths


TEXT = "ab bad\n\na cab, \r\n  é\u0301f g\udcff\u05d0"
ALL_UNITS = ["character", "word", "line", "document"]


@pytest.mark.parametrize("kind", ["text", "lines", "bytes", "lines of bytes"])
@pytest.mark.parametrize("by", ALL_UNITS)
def test_rows_of_any_unit_add_up_to_the_total(
    kind: str, by: str, runs: dict[str, str], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode("utf-8", "surrogateescape"))
    flags = ["--corpus.invalid", "bytes", "--json"]
    (total,) = (
        rows(command("score", runs[kind], str(path), "--columns", "nats,total_nats", *flags))
        if ("lines" in kind)
        else rows(command("score", runs[kind], str(path), "--columns", "nats", *flags))
    )
    found = rows(command("score", runs[kind], str(path), "--by", by, "--columns", "all", *flags))
    nats = sum(row["nats"] for row in found if not row.get("end"))
    assert nats == pytest.approx(total["nats"], rel=1e-9)
    if "lines" in kind:
        every = sum(row["nats"] if by == "character" else row["total_nats"] for row in found)
        assert every == pytest.approx(total["total_nats"], rel=1e-9)


def test_words_have_rows_with_their_line(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "text.txt"
    path.write_text("  ab bad,\n\na  cab g")
    found = rows(command("score", runs["text"], str(path), "--by", "word", "--json"))
    shown = [(row["line"], row["word"], row["text"], row["characters"], row["unseen"]) for row in found]
    assert shown == [
        *[(1, 1, "", 2, 0), (1, 2, "ab", 3, 0), (1, 3, "bad,", 6, 1), (3, 1, "a", 3, 0), (3, 2, "cab", 4, 0)],
        (3, 3, "g", 1, 0),
    ]
    done = command("score", runs["lines"], str(path), "--by", "word", "--spaces", "before", "--punctuation", "apart")
    head, *below = done.out.splitlines()
    assert head.split("\t") == ["line", "word", "text", "characters", "unseen", "ends", "end_bits", "bits"]
    assert [row.split("\t")[:6] for row in below] == [
        *[["1", "1", "ab", "4", "0", "0"], ["1", "2", "bad", "4", "0", "0"], ["1", "3", ",", "1", "1", "1"]],
        *[["3", "1", "a", "1", "0", "0"], ["3", "2", "cab", "5", "0", "0"], ["3", "3", "g", "2", "0", "1"]],
    ]


def test_your_own_separators_are_not_read(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    plain, cut = tmp_path / "plain.txt", tmp_path / "cut.txt"
    plain.write_text("abc\nbad")
    cut.write_text("a|bc\n|b|ad")
    for kind in ("text", "bytes", "lines"):
        (total,) = rows(command("score", runs[kind], str(plain), "--json"))
        found = rows(
            command("score", runs[kind], str(cut), "--by", "word", "--separator", "|", "--columns", "all", "--json")
        )
        assert [row["text"] for row in found] == ["a", "bc", "b", "ad"]
        assert sum(row["nats"] for row in found) == pytest.approx(total["nats"], rel=1e-9)


def test_rows_are_sorted_and_cut(runs: dict[str, str], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab bad a cab g fed dab\n" * 3)
    every = rows(command("score", runs["text"], str(path), "--by", "word", "--json"))
    bits = sorted((row["bits"] for row in every), reverse=True)
    for words, expected in (
        (["--sort", "bits"], bits),
        (["--top", "4"], bits[:4]),
        (["--sort=-bits", "--top", "2"], bits[::-1][:2]),
    ):
        found = rows(command("score", runs["text"], str(path), "--by", "word", "--json", *words))
        assert [row["bits"] for row in found] == expected
    by_text = rows(command("score", runs["text"], str(path), "--by", "word", "--sort", "text", "--json"))
    assert [row["text"] for row in by_text] == sorted(row["text"] for row in every)


def test_tables_are_read_by_other_programs(runs: dict[str, str], tmp_path: Path) -> None:
    """By pandas and pyarrow, with all digits, and the same in each form."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "text.txt"
    path.write_text('ab "bad", a\n\ncab;\ta\\\n', "utf-8")

    def run(*form: str) -> bytes:
        words = [sys.executable, "-m", "scriven", "score", runs["text"], str(path), "--by", "line", *form]
        return subprocess.run(words, check=True, capture_output=True).stdout

    expected = [json.loads(line) for line in run("--json").splitlines()]
    as_csv = list(csv.DictReader(io.StringIO(run("--csv").decode("utf-8"))))
    (tmp_path / "table.parquet").write_bytes(run("--parquet"))
    as_parquet = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    for row, other, third in zip(expected, as_csv, as_parquet, strict=True):
        row.pop("file")
        assert row == third
        assert {name: str(value) for name, value in row.items()} == other


def test_parquet_begins_with_rows_that_have_no_mean(runs: dict[str, str], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name, text in (("first.txt", "\n\n"), ("second.txt", "ab\n")):
        (tmp_path / name).write_text(text, "utf-8")
    words = [sys.executable, "-m", "scriven", "score", runs["lines"], "first.txt", "second.txt"]
    done = subprocess.run([*words, "--by", "document", "--parquet"], check=True, capture_output=True, cwd=tmp_path)
    (tmp_path / "table.parquet").write_bytes(done.stdout)
    means = parquet.read_table(tmp_path / "table.parquet").column("bits_per_char").to_pylist()
    assert means[:2] == [None, None] and means[2] > 0


def test_parquet_needs_pyarrow(runs: dict[str, str], command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = command("score", runs["text"], "x.txt", "--by", "word", "--parquet")
    assert (done.code, done.out) == (3, "") and "pip install 'scriven[data]'" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--by word --columns bit", "--columns bit: there is no such column here; columns are"),
        ("--by word --columns bits,bits", "names a column twice"),
        ("--by word --sort perplex", "did you mean perplexity?"),
        ("--by word --columns ends", "--columns ends: there is no such column here"),
        ("--top 3", "--sort and --top need rows"),
        ("--by word --top 0", "--top 0: give 1 or more rows"),
        ("--csv --json", "--json and --csv exclude each other"),
        ("--by line --separator |", "add --by word"),
        ("--by word --separator | --spaces before", "drop --spaces and --punctuation"),
        ("--by word --separator ab", "--separator 'ab': give one character"),
        ("--by regions", "--by regions: give total, document, line, word, character or region"),
    ],
)
def test_contradictions_are_refused(
    words: str, said: str, runs: dict[str, str], tmp_path: Path, command: Command
) -> None:
    (tmp_path / "text.txt").write_text("ab")
    done = command("score", runs["text"], str(tmp_path / "text.txt"), *words.split())
    assert (done.code, done.out) == (2, "") and said in done.err


@pytest.mark.parametrize("kind", ["text", "lines", "bytes", "pieces"])
@pytest.mark.parametrize("by", ["word", "line", "document"])
def test_rows_are_the_same_in_python(
    kind: str, by: str, runs: dict[str, str], tmp_path: Path, command: Command
) -> None:
    path, text = tmp_path / "text.txt", "ab bad%%\n\na cab, \n  é\u0301f g"
    path.write_text(text, "utf-8")
    told = rows(command("score", runs[kind], str(path), "--by", by, "--columns", "all", "--json"))
    found = scriven.load(runs[kind]).score_units(text, by)
    for row, other in zip(told, found, strict=True):
        assert row.pop("file") == str(path)
        assert list(row) == list(other)
        for name, value in row.items():
            assert other[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)


def test_python_refuses_other_units(runs: dict[str, str]) -> None:
    model = scriven.load(runs["text"])
    for wrong in ({"by": "words"}, {"spaces": "none"}, {"punctuation": "off"}, {"separator": "||"}):
        with pytest.raises(scriven.UsageError, match=next(iter(wrong))):
            model.score_units("ab", **wrong)  # type: ignore[arg-type]

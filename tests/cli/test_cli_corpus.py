"""`scriven corpus` prints its product on standard output and everything else on standard error."""

import json
from pathlib import Path

import pytest

from scriven.cli.corpus import app
from scriven.corpus import Corpus
from scriven.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path / "cache"))
    Path("book.txt").write_bytes(b"Hello World\n" * 100 + "天".encode())


def run(*words: str) -> None:
    app(words, result_action="return_value")


def test_build_prints_the_folder_and_tells_the_rest_aside(capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "book.txt", "-o", "made", "--corpus.lowercase", "--corpus.validation", "0.2")
    out, err = capsys.readouterr()
    assert out == "made\n"
    assert "note: lower case replaced 200 characters" in err
    corpus = Corpus.open("made")
    assert corpus.settings.lowercase
    assert corpus.settings.validation == 0.2


def test_info_takes_a_corpus_or_texts(capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "book.txt", "-o", "made")
    capsys.readouterr()
    for words in (("made",), ("book.txt",)):
        run("info", *words)
        out, err = capsys.readouterr()
        assert "1,080 characters" in out
        assert "'l' 25.0%" in out
        assert "'天'" in out
        assert err == ""


def test_info_can_be_read_by_programs(capsys: pytest.CaptureFixture[str]) -> None:
    run("info", "book.txt", "--json", "--corpus.unit", "byte")
    facts = json.loads(capsys.readouterr().out)
    assert facts["vocabulary"] == 257
    assert facts["counts"]["lines"] == 100
    assert facts["training"]["characters"] + facts["validation"]["characters"] == 1203
    assert facts["symbols"]["l"] == 270
    assert facts["symbols"]["0xff"] == 0


def test_info_tells_of_documents(capsys: pytest.CaptureFixture[str]) -> None:
    run("info", "book.txt", "--corpus.documents", "lines", "--corpus.validation", "0.5")
    out, err = capsys.readouterr()
    assert "training       551 characters in 51 documents of 1 to 11 characters, median 11\n" in out
    assert "validation     550 characters in 50 documents of 11 to 11 characters" in out
    assert err == ""
    run("info", "book.txt", "--corpus.documents", "files", "--corpus.validation", "0", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["training"] == {
        "characters": 1201,
        "bytes": 1203,
        "documents": 1,
        "shortest": 1201,
        "median": 1201,
        "longest": 1201,
    }
    assert facts["validation"] == {"characters": 0, "bytes": 0, "documents": 0}
    assert facts["counts"]["documents"] == 1


def test_parts_and_their_merging_print_folders(capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "book.txt", "-o", "whole", "--corpus.lowercase")
    for part in ("2/2", "1/2"):
        run("build", "book.txt", "-o", f"part-{part[0]}", "--part", part, "--corpus.lowercase")
    capsys.readouterr()
    run("merge", "part-1", "part-2", "-o", "merged")
    out, err = capsys.readouterr()
    assert out == "merged\n"
    assert "note: lower case replaced 200 characters" in err
    assert {path.name: path.read_bytes() for path in Path("merged").iterdir()} == {
        path.name: path.read_bytes() for path in Path("whole").iterdir()
    }
    run("check", "merged")
    assert capsys.readouterr().out.startswith("merged is undamaged: 2 files, ")


def test_rows_of_a_table_can_be_documents(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl, line 3"):
        run("build", "rows.jsonl", "--corpus.column", "text")
    words = ("--corpus.column", "text", "--corpus.bad-rows", "skip", "--corpus.documents", "files")
    run("info", "rows.jsonl", *words, "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["counts"]["documents"], facts["counts"]["bad_rows"]) == (2, 1)


BOOK = ("build", "book.txt")


@pytest.mark.parametrize(
    "words",
    [
        *(("build",), ("info",), ("build", "--corpus.lowercas"), (*BOOK, "-x"), (*BOOK, "--part", "1/2")),
        *(
            (*BOOK, "--part", "3/2", "-o", "x"),
            (*BOOK, "--part", "half", "-o", "x"),
            ("merge", "-o", "x"),
            ("merge", "x"),
        ),
    ],
)
def test_what_is_not_meant_is_a_usage_error(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        run(*words)

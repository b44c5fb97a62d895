"""CSV, TSV and JSON files are rows, in bounded memory, whatever the pieces; what is wrong with them is named."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.corpus import Corpus, tables
from scriven.corpus.build import build
from scriven.corpus.decoding import LINE_END, lines_of
from scriven.corpus.structure import Bad
from scriven.corpus.tables import delimited_rows, read_records
from scriven.errors import InputError, UsageError
from scriven.settings_values import validate

CASES = Path(__file__).parents[3] / "shared" / "cases"
FIELD = st.text('ab,;\t\r\n"|é ', max_size=8)


def pieces_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def from_csv(text: str, size: int = 7, column: str = "text", suffix: str = ".csv") -> list[tuple[int, object]]:
    return list(delimited_rows(pieces_of(text, size), f"posts{suffix}", suffix, column))


def from_json(text: str, size: int = 7, column: str = "text") -> list[object]:
    found = list(read_records(pieces_of(text, size), "posts.json", column))
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return [value for _, value in found]


def corpus_of(path: Path, data: str | bytes, **values: Any) -> Corpus:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return Corpus.open(build([str(path)], validate({"corpus": {"validation": 0, **values}}).corpus))


def text_of(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.training.read(0, corpus.training.characters))


# --- lines


@given(st.text("a\r\n"), st.integers(1, 4))
def test_lines_have_their_ends_whatever_the_pieces(text: str, size: int) -> None:
    found = list(lines_of(pieces_of(text, size), 99, "text", "text"))
    assert "".join(found) == text
    assert all(LINE_END.fullmatch(line[len(line.rstrip("\r\n")) :]) for line in found[:-1])
    assert len(found) == len(text.splitlines())


# --- CSV and TSV


@given(
    st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=6),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.sampled_from([(",", ".csv"), (";", ".csv"), ("\t", ".csv"), ("|", ".csv"), ("\t", ".tsv")]),
    st.integers(1, 9),
    st.booleans(),
)
def test_rows_are_those_of_the_csv_module(
    rows: list[tuple[str, str, str]], end: str, kind: tuple[str, str], size: int, all_quoted: bool
) -> None:
    file = io.StringIO(newline="")
    has_ends = any(sign in field for row in rows for field in row for sign in "\r\n")  # not quoted by all Pythons
    quoting = csv.QUOTE_ALL if all_quoted or has_ends else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter=kind[0], lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("id", "text", "more"), *rows])
    found = from_csv(file.getvalue(), size, suffix=kind[1])
    expected = list(csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=kind[0]))[1:]
    assert [value for _, value in found] == [row[1] for row in expected]


def test_rows_are_numbered_by_the_lines_that_they_begin_at() -> None:
    text = 'id,text\n1,one\n\n2,"two\nlines"\n3\n4,four\n'
    assert from_csv(text) == [
        (2, "one"),
        (4, "two\nlines"),
        (6, Bad("has 1 columns, and the first row 2")),
        (7, "four"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,body\n1,a\n", "posts.csv has no column 'text', but id, body; choose one of these with --corpus.column"),
        ("", "posts.csv has no column 'text', but nothing"),
        ("text,text\n1,a\n", "has the column 'text' twice"),
        ('id,text\n1,"a\nb\nc', "in the row at line 2: a quote is opened and never closed"),
        ('id,text\n1,a\n2,"a"b\n', "in the row at line 3: .*a quote within quotes is written twice"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        from_csv(text)


def test_a_quote_that_is_not_closed_does_not_take_the_memory_for_all_that_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "LONGEST_ROW", 10_000)
    monkeypatch.setattr(tables, "LONGEST_FIELD", limit := csv.field_size_limit())
    read = 0

    def endless() -> Any:
        nonlocal read
        yield 'id,text\n1,"'
        while True:
            read += 1000
            yield ("words and " * 50 + "\n") * 2

    with pytest.raises(InputError, match=r"posts.csv, in the row at line 2: a field has over .* never closed"):
        list(delimited_rows(endless(), "posts.csv", ".csv", "text"))
    assert read < 2 * limit
    with pytest.raises(InputError, match=r"line 2 has over 10,000 characters; is it really CSV"):
        list(delimited_rows(["id,text\n", *["a" * 1000] * 20], "posts.csv", ".csv", "text"))


def test_a_column_of_csv_is_what_is_trained_on(tmp_path: Path) -> None:
    data = 'id,text\r\n1,"said ""hi"""\r\n2,two\r\n3\r\n'.encode("utf-8-sig")
    corpus = corpus_of(tmp_path / "posts.csv", data, column="text", bad_rows="skip")
    assert text_of(corpus) == 'said "hi"\ntwo\n'
    assert (corpus.counts.bad_rows, corpus.counts.marks) == (1, 1)
    with pytest.raises(InputError, match=r"posts.csv, line 4: it has 1 columns, and the first row 2; correct it"):
        corpus_of(tmp_path / "posts.csv", data, column="text")
    assert (
        corpus_of(tmp_path / "posts.csv", data, column="text", documents="files", bad_rows="skip").counts.documents == 2
    )


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize("case", ["01-column-csv/posts.csv", "01-column-csv/lines.json", "02-bom/bom.jsonl"])
def test_the_shared_tables_are_read(case: str) -> None:
    corpus = Corpus.open(build([str(CASES / case)], validate({"corpus": {"column": "text", "validation": 0}}).corpus))
    assert text_of(corpus).startswith("This is line 0 of a small text.\nThis is line 1 of a small text.\n")


# --- JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('a\\"é\n😀', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(st.text(max_size=9), VALUES), max_size=5),
    st.integers(1, 9),
    st.sampled_from([None, 2]),
    st.booleans(),
    VALUES,
)
def test_records_are_those_of_the_json_module_whatever_the_pieces(
    rows: list[tuple[str, Any]], size: int, indent: int | None, ascii_only: bool, other: Any
) -> None:
    value = [{"other": more, "text": text} for text, more in rows]
    texts = [text for text, _ in rows]
    assert from_json(json.dumps(value, indent=indent, ensure_ascii=ascii_only), size) == texts
    nested = {"other": other, "list": value, "last": 3}
    written = json.dumps(nested, indent=indent, ensure_ascii=ascii_only)
    assert from_json(written, size, "list.text") == texts
    assert from_json(json.dumps({"chats": nested}), size, "chats.list.text") == texts
    assert from_json("\n".join(json.dumps(each) for each in value), size) == texts


def test_messengers_and_notebooks_have_texts_in_lists() -> None:
    telegram = {
        "name": "a chat",
        "messages": [
            {"id": 1, "text": "plain"},
            {"id": 2, "text": ["see ", {"type": "link", "text": "http://a.b"}, "!"]},
            {"id": 3, "text": ""},
        ],
    }
    assert from_json(json.dumps(telegram), 5, "messages.text") == ["plain", "see http://a.b!", ""]
    notebook = {"cells": [{"cell_type": "code", "source": ["a = 1\n", "b"]}, {"source": []}], "nbformat": 4}
    assert from_json(json.dumps(notebook), 5, "cells.source") == ["a = 1\nb", ""]
    assert from_json('[{"text": ["two", "texts"]}]') == [["two", "texts"]]  # which is not guessed to be one


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[]", None),
        ('[{"text": 3}]', 3),
        ('[{"id": 1, "body": ""}]', Bad("has no column 'text', but id, body")),
        ("[1]", Bad("has no column 'text', but 1")),
        ("123456789", Bad("has no column 'text', but 123456789")),
        (
            '{"name": "x", "messages": [{"id": 1, "text": "a"}]}',
            Bad("has no column 'text', but name, messages.id, messages.text"),
        ),
    ],
)
def test_what_has_no_text_is_said_with_what_there_is(text: str, value: object) -> None:
    for size in (1, 3, 99):
        assert from_json(text, size) == ([] if value is None else [value])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"text": "a"}, {"text": "b"', r"is not JSON at character \d+: "),
        ('[{"text": "a"} {"text": "b"}]', "is not JSON at character 15: ',' is missing"),
        ('[{"text": "a"}, ]', "is not JSON at character 16: nothing is between ',' and ']'"),
        ('{"a": [], "text": "b",}', "is not JSON at character 22: nothing is between ',' and '}'"),
        ('{"text": [{"text": "a"},]}', "is not JSON at character"),
        ("[,]", "is not JSON at character 1: "),
        ('[{"text" "a"}]', "is not JSON at character 9: Expecting ':' delimiter"),
        ("[" * 100_000, "is not JSON at character 1: it is nested too deeply"),
        ('{"text": ', "is not JSON at character 9: it ends too soon"),
        ('{["a"]: 1}', "is not JSON at character 1: a name in quotes is missing"),
        ('[{"text": ' + "1" * 5000 + "}]", "is not JSON at character 1: a number is too long"),
    ],
)
def test_what_is_no_json_is_named_by_its_place(text: str, message: str) -> None:
    for size in (1, 99_999):
        with pytest.raises(InputError, match=f"posts.json {message}"):
            from_json(text, size)


def test_a_record_that_is_too_long_is_not_read_into_memory_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_ROW", 1000)
    assert from_json(json.dumps([{"text": "a" * 900}] * 50), 300) == ["a" * 900] * 50
    read = 0

    def endless() -> Any:
        nonlocal read
        yield '{"messages": ["'
        while True:
            read += 100
            yield "a" * 100

    with pytest.raises(InputError, match=r"at character 13 a value begins that has over 1,000 characters; name a list"):
        list(read_records(endless(), "posts.json", "text"))
    assert read < 4000


def test_a_column_of_json_is_what_is_trained_on(tmp_path: Path) -> None:
    data = json.dumps({"messages": [{"text": "Hi"}, {"text": None}, {"text": "bye"}]})
    corpus = corpus_of(tmp_path / "chat.json", data, column="messages.text", documents="lines", bad_rows="skip")
    assert (corpus.counts.documents, corpus.counts.bad_rows) == (2, 1)
    with pytest.raises(InputError, match=r"chat.json, record 2: it has no text but None in the column 'messages.text'"):
        corpus_of(tmp_path / "chat.json", data, column="messages.text")
    with pytest.raises(
        InputError, match=r"record 1: it has no column 'text', but messages.text; correct it, choose another"
    ):
        corpus_of(tmp_path / "chat.json", data, column="text")


def test_a_path_reaches_into_json_lines_too(tmp_path: Path) -> None:
    data = '{"a": {"text": "one"}}\r{"a": {"text": "two"}}\r{"turns": 1, "a": [{"text": "3"}, {"text": "4"}]}\n'
    assert text_of(corpus_of(tmp_path / "a.jsonl", data, column="a.text")) == "one\ntwo\n3\n4\n"
    assert text_of(corpus_of(tmp_path / "b.jsonl", '{"a.text": "x"}\n', column="a.text")) == "x\n"


# --- settings that would do nothing


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "a.txt",
            {"column": "text"},
            r"corpus.column text would do nothing for .*a.txt, whose name is not that of a table",
        ),
        ("a.txt", {"bad_rows": "skip"}, "corpus.bad_rows skip would do nothing, as no rows are read without a column"),
        ("a.docx", {"encoding": "cp1252"}, "corpus.encoding cp1252 would do nothing, as .*a.docx fixes"),
        ("a.txt", {"validation_file": "a.txt", "validation": 5}, "corpus.validation 5 would do nothing, as corpus.val"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        corpus_of(Path(name), "words\n", **values)


def test_a_run_that_was_trained_with_such_a_setting_finds_its_corpus_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words\n")
    chosen = validate({"corpus": {"column": "text"}}).corpus
    assert Corpus.open(build([str(tmp_path / "a.txt")], chosen, strict=False)).counts.characters == 6


def test_standard_input_has_columns_as_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO('\ufeff{"text": "one"}\n{"text": "two"}'.encode())))
    corpus = Corpus.open(build(["-"], validate({"corpus": {"column": "text", "validation": 0}}).corpus))
    assert text_of(corpus) == "one\ntwo\n"

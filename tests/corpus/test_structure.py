"""A text that has structure but is read as plain text gets one note, with the flag that reads what is in it."""

import json
import re
import sys
from pathlib import Path

import pytest

from scriven.corpus import Corpus
from scriven.corpus.build import build, build_part, merge
from scriven.corpus.sources import TextSource
from scriven.corpus.structure import structure_note
from scriven.settings import CorpusSettings

CASES = Path(__file__).parents[3] / "shared" / "cases"
TELEGRAM = json.dumps({"name": "a", "type": "personal_chat", "messages": [{"id": 1, "text": "hi"}] * 3}, indent=1)
DISCORD = json.dumps({"guild": {"id": "1"}, "messages": [{"id": "1", "content": "hi"}]}, indent=2)
NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "source": ["a"]}], "nbformat": 4}, indent=1)
MAIL = "From a@b.c Mon Jan  1 00:00:00 2024\nReturn-Path: <a@b.c>\nFrom: A\nSubject: words\n\nHello\n"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"id": 1, "text": "a"}\n{"id": 2}\n', "is JSON lines, .*; --corpus.column NAME .*: id, text"),
        ("a.ndjson", '{"text": "a"}\n', "is JSON lines, .*; --corpus.column text reads the text in it"),
        (
            "a.txt",
            '{"text": "a"}\n{"text": "b"}\n',
            "is JSON lines, .*; rename it to something.jsonl, and --corpus.column",
        ),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "is JSON lines, .*; --corpus.column text reads"),
        ("a.json", '[{"id": 1, "text": "a"}]', "is JSON, .*; --corpus.column NAME reads one column of it: id, text"),
        ("a.json", '[\n {"id": 1, "text": "a"},\n {"id"', "is JSON, .*: id, text"),  # as the beginning shows
        ("result.json", TELEGRAM, "is JSON, .*: name, type, messages.id, messages.text"),
        ("result.json", TELEGRAM[:-20], "is JSON, .*; --corpus.column messages.text reads the text in it"),
        ("discord.json", DISCORD[:-8], "is JSON, .*; --corpus.column messages.content reads"),
        ("a.ipynb", NOTEBOOK, "is a notebook, .*; --corpus.column cells.source reads the text in it"),
        ("a.csv", "id;text\n1;a\n", "is a CSV table, .*; --corpus.column NAME reads one column of it: id, text"),
        ("a.tsv", "id\ttext\n1\ta\n", "is a TSV table, .*: id, text"),
        ("a.html", "\n<!DOCTYPE html>\n<html><body>a", "is HTML, .*; convert it to text, as with pandoc -t plain"),
        ("page", '<?xml version="1.0"?>\n<html xmlns="x">', "is HTML"),
        ("inbox.mbox", MAIL, r"is a mailbox \(mbox\), .*; write the bodies of its messages to files"),
        ("a.txt", "words {and} [more]\n", ""),
        ("a.txt", "[Illustration]\n\nwords", ""),
        ("a.txt", "{\\rm words} {\n", ""),
        ("a.py", "{1: [2]}\n", ""),
        ("a.txt", "From the beginning\nThat: is all\n", ""),
        ("a.txt", "", ""),
    ],
)
def test_structure_is_named_with_the_flag_that_reads_it(name: str, text: str, told: str) -> None:
    note = structure_note(TextSource(name, Path(name)), text)
    if told:
        assert re.match(f"{name} {told}", note), note
    else:
        assert note == ""


def test_a_corpus_has_one_note_the_same_for_parts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain words\n" * 9)
    (tmp_path / "b.jsonl").write_text('{"text": "words"}\n' * 2000)
    (tmp_path / "c.csv").write_text("id,text\n1,a\n")
    texts = [str(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.csv")]
    corpus = Corpus.open(build(texts, CorpusSettings()))
    notes = [note for note in corpus.notes if "read as plain text" in note]
    assert len(notes) == 1
    assert "b.jsonl is JSON lines, but is read as plain text" in notes[0]
    parts = [build_part(texts, CorpusSettings(), tmp_path / f"part-{n}", (n, 3)) for n in (1, 2, 3)]
    assert Corpus.open(merge(parts, tmp_path / "merged")).notes == corpus.notes
    with_column = Corpus.open(build(texts[1:], CorpusSettings(column="text")))
    assert not any("read as plain text" in note for note in with_column.notes)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_shared_chat_is_noticed() -> None:
    corpus = Corpus.open(build([str(CASES / "08-jsonl-nocolumn" / "chat.jsonl")], CorpusSettings()))
    assert any("--corpus.column NAME reads one column of it: id, text" in note for note in corpus.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a right there")
def test_a_link_to_a_folder_is_followed_where_it_is_named_and_else_named(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words\n")
    (tmp_path / "linked").symlink_to(tmp_path / "texts")
    corpus = Corpus.open(build([str(tmp_path / "linked")], CorpusSettings()))
    assert corpus.counts.characters == 6
    assert corpus.notes == ()
    (tmp_path / "texts" / "more").symlink_to(tmp_path)
    (tmp_path / "texts" / "b.png").touch()
    notes = Corpus.open(build([str(tmp_path / "texts")], CorpusSettings())).notes
    assert len(notes) == 1
    assert "as their names are not those of texts: " in notes[0]
    assert "b.png; links to folders were skipped, as they are followed only if given by name: " in notes[0]
    assert notes[0].endswith("more")

"""Documents are found the same whatever the pieces, and none is lost."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scriven.corpus.decoding import ReadCounts
from scriven.corpus.documents import documents, documents_of, split_document_text, split_documents
from scriven.corpus.sources import find
from scriven.settings import CorpusSettings

LINES = CorpusSettings(documents="lines")
FILES = CorpusSettings(documents="files")
NONE = CorpusSettings()
TEXT = st.text("ab\r\n天\0\u2028")
in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def by(separator: str, **values: object) -> CorpusSettings:
    return CorpusSettings.model_validate({"documents": "separator", "separator": separator, **values})


def whole(text: str, chosen: CorpusSettings) -> list[str]:
    """The slow and obvious way: all documents of one text, empty ones too."""
    if chosen.documents == "files":
        return [text]
    found = re.split("\r\n|\r|\n" if chosen.documents == "lines" else re.escape(chosen.separator), text)
    return found if found[-1] else found[:-1]


def join_documents(pieces: list[tuple[str, bool]]) -> list[str]:
    found, held = [], ""
    for text, ends in pieces:
        held += text
        if ends:
            found.append(held)
            held = ""
    assert not held
    return found


def pieces_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@given(
    TEXT,
    st.integers(1, 9),
    st.sampled_from([LINES, FILES, by("a"), by("ab"), by("aa"), by("aab"), by("\r\n"), by("abab")]),
)
@example("abababab", 1, by("abab"))
@example("aaaab", 2, by("aab"))
@example("a\r", 1, LINES)
def test_the_pieces_do_not_matter(text: str, size: int, chosen: CorpusSettings) -> None:
    tally, expected = ReadCounts(), whole(text, chosen)
    found = join_documents(list(documents_of(pieces_of(text, size), chosen, tally)))
    assert found == [document for document in expected if document]
    assert (tally.documents, tally.empty) == (len(found), len(expected) - len(found))
    assert join_documents(list(documents_of([text], chosen))) == found


@given(TEXT, st.integers(1, 9), st.sampled_from([LINES, by("ab")]), st.booleans())
def test_places_are_those_of_the_pieces(text: str, size: int, chosen: CorpusSettings, keep_empty: bool) -> None:
    characters, ends = 0, []
    for piece, places in split_document_text(pieces_of(text, size), chosen, keep_empty=keep_empty):
        ends += (characters + places).tolist()
        characters += len(piece)
    lengths = [len(document) for document in whole(text, chosen) if document or keep_empty]
    assert ends == np.cumsum(lengths).astype(int).tolist()


@in_folder
@given(st.lists(TEXT), st.integers(1, 9), st.sampled_from([LINES, FILES, by("ab")]))
def test_the_end_of_a_source_ends_a_document(
    tmp_path: Path, texts: list[str], size: int, chosen: CorpusSettings
) -> None:
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    sources = find([str(tmp_path / f"{number}.txt") for number in range(len(texts))]).sources
    tally, expected = ReadCounts(), [document for text in texts for document in whole(text, chosen)]
    kept = chosen.model_copy(update={"invalid": "bytes"})
    assert join_documents(list(documents(sources, kept, tally, size))) == [
        document for document in expected if document
    ]
    assert tally.empty == expected.count("")


def test_without_documents_nothing_ends() -> None:
    tally = ReadCounts()
    assert list(documents_of(["a\n", "b"], NONE, tally)) == [("a\n", False), ("b", False)]
    assert (tally.documents, tally.empty, tally.separators) == (0, 0, 0)


def test_a_long_document_comes_in_pieces() -> None:
    pieces = list(documents_of((("x" * 1000) for _ in range(50)), LINES))
    assert [len(text) for text, _ in pieces] == [1000] * 50 + [0]
    assert [ends for _, ends in pieces] == [False] * 50 + [True]


def test_a_separator_can_be_longer_than_the_pieces() -> None:
    separator = "-=" * 500 + "!"
    text = f"{separator}one{separator}{separator[:-1]}two{separator[:700]}"
    tally = ReadCounts()
    found = join_documents(list(documents_of(pieces_of(text, 7), by(separator), tally)))
    assert found == ["one", f"{separator[:-1]}two{separator[:700]}"]
    assert (tally.separators, tally.empty) == (2, 1)


def test_a_million_empty_lines_are_left_out_and_counted() -> None:
    tally = ReadCounts()
    assert list(documents_of(["\n" * 1000] * 1000, LINES, tally)) == []
    assert (tally.empty, tally.documents) == (1_000_000, 0)


@pytest.mark.parametrize("text", ["", "\n", "\r\n\r\n"])
def test_nothing_is_no_document(text: str) -> None:
    assert list(documents_of([text] if text else [], LINES)) == []


@pytest.mark.parametrize(
    ("text", "found", "empty"),
    [("\r", [], 1), ("a\r\r\nb", ["a", "b"], 1), ("a\rb", ["a", "b"], 0), ("a\r\nb\n\rc", ["a", "b", "c"], 1)],
)
def test_a_line_ends_with_a_line_feed_a_carriage_return_or_both(text: str, found: list[str], empty: int) -> None:
    for size in (1, 2, 99):
        tally = ReadCounts()
        assert join_documents(list(documents_of(pieces_of(text, size), LINES, tally))) == found
        assert tally.empty == empty


def test_the_separator_is_prepared_as_the_text_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("One<|END|>Two<|e\u0301|>Three".encode())
    sources = find([str(tmp_path / "a.txt")]).sources
    assert join_documents(list(documents(sources, by("<|END|>", lowercase=True)))) == ["one", "two<|e\u0301|>three"]
    assert join_documents(list(documents(sources, by("<|\u00e9|>", normalize="nfc")))) == ["One<|END|>Two", "Three"]


def test_standard_input_is_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert [(text, ends.tolist()) for text, ends in split_documents(find(["-"]).sources, FILES)] == [
        ("one\ntwo", []),
        ("", []),
        ("", [0]),
    ]

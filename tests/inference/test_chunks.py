"""Chunks of text, with and without documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.corpus.documents import split_document_text
from scriven.inference import chunks
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary
from small_model import Shelf, cut

LENGTHS = st.lists(st.integers(0, 9), max_size=9)
NAMES = ["anna", "bo", "c", "dédé", "日本"]


@given(lengths=LENGTHS, length=st.integers(1, 9), overlap=st.integers(0, 2))
def test_blocks_hold_the_text_in_order(lengths: list[int], length: int, overlap: int) -> None:
    ids = np.arange(40)
    made = list(chunks.blocks(cut(ids, lengths), length, overlap))
    expected = [ids[n : n + length + overlap].tolist() for n in range(0, 40 - overlap, length)]
    assert [block.tolist() for block in made] == expected


@given(lengths=LENGTHS, length=st.integers(1, 50))
def test_gathered_chunks_are_long_enough(lengths: list[int], length: int) -> None:
    made = list(chunks.gather_chunks(cut(np.arange(40), lengths), length))
    assert np.concatenate(made).tolist() == list(range(40))
    assert all(len(chunk) >= length for chunk in made[:-1])


@given(lengths=LENGTHS, length=st.integers(0, 50))
def test_an_opened_text_is_still_whole(lengths: list[int], length: int) -> None:
    head, text = chunks.open_chunks(cut(np.arange(40), lengths), length)
    assert head.tolist() == list(range(min(40, length)))
    assert np.concatenate(list(text)).tolist() == list(range(40))


def test_chunks_of_a_reader_are_its_text() -> None:
    shelf = Shelf(np.arange(10))
    assert np.concatenate(list(chunks.chunks_of(shelf, length=4))).tolist() == list(range(10))
    assert [chunk.tolist() for chunk in chunks.chunks_of(shelf, 2, 7, 3)] == [[2, 3, 4], [5, 6]]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_documents_of_a_corpus_end_with_the_boundary(chunk: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    monkeypatch.setattr(chunks, "DOCUMENTS_AT_ONCE", at_once)
    vocabulary = Vocabulary.of("".join(NAMES), "\n")
    shelf, boundary = Shelf(*map(vocabulary.encode, NAMES)), vocabulary.boundary
    assert boundary is not None
    for start, stop in ((0, None), (0, 2), (1, 4), (3, 3)):
        ids = np.concatenate([np.empty(0, np.int64), *chunks.documents_of(shelf, boundary, start, stop)])
        assert vocabulary.decode(ids) == "".join(name + "\n" for name in NAMES[start:stop])


@pytest.mark.parametrize("unit", ["character", "byte"])
@given(text=st.text("ab\r\né日\udc80", max_size=30), lengths=LENGTHS)
def test_text_that_is_read_has_boundaries_where_documents_end(unit: str, text: str, lengths: list[int]) -> None:
    vocabulary = Vocabulary.of_bytes("\n") if unit == "byte" else Vocabulary.of("ab", "\n")
    pieces = [text[: sum(lengths)], text[sum(lengths) :]]
    read = chunks.read_chunks(vocabulary, split_document_text(pieces, CorpusSettings(documents="lines")))
    ids = np.concatenate([np.empty(0, np.int64), *read])
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    found = np.split(ids, np.flatnonzero(ids == vocabulary.boundary) + 1)[:-1]
    assert [document[:-1].tolist() for document in found] == [vocabulary.encode_read(line).tolist() for line in lines]


def test_text_without_documents_is_read_as_it_is() -> None:
    vocabulary = Vocabulary.of("ab\n")
    read = chunks.read_chunks(vocabulary, split_document_text(["ab\n", "b"], CorpusSettings()))
    assert np.concatenate(list(read)).tolist() == vocabulary.encode("ab\nb").tolist()

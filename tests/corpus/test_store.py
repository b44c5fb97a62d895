"""Any stretch of a corpus can be read, over the borders of shards, and damage is found."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from scriven.corpus import Corpus, Part, shards
from scriven.corpus.build import build
from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary

TEXT = "the quick brown fox jumps over the lazy dog\n" * 5 + "The End?"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 50)
    (tmp_path / "text.txt").write_text(TEXT, newline="")
    return Corpus.open(build([str(tmp_path / "text.txt")], CorpusSettings(), tmp_path / "corpus"))


def test_every_stretch_equals_the_text(corpus: Corpus) -> None:
    split = corpus.training.characters
    assert len(list(Path(corpus.name).glob("training-*.npy"))) == 5
    for part, text in ((corpus.training, TEXT[:split]), (corpus.validation, TEXT[split:])):
        ids = corpus.vocabulary.encode(text)
        assert part.characters == len(text)
        for start in range(len(text) + 1):
            for length in {0, 1, 7, 60, 120, len(text) - start}:
                if start + length <= len(text):
                    read = part.read(start, length)
                    assert read.dtype == np.int64
                    assert read.tolist() == ids[start : start + length].tolist()


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 10_000), (205, 1), (204, -1)])
def test_reading_outside_is_refused(corpus: Corpus, start: int, length: int) -> None:
    with pytest.raises(ValueError, match="not all in this part"):
        corpus.training.read(start, length)


def test_what_is_read_can_be_changed_without_changing_the_corpus(corpus: Corpus) -> None:
    before = corpus.training.read(0, 10)
    corpus.training.read(0, 10)[:] = 0
    assert corpus.training.read(0, 10).tolist() == before.tolist()


def test_a_corpus_says_what_it_is(corpus: Corpus, tmp_path: Path) -> None:
    assert corpus.path == tmp_path / "corpus"
    assert corpus.texts == (str(tmp_path / "text.txt"),)
    assert corpus.settings == CorpusSettings()
    assert corpus.vocabulary == Vocabulary.of(TEXT[: corpus.training.characters])
    assert corpus.counts.characters == len(TEXT) == corpus.training.characters + corpus.validation.characters
    assert sum(corpus.header.frequencies) == corpus.training.characters
    corpus.verify()


def test_a_changed_shard_is_found_by_its_hash(corpus: Corpus) -> None:
    path = Path(corpus.name) / "training-00003.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"training-00003\.npy is damaged"):
        Corpus.open(corpus.path).verify()


@pytest.fixture
def lines(tmp_path: Path) -> Corpus:
    (tmp_path / "lines.txt").write_text("one\n\nthree\ntwelve\nfifteen\n")
    return Corpus.open(build([str(tmp_path / "lines.txt")], CorpusSettings(documents="lines", validation=0.25)))


def test_documents_are_found_by_their_numbers(lines: Corpus) -> None:
    part = lines.training
    firsts, lengths = part.bounds(np.array([2, 0, 1, 1]))
    assert firsts.dtype == lengths.dtype == np.int64
    assert (firsts.tolist(), lengths.tolist()) == ([9, 0, 3, 3], [7, 3, 6, 6])
    assert (part.documents, lines.validation.documents) == (3, 1)
    assert part.document_lengths() == (3, 6, 7)
    assert [ids.tolist() for ids in part.bounds(np.array([], np.int64))] == [[], []]
    for number in (-1, 3):
        with pytest.raises(IndexError, match=r"not all in 0\.\.2"):
            part.bounds(np.array([0, number]))


def test_lengths_of_many_documents_are_looked_at_in_blocks(lines: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Part.__module__], "DOCUMENTS_AT_ONCE", 2)
    assert lines.training.document_lengths() == (3, 3, 7)


def test_without_documents_there_are_none(corpus: Corpus) -> None:
    assert corpus.training.documents == 0
    assert corpus.training.document_lengths() == (0, 0, 0)
    with pytest.raises(IndexError):
        corpus.training.bounds(np.array([0]))


def test_damage_to_the_ends_of_documents_is_found(lines: Corpus) -> None:
    path = Path(lines.name) / "training-documents.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(InputError, match=r"training-documents\.npy is damaged"):
        Corpus.open(lines.path).verify()
    path.unlink()
    with pytest.raises(InputError, match=r"training-documents\.npy has 0 bytes"):
        Corpus.open(lines.path)


def test_what_is_not_a_corpus_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "text.txt"):
        with pytest.raises(InputError, match="is not a corpus; make one with: scriven corpus build"):
            Corpus.open(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 2}', '{"format": 2, "key": 3}', "\udcff"])
def test_a_damaged_header_is_refused(corpus: Corpus, text: str) -> None:
    (Path(corpus.name) / "corpus.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=r"corpus\.json is damaged; build the corpus again"):
        Corpus.open(corpus.path)


def test_a_newer_format_is_refused(corpus: Corpus) -> None:
    header = json.loads((Path(corpus.name) / "corpus.json").read_text(encoding="utf-8"))
    (Path(corpus.name) / "corpus.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(InputError, match="has format 99, not 2"):
        Corpus.open(corpus.path)


def test_shards_that_are_missing_or_wrong_are_refused(corpus: Corpus) -> None:
    path = Path(corpus.name) / "training-00001.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match=r"training-00001\.npy has 177 bytes instead of 178"):
        Corpus.open(corpus.path)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(InputError, match=r"training-00001\.npy does not hold 50 numbers as it should"):
        Corpus.open(corpus.path)
    path.unlink()
    with pytest.raises(InputError, match=r"training-00001\.npy has 0 bytes"):
        Corpus.open(corpus.path)

"""Text becomes a corpus in one pass: the vocabulary, the split, the counts, the cache, and what can go wrong."""

import errno
import io
import json
import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import Corpus, Part, inputs, shards
from scriven.corpus.build import build
from scriven.corpus.writer import are_validation
from scriven.errors import InputError, UsageError
from scriven.runtime import cache_folder
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary

TEXT = st.text(min_size=1).map(lambda text: text.lstrip("\ufeff") or "a")
LINE_END = "\r\n|\r|\n"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SCRIVEN_CACHE", str(folder))
    return folder


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes("zwölf Boxkämpfer\njagen\n".encode() * 10)
    return path


def build_and_open(text: str | bytes, folder: Path, **values: object) -> Corpus:
    path = folder / f"{len(list(folder.iterdir()))}.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Corpus.open(build([str(path)], CorpusSettings.model_validate({"invalid": "bytes", **values})))


def documents_of(part: Part, vocabulary: Vocabulary) -> list[str]:
    firsts, lengths = part.bounds(np.arange(part.documents))
    pairs = zip(firsts.tolist(), lengths.tolist(), strict=True)
    return [vocabulary.decode(part.read(first, length)) for first, length in pairs]


def both(corpus: Corpus) -> tuple[list[str], list[str]]:
    return documents_of(corpus.training, corpus.vocabulary), documents_of(corpus.validation, corpus.vocabulary)


def whole(corpus: Corpus) -> tuple[str, str]:
    parts = corpus.training, corpus.validation
    training, validation = (corpus.vocabulary.decode(part.read(0, part.characters)) for part in parts)
    return training, validation


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
def test_any_text_comes_back_whole_whatever_the_pieces(
    tmp_path: Path, text: str, share: float, piece: int, block: int, shard: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "PIECE_BYTES", piece)
        patch.setattr(shards, "BLOCK_CHARACTERS", block)
        patch.setattr(shards, "SHARD_CHARACTERS", shard)
        corpus = build_and_open(text, tmp_path, validation=share)
    training, validation = whole(corpus)
    assert training + validation == text
    assert corpus.vocabulary.symbols == tuple(sorted({ord(c) for c in training}))
    assert list(corpus.header.frequencies) == [training.count(chr(symbol)) for symbol in corpus.vocabulary.symbols]
    assert corpus.training.bytes == len(training.encode())
    assert corpus.validation.bytes == len(validation.encode())
    assert corpus.counts.characters == len(text)
    assert corpus.counts.lines == len(re.findall(LINE_END, text))
    assert corpus.counts.unseen == sum(c not in training for c in validation)
    corpus.verify()


@pytest.mark.parametrize(
    ("characters", "share", "validation"),
    [
        *((1, 0.1, 0), (9, 0.1, 0), (10, 0.1, 1), (11, 0.1, 2), (30, 0.1, 3), (1_115_394, 0.1, 111_540)),
        *((10, 0.9, 9), (2, 0.99, 1), (1, 0.99, 0), (50, 0.0, 0)),
    ],
)
def test_the_last_share_of_the_characters_is_for_validation(
    tmp_path: Path, characters: int, share: float, validation: int
) -> None:
    corpus = build_and_open("é" * characters, tmp_path, validation=share)
    assert corpus.training.characters == characters - validation
    assert corpus.validation.characters == validation


def test_validation_text_can_come_from_a_file_and_teaches_no_symbols(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("abca天\n天", encoding="utf-8", newline="")
    corpus = build_and_open("aabb", tmp_path, validation_file=str(tmp_path / "held.txt"), validation=0.5)
    assert whole(corpus) == ("aabb", "abca天\n天")
    assert corpus.vocabulary.symbols == (ord("a"), ord("b"))
    size = corpus.vocabulary.size
    assert corpus.validation.read(0, 7).tolist() == [0, 1, size + 99, 0, size + 0x5929, size + 10, size + 0x5929]
    assert corpus.counts.unseen == 4
    assert "4 characters of the validation text do not occur in the training text" in corpus.notes[0]


def test_special_symbols_never_enter_the_shards(tmp_path: Path) -> None:
    corpus = build_and_open("ab" * 50 + "?", tmp_path)
    stored = np.load(Path(corpus.name) / "validation-00000.npy")
    assert corpus.vocabulary.unknown == 2  # in the shard this stands for "?"
    assert json.loads((Path(corpus.name) / "corpus.json").read_text())["unseen"] == [ord("?")]
    assert stored.max() == 2
    assert whole(corpus)[1].endswith("?")


@pytest.mark.parametrize(("symbols", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (66_000, "uint32")])
def test_shards_have_the_smallest_type(tmp_path: Path, symbols: int, dtype: str) -> None:
    characters = [chr(code) for code in range(70_000) if not 0xD800 <= code <= 0xDFFF]
    corpus = build_and_open("".join(characters[:symbols]), tmp_path, validation=0.0)
    assert np.load(Path(corpus.name) / "training-00000.npy").dtype == dtype
    assert whole(corpus)[0] == "".join(characters[:symbols])
    assert not (Path(corpus.name) / "validation-00000.npy").exists()


def test_a_corpus_of_bytes_is_the_file(tmp_path: Path) -> None:
    data = bytes(range(256)) + "天地\r\n".encode() + b"\xff"
    corpus = build_and_open(data, tmp_path, unit="byte", validation=0.25)
    ids = [part.read(0, part.characters) for part in (corpus.training, corpus.validation)]
    assert np.concatenate(ids).astype(np.uint8).tobytes() == data
    assert corpus.vocabulary.size == 257
    assert corpus.counts.bytes == corpus.counts.characters == len(data)
    assert corpus.counts.invalid == 129
    assert corpus.counts.unseen == 0


def test_bytes_that_are_not_utf8_are_kept_as_symbols_of_their_own(tmp_path: Path) -> None:
    corpus = build_and_open(b"caf\xe9 " * 20, tmp_path, validation=0.0)
    assert whole(corpus)[0].encode("utf-8", "surrogateescape") == b"caf\xe9 " * 20
    assert corpus.counts.invalid == 20
    assert corpus.counts.bytes == 100
    assert "20 bytes were not valid UTF-8; each was kept as a symbol" in corpus.notes


def test_lower_case_and_nfc_are_counted(tmp_path: Path) -> None:
    corpus = build_and_open(
        "Ångström, A\u030angstro\u0308m\n", tmp_path, validation=0.0, lowercase=True, normalize="nfc"
    )
    assert whole(corpus)[0] == "ångström, ångström\n"
    assert (corpus.counts.lowercased, corpus.counts.normalized) == (2, 4)
    assert "lower case replaced 2 characters" in corpus.notes
    assert "NFC replaced 4 characters" in corpus.notes


def test_several_texts_follow_one_another_and_what_is_skipped_is_said(tmp_path: Path) -> None:
    for name, text in {"a/1.txt": "one\n", "a/2.txt": "two\n", "a/3.png": "", "b.txt": "three"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    corpus = Corpus.open(build([str(tmp_path / "b.txt"), str(tmp_path / "a")], CorpusSettings()))
    assert "".join(whole(corpus)) == "threeone\ntwo\n"
    assert (corpus.counts.sources, corpus.counts.skipped) == (3, 1)
    assert "3.png" in corpus.notes[0]


LINED = st.text("ab\r\n天é\0", min_size=1).filter(lambda text: re.sub(LINE_END, "", text))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINED, st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 7), st.sampled_from(["character", "byte"]))
def test_documents_are_split_whatever_the_pieces(tmp_path: Path, text: str, share: float, size: int, unit: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "PIECE_BYTES", size)
        patch.setattr(shards, "BLOCK_CHARACTERS", size)
        patch.setattr(shards, "SHARD_CHARACTERS", size)
        corpus = build_and_open(text, tmp_path, validation=share, documents="lines", unit=unit)
    found = re.split(LINE_END, text)
    documents = [document for document in found if document]
    held = are_validation(np.arange(len(documents)), share).tolist()
    training, validation = both(corpus)
    assert training == [document for document, mine in zip(documents, held, strict=True) if not mine]
    assert validation == [document for document, mine in zip(documents, held, strict=True) if mine]
    assert corpus.counts.documents == len(documents)
    assert corpus.counts.empty == found.count("") - (not found[-1])
    assert corpus.counts.lines == len(re.findall(LINE_END, text))
    assert corpus.training.bytes + corpus.validation.bytes == len("".join(documents).encode())
    assert corpus.vocabulary.separator == "\n"
    if unit == "character":
        assert corpus.vocabulary.symbols == tuple(sorted({ord(c) for document in training for c in document}))
        assert corpus.counts.unseen == sum(c not in "".join(training) for c in "".join(validation))
    corpus.verify()


def test_files_are_documents_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    for name, text in {"1.txt": "one\n", "2.txt": "", "3.txt": "three\r\n\n", "4.txt": "4"}.items():
        (tmp_path / name).write_bytes(text.encode())
    corpus = Corpus.open(build([str(tmp_path)], CorpusSettings(documents="files", validation=0.4)))
    assert both(corpus) == (["one\n", "4"], ["three\r\n\n"])
    assert (corpus.counts.documents, corpus.counts.empty, corpus.counts.lines) == (3, 1, 3)
    assert "1 empty document was left out" in corpus.notes


def test_a_separator_and_the_end_of_a_file_end_documents(tmp_path: Path) -> None:
    for name, text in {"1.txt": "one||two\n", "2.txt": "three||", "3.txt": "||four"}.items():
        (tmp_path / name).write_text(text, newline="")
    corpus = Corpus.open(build([str(tmp_path)], CorpusSettings(documents="separator", separator="||", validation=0.3)))
    assert both(corpus) == (["one", "three", "four"], ["two\n"])
    assert corpus.counts.empty == 1
    assert corpus.vocabulary.separator == "||"
    assert corpus.vocabulary.size == len(corpus.vocabulary.symbols) + 2


def test_a_separator_that_never_occurs_is_said_and_so_is_a_single_document(tmp_path: Path) -> None:
    corpus = build_and_open("one\ntwo\n", tmp_path, documents="separator", separator="%%")
    assert both(corpus) == (["one\ntwo\n"], [])
    assert not (Path(corpus.name) / "validation-documents.npy").exists()
    assert corpus.notes[0] == "the separator '%%' does not occur; each file is one document"
    assert "only one document, so none is left for validation; give a --corpus.validation-file" in corpus.notes[1]
    assert not build_and_open("one\ntwo\n", tmp_path, documents="files", validation=0.0).notes


def test_documents_of_a_validation_file_all_validate(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("abc\n\nb", newline="")
    corpus = build_and_open("a\nbb\nb", tmp_path, documents="lines", validation_file=str(tmp_path / "held.txt"))
    assert both(corpus) == (["a", "bb", "b"], ["abc", "b"])
    assert (corpus.counts.unseen, corpus.counts.unknown) == (1, 1)


def test_two_documents_suffice_for_validation(tmp_path: Path) -> None:
    assert both(build_and_open("first\nsecond\n", tmp_path, documents="lines", validation=0.001)) == (
        ["first"],
        ["second"],
    )


@pytest.mark.parametrize("text", ["\n" * 1_000_000, "\r\n\r\n"])
def test_lines_without_a_character_are_an_error_that_counts_them(tmp_path: Path, text: str) -> None:
    count = text.count("\n")
    with pytest.raises(
        InputError, match=rf"there are no characters in .*apart from the ends of {count:,} empty documents"
    ):
        build_and_open(text, tmp_path, documents="lines")


def test_documents_of_bytes_keep_what_is_not_utf8(tmp_path: Path) -> None:
    data = b"caf\xe9\n\xff\xfe\n\xc3\xa9\n"
    for policy, expected in (("bytes", data), ("replace", data.decode("utf-8", "replace").encode())):
        corpus = build_and_open(data, tmp_path, unit="byte", documents="lines", validation=0.0, invalid=policy)
        stored = corpus.training.read(0, corpus.training.characters).astype(np.uint8).tobytes()
        assert stored == expected.replace(b"\n", b"")
        assert corpus.training.bounds(np.arange(3))[1].tolist() == [len(line) for line in expected.split(b"\n")[:3]]
    with pytest.raises(InputError, match="not valid UTF-8 at byte 3"):
        build_and_open(data, tmp_path, documents="lines", invalid="strict")


def alphabet(folder: Path, symbols: str) -> str:
    (folder / "alphabet.json").write_text(json.dumps(list(symbols)))
    return str(folder / "alphabet.json")


def test_a_given_alphabet_is_the_vocabulary_and_other_characters_are_kept_and_counted(tmp_path: Path) -> None:
    text = "abacab, 天天天地!"
    corpus = build_and_open(text * 10, tmp_path, alphabet=alphabet(tmp_path, "zab天é"), validation=0.2)
    assert corpus.vocabulary.symbols == tuple(sorted(map(ord, "zab天é")))
    assert "".join(whole(corpus)) == text * 10
    assert corpus.training.read(0, 4).tolist() == corpus.vocabulary.encode("abac").tolist()
    assert corpus.counts.unknown == 50
    assert corpus.counts.unseen == 10
    assert list(corpus.header.frequencies) == [24, 16, 0, 0, 24]
    assert corpus.notes == (
        "50 of 130 characters are not in the alphabet, and count as unknown: ' ' 10, '!' 10, ',' 10, 'c' 10, '地' 10",
    )


def test_an_alphabet_with_documents_leaves_room_for_the_boundary(tmp_path: Path) -> None:
    corpus = build_and_open("abc\ncab\n", tmp_path, alphabet=alphabet(tmp_path, "a"), documents="lines", validation=0.5)
    assert corpus.vocabulary.size == 3
    assert both(corpus) == (["abc"], ["cab"])
    assert corpus.training.read(0, 3).tolist() == [0, 3 + ord("b"), 3 + ord("c")]


def test_unseen_characters_of_documents_come_back(tmp_path: Path) -> None:
    corpus = build_and_open("ab\nxy天\nab\n", tmp_path, documents="lines", validation=0.3)
    assert both(corpus) == (["ab", "ab"], ["xy天"])
    assert corpus.validation.read(0, 2).tolist() == [4 + ord("x"), 4 + ord("y")]


def test_shards_hold_an_alphabet_larger_than_the_text_and_a_text_larger_than_the_alphabet(tmp_path: Path) -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    for text, known in (("ab" + many[:1], "ab" + many), (many, many[:2])):
        corpus = build_and_open(text * 2, tmp_path, alphabet=alphabet(tmp_path, known), validation=0.0)
        assert np.load(Path(corpus.name) / "training-00000.npy").dtype == "uint16"
        assert whole(corpus)[0] == text * 2


def test_the_content_of_the_alphabet_is_part_of_the_cache_key(book: Path, tmp_path: Path) -> None:
    paths = [build([str(book)], CorpusSettings(alphabet=alphabet(tmp_path, known))) for known in ("ab", "abc", "ba")]
    assert paths[0] != paths[1]
    assert paths[0] == paths[2]


def test_an_alphabet_without_the_characters_of_the_text_is_refused(book: Path, tmp_path: Path) -> None:
    name = alphabet(tmp_path, "天地")
    with pytest.raises(InputError, match=r"no character of .*book\.txt is in the alphabet .*alphabet\.json"):
        build([str(book)], CorpusSettings(alphabet=name))
    with pytest.raises(UsageError, match=r"corpus\.alphabet lists characters"):
        build([str(book)], CorpusSettings(alphabet=name, unit="byte"))


def test_the_second_time_nothing_is_built(book: Path, cache: Path) -> None:
    first = build([str(book)], CorpusSettings())
    assert first.parent == cache / "corpora"
    before = (first / "corpus.json").stat().st_mtime_ns
    assert build([str(book)], CorpusSettings()) == first
    assert (first / "corpus.json").stat().st_mtime_ns == before
    assert build([str(book)], CorpusSettings(lowercase=True)) != first
    book.write_text("another text")
    assert build([str(book)], CorpusSettings()) != first


def test_standard_input_is_known_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(text: str) -> Path:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return build(["-"], CorpusSettings())

    assert read("some text") == read("some text") != read("other text")
    assert "".join(whole(Corpus.open(read("some text")))) == "some text"


def test_a_damaged_corpus_in_the_cache_is_built_again(book: Path) -> None:
    path = build([str(book)], CorpusSettings())
    (path / "training-00000.npy").unlink()
    assert build([str(book)], CorpusSettings()) == path
    assert "".join(whole(Corpus.open(path))) == book.read_text(encoding="utf-8")


def test_a_folder_can_be_chosen_but_nothing_in_it_is_overwritten(book: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "deep" / "new", tmp_path / "empty"):
        assert build([str(book)], CorpusSettings(), folder) == folder
        assert build([str(book)], CorpusSettings(), folder) == folder  # the same corpus is found
        with pytest.raises(InputError, match="is not the corpus of these texts"):
            build([str(book)], CorpusSettings(lowercase=True), folder)
    with pytest.raises(InputError, match="exists and is not a folder; choose another name"):
        build([str(book)], CorpusSettings(), book)
    with pytest.raises(InputError, match="is not empty and is not a corpus, so nothing is written to it; choose a new"):
        build([str(book)], CorpusSettings(), tmp_path)


@pytest.mark.parametrize("folder", ["whole", ".", "book.txt"])
def test_nobody_is_told_to_remove_what_is_there(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """It may be the text itself, or the folder of everything."""
    monkeypatch.chdir(tmp_path)
    build([str(book)], CorpusSettings(), Path("whole"))
    with pytest.raises(InputError, match="choose") as refused:
        build([str(book)], CorpusSettings(lowercase=True), Path(folder))
    assert "remove" not in str(refused.value)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine")
    (tmp_path / "b.txt").write_bytes(b"not \xff fine")
    with pytest.raises(InputError, match="not valid UTF-8 at byte 4"):
        build([str(tmp_path)], CorpusSettings())
    assert list((cache / "corpora").iterdir()) == []


def test_what_dead_builders_left_is_removed_after_a_day(book: Path, cache: Path) -> None:
    old, young = (f".scriven-building-{digit * 8}-{digit * 32}" for digit in "01")
    for name, age in ((old, 100_000), (young, 0)):
        folder = cache / "corpora" / name
        folder.mkdir(parents=True)
        (folder / "training-00000.npy").touch()
        for path in (folder / "training-00000.npy", folder):
            os.utime(path, (time.time() - age, time.time() - age))
    path = build([str(book)], CorpusSettings())
    assert {entry.name for entry in (cache / "corpora").iterdir()} == {path.name, young}


def test_two_builders_do_not_disturb_each_other(book: Path, cache: Path) -> None:
    book.write_text("a good deal of text\n" * 100_000)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.starmap(build, [([str(book)], CorpusSettings())] * 2, chunksize=1)
    assert paths[0] == paths[1]
    Corpus.open(paths[0]).verify()
    assert [entry.name for entry in (cache / "corpora").iterdir()] == [paths[0].name]


def test_progress_goes_up_to_the_total(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int | None]] = []
    build([str(book)], CorpusSettings(), progress=lambda done, total: told.append((done, total)))
    size = book.stat().st_size
    assert told[-1] == (2 * size, 2 * size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12345")))
    told.clear()
    build(["-"], CorpusSettings(), progress=lambda done, total: told.append((done, total)))
    assert (told[0], told[-1]) == ((5, None), (10, 10))


@pytest.mark.parametrize("name", ["book.txt", "held.txt"])
def test_empty_text_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    for file in ("book.txt", "held.txt"):
        (tmp_path / file).write_text("" if file == name else "text")
    with pytest.raises(InputError, match=rf"there are no characters in .*{name}"):
        build([str(tmp_path / "book.txt")], CorpusSettings(validation_file=str(tmp_path / "held.txt")))


def test_no_text_named_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no text is given"):
        build([], CorpusSettings())


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, r"the disk is full, and at least 4 MB are needed"), (errno.EACCES, "Permission denied")],
)
def test_what_stops_writing_is_said_with_the_way_out(
    book: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def stop(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    book.write_text("x" * 2_000_000)
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(InputError, match=rf"cannot write the corpus in .*{message}.*SCRIVEN_CACHE"):
        build([str(book)], CorpusSettings())
    assert list((cache / "corpora").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIVEN_CACHE", str(book))
    with pytest.raises(InputError, match=r"cannot write the corpus in .*book\.txt"):
        build([str(book)], CorpusSettings())


def test_the_cache_is_where_the_environment_says_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SCRIVEN_CACHE")
    assert cache_folder().is_absolute()
    assert "scriven" in str(cache_folder())

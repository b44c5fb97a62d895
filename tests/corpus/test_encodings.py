"""Bytes of any encoding become the same text whatever the pieces, and what is no text is given with the way out."""

import builtins
import codecs
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.corpus.decoding import LineEnds, ReadCounts, fold_punctuation, read_text, split_lines
from scriven.corpus.encodings import decode, guess_encodings
from scriven.corpus.sources import find
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings
from scriven.settings_values import validate

CASES = Path(__file__).parents[3] / "shared" / "cases"
ENCODINGS = {  # with characters that each has
    "cp1252": "aé’—\r\n",
    "cp1251": "aжЯ\r\n",
    "shift_jis": "a吾輩ｱ\n",
    "euc_jp": "a吾輩\n",
    "gb18030": "a床前é😀\n",
    "big5": "a床前\n",
    "utf-16": "aé床😀\n",
    "utf-16-le": "aé床😀\n",
    "utf-32-be": "aé床😀\n",
    "utf-7": "aé床\n",
    "cp037": "aé\n",
}
FRENCH = "Longtemps, je me suis couché de bonne heure. Parfois, mes yeux se fermaient : « Je m’endors. »"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"


def corpus_settings(**values: Any) -> CorpusSettings:
    return validate({"corpus": values}).corpus


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def decode_pieces(data: bytes, size: int, counts: list[int] | None = None, **values: Any) -> str:
    counts = [] if counts is None else counts
    return "".join(decode(pieces_of(data, size), "text", corpus_settings(**values), counts.append))


def text_of(path: Path, **values: Any) -> str:
    return "".join(read_text(find([str(path)]).sources, corpus_settings(**values)))


@given(st.data(), st.sampled_from(list(ENCODINGS)), st.integers(1, 9))
def test_the_pieces_do_not_matter(data: st.DataObject, encoding: str, size: int) -> None:
    text = data.draw(st.text(ENCODINGS[encoding]))
    assert decode_pieces(text.encode(encoding), size, encoding=encoding) == text


@given(st.binary(max_size=40), st.sampled_from([*ENCODINGS, "utf-8"]), st.integers(1, 9))
@example(b"\xd8\xd8", "utf-16-le", 1)
@example(b"\0" * 15 + b"\xd8\0\0", "utf-16", 1)
def test_any_bytes_are_the_same_text_or_the_same_error_whatever_the_pieces(
    data: bytes, encoding: str, size: int
) -> None:
    def outcome(size: int, invalid: str) -> tuple[str, object]:
        counts: list[int] = []
        try:
            return decode_pieces(data, size, counts, encoding=encoding, invalid=invalid), sum(counts)
        except InputError as error:
            return str(error).split(";")[0], "refused"

    assert outcome(size, "strict") == outcome(1000, "strict")
    replaced, count = outcome(size, "replace")
    assert (replaced, count) == outcome(1000, "replace")
    assert count != "refused" or encoding == "utf-16"  # which needs a byte order mark


def test_an_escape_that_does_not_end_is_the_same_whatever_the_pieces() -> None:
    data = b"a\x1b$(Q)_\x1b(" + b"\xff" * 8 + b"b\n"  # Python's decoders keep 8 bytes of an escape at most
    whole = decode_pieces(data, 99, encoding="iso2022_jp_2004", invalid="replace")
    assert whole.startswith("a") and whole.endswith("\ufffd" * 8)
    for size in range(1, 20):
        assert decode_pieces(data, size, encoding="iso2022_jp_2004", invalid="replace") == whole
    dense = b"\x1b$" * 20 + b"a" * 20
    whole = decode_pieces(dense, 99, encoding="iso2022_jp", invalid="replace")
    assert {decode_pieces(dense, size, encoding="iso2022_jp", invalid="replace") for size in range(1, 40)} == {whole}
    with pytest.raises(InputError, match="text has only escape sequences after byte 0"):
        decode_pieces(b"\x1b$" * 40_000, 9999, encoding="iso2022_jp", invalid="replace")


def test_where_another_encoding_fails_the_byte_is_named_and_can_be_replaced(tmp_path: Path) -> None:
    data = "吾輩".encode("shift_jis") + b"\xff" + "猫".encode("shift_jis")
    for size in (1, 3, 99):
        with pytest.raises(InputError, match=r"text is not valid shift_jis at byte 4 \(0xff\); .*--corpus.invalid rep"):
            decode_pieces(data, size, encoding="shift_jis")
    (tmp_path / "a.txt").write_bytes(data)
    corpus = Corpus.open(build([str(tmp_path / "a.txt")], corpus_settings(encoding="Shift-JIS", invalid="replace")))
    assert corpus.counts.invalid == 1
    assert "1 byte was not valid shift_jis; each was replaced by U+FFFD" in corpus.notes


@pytest.mark.parametrize("name", ["rot13", "hex", "nothing", "a\0b", "", "undefined", "punycode"])
def test_only_encodings_of_texts_are_taken(name: str) -> None:
    with pytest.raises(UsageError, match=r"corpus.encoding '.*': there is no such text encoding"):
        corpus_settings(encoding=name)


def test_names_of_one_encoding_are_one() -> None:
    assert corpus_settings(encoding="UTF8").encoding == corpus_settings(encoding="utf-8-sig").encoding == "utf-8"
    assert corpus_settings(encoding="latin1").encoding == corpus_settings(encoding="ISO-8859-1").encoding
    with pytest.raises(UsageError, match=r"--corpus.invalid bytes works only with UTF-8"):
        corpus_settings(encoding="cp1252", invalid="bytes")


@pytest.mark.parametrize("has_library", [True, False])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [(FRENCH, "cp1252"), (FRENCH, "latin-1"), (RUSSIAN, "cp1251"), (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp")],
)
def test_the_likeliest_encodings_are_named(
    monkeypatch: pytest.MonkeyPatch, text: str, encoding: str, has_library: bool
) -> None:
    if not has_library:
        _hide(monkeypatch, "charset_normalizer")
    data = text.encode(encoding, "replace")
    names = [data.decode(name, "replace") for name in guess_encodings(data, 0)]
    assert data.decode(encoding) in names
    assert len(names) <= 3
    with pytest.raises(InputError, match=r"it is probably \S+.* read it with --corpus.encoding \S+, or with"):
        decode_pieces(data, 1000)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", [b"\xc3", b"caf\xe9"])
def test_a_text_that_fails_at_its_end_is_judged_by_what_came_before(end: bytes, size: int) -> None:
    with pytest.raises(InputError, match="that the text's end cuts off; it is probably cp1252 or") as refused:
        decode_pieces(b"hello world\n" * 30 + end, size)
    assert f"at byte {359 + len(end)} (" in str(refused.value)


@pytest.mark.parametrize("data", [b"\xffx", b"\x92", b"a \xe9"])
def test_a_byte_or_two_are_not_taken_for_what_nobody_writes(data: bytes) -> None:
    names = guess_encodings(data, 0)
    assert names[0] == "cp1252"
    assert all(b"abc".decode(name) == "abc" for name in names)


def _hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == module:
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize("bom", ["utf-16", "utf-32"])
def test_a_text_with_another_byte_order_mark_is_told_its_encoding(tmp_path: Path, bom: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("zwölf\n", bom)
    with pytest.raises(InputError, match=rf"looks like {bom.upper()} text; read it with --corpus.encoding {bom}"):
        text_of(path)
    assert text_of(path, encoding=bom) == "zwölf\n"
    path.write_text("zwölf\n", f"{bom}-le")
    with pytest.raises(InputError, match=rf"does not begin with a byte order mark.*--corpus.encoding {bom}-le"):
        text_of(path, encoding=bom)
    assert text_of(path, encoding=f"{bom}-le") == "zwölf\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("dark night\n".encode("utf-16"), "but looks like UTF-16 text; read it with --corpus.encoding utf-16, or read"),
        ("dark night\n".encode("utf-32"), "but looks like UTF-32 text; read it with --corpus.encoding utf-32, or read"),
        (b"\x89PNG\r\n", "but looks like a PNG image; give a text file, or read"),
        (b"caf\xe9\n", "; it is probably cp1252 or .*; read it with --corpus.encoding cp1252, or read"),
    ],
)
def test_a_model_of_bytes_can_read_any_file_as_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said + " its bytes as they are with --corpus.invalid bytes$"):
        text_of(path, unit="byte")
    assert text_of(path, unit="byte", invalid="bytes").encode("utf-8", "surrogateescape") == data
    with pytest.raises(InputError, match=r"with --corpus\.invalid replace$"):
        text_of(path, unit="byte", encoding="ascii")


def test_a_text_that_comes_live_is_not_taken_for_another_kind(tmp_path: Path) -> None:
    for unit in ("byte", "character"):
        chunks = decode(["床が冷たい\n".encode("utf-16")], "input", corpus_settings(unit=unit), print, live=True)
        with pytest.raises(InputError, match=r"looks like UTF-16 text; read it with --corpus.encoding utf-16, or "):
            list(chunks)


# --- zeros


def test_few_zeros_are_taken_counted_and_said(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"some words\n" * 300 + b"\0" + b"and more\n" * 300)
    corpus = Corpus.open(build([str(path)], CorpusSettings()))
    assert corpus.counts.characters == path.stat().st_size
    assert "1 of the characters are zeros (NUL), which are rare in texts; the model learns them" in corpus.notes


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 50), st.integers(0, 3000))
def test_zeros_are_judged_by_their_share_whatever_the_pieces(zeros: list[bool], size: int, before: int) -> None:
    data = b"a" * before + bytes(0 if each else 97 for each in zeros)
    many = sum(zeros) > len(data) / 100 or any(
        count > 8 + place / 1000 for count, place in enumerate((i for i, byte in enumerate(data) if not byte), 1)
    )
    for piece in (size, 10_000):
        try:
            assert decode_pieces(data, piece) == data.decode()
            assert not many
        except InputError as error:
            assert f"(byte {data.index(0):,} is zero)" in str(error)
            assert many


# --- what is no text


def test_what_is_packed_is_told_how_to_be_unpacked_and_not_to_be_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 200)
    for mode, name in (("w:gz", "a.tar.gz"), ("w:gz", "a.tgz"), ("w", "a.tar")):
        with tarfile.open(str(tmp_path / name), mode) as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "a.txt", "a.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "a.txt", "a.txt")
    (tmp_path / "a.rtf").write_text("{\\rtf1 words}")
    words = {
        "a.tar": "a tar archive; unpack it with tar -xf, and give the folder",
        "a.tar.gz": "a tar archive; unpack it with tar -xf, and give the folder",
        "a.tgz": "a .tgz is a tar archive, to be unpacked with tar -xzf",
        "a.zip": "a ZIP archive; unpack it",
        "a.rtf": "an RTF file; save it as plain text",
    }
    for name, told in words.items():
        with pytest.raises(InputError) as raised:
            text_of(tmp_path / name)
        assert told in str(raised.value)
        assert "bytes" not in str(raised.value)


# --- byte order marks


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("a\ufeff\n", max_size=6), st.integers(1, 4), st.sampled_from(["character", "byte"]))
def test_one_mark_at_the_start_is_left_out_and_counted(tmp_path: Path, text: str, size: int, unit: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    tally = ReadCounts()
    found = "".join(read_text(find([str(path)]).sources, corpus_settings(unit=unit), tally, size))
    assert found == text.removeprefix("\ufeff")
    assert tally.marks == text.startswith("\ufeff")


def test_each_source_loses_its_mark_and_it_is_said(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_bytes(b"" if name == "b.txt" else codecs.BOM_UTF8)
        with (tmp_path / name).open("ab") as file:
            file.write(b"emma\n")
    (tmp_path / "held.txt").write_bytes(codecs.BOM_UTF8 + b"anna\n")
    held = str(tmp_path / "held.txt")
    texts = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]
    corpus = Corpus.open(build(texts, corpus_settings(validation_file=held)))
    assert corpus.counts.marks == 3
    assert "3 byte order marks at the start of sources were left out" in corpus.notes
    assert corpus.training.characters == 15
    assert 0xFEFF not in corpus.vocabulary.symbols


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_first_name_of_a_list_with_a_mark_is_a_name() -> None:
    text = text_of(CASES / "02-bom" / "bom_names.txt")
    assert not text.startswith("\ufeff")
    rows = "".join(
        read_text(find([str(CASES / "04-cp1252" / "quotes.txt")]).sources, corpus_settings(encoding="cp1252"))
    )
    assert "It’s café time —" in rows


# --- line ends


@given(st.text("a\r\n"), st.integers(1, 4))
def test_line_ends_are_counted_whatever_the_pieces(text: str, size: int) -> None:
    ends = LineEnds()
    assert "".join(ends.count(text[at : at + size] for at in range(0, len(text), size))) == text
    pairs = text.count("\r\n")
    kinds = {"CR LF": pairs, "CR": text.count("\r") - pairs, "LF": text.count("\n") - pairs}
    assert ends.kinds == {kind: count for kind, count in kinds.items() if count}
    assert ends.lines == len(split_lines(text)) - 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("anna\rbob\r" * 9, "the text has CR line ends, as of old Macs, which the model learns"),
        ("a\r\n" * 3 + "b\n" * 5, "the text has mixed line ends: 3 CR LF, 5 LF, which the model learns"),
        ("a\r\n" * 3, "the text has CR LF line ends, as of Windows, which the model learns"),
        ("a\n" * 3, ""),
    ],
)
def test_a_corpus_names_the_line_ends_that_it_has(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    corpus = Corpus.open(build([str(path)], CorpusSettings()))
    notes = " ".join(corpus.notes)
    assert told in notes
    assert ("line ends" in notes) == bool(told)
    lined = Corpus.open(build([str(path)], CorpusSettings(documents="lines")))
    assert lined.counts.documents == corpus.counts.lines == lined.counts.lines
    assert not any("line ends" in note for note in lined.notes)


# --- punctuation


def test_typographic_punctuation_is_folded_counted_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("“It’s – well…” — a\u00a0b\n", "utf-8")
    corpus = Corpus.open(build([str(path)], corpus_settings(punctuation="ascii", validation=0)))
    assert corpus.vocabulary.decode(corpus.training.read(0, corpus.training.characters)) == '"It\'s - well..." -- a b\n'
    assert corpus.counts.punctuation == 7
    assert "plain punctuation replaced 7 typographic characters" in corpus.notes
    assert Corpus.open(build([str(path)], CorpusSettings())).counts.punctuation == 0


@given(st.text())
def test_folding_changes_each_character_alone_and_once(text: str) -> None:
    assert fold_punctuation(text) == "".join(map(fold_punctuation, text))
    assert fold_punctuation(fold_punctuation(text)) == fold_punctuation(text)

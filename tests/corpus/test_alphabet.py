"""A dictionary file says which characters to know."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus.inputs import read_alphabet
from scriven.errors import InputError
from scriven.vocabulary import Vocabulary

SYMBOLS = st.sets(st.characters(exclude_categories=()), min_size=1)
in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def symbols_in(data: str | bytes, folder: Path, name: str = "alphabet") -> str:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return "".join(map(chr, read_alphabet(folder / name).symbols))


@in_folder
@given(SYMBOLS)
def test_all_ways_to_write_an_alphabet_are_the_same(tmp_path: Path, symbols: set[str]) -> None:
    expected = "".join(sorted(symbols))
    assert symbols_in(json.dumps(list(symbols)), tmp_path) == expected
    assert symbols_in(json.dumps(dict.fromkeys(symbols, 7)), tmp_path) == expected
    assert symbols_in(json.dumps({"symbols": list(symbols), "other": 1}), tmp_path) == expected
    escaped = [f"\\U{ord(symbol):08x}" for symbol in symbols]
    for end in ("\n", "\r\n", "\r"):
        assert symbols_in(end.join(escaped), tmp_path) == expected


def test_a_line_holds_one_symbol_and_escapes_what_cannot_be_seen(tmp_path: Path) -> None:
    text = 'b\n \n\\\\\n\\n\n\\t\n\\r\n\\u0041\n\\x42\n\\U0001f600\n天\n"\n<\n'
    assert symbols_in(text, tmp_path) == '\t\n\r "<AB\\b天\U0001f600'
    assert symbols_in("\\", tmp_path) == "\\"
    assert symbols_in(b"\xef\xbb\xbfa\r\n\r\nb", tmp_path) == "ab"
    assert symbols_in("7", tmp_path) == "7"
    assert symbols_in("[\n", tmp_path) == "["


def test_the_vocabulary_of_a_model_is_an_alphabet(tmp_path: Path) -> None:
    assert symbols_in(Vocabulary.of("né \n", "\n").to_json(), tmp_path, "vocabulary.json") == "\n né"


def test_special_names_and_repetitions_are_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("<unk>\na\n<s>\nb\na\n</s>\n")
    alphabet = read_alphabet(tmp_path / "a")
    assert alphabet.symbols == (97, 98)
    assert list(alphabet.notes()) == [
        "left out of the alphabet, as they are names and not characters: <unk>, <s>, </s>",
        "the alphabet repeats 1 of its characters",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((empty, "has no characters") for empty in (b"", b"\n\n", b"[]", b"{}", b"<unk>\n", b'{"symbols": []}')),
        (b"a\nthe\nb", "has the entry 'the', which is not one character"),
        (b"a b c", "has the entry 'a b c'"),
        (b'["a", 3]', "has the entry 3"),
        (b'["a", null, ["b"]]', "has the entry None"),
        (b'["a", ""]', "has the entry ''"),
        (b'{"unit": "byte"}', "has the entry 'unit'"),
        (b"\\u00", r"has the entry '\\\\u00'"),
        (b"\\U00110000", "which is not one character"),
        (b"[" * 100_000, "which is not one character"),
        (b"\x7fELF\x00\xff\xfe", "is not UTF-8 at byte 5"),
    ],
)
def test_what_is_not_an_alphabet_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        symbols_in(data, tmp_path)


def test_files_that_cannot_be_read_or_are_not_the_json_they_say_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the alphabet .*missing"):
        read_alphabet(tmp_path / "missing")
    with pytest.raises(InputError, match=r"a\.json is not JSON"):
        symbols_in('["a",', tmp_path, "a.json")


@given(st.binary())
@in_folder
def test_any_file_is_an_alphabet_or_an_input_error(tmp_path: Path, data: bytes) -> None:
    try:
        found = symbols_in(data, tmp_path)
    except InputError:
        return
    assert list(found) == sorted(set(found)) != []

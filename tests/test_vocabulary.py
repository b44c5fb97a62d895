"""Every text has ids, and its ids give it back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.errors import InputError
from scriven.vocabulary import Vocabulary, byte_values

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates and NUL too
SEPARATORS = st.none() | st.sampled_from(["\n", "<|end|>", "天\ud800"])
VOCABULARIES = st.one_of(st.builds(Vocabulary.of_bytes, SEPARATORS), st.builds(Vocabulary.of, ANY_TEXT, SEPARATORS))


@given(VOCABULARIES, ANY_TEXT)
def test_every_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode(ids.tolist()) == text


@given(ANY_TEXT, ANY_TEXT, SEPARATORS)
def test_encoding_agrees_with_the_definition(known: str, text: str, separator: str | None) -> None:
    vocabulary = Vocabulary.of(known, separator)
    symbols = sorted(set(known))
    expected = [symbols.index(c) if c in symbols else vocabulary.size + ord(c) for c in text]
    ids = vocabulary.encode(text)
    assert ids.tolist() == expected
    unknown = len(symbols) + (separator is not None)
    assert vocabulary.clamp(ids).tolist() == [min(id, unknown) for id in expected]
    assert vocabulary.unseen(ids).tolist() == [c not in symbols for c in text]
    assert vocabulary.unknown_characters(text) == list(dict.fromkeys(c for c in text if c not in symbols))


@given(VOCABULARIES, st.data())
def test_decoding_in_pieces_equals_decoding_at_once(vocabulary: Vocabulary, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.lists(st.integers(0, vocabulary.unknown), max_size=4)))
    decoder = vocabulary.decoder()
    shown = ""
    for piece in pieces:
        fork = decoder.copy()
        more = decoder.feed(piece)
        assert "".join(fork.feed([id]) for id in piece) + fork.copy().flush() == more + decoder.copy().flush()
        shown += more
    assert shown + decoder.flush() == vocabulary.decode([id for piece in pieces for id in piece])


@given(st.binary())
def test_bytes_that_are_utf8_are_shown_as_such_and_others_as_the_replacement(data: bytes) -> None:
    shown = Vocabulary.of_bytes().decode(list(data))
    try:
        assert shown == data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        assert "\ufffd" in shown


@given(st.text())
def test_byte_lengths_sum_to_the_utf8_text(text: str) -> None:
    for vocabulary in (
        Vocabulary.of("abc"),
        Vocabulary.of("abc", "\n"),
        Vocabulary.of_bytes(),
        Vocabulary.of_bytes("|"),
    ):
        assert vocabulary.byte_lengths(vocabulary.encode(text)).sum() == len(text.encode())


def test_surrogates_that_stand_for_stray_bytes_are_one_byte_long() -> None:
    vocabulary = Vocabulary.of("")
    assert vocabulary.byte_lengths(vocabulary.encode("\udc80\udcff\ud800\udfff")).tolist() == [1, 1, 3, 3]


def test_a_streamed_character_is_held_back_until_it_is_whole() -> None:
    decoder = Vocabulary.of_bytes().decoder()
    assert [decoder.feed([byte]) for byte in "€!".encode()] == ["", "", "€", "!"]
    assert decoder.feed(["é".encode()[0]]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed([ord("a")]) == "a"


def test_unknown_is_shown_as_the_replacement_character() -> None:
    for vocabulary in (Vocabulary.of("ab"), Vocabulary.of_bytes()):
        a = vocabulary.encode("a").item()
        assert vocabulary.decode([a, vocabulary.unknown, a]) == "a\ufffda"


def test_sizes_and_cost_of_the_unseen() -> None:
    vocabulary = Vocabulary.of("banana")
    assert vocabulary.symbols == (97, 98, 110)
    assert (vocabulary.size, vocabulary.unknown) == (4, 3)
    assert vocabulary.unseen_nats == pytest.approx(math.log(1_114_112 - 4))
    assert Vocabulary.of_bytes().size == 257


@given(st.sampled_from([Vocabulary.of("ab", "\n--\n"), Vocabulary.of_bytes("\n--\n")]), st.lists(ANY_TEXT))
def test_the_boundary_of_documents_is_shown_as_the_separator_and_is_no_character(
    vocabulary: Vocabulary, texts: list[str]
) -> None:
    boundary = vocabulary.boundary
    assert boundary == len(vocabulary.symbols) == vocabulary.unknown - 1 == vocabulary.size - 2
    ids = np.concatenate([[boundary], *([*vocabulary.encode(text), boundary] for text in texts)]).astype(np.int64)
    assert vocabulary.decode(ids) == "\n--\n" + "".join(text + "\n--\n" for text in texts)
    assert vocabulary.clamp(ids)[0] == boundary
    assert vocabulary.byte_lengths(np.array([boundary])).tolist() == [0]
    assert not vocabulary.unseen(ids)[0]


def test_a_character_that_a_document_ends_in_the_middle_of_is_shown_before_the_end() -> None:
    vocabulary = Vocabulary.of_bytes("|")
    decoder = vocabulary.decoder()
    ids = [ord("a"), "é".encode()[0], 256, ord("b")]
    assert [decoder.feed([id]) for id in ids] == ["a", "", "\ufffd|", "b"]
    assert vocabulary.decode(ids) == "a\ufffd|b"


def test_without_documents_there_is_no_boundary() -> None:
    assert Vocabulary.of("ab").boundary is None
    assert Vocabulary.of("ab") != Vocabulary.of("ab", "\n")


@pytest.mark.parametrize("ids", [[-1], [4 + 0x110000], [0, 2**40]])
def test_ids_out_of_range_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        Vocabulary.of("abc").decode(ids)
    with pytest.raises(ValueError, match="must be in"):
        Vocabulary.of_bytes().decode(ids)


@given(VOCABULARIES)
def test_json_gives_the_vocabulary_back(vocabulary: Vocabulary) -> None:
    text = vocabulary.to_json()
    assert Vocabulary.from_json(text) == vocabulary
    text.encode()  # can be written as UTF-8, whatever the symbols are


def test_json_shows_characters_as_they_are() -> None:
    text = Vocabulary.of("é天\ud800\n").to_json()
    assert '"é", "天", "\\ud800"' in text
    assert json.loads(text)["unit"] == "character"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"unit": "word", "symbols": []}', '{"unit": "character"}']
    + ['{"unit": "byte", "separator": 3}', '{"unit": "character", "separator": [], "symbols": []}']
    + ['{"unit": "character", "symbols": ' + s + "}" for s in ("3", '["b", "a"]', '["a", "a"]', '["ab"]', "[1]")],
)
def test_malformed_json_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="vocabulary is damaged"):
        Vocabulary.from_json(text)


def test_vocabularies_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="sorted"):
        Vocabulary("character", (2, 1))
    with pytest.raises(ValueError, match="sorted"):
        Vocabulary("character", (0x110000,))
    with pytest.raises(ValueError, match="256"):
        Vocabulary("byte", (0,))


@given(data=st.binary(max_size=20))
def test_text_read_from_bytes_is_those_bytes_again(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert Vocabulary.of_bytes().encode_read(text).tolist() == list(data)


def test_half_characters_that_stand_for_no_byte_take_three() -> None:
    assert byte_values("a\ud800\udcff").tolist() == [ord("a"), 0xED, 0xA0, 0x80, 0xFF]

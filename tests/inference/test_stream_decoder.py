"""Ids in blocks of any lengths to text, against strings."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scriven.arrays import Ids
from scriven.inference.stream_decoder import StreamDecoder
from scriven.vocabulary import Vocabulary

LETTERS = Vocabulary.of("ab\n", "\n")
LENGTHS = st.lists(st.integers(0, 5), max_size=12)


def blocks(ids: Ids, lengths: list[int]) -> list[Ids]:
    return np.split(ids, np.minimum(np.cumsum(lengths), len(ids)).astype(int).tolist())


def first_end(text: str, stop: list[str]) -> tuple[int, int] | None:
    """Where the first stop string to be complete ends and, the longest one of several, begins."""
    return min(((text.find(each) + len(each), text.find(each)) for each in stop if each in text), default=None)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), LENGTHS)
def test_what_may_begin_a_stop_string_is_held_back(text: str, stop: list[str], lengths: list[int]) -> None:
    vocabulary = Vocabulary.of("abc")
    pen, shown, fed = StreamDecoder(vocabulary, stop), "", 0
    for block in blocks(vocabulary.encode(text), lengths):
        more, taken = pen.feed(block)
        shown, fed = shown + more, fed + taken
        end = first_end(text[: fed if taken == len(block) else fed + 1], stop)
        assert pen.done == (end is not None)
        if end is not None:
            assert (fed, shown) == (end[0], text[: end[1]])
            assert (pen.feed(block), pen.flush()) == (("", 0), "")
            return
        assert taken == len(block)
        held = text[len(shown) : fed]
        assert held == "" or any(each.startswith(held) for each in stop)
    assert shown + pen.flush() == text


def encode_documents(text: str) -> Ids:
    return np.where(LETTERS.encode(text) == LETTERS.encode("\n"), 3, LETTERS.encode(text))


@given(st.text("ab\n", max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=2), LENGTHS)
def test_a_pen_is_done_where_a_document_ends(text: str, stop: list[str], lengths: list[int]) -> None:
    ending, before, fed, shown = StreamDecoder(LETTERS, stop, until_end=True), text.partition("\n")[0], 0, ""
    for block in blocks(encode_documents(text), lengths):
        more, taken = ending.feed(block)
        shown, fed = shown + more, fed + taken
    end = first_end(before, stop)
    assert shown + ending.flush() == before[: end[1] if end else None]
    assert ending.ended == ("\n" in text and end is None)
    assert fed == (end[0] if end else len(before) + ending.ended)


def test_stop_strings_of_bytes_end_within_no_character() -> None:
    vocabulary = Vocabulary.of_bytes("|")
    pen = StreamDecoder(vocabulary, ["é!", "|"])
    ids = np.array([*"aé".encode(), *"é!".encode(), 0])
    assert pen.feed(ids[:2]) == ("a", 2)
    assert pen.feed(ids[2:4]) == ("", 2)
    assert pen.feed(ids[4:]) == ("é", 2)
    assert pen.done
    pen = StreamDecoder(vocabulary, ["|"])
    assert pen.feed(np.array([97, 0xC3, vocabulary.boundary, 98])) == ("a\ufffd", 3)

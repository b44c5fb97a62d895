"""Validation is the end of a text, or documents spread over all of it."""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.corpus.shards import Draft
from scriven.corpus.writer import Split, are_validation, validation_characters, validation_documents
from scriven.errors import UsageError
from scriven.settings_values import validate

SHARES = st.floats(1e-6, 0.999_999)


def validation_numbers(count: int, share: float) -> list[int]:
    return np.flatnonzero(are_validation(np.arange(count), share)).tolist()


@given(SHARES, st.integers(1, 60))
def test_each_block_of_documents_has_one_that_validates(share: float, blocks: int) -> None:
    exact = Fraction(share).limit_denominator(10**9)
    borders = [math.ceil(block / exact) for block in range(blocks + 1)]
    start = borders[-2]
    for first, last in ((0, borders[1]), (start, borders[-1])):
        numbers = np.arange(first, min(last, first + 100_000))
        found = are_validation(numbers, share)
        assert found.sum() == 1 or last - first > 100_000
    assert are_validation(np.array([0, 1]), share).tolist() == [False, True]


@pytest.mark.parametrize("share", [0.001, 0.1, 1 / 3, 0.5, 0.77, 0.9, 0.99])
def test_the_share_is_kept_and_the_documents_are_spread(share: float) -> None:
    found = validation_numbers(100_000, share)
    assert abs(len(found) - 100_000 * share) <= 1
    assert max(np.diff(found), default=0) < 2 / share + 1
    if share == 0.1:  # not in step with anything
        assert all(900 < sum(number % 10 == digit for number in found) < 1100 for digit in range(10))


@given(SHARES, st.integers(0, 500), st.integers(0, 500))
def test_later_documents_change_nothing_and_numbers_decide_alone(share: float, count: int, more: int) -> None:
    longer = are_validation(np.arange(count + more), share)
    assert longer[:count].tolist() == are_validation(np.arange(count), share).tolist()
    assert longer[count:].tolist() == are_validation(np.arange(count, count + more), share).tolist()


def test_a_share_of_none_and_tiny_shares() -> None:
    assert validation_numbers(1000, 0.0) == []
    assert validation_numbers(1000, 1e-300) == [1]
    assert are_validation(np.array([10**12]), 0.3).shape == (1,)


def test_the_share_of_characters_is_at_the_end_and_never_all() -> None:
    assert [validation_characters(30, share) for share in (0.0, 0.01, 0.1, 0.99)] == [0, 0, 3, 29]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 20), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_documents_go_to_their_parts_whatever_the_pieces(
    tmp_path: Path, lengths: list[int], size: int, share: float
) -> None:
    training, validation = drafts = [Draft(io.BytesIO(), tmp_path / f"{part}.npy") for part in "tv"]
    for path in tmp_path.iterdir():
        path.unlink()
    symbols, ends = np.arange(sum(lengths), dtype=np.uint32), np.cumsum(lengths, dtype=np.int64)
    split = Split(share, training, validation)
    for start in range(0, symbols.size, size):
        stop = min(start + size, symbols.size)
        split.append(symbols[start:stop], ends[(start < ends) & (ends <= stop)] - start)
    documents = np.split(symbols, ends[:-1]) if lengths else []
    is_held = are_validation(np.arange(len(lengths)), share).tolist()
    for draft, part in zip(drafts, (False, True), strict=True):
        mine = [each for each, held in zip(documents, is_held, strict=True) if held == part]
        assert draft.symbols(draft.length).tolist() == _flat(mine)
        assert draft.ends.documents == len(mine)
        if mine:
            assert draft.ends.finish() is not None
            path = tmp_path / f"{'tv'[part]}.npy"
            assert np.load(path).tolist() == np.cumsum([each.size for each in mine]).tolist()


def _flat(documents: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint32]]]) -> list[int]:
    return [symbol for document in documents for symbol in document.tolist()]


# --- a number instead of a share


@given(st.integers(2, 3000), st.data())
def test_a_number_of_documents_is_exact_and_they_are_spread(documents: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, documents - 1))
    found = np.flatnonzero(are_validation(np.arange(documents), validation_documents(documents, count)))
    assert found.size == count
    assert max(np.diff(found), default=0) <= 2 * math.ceil(documents / count)


def build_corpus(folder: Path, text: str, **corpus: object) -> Corpus:
    (folder / "text.txt").write_text(text, "utf-8")
    return Corpus.open(build([str(folder / "text.txt")], validate({"corpus": corpus}).corpus))


def test_a_number_of_characters_is_at_the_end(tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path, "ab" * 2000, validation=1025)
    assert (corpus.training.characters, corpus.validation.characters) == (2975, 1025)
    assert build_corpus(tmp_path, "ab" * 2000, validation=1).validation.characters == 1


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_a_number_of_documents_is_what_validates(tmp_path: Path, unit: str) -> None:
    names = [f"nämé {number}" for number in range(97)]
    corpus = build_corpus(tmp_path, "\n".join(names), documents="lines", validation=7, unit=unit)
    assert (corpus.training.documents, corpus.validation.documents) == (90, 7)
    found = []
    for part in (corpus.training, corpus.validation):
        firsts, lengths = part.bounds(np.arange(part.documents))
        read = (part.read(first, length) for first, length in zip(firsts, lengths, strict=True))
        found += [corpus.vocabulary.decode(ids) for ids in read]
    assert sorted(found) == sorted(names)
    corpus.verify()
    assert sorted(path.name for path in Path(corpus.name).iterdir()) == [
        "corpus.json",
        "training-00000.npy",
        "training-documents.npy",
        "validation-00000.npy",
        "validation-documents.npy",
    ]


def test_a_number_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"corpus.validation is 4,000, but the text has only 4,000 characters, so none would be"
    ):
        build_corpus(tmp_path, "ab" * 2000, validation=4000)
    with pytest.raises(UsageError, match=r"corpus.validation is 3, but the text has only 2 documents"):
        build_corpus(tmp_path, "a\nb", documents="lines", validation=3)
    for senseless in (1.5, -1, -0.1, 1e300):
        with pytest.raises(UsageError, match=r"corpus\.validation -?\d"):
            build_corpus(tmp_path, "ab", validation=senseless)

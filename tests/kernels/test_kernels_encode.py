"""Symbols become ids the same way in native code and in numpy, and a corpus is the same to the byte."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import inputs, shards
from scriven.corpus.build import build
from scriven.errors import InputError
from scriven.kernels import encode
from scriven.settings import CorpusSettings

PATHS = [
    pytest.param(True, id="native", marks=pytest.mark.skipif(not encode.usable(), reason="there is no native library")),
    pytest.param(False, id="numpy"),
]
KINDS = [np.dtype(name) for name in ("<u1", "<u2", "<u4")]
NUMBERS = st.lists(st.integers(0, 40), max_size=70)


@pytest.fixture(params=PATHS)
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with native code and without."""
    yes = request.param
    monkeypatch.setattr(encode, "usable", lambda: yes)


Test = Callable[..., None]


def examples(count: int) -> Callable[[Test], Test]:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("either")
@examples(200)
@given(NUMBERS, st.lists(st.integers(-1, 300), max_size=45), st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_ids_are_those_of_the_table(
    numbers: list[int], ids: list[int], symbol_kind: npt.DTypeLike, kind: np.dtype[np.unsignedinteger]
) -> None:
    counts = np.full(len(ids), 7)
    table = np.array(ids, np.int32)
    found = encode.translate(np.array(numbers, symbol_kind), table, kind, counts)
    if any(number >= len(ids) or ids[number] < 0 for number in numbers):
        assert found is None
        assert (counts == 7).all()
        return
    assert found is not None
    assert found.dtype == kind
    assert found.tolist() == [ids[number] % 256**kind.itemsize for number in numbers]
    assert counts.tolist() == [7 + numbers.count(symbol) for symbol in range(len(ids))]
    assert table.tolist() == ids


@pytest.mark.usefixtures("either")
@examples(200)
@given(NUMBERS, st.sets(st.integers(0, 40)), st.sampled_from(KINDS), st.integers(1, 9))
def test_new_symbols_get_ids_as_they_come(numbers: list[int], old: set[int], kind: npt.DTypeLike, block: int) -> None:
    table = np.full(41, -1, np.int32)
    table[sorted(old)] = range(len(old))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "SYMBOLS_PER_BLOCK", block)
        places = encode.learn(np.array(numbers, kind), table, len(old))
    new = [number for number in dict.fromkeys(numbers) if number not in old]
    assert places.tolist() == [numbers.index(number) for number in new]
    assert table[new].tolist() == list(range(len(old), len(old) + len(new)))
    assert (table >= 0).sum() == len(old) + len(new)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [1, 17, 100_003])
def test_long_texts_and_slices_of_them(kind: np.dtype[np.unsignedinteger], size: int) -> None:
    every_other = np.random.default_rng(size).integers(0, 256, 2 * size).astype(kind)[::2]
    table, counts = np.arange(256, dtype=np.int32)[::-1].copy(), np.zeros(256, np.int64)
    found = encode.translate(every_other, table, KINDS[0], counts)
    assert found is not None
    assert np.array_equal(found, 255 - every_other.astype(np.int64))
    assert np.array_equal(counts, np.bincount(every_other, minlength=256))


@pytest.mark.usefixtures("either")
def test_arrays_that_native_code_would_misread_are_refused() -> None:
    symbols, table = np.zeros(3, np.uint8), np.zeros(4, np.int32)
    refused: list[tuple[Any, ...]] = [
        (symbols.astype(np.int64), table),
        (symbols.reshape(3, 1), table),
        (symbols, table.astype(np.int64)),
        (symbols, table[::2]),
        (symbols, table, np.zeros(3, np.int64)),
        (symbols, table, np.zeros(4, np.int32)),
        (symbols, table, np.zeros(8, np.int64)[::2]),
    ]
    for given_symbols, given_table, *counts in refused:
        with pytest.raises(ValueError, match="must be"):
            encode.translate(given_symbols, given_table, KINDS[0], *counts)
    with pytest.raises(IndexError, match="the symbol 4 is beyond a table of 4"):
        encode.learn(np.array([4], np.uint32), table, 0)


DATA = st.one_of(
    st.text(st.characters(codec="utf-8")).map(str.encode),
    st.text("ab \r\n|é天\U0001f600İΣ", min_size=1).map(str.encode),
    st.lists(st.sampled_from([b"a", b"A\n", b"\xc3", b"\xa9", b"\xff", b"\xed\xa0\x80", "天e\u0301".encode()])).map(
        b"".join
    ),
)
CORPORA = st.fixed_dictionaries(
    {
        "unit": st.sampled_from(["character", "byte"]),
        "invalid": st.sampled_from(["strict", "replace", "bytes"]),
        "lowercase": st.booleans(),
        "normalize": st.sampled_from(["none", "nfc"]),
        "validation": st.sampled_from([0.0, 0.1, 0.5]),
        "documents": st.sampled_from(["none", "lines", "files", "separator"]),
        "separator": st.sampled_from(["||", "\n\n"]),
    }
)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.iterdir()):
        yield path.name, path.read_bytes()


def _build_corpus(source: Path, target: Path, values: dict[str, Any], *, native: bool) -> object:
    """All files of the corpus, or why there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "usable", lambda: native)
        patch.setattr(os, "fsync", lambda descriptor: None)  # most of the time that a small corpus takes
        try:
            return dict(_files(build([str(source)], CorpusSettings.model_validate(values), target)))
        except InputError as error:
            return str(error)


@pytest.mark.skipif(not encode.usable(), reason="there is no native library to compare with")
@examples(60)
@given(DATA, CORPORA, st.integers(1, 9), st.none() | st.just('["a", "天", "\\ud800"]'))
def test_corpora_are_the_same_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, values: dict[str, Any], size: int, alphabet: str | None
) -> None:
    folder = tmp_path_factory.mktemp("same")
    (folder / "text.txt").write_bytes(data)
    if values["documents"] != "separator":
        values = {**values, "separator": ""}
    if alphabet and values["unit"] == "character":
        (folder / "alphabet.json").write_text(alphabet)
        values = {**values, "alphabet": str(folder / "alphabet.json")}
    numpy = _build_corpus(folder / "text.txt", folder / "numpy", values, native=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "SLICE_CHARACTERS", size)
        patch.setattr(shards, "BLOCK_CHARACTERS", size)
        assert _build_corpus(folder / "text.txt", folder / "native", values, native=True) == numpy

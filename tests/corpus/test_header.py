"""A corpus from anywhere: whatever it says of itself, opening it refuses in one sentence or gives what is there."""

import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.corpus.header import LARGEST_HEADER_BYTES
from scriven.errors import InputError
from scriven.settings import CorpusSettings

TEXT = "one\ntwo\nthree\nfour\nfive\nsix and more Ä\n" * 3
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(TEXT)
    return build([str(folder / "text.txt")], CorpusSettings(documents="lines", validation=0.3), folder / "corpus")


@pytest.fixture
def corpus(original: Path, tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    for path in original.iterdir():
        (tmp_path / "corpus" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "corpus"


def read_all(folder: Path) -> None:
    """All that training reads of a corpus."""
    opened = Corpus.open(folder)
    for part in (opened.training, opened.validation):
        firsts, lengths = part.bounds(np.arange(part.documents))
        for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True):
            opened.vocabulary.clamp(part.read(first, length))
        part.read(0, part.characters)


def assert_refused(folder: Path, reading: Callable[[Path], object] = read_all) -> str:
    tracemalloc.start()
    with pytest.raises(InputError) as error:
        reading(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6, "memory as the file claims, and not as it is"
    assert "\n" not in str(error.value)
    return str(error.value)


def change_header(folder: Path, change: Change) -> Path:
    values = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    change(values)
    (folder / "corpus.json").write_text(json.dumps(values))
    return folder


def setter(*path: Any) -> Change:
    """Sets what lies at a path to its last element."""

    def change(values: Any) -> None:
        *inner, last, value = path
        for name in inner:
            values = values[name]
        values[last] = value

    return change


SHARD = ("training", "shards", 0)
HOSTILE = {
    "a count that is a word": setter("counts", "characters", "many"),
    "a count that is true": setter("counts", "characters", True),
    "a count below 0": setter("counts", "lines", -1),
    "a count that is huge": setter("training", "characters", 10**30),
    "more characters than there are": setter("training", "characters", 10**12),
    "a length that is huge": setter(*SHARD, "length", 10**12),
    "a size that is huge": setter(*SHARD, "size", 10**15),
    "a path out of the folder": setter(*SHARD, "file", "../original/training-00000.npy"),
    "an absolute path": setter(*SHARD, "file", "/etc/passwd"),
    "another file of the folder": setter(*SHARD, "file", "corpus.json"),
    "a shard that is there twice": lambda values: values["training"]["shards"].append(values["training"]["shards"][0]),
    "a hash that is none": setter(*SHARD, "sha256", "x"),
    "shards that are no list": setter("training", "shards", {}),
    "documents of another part": setter("training", "documents", "file", "validation-documents.npy"),
    "more documents than there are": setter("training", "documents", "length", 10**9),
    "unknown names": setter("more", 1),
    "settings that are none": setter("settings", "unit", "word"),
    "unseen symbols twice": setter("unseen", [65, 65]),
    "unseen symbols beyond all": setter("unseen", [0x110000]),
    "frequencies of other symbols": setter("frequencies", [1]),
    "frequencies beyond the text": lambda values: values["frequencies"].__setitem__(0, 10**9),
    "a vocabulary that is none": setter("vocabulary", {}),
    "a vocabulary of words": setter("vocabulary", "symbols", ["ab"]),
    "a vocabulary out of order": setter("vocabulary", "symbols", ["b", "a"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_contradicts_itself_or_the_files_is_refused(corpus: Path, name: str) -> None:
    message = assert_refused(change_header(corpus, HOSTILE[name]))
    assert "build the corpus again" in message or "build it again" in message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 100_000,
        '{"format": 2, "format": 2}',
        '{"format": NaN}',
        '{"format": ' + "9" * 10_000 + "}",
        "\0" * 1000,
        '{"format": 2} {}',
    ],
)
def test_json_that_is_hostile_is_refused(corpus: Path, text: str) -> None:
    (corpus / "corpus.json").write_text(text)
    assert "corpus.json is damaged" in assert_refused(corpus)


def test_a_name_that_is_there_twice_is_refused_wherever_it_is(corpus: Path) -> None:
    text = (corpus / "corpus.json").read_text(encoding="utf-8")
    (corpus / "corpus.json").write_text(text.replace('"sources":', '"sources": 1, "sources":'), encoding="utf-8")
    assert "corpus.json is damaged" in assert_refused(corpus)


def test_a_huge_header_is_not_read(corpus: Path) -> None:
    with (corpus / "corpus.json").open("r+b") as file:
        file.truncate(10 * 10**9)
    with pytest.raises(InputError, match=r"corpus\.json is damaged"):
        Corpus.open(corpus)
    assert LARGEST_HEADER_BYTES < 10**8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["corpus.json", "training-00000.npy", "training-documents.npy"])
def test_links_and_pipes_are_not_followed(corpus: Path, original: Path, name: str) -> None:
    (corpus / name).unlink()
    (corpus / name).symlink_to(original / name)
    assert f"{name} is a link or not a plain file" in assert_refused(corpus)
    (corpus / name).unlink()
    os.mkfifo(corpus / name)
    assert f"{name} is a link or not a plain file" in assert_refused(corpus)


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def hostile_arrays() -> dict[str, bytes]:
    objects = io.BytesIO()
    np.save(objects, np.array([_Harm()], object), allow_pickle=True)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    floats = io.BytesIO()
    np.save(floats, np.zeros(10))
    return {
        "objects": objects.getvalue(),
        "a pickle": pickle.dumps(_Harm()),
        "a huge shape": huge.getvalue() + bytes(100),
        "floats": floats.getvalue(),
        "a header of lies": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000,
        "nothing": b"",
        "zeros": bytes(500),
    }


@pytest.mark.parametrize("kind", hostile_arrays())
@pytest.mark.parametrize("name", ["training-00000.npy", "training-documents.npy"])
def test_arrays_that_are_hostile_are_refused(
    corpus: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    data = hostile_arrays()[kind]
    (corpus / name).write_bytes(data)
    assert name in assert_refused(corpus)
    files = ("documents",) if "documents" in name else ("shards", 0)
    assert name in assert_refused(
        change_header(corpus, setter("training", *files, "size", len(data)))
    )  # though the header agrees
    assert not (corpus / "harm").exists()


def test_a_corpus_cut_anywhere_is_refused(corpus: Path) -> None:
    for path in sorted(corpus.iterdir()):
        data = path.read_bytes()
        for length in range(0, len(data.rstrip()), max(1, len(data) // 25)):
            path.write_bytes(data[:length])
            assert_refused(corpus)
        path.write_bytes(data)
    read_all(corpus)


@pytest.mark.parametrize(
    "ends", [[5, 3], [0], [2**63], [2**64 - 1], [10**12], [3, 3], [1]], ids=lambda ends: "-".join(map(str, ends))
)
def test_documents_that_overlap_or_are_elsewhere_are_refused(corpus: Path, ends: list[int]) -> None:
    path = corpus / "training-documents.npy"
    values = np.load(path)
    values[: len(ends)] = ends
    if ends == [1]:
        values[-1] -= 1  # the text goes on after the last one
    np.save(path, values)
    if ends != [1]:
        assert "documents overlap, or are outside of the text" in assert_refused(corpus)
    assert "training-documents.npy" in assert_refused(corpus, lambda folder: Corpus.open(folder).verify())


def test_numbers_that_stand_for_nothing_are_found(corpus: Path) -> None:
    for name in ("validation-00000.npy", "training-00000.npy"):
        values = np.load(corpus / name)
        values[3] = 255
        np.save(corpus / name, values)
        assert f"{name} is damaged" in assert_refused(corpus, lambda folder: Corpus.open(folder).verify())
        part = getattr(Corpus.open(corpus), name.split("-")[0])
        with pytest.raises(InputError, match=f"{name} is damaged: it has numbers that are not the id of any character"):
            part.read(0, 10)
        assert part.read(4, 6).size == 6


def test_numbers_beyond_the_unseen_symbols_are_refused_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab\nxy天\nab\n")
    folder = build([str(tmp_path / "text.txt")], CorpusSettings(documents="lines", validation=0.3), tmp_path / "corpus")
    values = np.load(folder / "validation-00000.npy")
    values[1] = 255
    np.save(folder / "validation-00000.npy", values)
    assert "it has numbers that are not the id of any character" in assert_refused(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return found + [place for name, value in pairs for place in places(value, (*path, name))]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_the_header_is_refused_or_does_no_harm(original: Path, corpus: Path, data: st.DataObject) -> None:
    values = json.loads((original / "corpus.json").read_text(encoding="utf-8"))
    place = data.draw(st.sampled_from(places(values)))
    setter(*place, data.draw(JSON))(values)
    (corpus / "corpus.json").write_text(json.dumps(values))
    try:
        read_all(corpus)
        Corpus.open(corpus).verify()
    except InputError as error:
        assert "corpus" in str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0), st.binary(min_size=1, max_size=6))
def test_any_bytes_in_the_header_are_refused_or_do_no_harm(
    original: Path, corpus: Path, place: int, data: bytes
) -> None:
    text = bytearray((original / "corpus.json").read_bytes())
    place %= len(text)
    text[place : place + len(data)] = data
    (corpus / "corpus.json").write_bytes(text)
    try:
        read_all(corpus)
    except InputError as error:
        assert "\n" not in str(error).replace(str(corpus), "")


def test_the_command_ends_with_three_and_one_sentence(corpus: Path) -> None:
    command = [sys.executable, "-m", "scriven", "corpus"]
    done = subprocess.run([*command, "check", corpus], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{corpus} is undamaged: 4 files, ")
    path = corpus / "training-00000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    done = subprocess.run([*command, "check", corpus], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"scriven: {path} is damaged; build the corpus again\n"
    (corpus / "corpus.json").write_text("{}")
    for words in (["check", str(corpus)], ["info", str(corpus)]):
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)

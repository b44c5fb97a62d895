"""Indexes of training texts, what they say of a text, and texts that copy nothing; all against slow obvious code."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.errors import InputError, UsageError
from scriven.inference import novelty
from scriven.inference.generation import GenerationBatch, GenerationOptions
from scriven.inference.novelty import choose_stretches
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.model import CharLM
from scriven.rules import Rule
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.trained_model import Model, load
from small_model import Text, mixture, predictor_of

LETTERS = "\n abcdefgh."
TEXT = "a bad cab. a face\nbehead a cafe. a dab\n" * 3 + "each hag had a bead\n"
NAMES = "abe\nabba\ndad\nabe\nbea\nhedda\n"
WAYS = [None, *(["fp32"] if native_library.level() != "off" else [])]  # numpy and native code


def make_run(folder: Path, text: str, corpus: dict[str, Any], **origin: Any) -> Path:
    (folder / "book.txt").write_text(text, "utf-8")
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": {"validation": 0.2, **corpus}})
    made = Corpus.open(build([str(folder / "book.txt")], settings.corpus, folder / "corpus"))
    torch.manual_seed(1)
    weights = CharLM(settings.model, made.vocabulary.size).state_dict()
    known = {"texts": [str(folder / "book.txt")], "corpus": str(folder / "corpus"), "text": made.text_hash, **origin}
    run = create_run(folder / "run", settings, made.vocabulary, known)
    run.save(weights, {}, {"step": 1, "characters": 2, "validation": {}}, best=1)
    return run.path


def training_documents(run: Path, model: Model) -> list[str]:
    part = Corpus.open(run.parent / "corpus").training
    if not part.documents:
        return [model.decode(part.read(0, part.characters))]
    bounds = zip(*part.bounds(np.arange(part.documents)), strict=True)
    return [model.decode(part.read(int(first), int(length))) for first, length in bounds]


def slow_longest(documents: list[str], text: str) -> int:
    return max(
        (length for length in range(1, len(text) + 1) if any(text[:length] in each for each in documents)), default=0
    )


KINDS: list[tuple[str, dict[str, Any]]] = [
    (TEXT, {}),
    (TEXT, {"unit": "byte"}),
    (NAMES, {"documents": "lines"}),
    (TEXT, {"documents": "separator", "separator": ". "}),
    (TEXT, {"alphabet": "letters.json"}),
]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(("text", "corpus"), KINDS)
def test_what_is_copied(
    text: str, corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, small: bool
) -> None:
    if small:  # blocks; and numpy instead of native code
        monkeypatch.setattr(novelty, "BLOCK", 7)
        monkeypatch.setattr(novelty, "PLAIN_BLOCK", 7)
        monkeypatch.setattr(novelty, "OVERLAP", 40)
        monkeypatch.setattr("scriven.kernels.suffixes.usable", lambda: False)
    if "alphabet" in corpus:
        (tmp_path / "letters.json").write_text(json.dumps([*"abcdef\n "]))
        corpus = {"alphabet": str(tmp_path / "letters.json")}
    run = make_run(tmp_path, text, corpus)
    model = load(run)
    documents, asked = training_documents(run, model), "a bade\nhead a cab. a éfaced gab"
    found = model.novelty(asked, stretches=99)
    own = [
        each
        for piece in model.decode(model.read_ids(asked)).split(model.vocabulary.separator or "\0")
        for each in [piece]
    ]
    parts = [part.encode().decode("latin-1") if model.vocabulary.unit == "byte" else part for part in own]
    documents = [each.encode().decode("latin-1") if model.vocabulary.unit == "byte" else each for each in documents]
    expected = [slow_longest(documents, part[place:]) for part in parts for place in range(len(part))]
    assert found.lengths.tolist() == expected
    assert found.characters == len(expected) and found.longest == max(expected)
    for length in (1, 2, 4, 9):
        windows = [part[place : place + length] for part in parts for place in range(len(part) - length + 1)]
        novel = sum(not any(each in document for document in documents) for each in windows)
        assert found.count(length) == (novel, len(windows))
        assert found.share(length) == (novel / len(windows) if windows else None)
    assert found.stretches[0].length == found.longest
    whole = "".join(documents)
    for each in found.stretches:
        assert len(each.text) == each.length and each.text in whole
        assert whole[each.character : each.character + each.length] == each.text
    lines = asked.split("\n")
    for each in found.stretches:
        if model.vocabulary.separator is None and each.text.isascii() and "\n" not in each.text and corpus == {}:
            assert lines[each.line - 1][each.column - 1 :].startswith(each.text)
            line = whole[: each.character].count("\n") + 1
            assert each.source == f"{run.parent / 'book.txt'}:{line}"


@given(lengths=st.lists(st.integers(0, 6), max_size=20), most=st.integers(0, 5))
def test_the_longest_stretches_do_not_overlap(lengths: list[int], most: int) -> None:
    for place in reversed(range(len(lengths))):  # at a place, one shorter by one than at that before, at least
        lengths[place] = min(lengths[place], len(lengths) - place)
        if place:
            lengths[place] = max(lengths[place], lengths[place - 1] - 1)
    chosen = choose_stretches(np.array(lengths, np.int64), most)
    assert len(chosen) <= most
    if most and any(lengths):
        assert lengths[chosen[0]] == max(lengths)
    assert all(one + lengths[one] <= other for one, other in pairwise(sorted(chosen)))


def model_of(way: str | None, run: Path) -> Model:
    """A model that reads and writes with random weights, and with counts if native code runs here: they copy much."""
    made = load(run)
    plain = predictor_of(made.vocabulary)
    corpus = Corpus.open(run.parent / "corpus").training
    text = Text(corpus.read(0, corpus.characters))
    counts = mixture(plain, text).counts if native_library.level() != "off" else None
    return Model(
        Predictor(plain.model, plain.vocabulary, "fp32", writing=way, counts=counts),
        made.settings,
        1,
        str(run),
        made.origin,
    )


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("book"), TEXT + "." + LETTERS + TEXT, {})


def copies(documents: list[str], text: str, novel: int) -> bool:
    return any(text[place : place + novel] in each for place in range(len(text) - novel + 1) for each in documents)


@pytest.mark.parametrize("novel", [2, 3, 5])
def test_nothing_is_copied(novel: int, book: Path) -> None:
    numpy, *native = [model_of(way, book) for way in WAYS]
    documents, copied = training_documents(book, numpy), 0
    for seed in range(4):
        asked: dict[str, Any] = {"length": 70, "seed": seed, "temperature": 0.5 * (seed % 3)}
        free, text = numpy.sample("a bad", **asked), numpy.sample("a bad", novel=novel, **asked)
        copied += copies(documents, free, novel)
        assert not copies(documents, text, novel)
        assert text[: novel - 1] == free[: novel - 1]
        more: dict[str, Any] = {"top_k": 4, "typical_p": 0.9, "mirostat_tau": 3.0, "presence_penalty": 0.5}
        assert not copies(documents, numpy.sample("a bad", novel=novel, **asked, **more), novel)
        for other in native:
            assert other.sample("a bad", novel=novel, **asked) == text
            assert other.sample("a bad", novel=novel, **asked, **more) == numpy.sample(
                "a bad", novel=novel, **asked, **more
            )
    assert copied or (novel == 5 and not native)  # without it; random weights without counts copy hardly five


@pytest.mark.parametrize("way", WAYS)
def test_such_a_text_does_not_depend_on_others_nor_on_blocks(way: str | None, book: Path) -> None:
    model, lines = model_of(way, book), []
    for seed, novel in enumerate([0, 2, 3, 1, 4]):
        whole = model.sample(length=50, seed=seed, novel=novel)
        assert "".join(model.stream(length=50, seed=seed, piece=3, novel=novel)) == whole
        stopped = model.sample(length=50, seed=seed, stop=["a"], novel=novel)
        assert stopped == whole.partition("a")[0]
        lines.append((whole, GenerationOptions(50, filters={"novel": novel})))
    index = model.find_index()
    assert index is not None
    batch, random = GenerationBatch(model.predictor), map(np.random.default_rng, range(len(lines)))
    texts = [each.begin(model.vocabulary, next(random), index.suffixes) for _, each in lines]
    batch.add(texts, model.predictor.start().rows([0] * len(texts)))
    written = dict.fromkeys(texts, "")
    while batch.generations:
        for each in batch.generate(9):
            written[each.generation] += each.text
    assert [*written.values()] == [whole for whole, _ in lines]


@pytest.mark.parametrize("way", WAYS)
def test_a_text_ends_where_nothing_is_left(way: str | None, book: Path) -> None:
    model = model_of(way, book)
    (text,) = model.samples(1, length=50, seed=1, novel=1)  # all characters occur
    assert (str(text), text.ended) == ("", True)
    session = model.session(seed=1)
    session.read("a bad")
    assert "".join(session.write(50, novel=1)) == ""
    free = model.session(seed=1)
    free.read("a bad")
    free._random.random()  # which drew the end
    assert "".join(session.write(20)) == "".join(free.write(20))


@pytest.mark.parametrize("way", WAYS)
def test_a_stretch_is_within_a_document(way: str | None, tmp_path: Path) -> None:
    run = make_run(tmp_path, NAMES + "".join(f"{a}\n" for a in " cfg." * 2), {"documents": "lines", "validation": 2})
    model = model_of(way, run)
    documents = training_documents(run, model)
    for seed in range(5):
        text = model.sample(length=60, seed=seed, until_end=False, novel=2)
        assert not any(copies(documents, each, 2) for each in text.split("\n"))
    assert "\n" in text


def test_an_index_is_kept_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, TEXT, {})
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path / "cache"))
    assert load(run).find_index(build=False) is None
    seen: list[tuple[int, int | None]] = []
    index = load(run).find_index(progress=lambda done, total: seen.append((done, total)))
    assert index is not None and seen[-1] == (index.header.size, index.header.size)
    assert index.bytes <= 10 * index.header.size + 1000
    expected = load(run).novelty("a bad cafe")
    (run.parent / "corpus" / "corpus.json").unlink()
    (run.parent / "book.txt").unlink()
    assert load(run).novelty("a bad cafe") == expected  # without the corpus
    order = index.folder / "order-000000000000.places"
    order.write_bytes(order.read_bytes()[:-4])  # damaged, and the text is gone
    with pytest.raises(InputError, match="What is copied can only be found with the training text"):
        load(run).novelty("a bad cafe")
    (run.parent / "book.txt").write_text(TEXT, "utf-8")
    assert load(run).novelty("a bad cafe") == expected
    (index.folder / "index.json").write_text("{}")
    assert load(run).novelty("a bad cafe") == expected
    header = json.loads((index.folder / "index.json").read_text())
    (index.folder / "index.json").write_text(
        json.dumps(header | {"size": 1 << 60, "block": 1})
    )  # of more files than fit
    assert load(run).novelty("a bad cafe") == expected
    order.write_bytes(bytes(order.stat().st_size))  # damaged, but of the right size
    assert load(run).novelty("a bad cafe") == expected
    order.unlink()
    (index.folder / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match=r"where diary\.txt is, which Scriven did not make; move it away"):
        load(run).novelty("a bad cafe")
    assert (index.folder / "diary.txt").read_text() == "mine"


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, TEXT, {})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write the index of the training text"):
        load(run).novelty("a")


def test_what_cannot_be_meant_is_refused(book: Path) -> None:
    model = model_of(None, book)
    with pytest.raises(UsageError, match="novel 5: where both leave nothing"):
        model.sample(length=9, novel=5, rule=Rule.allow("ab"))
    with pytest.raises(UsageError, match="novel"):
        model.sample(length=9, novel=5000)
    with pytest.raises(UsageError, match="belongs to no run"):
        Model(model.predictor, model.settings).sample(length=9, novel=5)
    with pytest.raises(UsageError, match="no index of the training text"):
        GenerationOptions(9, filters={"novel": 5}).begin(model.vocabulary, np.random.default_rng(1))
    with pytest.raises(UsageError, match="stretches"):
        model.novelty("a", stretches=-1)

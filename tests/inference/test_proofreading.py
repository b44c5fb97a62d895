"""Suggestions of better spellings, against scores of all texts that are one edit away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scriven
from conftest import Command
from random_run import make_random_run
from scriven.corpus.decoding import prepare
from scriven.errors import UsageError
from scriven.inference import proofreading
from scriven.inference.context import Context
from scriven.inference.predictor import Predictor
from scriven.inference.proofreading import NEAR, OriginalPlaces, find_edits
from scriven.inference.surprisal import read_rows
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary
from small_model import Text, mixture, predictor_of

LETTERS = Vocabulary.of("\n abcd")
TEXT = "a bad cab, a dab\nbad dad and a éabc dabadab\n" * 2


def changes(model: Predictor, ids: list[int], place: int) -> Iterator[tuple[int, list[int]]]:
    """All edits at a place: how many ids are removed, and the ones instead. Of equal texts, the first place's edit."""
    fixed = {int(each) for each in model.vocabulary.encode("\n\r")} | {model.vocabulary.boundary}
    letters = [each for each in range(model.vocabulary.unknown) if each not in fixed]
    here, before, after = ids[place], [*ids[:place], -1][place - 1], [*ids, -1][place + 1]
    yield from ((0, [new]) for new in letters if new != before)
    if here not in fixed:
        yield from ((1, [new]) for new in letters if new != here)
        if 0 <= after < model.vocabulary.size:
            yield from [(1, [])] if here != before else []
            yield from [(2, [after, here])] if after not in {*fixed, here} else []


def cost(model: Predictor, ids: list[int], context: Context) -> float:
    return float(read_rows(model, np.array(ids, np.int64)[:, None], context)[0].sum())


def gains(model: Predictor, ids: list[int], least: float) -> dict[tuple[int, ...], float]:
    """The gain of each changed text that gains enough, near and ahead, by reading every text alone."""
    found, before = {}, model.start()
    for place, here in enumerate(ids):
        ends = [place + proofreading.NEAR, place + proofreading.AHEAD]
        own = [cost(model, ids[place:end], before) for end in ends]
        for removed, new in changes(model, ids, place):
            other = [cost(model, new + ids[place + removed : end], before) for end in ends]
            if min(own[0] - other[0], own[1] - other[1]) >= least:
                found[(*ids[:place], *new, *ids[place + removed :])] = own[1] - other[1]
        before = model.read(before, np.array([[here]]))
    return found


def apply(ids: list[int], edit: proofreading.Edit) -> tuple[int, ...]:
    return (*ids[: edit.place], *edit.inserted, *ids[edit.place + edit.removed :])


@pytest.mark.parametrize("kind", ["network", "mixture", "documents"])
def test_edits_are_those_of_scoring_all_changed_texts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all edits kept, not only the best nearby; groups of few characters, so that many begin and end."""
    monkeypatch.setattr(proofreading, "STEPS", 5)
    monkeypatch.setattr(proofreading, "LANES", 3)
    monkeypatch.setattr(proofreading, "ROWS", 7)
    monkeypatch.setattr(proofreading, "NEAR", 4)
    monkeypatch.setattr(proofreading, "AHEAD", 9)
    monkeypatch.setattr(proofreading, "_choose_best", list)
    vocabulary = Vocabulary.of("\n abcd", "\n") if kind == "documents" else LETTERS
    model = predictor_of(vocabulary)
    text = vocabulary.encode(TEXT[9:26])
    if kind == "documents":
        text = np.where(text == vocabulary.encode("\n"), vocabulary.unknown - 1, text)
    if kind == "mixture":
        model = mixture(model, Text(vocabulary.clamp(vocabulary.encode(TEXT * 9))))
    ids, least = text.tolist(), 2.0
    expected = gains(model, ids, least)
    found = list(find_edits(model, text, least))
    assert len(expected) > 4
    assert {apply(ids, edit) for edit in found} == expected.keys()
    for edit in found:
        assert edit.gain == pytest.approx(expected[apply(ids, edit)], abs=1e-3)


def test_of_edits_near_one_another_the_best_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = predictor_of(LETTERS), LETTERS.encode(TEXT)
    best = list(find_edits(model, ids, 2.0))
    monkeypatch.setattr(proofreading, "_choose_best", list)
    every = list(find_edits(model, ids, 2.0))
    assert len(best) > 3 and len(every) > len(best)
    assert np.diff([edit.place for edit in best]).min() > NEAR
    assert max(every, key=lambda edit: edit.gain).gain == max(best, key=lambda edit: edit.gain).gain
    assert all(any(abs(edit.place - other.place) <= NEAR for other in best) for edit in every)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, lines = tmp_path_factory.mktemp("runs"), {"documents": "lines"}
    documents = {"reader": {"kind": "documents"}}
    return {
        "text": make_random_run(folder / "text"),
        "lines": make_random_run(folder / "lines", Vocabulary.of(" abcdehlort", "\n"), corpus=lines, **documents),
        "bytes": make_random_run(folder / "bytes", Vocabulary.of_bytes(), corpus={"unit": "byte"}),
        "windows": make_random_run(folder / "windows", reader={"kind": "windows", "length": 6}),
    }


@pytest.mark.parametrize("name", ["text", "lines"])
def test_places_are_those_of_the_file(name: str, runs: dict[str, Path], tmp_path: Path, command: Command) -> None:
    text = "the cat\r\n\nother, ted and the hot\rtoad each, bed\nlate"
    path = tmp_path / "letter.txt"
    path.write_bytes(text.encode())
    found = list(scriven.load(runs[name]).proofread(text, gain=2.0))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert found and len({each.line for each in found}) > 1
    for each in found:
        assert lines[each.line - 1][each.column - 1 :].startswith(each.found) and each.suggestion != each.found
    done = command("proofread", str(runs[name]), str(path), "--gain", "2")
    shown = [f"{path}:{each.line}:{each.column}: {each.found} -> {each.suggestion} ({each.gain:.1f})" for each in found]
    assert done.out.splitlines() == shown and f"{len(found)} suggestion" in done.err
    done = command("proofread", str(runs[name]), str(path), "--gain", "2", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == [{"file": str(path), **vars(each)} for each in found]


@given(
    text=st.text("eE\u0301\u0323e\u0308 \t\u00a0\u00adİΣσ…—’가\u11a8a", max_size=14),
    lowercase=st.booleans(),
    punctuation=st.sampled_from(["keep", "ascii"]),
    normalize=st.sampled_from(["none", "nfc"]),
)
def test_places_of_a_prepared_line_are_found_in_the_original(text: str, **chosen: Any) -> None:
    corpus = CorpusSettings(**chosen)
    sizes = [len(prepare(text[:place], corpus)) for place in range(len(text) + 1)]
    original = OriginalPlaces(f"é…\n{text}\n\u00ad", corpus)
    for place in range(sizes[-1] + 1):
        expected = max(at for at, size in enumerate(sizes) if size <= place)
        assert original.find(2, place) == expected
    assert original.line(2) == f"{text}\n"


def test_columns_and_words_are_those_of_a_file_that_is_prepared(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"normalize": "nfc", "lowercase": True, "punctuation": "ascii"}
    corpus = {**chosen, "documents": "separator", "separator": "END"}
    run = make_random_run(tmp_path / "run", Vocabulary.of("\n abcdehlorté.", "END"), corpus=corpus)
    text = "The\u0301 CAT… HE\u0301 TED\u00a0\u00adAND\nÉACH E\u0301 — BED, THE cat\nEND\nHE\u0301\u00adr the e\u0301t"
    plain = prepare(text, CorpusSettings(**chosen))
    found = list(scriven.load(run).proofread(text, gain=1.0))
    assert len(found) > 3 and any(each.found != each.found.lower() for each in found)
    for each in found:
        assert text.split("\n")[each.line - 1][each.column - 1 :].startswith(each.found)
        assert plain.split("\n")[each.line - 1].count(prepare(each.found, CorpusSettings(**chosen)))


def test_words_around_an_edit() -> None:
    assert [proofreading._words_around("of the sea", *span) for span in ((1, 2), (2, 3), (2, 2), (7, 7), (10, 10))] == [
        (0, 2),
        (0, 6),
        (0, 2),
        (7, 10),
        (7, 10),
    ]


@pytest.mark.parametrize("text", ["", "\n", "t", "\n\n\n"])
def test_texts_without_places(text: str, runs: dict[str, Path]) -> None:
    for name in ("text", "lines"):
        assert all(each.found == text.strip() for each in scriven.load(runs[name]).proofread(text, gain=1.0))


def test_what_cannot_be_proofread(runs: dict[str, Path], tmp_path: Path, command: Command) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("the cat")
    for words, said in (
        (["text"], "needs a text"),
        (["text", str(path), "--gain", "0"], "bits above 0"),
        (["text", str(path), "--gain", "nan"], "bits above 0"),
        (["bytes", str(path)], "model of bytes"),
        (["windows", str(path)], "model of windows"),
    ):
        done = command("proofread", str(runs[words[0]]), *words[1:])
        assert (done.code, done.out) == (2, "") and said in done.err
    with pytest.raises(UsageError, match="gain"):
        scriven.load(runs["text"]).proofread("the", gain=-1)

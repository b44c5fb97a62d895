"""The command novelty, and what of it sample has."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Command
from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.kernels import native_library
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.trained_model import load

TEXT = "the sea was calm\nand the sun was low\nthe old man sat down by the river\n"
WITHOUT_KERNELS = "note: numpy builds the index of the training text, slowly: there is no native code\n"
SLOWLY = WITHOUT_KERNELS if native_library.level() == "off" else ""


def make_run(folder: Path, documents: str = "none") -> Path:
    (folder / "book.txt").write_text(TEXT * 2, "utf-8")
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": {"validation": 0.5, "documents": documents}})
    made = Corpus.open(build([str(folder / "book.txt")], settings.corpus, folder / "corpus"))
    torch.manual_seed(1)
    weights = CharLM(settings.model, made.vocabulary.size).state_dict()
    origin = {"texts": [str(folder / "book.txt")], "corpus": str(folder / "corpus"), "text": made.text_hash}
    opened = create_run(folder / "run", settings, made.vocabulary, origin)
    opened.save(weights, {}, {"step": 1, "characters": 2, "validation": {}}, best=1)
    return opened.path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def test_novelty_names_the_longest_stretch_and_where_it_is(
    run: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear ann,\nI saw that the sun was low, and the sea was grey")
    done = command("novelty", str(run), str(letter))
    assert (done.code, done.err) == (0, SLOWLY)
    first, place, lengths, shares = done.out.splitlines()
    assert first == f"{letter}: 58 characters, the longest stretch that is copied has 16"
    assert place == f"{letter}:2:11: 16 characters, as in {run.parent / 'book.txt'}:2: {' the sun was low'}"
    assert lengths.split()[-3:] == ["30", "40", "50"] and shares.split()[-1] == "100.0"
    done = command("novelty", str(run), str(letter), "--json", "--stretches", "2")
    row = json.loads(done.out)
    found = load(run).novelty(letter.read_text(), stretches=2)
    assert row["longest"] == found.longest == 16 and row["text"] == str(letter)
    assert row["novel"]["10"] == found.share(10) and "75" not in row["novel"]
    assert [each["text"] for each in row["stretches"]] == [" the sun was low", "the sea was "]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"zzz"), "utf-8"))
    assert "the longest stretch that is copied has 0\n" in command("novelty", str(run), "-").out


def test_empty_lines_count_where_lines_are_documents(command: Command, tmp_path: Path) -> None:
    run = make_run(tmp_path, "lines")
    letter = tmp_path / "letter.txt"
    letter.write_text("zz\n\n\nqqthe sea was calm\n\nzz\n")
    done = command("novelty", str(run), str(letter))
    assert done.out.startswith(f"{letter}: 22 characters, the longest stretch that is copied has 16\n")
    assert f"{letter}:4:3: 16 characters, as in document " in done.out


def test_novelty_reads_several_texts(run: Path, command: Command, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("calm " + name)
    done = command("novelty", str(run), str(tmp_path / "a"), str(tmp_path / "b"), "-n", "0")
    assert done.out.count("6 characters") == 2 and "\n\n" in done.out and ":1:1:" not in done.out


def test_sample_says_what_it_copied(run: Path, command: Command) -> None:
    plain = command("sample", str(run), "--length", "40", "--seed", "1")
    done = command("sample", str(run), "--length", "40", "--seed", "1", "--copied")
    assert done.out == plain.out and plain.err == ""
    longest = load(run).novelty(done.out[:40]).longest
    first, second = done.err.removeprefix(SLOWLY).splitlines()
    assert first.startswith(f"the longest copied stretch has {longest} characters, as in {run.parent / 'book.txt'}:")
    assert second.startswith("novel: ") and "% of 40 characters in a row" in second
    done = command("sample", str(run), "--length", "40", "--seed", "1", "--copied", "--json", "--count", "2")
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.out.splitlines()]
    assert [row["copied"]["longest"] for row in rows] == [load(run).novelty(row["text"]).longest for row in rows]
    done = command("sample", str(run), "--length", "40", "--seed", "1", "--copied", "--count", "2")
    assert "the longest copied stretch has" in done.err


def test_sample_copies_nothing(run: Path, command: Command, tmp_path: Path) -> None:
    model, state = load(run), str(tmp_path / "state")
    for flags in (["--greedy"], ["--count", "3"], ["--save-state", state], ["--state", state]):
        done = command("sample", str(run), "--length", "60", "--seed", "1", "--novel", "2", *flags)
        assert done.code == 0 and not done.err.removeprefix(SLOWLY)
        texts = done.out.split("-" * 16 + "\n")
        assert all(model.novelty(each.removesuffix("\n")).longest < 2 for each in texts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["novelty"], "needs a text to read"),
        (["novelty", "book.txt", "--stretches", "-1"], "--stretches -1"),
        (["sample", "--novel", "9", "--allow", "ab"], "--novel 9 may leave nothing that the rule allows"),
        (["sample", "--novel", "-1"], "--novel '-1': give 0 or more"),
        (["sample", "--copied", "--interactive"], "--copied is about a text as a whole"),
        (["sample", "--copied", "--choose"], "--copied"),
        (["sample", "--novel", "9", "--choose"], "--novel"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], said: str, run: Path, command: Command) -> None:
    done = command(words[0], str(run), *words[1:])
    assert (done.code, done.out) == (2, "")
    assert said in done.err and done.err.count("\n") == 1


def test_a_text_that_is_gone_is_one_sentence(command: Command, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "book.txt").rename(tmp_path / "letter.txt")
    (tmp_path / "corpus" / "corpus.json").unlink()
    done = command("novelty", str(run), str(tmp_path / "letter.txt"))
    assert (done.code, done.out) == (3, "")
    assert "What is copied can only be found with the training text" in done.err

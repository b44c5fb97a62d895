"""Runs by their names: `book` is runs/book for every command and function, and what there is instead is listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import scriven
from conftest import Command
from page_server import make_run
from scriven.cli.common import name_runs
from scriven.errors import InputError
from scriven.runs import open_run
from scriven.runs.folder import find_run, locate_run

SMALL = ["--model.width=16", "--reader.batch=4", "--reader.length=16", "--training.workers=1", "--training.threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs in runs/, and a text."""
    folder = tmp_path_factory.mktemp("folder")
    make_run(folder / "runs" / "book")
    make_run(folder / "runs" / "letters")
    (folder / "text.txt").write_text("a bad cab\n" * 40)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "RUN", "--length", "5", "--seed", "1"],
        ["score", "RUN", "text.txt"],
        ["info", "RUN"],
        ["info", "RUN", "--layers", "--json"],
        ["doctor", "RUN"],
        ["evaluate", "RUN", "text.txt", "--protocol", "window-8"],
    ],
    ids=lambda words: words[0],
)
def test_a_run_is_found_by_its_name(words: list[str], command: Command) -> None:
    by_name = command(*["book" if word == "RUN" else word for word in words])
    by_path = command(*["runs/book" if word == "RUN" else word for word in words])
    assert by_name.code == 0, by_name.err
    assert by_name.out.replace("of book", "of runs/book") == by_path.out


def test_training_starts_from_a_run_by_its_name(tmp_path: Path, command: Command) -> None:
    words = ["train", "text.txt", "--steps", "1", "-o", str(tmp_path / "new"), "--from", "book", "--counts", "none"]
    words = [word for word in words if word not in ("--counts", "none")]
    done = command(*words, "--reader.batch=4", "--reader.length=8", "--training.workers=1")
    assert done.code == 0, done.err
    assert open_run(tmp_path / "new").origin["initial"] == str(Path("runs/book").resolve())


def test_python_finds_it_too() -> None:
    assert scriven.load("book").sample(length=9, seed=1) == scriven.load("runs/book").sample(length=9, seed=1)


def test_a_path_is_found_before_a_name(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert (find_run("book"), find_run("./runs/letters")) == (Path("runs/book"), Path("runs/letters"))
    monkeypatch.chdir(folder / "runs")
    assert find_run("book") == Path("book")
    assert locate_run("nothing") is None and locate_run(folder) is None


@pytest.mark.parametrize("words", [["sample", "bok"], ["info", "bok"], ["doctor", "bok"], ["score", "bok", "text.txt"]])
def test_what_there_is_instead_is_listed(words: list[str], command: Command) -> None:
    done = command(*words)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "bok does not exist; did you mean runs/book? there are runs/book, runs/letters" in done.err


def test_without_runs_the_way_to_make_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="book does not exist; a run folder is what scriven train makes"):
        find_run("book")


def test_the_shell_completes_names_of_runs(command: Command) -> None:
    assert name_runs() == ["book", "letters"]
    done = command("__complete", "sample", "")
    assert [line for line in done.out.splitlines() if line][1:] == ["book", "letters"]


def test_json_of_a_run_names_its_folder(command: Command) -> None:
    assert json.loads(command("info", "book", "--json").out)["run"] == "runs/book"

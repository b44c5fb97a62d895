"""scriven verify-resume: what it says, as words and as JSON, and its exit codes."""

import json
from pathlib import Path

import pytest

from scriven.cli import main
from scriven.training.optimizer import Optimizer


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def trained(book: Path, tmp_path: Path) -> str:
    small = ["--model.width=8", "--reader.batch=4", "--reader.length=8", "--training.workers=1", "--training.threads=1"]
    assert not run("train", str(book), "--steps=1", *small, "-o", str(tmp_path / "run"), "--quiet")
    return str(tmp_path / "run")


def test_a_run_that_resumes_exactly(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify-resume", trained, "--steps", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith("Identical, bit for bit: 2 + 2 steps equal 4 steps (lstm 2x8, stream, muon, ")
    assert run("verify-resume", trained, "--steps", "2", "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["equal"] is True
    assert verdict["steps_compared"] == 4


def test_a_run_that_does_not(trained: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizer, "restore", lambda self, tensors: None)
    assert run("verify-resume", trained, "--steps", "3") == 1
    assert "NOT identical" in capsys.readouterr().out
    assert run("verify-resume", trained, "--steps", "3", "--json") == 1
    assert json.loads(capsys.readouterr().out)["differences"]


def test_a_recipe_reads_the_text_given(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify-resume", "char-rnn", str(book), "--steps", "1", "--workers", "1") == 0
    assert "lstm 2x128" in capsys.readouterr().out


def test_what_cannot_be_meant_is_said(trained: str, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify-resume", trained, str(book)) == 2
    assert run("verify-resume", trained, "--steps", "0") == 2
    assert run("verify-resume", str(book.parent / "nothing")) == 3
    said = capsys.readouterr().err
    assert "a run has its own text" in said
    assert "--steps 0: give 1 or more" in said
    assert "does not exist" in said

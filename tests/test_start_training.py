"""The script that trains a start, with a tiny text: what it writes can be listed, trusted and started from."""

import hashlib
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import scriven
from conftest import WORDS
from scriven import starts
from scriven.errors import InputError
from scriven.runs import open_run
from scriven.runs.start_model import StartModel
from scriven.training.resume import request_from_run

FOLDER = Path(__file__).parents[1] / "starts"
sys.path.insert(0, str(FOLDER))
train: Any = importlib.import_module("train")
SETTINGS = """
[reader]
batch = 4
length = 16
[training]
workers = 1
groups = 1
threads = 1
evaluations = 1
[monitor]
sample_length = 0
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder as make.py leaves it, with a tiny text."""
    text = WORDS * 300 + "\u00e9\u00e8" * 99 + WORDS * 100
    (tmp_path / "general.txt").write_text(text, encoding="utf-8", newline="")
    digest = hashlib.sha256(text.encode()).hexdigest()
    listed = tomllib.loads((FOLDER / "sources.toml").read_text("utf-8"))
    report: dict[str, Any] = {source["name"]: {"characters": 1000} for source in listed["source"][1:]}
    report["start general"] = {"characters": len(text), "sha256": digest, "symbols": 30}
    (tmp_path / "sources.json").write_text(json.dumps(report))
    (tmp_path / "more.toml").write_text(SETTINGS)
    return tmp_path


def call(made: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    command = [
        "train.py",
        "general",
        "--out",
        str(made),
        "--width",
        "16",
        "--settings",
        str(made / "more.toml"),
        *words,
    ]
    monkeypatch.setattr(sys, "argv", command)
    train.main()


def test_a_start_is_trained_and_can_be_started_from(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(made, monkeypatch, "--characters", "2000", "--layers", "1")
    assert "made/general: 0.0" in capsys.readouterr().out
    monkeypatch.setenv("SCRIVEN_STARTS", str(made / "made"))
    start = starts.find("general")
    model = StartModel(start)
    assert model.read_weights()
    assert (model.settings.width, model.settings.layers) == (16, 1)
    assert set(map(chr, model.vocabulary.symbols)) == set(WORDS)  # each \u00e9 occurs less than 100 times
    assert start.description.languages.startswith("English, ")
    assert start.description.trained_characters == len((made / "general.txt").read_text("utf-8"))
    card = start.read_card()
    for words in (
        "Isaac Newton, Opticks",
        "golang-1.19-src 1.19.8-2",
        "lstm 1x16; 28 characters",
        "## Notices",
        "Virgil",
    ):
        assert words in card
    assert "Dickens" not in card
    text = made / "text.txt"
    text.write_text(WORDS * 20)
    run = scriven.train(text, steps=1, initial="general", output=made / "run", reports=[])
    trained = open_run(run.path)
    assert trained.origin["initial"] == start.reference
    assert request_from_run(trained).initial == start.reference  # verify-resume trains from it, too


def test_the_same_command_again_makes_the_same_start_without_training(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--characters", "1000")
    call(made, monkeypatch, *words)
    before = {path.name: path.read_bytes() for path in (made / "made" / "general").iterdir()}
    call(made, monkeypatch, *words)
    assert {path.name: path.read_bytes() for path in (made / "made" / "general").iterdir()} == before


def test_another_text_than_the_one_described_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "general.txt").write_text("something else")
    with pytest.raises(SystemExit, match="make the text again"):
        call(made, monkeypatch, "--characters", "1000")


def test_help_needs_nothing_else() -> None:
    done = subprocess.run([sys.executable, FOLDER / "train.py", "--help"], capture_output=True, text=True, check=True)
    assert "--minutes" in done.stdout


def test_a_start_that_was_not_made_is_no_start(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIVEN_STARTS", str(made / "made"))
    with pytest.raises(InputError, match="not in this version"):
        starts.from_reference("start:other@0")

"""A run is introduced: what it learned from, how well, and how its texts begin."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from page_server import app_of, make_run
from scriven.runs import open_run
from scriven.runs.summary import LONGEST_BEGINNING, find_beginnings, summarize
from scriven.server.replies import IntroductionReply

PLAY = "".join(f"Speaker {number}:\nOne of {number} speeches, and its words.\n\nAh.\n\n" for number in range(200))
NAMES = [f"{first}{second}a" for first in "BDFGKLMNPRST" for second in ("er", "on", "immel")]


def beginnings(path: Path) -> list[str]:
    run = open_run(path)
    return find_beginnings(run, summarize(run))


def test_a_run_is_introduced(tmp_path: Path) -> None:
    path = make_run(tmp_path / "play", training_text=PLAY)
    with TestClient(app_of({"play": path}), base_url="http://127.0.0.1") as client:
        told = client.get("/runs/play").json()
        assert client.get("/runs/other").status_code == 404
        (path / "settings.toml").write_text("broken")
        refused = client.get("/runs/play")
    assert refused.status_code == 404 and str(tmp_path) not in refused.text
    IntroductionReply.model_validate(told)
    assert len(told.pop("beginnings")) == 4
    assert told == {
        "name": "play",
        "texts": ["play.txt"],
        "training_characters": 9000,
        "seconds": 90.0,
        "bits_per_char": pytest.approx(1.4 / math.log(2)),
        "network_alone": False,
        "unit": "character",
    }


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_beginnings_are_of_its_own_text(tmp_path: Path, unit: str) -> None:
    found = beginnings(make_run(tmp_path / "play", training_text=PLAY, unit=unit))
    assert len(found) == 4
    for beginning in found:
        assert beginning.startswith("Speaker ")  # not "Ah.", which says little
        assert beginning in PLAY and PLAY[PLAY.index(beginning) + len(beginning)].isspace()  # it ends with a word


def test_of_a_list_they_are_the_first_halves_of_lines(tmp_path: Path) -> None:
    found = beginnings(make_run(tmp_path / "names", training_text="\n".join(NAMES), documents="lines"))
    assert len(found) == 4
    assert set(found) <= {name[: len(name) // 2] for name in NAMES}


@pytest.mark.parametrize(
    "text",
    [
        "Eine Zeile nach der anderen, mit Wörtern.\n" * 300,
        "One long line of sentences. Another one! " * 300,
        "one long line of words " * 500,
        "天地玄黃宇宙洪荒。" * 300,
        "😀" * 5000,
        "x\n" * 5000,
        "\n" * 5000,
    ],
)
@pytest.mark.parametrize("unit", ["character", "byte"])
def test_any_text_has_beginnings_or_none(tmp_path: Path, text: str, unit: str) -> None:
    found = beginnings(make_run(tmp_path / "text", training_text=text, unit=unit))
    assert bool(found) == bool(text.strip())
    assert all(each in text and len(each) <= LONGEST_BEGINNING for each in found)


def test_without_the_text_they_are_of_what_it_wrote(tmp_path: Path) -> None:
    path = make_run(tmp_path / "play", training_text=PLAY)
    shutil.rmtree(tmp_path / "play.corpus")
    assert beginnings(path) == ["It was a dark night."]
    (path / "samples.jsonl").unlink()
    assert beginnings(path) == []

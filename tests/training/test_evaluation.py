"""The words that a model writes: which of them are known, and what a training says of that at its start and end."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command
from scriven.distributed.rendezvous import WorkerJob
from scriven.events import Finished, Started
from scriven.kernels import native_library
from scriven.runs import Run, open_run
from scriven.settings_values import merge_settings, validate
from scriven.training.evaluation import known_share, words_of
from scriven.training.notes import readable_notes, written_notes
from scriven.training.request import Request
from scriven.training.start import train

native = pytest.mark.skipif(native_library.level() == "off", reason="there is no native library")
SMALL: dict[str, Any] = {
    "budget": {"steps": 4},
    "model": {"width": 8, "layers": 1},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "groups": 1, "threads": 1, "precision": "fp32", "evaluations": 1},
    "monitor": {"sample_length": 0},
}
WORDS = ["the", "cat", "rat", "sat", "mat", "and", "spat", "noon"]


def write(path: Path, lines: int = 500, end: str = "\n", between: str = " ") -> Path:
    random = np.random.default_rng(1)
    path.write_text(end.join(between.join(random.choice(WORDS, 5)) for _ in range(lines)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop -- it's 9 o'clock!", ["don't", "stop", "it's", "o'clock"]),
        ("'Tis the dogs' house_cat.", ["tis", "the", "dogs", "house", "cat"]),
        ("Straße, ÉTÉ; привет", ["strasse", "été", "привет"]),
        ("...\n 12", []),
    ],
)
def test_words_are_letters_in_a_row(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_the_last_word_may_be_cut_and_does_not_count() -> None:
    assert known_share("The cat sat on thr", {"the", "cat", "on"}) == 0.75


def test_a_text_without_words_has_no_share() -> None:
    assert math.isnan(known_share("123 cut", {"cut"}))


# --- what a training says


def told(text: Path, over: dict[str, Any] | None = None) -> tuple[list[str], list[str]]:
    """The sentences about words, at the start and at the end of a training."""
    settings, output = validate(merge_settings(SMALL, over or {})), text.with_suffix("")
    events = list(train(Request((str(text),), settings, output, initial="none")))
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    return [note for note in started.notes if "readable" in note], [note for note in finished.notes if "words" in note]


@native
def test_a_training_says_when_a_text_becomes_readable_and_what_was_reached(tmp_path: Path) -> None:
    (before,), (after,) = told(write(tmp_path / "tale.txt"))
    assert before.startswith("Texts of this size usually become readable after about ")
    assert before.endswith(" on this computer: 90 % of the words that are written then stand in your text.")
    share = int(after.split(" %")[0])
    assert after == f"{share} % of the words that the model writes also stand in your text."
    assert share > 60


@native
@pytest.mark.parametrize(
    "over",
    [
        {"corpus": {"documents": "lines"}},
        {"corpus": {"unit": "byte"}},
        {"corpus": {"validation": 0.0}},
        {"model": {"counts": "none"}},
    ],
    ids=["documents", "bytes", "no validation", "no counts"],
)
def test_nothing_is_said_where_words_are_not_looked_up(tmp_path: Path, over: dict[str, Any]) -> None:
    assert told(write(tmp_path / "tale.txt"), over) == ([], [])


@native
def test_nothing_is_said_of_a_text_whose_words_do_not_come_again(tmp_path: Path) -> None:
    path, random = tmp_path / "poems.txt", np.random.default_rng(1)
    symbols = [chr(0x4E00 + number) for number in range(60)]
    path.write_text("。\n".join("".join(random.choice(symbols, 7)) for _ in range(2000)), encoding="utf-8")
    assert told(path) == ([], [])


@native
def test_a_text_that_is_too_short_to_tell_gets_no_sentence(tmp_path: Path) -> None:
    assert told(write(tmp_path / "tale.txt", lines=40)) == ([], [])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    told(write(tmp_path / "my tale.txt"))
    return open_run(tmp_path / "my tale")


def job(seconds: float, minutes: float) -> WorkerJob:
    return WorkerJob(validate({"budget": {"minutes": minutes}}), "corpus", readable_seconds=seconds)


def test_a_budget_that_was_too_short_gets_the_command_that_goes_on(run: Run) -> None:
    (note,) = written_notes(0.714, 0.9, job(350, 2), run, seconds=120)
    assert note == (
        "71 % of the words that the model writes also stand in your text. Texts of this size usually become readable "
        "after about 6 minutes on this computer; to train on until then: "
        f"scriven train --resume -o '{run.path}' --minutes 5.9"
    )


def test_it_gets_the_command_too_if_there_was_no_time_to_look_words_up(run: Run) -> None:
    (note,) = written_notes(math.nan, 0.9, job(350, 2), run, seconds=120)
    assert note.startswith("Texts of this size usually become readable after about 6 minutes on this computer; to ")
    assert written_notes(math.nan, 0.9, job(350, 6), run, seconds=120) == []


def test_a_training_that_took_longer_than_its_budget_gets_no_command_with_less(run: Run) -> None:
    """A resumed run refuses a budget that it has used up."""
    assert written_notes(math.nan, 0.9, job(110, 1), run, seconds=120) == []


@pytest.mark.parametrize(
    ("share", "readable", "seconds", "minutes"),
    [(0.95, 0.9, 350, 2), (0.88, 0.87, 350, 2), (0.5, 0.9, 100, 2), (0.5, 0.9, 0, 2), (0.5, 0.9, 350, 0)],
    ids=["readable", "as readable as its author", "long enough", "unknown", "no time"],
)
def test_other_budgets_get_no_command(share: float, readable: float, seconds: float, minutes: float, run: Run) -> None:
    assert written_notes(share, readable, job(seconds, minutes), run, seconds=120) == [
        f"{100 * share:.0f} % of the words that the model writes also stand in your text."
    ]


def test_nothing_is_said_of_words_that_were_not_counted(run: Run) -> None:
    assert written_notes(math.nan, math.nan, job(350, 2), run, seconds=120) == []
    assert readable_notes(job(350, 2), math.nan) == []
    assert readable_notes(job(0, 2), 0.9) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.2, "10 seconds"), (55, "55 seconds"), (56, "1 minute"), (61, "2 minutes"), (3600, "60 minutes")],
)
def test_times_are_rounded_up(seconds: float, words: str) -> None:
    (note,) = readable_notes(job(seconds, 2), 0.87)
    assert f"after about {words} on this computer: 87 % of" in note


@native
def test_the_terminal_and_programs_are_told_alike(tmp_path: Path, command: Command) -> None:
    text = str(write(tmp_path / "tale.txt"))
    flags = ["--steps", "2", "--model.width", "8", "--training.evaluations", "1"]
    shown = command("train", text, *flags, "-o", str(tmp_path / "one")).err
    assert "note: Texts of this size usually become readable after about " in shown
    assert " % of the words that the model writes also stand in your text.\n" in shown
    events = [
        json.loads(line)
        for line in command("train", text, *flags, "-o", str(tmp_path / "two"), "--json").out.splitlines()
    ]
    assert any("become readable" in note for note in events[0]["notes"])
    assert any("stand in your text" in note for note in events[-1]["notes"])


@native
@pytest.mark.parametrize(("places", "known"), [(64, True), (1, False)])
def test_only_pieces_of_a_long_text_are_looked_through(
    places: int, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of the validation text are those of the second half alone, which the first piece does not have."""
    monkeypatch.setattr("scriven.training.evaluation.LOOKED_THROUGH", 3000)
    monkeypatch.setattr("scriven.training.evaluation.PLACES", places)
    path = tmp_path / "tale.txt"
    path.write_text("the cat sat on a mat\n" * 1500 + "my dog ran at noon\n" * 1500)
    assert all(map(bool, told(path))) == known

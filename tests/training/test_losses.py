"""By which losses a model is chosen, and what is said of how a training went."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_training import cut, evaluations, request, run

from scriven.events import Evaluated, Finished, Started
from scriven.loss import Loss, kept_loss
from scriven.runs import Run, open_run
from scriven.runs.checkpoints import Best
from scriven.settings import Choice
from scriven.settings_values import validate
from scriven.training.notes import advise, describe_learning
from scriven.training.request import Request
from scriven.training.start import train
from scriven.training.state import LossHistory, TrainingState
from scriven.vocabulary import Vocabulary

ELEVEN = "alice\nbob\ncarol\ndave\neve\nfrank\ngrace\nheidi\nivan\njudy\nken\n"


def loss(nats_per_char: float, characters: int = 100) -> Loss:
    return Loss(nats_per_char * characters, characters)


def choose_model(choice: Choice, *values: float) -> list[bool]:
    """Of evaluations with these losses, which had the model to keep when they were made."""
    losses = LossHistory()
    return [losses.note_evaluation(loss(value), choice) for value in values]


def note_losses(steps: list[float], validated: list[float]) -> LossHistory:
    losses = LossHistory()
    for value in steps:
        losses.note_step(loss(value))
    for value in validated:
        losses.note_evaluation(loss(value), "best")
    return losses


# --- choosing


def test_the_best_has_the_lowest_loss() -> None:
    assert choose_model("best", 3, 2, 2.5, 2, 1.9) == [True, True, False, False, True]


def test_the_last_is_the_last() -> None:
    assert choose_model("last", 3, 2, 2.5, 2) == [True] * 4


def test_a_smoothed_loss_is_the_mean_of_three() -> None:
    """Of the losses 1.0 and 2.4 after it, which are the lower for chance, the mean decides."""
    assert choose_model("smoothed", 3, 2.5, 2.4, 1.0, 2.4, 2.4, 2.4) == [True] * 5 + [False] * 2


def test_smoothing_goes_on_where_a_checkpoint_was_made() -> None:
    values = [3.0, 2.5, 2.4, 2.6, 2.2, 2.1, 2.9]
    whole, first = LossHistory(), LossHistory()
    expected = [whole.note_evaluation(loss(value), "smoothed") for value in values]
    found = [first.note_evaluation(loss(value), "smoothed") for value in values[:4]]
    rest = LossHistory.model_validate_json(first.model_dump_json())
    assert found + [rest.note_evaluation(loss(value), "smoothed") for value in values[4:]] == expected
    assert rest == whole


@pytest.mark.parametrize(
    ("characters", "choice", "said"), [(60, "last", "last model"), (400, "smoothed", "of three"), (3000, "best", "")]
)
def test_few_validation_characters_choose_no_model(tmp_path: Path, characters: int, choice: str, said: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * (10 * characters // 19 + 1))
    asked = request(text, tmp_path / "run", {"budget": {"steps": 1}, "monitor": {"sample_length": 0}})
    started = next(train(asked))
    assert isinstance(started, Started)
    assert open_run(tmp_path / "run").settings.monitor.choose == choice
    notes = " ".join(note for note in started.notes if "validation text is short" in note)
    assert said in notes and ("--monitor.choose best" in notes) is bool(said)


def test_of_eleven_names_the_last_model_is_kept(tmp_path: Path) -> None:
    """It was that of step 25 of 250, which three characters chose, and which wrote noise."""
    text = tmp_path / "eleven.txt"
    text.write_text(ELEVEN)
    over: dict[str, Any] = {"budget": {"steps": 30}, "corpus": {"documents": "lines"}, "model": {"width": 8}}
    settings = validate(over | {"training": {"workers": 1, "threads": 1}, "monitor": {"sample_length": 0}})
    *_, finished = train(Request((str(text),), settings, tmp_path / "run"))
    assert isinstance(finished, Finished) and finished.best_step == 30
    assert open_run(tmp_path / "run").index().best == 30


def test_a_resumed_training_chooses_as_one_that_went_on(book: Path, tmp_path: Path) -> None:
    over = {"budget": {"steps": 10}, "monitor": {"every_steps": 1, "sample_length": 0, "choose": "smoothed"}}
    over |= {"training": {"learning_rate": 5.0, "schedule": "constant"}}  # whose losses go up and down
    whole = run(book, tmp_path / "whole", over)
    cut(book, tmp_path / "cut", over, step=6)
    rest = list(train(Request(output=tmp_path / "cut", resume="last")))
    assert evaluations(rest) == evaluations(whole)[-len(evaluations(rest)) :]
    marks = [[(e.step, e.best) for e in events if isinstance(e, Evaluated)] for events in (whole, rest)]
    assert marks[1] == marks[0][-len(marks[1]) :]
    told = [open_run(tmp_path / name).checkpoint("last").manifest["losses"] for name in ("whole", "cut")]
    assert told[0] == told[1]


def test_a_run_of_an_earlier_version_goes_on_from_its_best(book: Path, tmp_path: Path) -> None:
    """Its checkpoints do not tell the losses that it chose by."""
    run(book, tmp_path / "run", {"budget": {"steps": 4}, "monitor": {"choose": "best"}})
    path = open_run(tmp_path / "run").checkpoint("last").path / "manifest.json"
    values = json.loads(path.read_text())
    del values["losses"]
    path.write_text(json.dumps(values))
    more = validate({"budget": {"steps": 5}})
    *_, finished = train(Request(output=tmp_path / "run", resume="last", settings=more))
    assert isinstance(finished, Finished) and finished.best_step in {4, 5}


# --- telling


FALLING = [3.3 - 0.02 * step for step in range(60)]  # to 2.12
CALM = [3.0, 2.5, 2.2, 2.1, 2.2, 2.3, 2.4, 2.5]


@pytest.mark.parametrize(
    ("steps", "evaluated", "epochs", "rate", "said"),
    [
        ([*FALLING, *[0.5] * 60], CALM, 20, 0.04, "The model overfitted: the validation loss rose from 3.03 to 3.61"),
        ([*FALLING, *[0.5] * 60], CALM, 1.3, 0.04, ""),  # nothing was read twice
        (FALLING, [3.0, 2.5, 2.15, 2.2], 20, 0.04, ""),  # the training loss is no lower
        ([*FALLING, *[1.5] * 60], [2.2, 2.0, 2.3, 2.0, 2.3, 2.1, 2.3], 20, 0.04, ""),  # as they go up and down
        ([3.3, *[12.0] * 60], [9.0, 12.0], 1, 100, ".* did not learn: .* 100, is too high; try --training.* 0.04\\.$"),
        ([3.3, *[12.0] * 60], [9.0, 12.0], 1, 0.04, ".* did not learn: .* try --training.learning-rate 0.004\\.$"),
        ([3.3, *[3.32] * 60], [3.3, 3.3], 3, 10, "The model hardly learned: .* 10, is too high"),
        ([3.3, *[3.32] * 60], [3.3, 3.3], 3, 0.04, ""),  # a text without any order
        ([*FALLING, *[3.1] * 60], [2.5, 3.2], 20, 1, "The model lost what it had learned: .* 1, is too high"),
        ([3.3, 3.6, 3.5], [3.4], 0.1, 0.04, ""),  # too early to say
        ([], [], 0, 0.04, ""),
    ],
)  # fmt: skip
def test_what_is_said_is_true(
    steps: list[float], evaluated: list[float], epochs: float, rate: float, said: str
) -> None:
    """It called overfitted what had read a text 1.3 times, and what had a learning rate of 100."""
    settings = validate({"training": {"learning_rate": rate}})
    best = Best(step=50, loss=loss(2.0, characters=200))
    state = TrainingState(step=100, epochs=epochs, losses=note_losses(steps, evaluated), best=best)
    words = describe_learning(settings, state, factor=1.0)
    if said:
        (sentence,) = words
        assert re.match(said, sentence), sentence
    else:
        assert words == []
    if "overfitted" in said:  # which so few characters cannot tell
        state.best = Best(step=50, loss=loss(2.0, characters=199))
        assert describe_learning(settings, state, factor=1.0) == []


@pytest.mark.parametrize(
    ("steps", "evaluated", "epochs", "rate", "words"),
    [
        (FALLING, [2.5, 2.4], 20, 0.04, "--resume -o 'runs/my book' --minutes 3"),
        ([], [], 0, 0.04, "--resume -o 'runs/my book' --minutes 3"),
        ([*FALLING, *[0.5] * 60], CALM, 20, 0.04, "--model.dropout 0.2"),
        ([3.3, *[12.0] * 60], [9.0, 12.0], 1, 100, "--training.learning-rate 0.04"),
    ],
    ids=["all is well", "too early to say", "overfitted", "learning rate"],
)
def test_the_command_for_a_better_model_fits_what_went_wrong(
    steps: list[float], evaluated: list[float], epochs: float, rate: float, words: str
) -> None:
    """It can be pasted: it names the texts and, where the run starts again, all of its settings."""
    settings = validate({"training": {"learning_rate": rate}})
    best = Best(step=50, loss=loss(2.0, characters=2000))
    state = TrainingState(step=100, epochs=epochs, losses=note_losses(steps, evaluated), best=best, seconds=90.0)
    made = Run(Path("runs/my book"), settings, Vocabulary.of("ab"), {"texts": ["/texts/my book.txt"]})
    said = advise(made, settings, state, factor=1.0)
    assert said.startswith("For a better model, ") and said.endswith(words)
    command = shlex.split(said.partition(": ")[2])
    assert command[:2] == ["scriven", "train"]
    if "--resume" not in command:
        assert command[2:5] == ["/texts/my book.txt", "--settings", "runs/my book/settings.toml"]
        assert command[5:7] == ["--from", "none"]
        for texts in ([], ["-"]):  # as that of a text in memory, and of standard input
            unnamed = replace(made, origin={"texts": texts})
            assert "--resume" in advise(unnamed, settings, state, factor=1.0)


def test_a_training_again_begins_as_the_first_one_did() -> None:
    settings = validate({"training": {"learning_rate": 100}})
    state = TrainingState(step=100, epochs=1, losses=note_losses([3.3, *[12.0] * 60], [9.0, 12.0]), seconds=90.0)
    for initial, name in (("start:english@abc", "english"), ("/runs/old", "/runs/old"), ("", "none")):
        made = Run(Path("runs/book"), settings, Vocabulary.of("ab"), {"texts": ["book.txt"], "initial": initial})
        words = shlex.split(advise(made, settings, state, factor=1.0))
        assert words[words.index("--from") + 1] == name


def test_who_overfits_with_much_dropout_is_told_to_bring_text() -> None:
    settings = validate({"model": {"dropout": 0.7}})
    best = Best(step=50, loss=loss(2.0, characters=2000))
    losses = note_losses([*FALLING, *[0.5] * 60], CALM)
    state = TrainingState(step=100, epochs=20, losses=losses, best=best, seconds=90.0)
    made = Run(Path("runs/book"), settings, Vocabulary.of("ab"), {"texts": ["book.txt"]})
    assert "add more text" in (said := advise(made, settings, state, factor=1.0))
    assert "dropout" not in said


def test_the_loss_of_a_kept_model_is_that_of_the_model_as_it_is_used() -> None:
    network, mixture, counts, other = (Loss(nats, 10) for nats in (14.0, 13.0, 15.0, 12.0))
    finals = [("stream", "network", network), ("stream", "mixture", mixture), ("stream", "counts", counts)]
    windows = [("window-256", "network", other), ("window-256", "mixture", other)]
    assert kept_loss([*finals, *windows], mixed=True, otherwise=other) == (mixture, False)
    assert kept_loss(finals[:1], mixed=False, otherwise=other) == (network, False)
    assert kept_loss(finals[:1], mixed=True, otherwise=other) == (network, True)
    assert kept_loss(finals[2:], mixed=True, otherwise=other) == (other, True)
    assert kept_loss([], mixed=False, otherwise=other) == (other, False)
    assert kept_loss([], mixed=True, otherwise=Loss(0.0, 0)) == (Loss(0.0, 0), False)

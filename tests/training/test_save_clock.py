"""Checkpoints by the clock: when, what stays, that a run goes on from them to the same bits, and back to which."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from test_divergence import kinds, spoilt
from test_recovery import run_of
from test_replay import replay, same_end
from test_training import evaluations, fingerprints, request, run, same

from scriven.errors import DivergedError
from scriven.events import Evaluated, Event, RolledBack, Saved, Skipped, Stepped
from scriven.report import consume
from scriven.report.files import FilesReport
from scriven.runs import Saver, open_run
from scriven.runs.journal import read_replay_log
from scriven.training.budget import FIRST_SECONDS, SaveClock
from scriven.training.request import Request
from scriven.training.start import train

STEPS: dict[str, Any] = {"budget": {"steps": 12}, "monitor": {"every_steps": 6, "sample_length": 0}}


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def due_at(patch: pytest.MonkeyPatch, *steps: int) -> None:
    """Has the clock ask for a save at these steps, counted as they are done, instead of by time.

    Also where the disk is slower than the steps: the save before is waited for then.
    """
    asked = [0]

    def _is_due(self: SaveClock) -> bool:
        asked[0] += 1
        return asked[0] in steps

    patch.setattr(SaveClock, "is_due", _is_due)
    patch.setattr(Saver, "busy", False)


def train_and_kill(text: Path, output: Path, over: dict[str, Any], step: int, *, saved: int) -> list[Event]:
    """A training that ends without a word after that step, once the checkpoint of step `saved` is on the disk."""
    events, on_disk = list[Event](), 0
    with contextlib.closing(train(request(text, output, over))) as training:
        for event in consume(training, [FilesReport()]):
            events.append(event)
            on_disk = event.step if isinstance(event, Saved) else on_disk
            if isinstance(event, Stepped) and event.step == step:
                break
    assert open_run(output).checkpoint("last").step == saved, on_disk
    return events


# --- when


def test_a_save_is_due_soon_after_the_start_and_then_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    time = Time()
    clock = SaveClock(2, time)
    assert not clock.is_due()
    time.seconds += FIRST_SECONDS
    assert clock.is_due() and FIRST_SECONDS < 30
    clock.restart(0.05)
    time.seconds += 119
    assert not clock.is_due()
    time.seconds += 1
    assert clock.is_due()


def test_a_save_that_costs_much_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a hundredth of the time is for saving."""
    monkeypatch.undo()
    time = Time()
    clock = SaveClock(2, time)
    clock.restart(9)
    time.seconds += 899
    assert not clock.is_due()
    time.seconds += 1
    assert clock.is_due()


@pytest.mark.parametrize(("minutes", "seconds", "due"), [(0, 1e9, False), (0.1, 5.9, False), (0.1, 6.1, True)])
def test_the_interval_may_be_short_or_none(
    monkeypatch: pytest.MonkeyPatch, minutes: float, seconds: float, due: bool
) -> None:
    monkeypatch.undo()
    time = Time()
    clock = SaveClock(minutes, time)
    time.seconds += seconds
    assert clock.is_due() is due


# --- going on


@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_between_evaluations_costs_no_more_than_the_steps_since_the_clock_saved(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """All before the first evaluation was lost; now it goes on to the same bits, whichever number of workers saved."""
    over = STEPS | {"training": {"groups": 2, "averaging": "nonmonotonic", "patience": 1}}
    whole = run(book, tmp_path / "whole", over)
    due_at(monkeypatch, 3)
    first = train_and_kill(
        book, tmp_path / "cut", over | {"training": over["training"] | {"workers": workers}}, step=5, saved=3
    )
    assert not evaluations(first)
    told = open_run(tmp_path / "cut").checkpoint("best").manifest
    assert (told["step"], told["clock"], told["best"]) == (3, True, None)
    rest = list(consume(train(Request(output=tmp_path / "cut", resume="last")), [FilesReport()]))
    assert fingerprints(first)[:3] + fingerprints(rest) == fingerprints(whole)
    assert evaluations(rest) == evaluations(whole)
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_the_clock_never_saves_where_an_evaluation_does_or_a_step_was_skipped(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due_at(monkeypatch, 4, 6, 9)
    spoilt(monkeypatch, {4}, "loss")
    events = run(book, tmp_path / "run", STEPS)
    assert [(event.step, event.evaluation) for event in events if isinstance(event, Saved)] == [
        (6, True), (9, False), (12, True)
    ]  # fmt: skip
    assert kinds(events, Skipped) == [("Skipped", 4)]


def test_a_replay_takes_no_save_of_the_clock_for_an_evaluation(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is validated, saves are all that tells of evaluations."""
    first, again = tmp_path / "first", tmp_path / "again"
    due_at(monkeypatch, 2, 8)
    over = STEPS | {"corpus": {"validation": 0.0}}
    list(consume(train(request(book, first, over, until=10)), [FilesReport()]))
    assert open_run(first).index().best == 6
    assert read_replay_log(first).evaluated == [6]
    assert "all have the same bits" in replay(first, again)
    assert same_end(first, again)


# --- what stays


@pytest.mark.parametrize(("keep", "steps"), [("best", [4, 7]), ("all", [2, 4, 6, 7]), ("2", [4, 6, 7]), ("1", [4, 7])])
def test_what_the_clock_saved_is_kept_until_the_next_save(tmp_path: Path, keep: str, steps: list[int]) -> None:
    """Checkpoints of evaluations are kept as if there were no clock; the best is that of step 4 from then on."""
    kept = run_of(tmp_path, keep=keep)
    for step, clock in ((1, True), (2, False), (3, True), (4, False), (5, True), (6, False), (7, True)):
        best = min(step, 4)
        told = {"step": step, "validation": {}, "best": {"step": best, "loss": {}}, "clock": clock}
        kept.save({}, {}, told, best=best)
    assert kept.steps() == steps


# --- going back


def test_training_goes_back_to_what_the_clock_saved_and_if_that_is_in_vain_to_the_best(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due_at(monkeypatch, 9)
    spoilt(monkeypatch, {10, 11, 12, 13}, "loss")
    events = run(book, tmp_path / "run", STEPS | {"training": {"max_skipped_steps": 2}})
    assert kinds(events, RolledBack) == [("RolledBack", 9), ("RolledBack", 6)]
    assert kinds(events, Evaluated)[:2] == [("Evaluated", 6), ("Evaluated", 12)]
    assert open_run(tmp_path / "run").checkpoint("last").manifest["rollbacks"] == 2


def test_without_an_evaluation_it_goes_back_to_the_start_in_the_end(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And saves that: who resumes then goes on from the start too, and not from what diverged."""
    due_at(monkeypatch, 3)
    spoilt(monkeypatch, {4, 5, 6, 7}, "loss")
    events = list[Event]()
    with contextlib.closing(
        train(request(book, tmp_path / "run", STEPS | {"training": {"max_skipped_steps": 2}}))
    ) as training:
        for event in training:
            events.append(event)
            if kinds(events, RolledBack) == [("RolledBack", 3), ("RolledBack", 0)] and isinstance(event, Saved):
                break
    assert open_run(tmp_path / "run").steps() == [0]
    more = list(train(Request(output=tmp_path / "run", resume="last")))
    assert [step for step, _ in fingerprints(more)] == list(range(1, 13))
    assert open_run(tmp_path / "run").checkpoint("last").manifest["rollbacks"] == 2


def test_a_training_that_is_given_up_says_what_the_clock_saved(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due_at(monkeypatch, 3)
    spoilt(monkeypatch, {4, 5}, "loss")
    with pytest.raises(DivergedError, match="the checkpoint of step 3 is kept"):
        run(book, tmp_path / "run", STEPS | {"training": {"max_skipped_steps": 2, "max_rollbacks": 0}})

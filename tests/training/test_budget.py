"""Budgets into steps, and wall time into progress."""

import pytest

from scriven.distributed.rendezvous import WorkerJob
from scriven.settings_values import validate
from scriven.training.budget import TimeBudget, budget_fraction, evaluation_count
from scriven.training.state import TrainingState


def make_job(**budget: float) -> WorkerJob:
    return WorkerJob(validate({"budget": budget, "reader": {"batch": 8, "length": 10}}), "corpus", made_at=0.0)


def test_time_becomes_progress_and_leaves_what_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("scriven.distributed.rendezvous.time.monotonic", lambda: now[0])
    plan = make_job(minutes=1)
    now[0] += 10  # making ready
    timetable = TimeBudget(plan, TrainingState(), reserved=5)
    assert timetable.progress_of(1) == 0
    now[0] += 22.5
    assert timetable.progress_of(1) == pytest.approx(0.5)
    now[0] += 100
    assert timetable.progress_of(1) == 1


def test_a_resumed_run_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("scriven.distributed.rendezvous.time.monotonic", lambda: now[0])
    timetable = TimeBudget(make_job(minutes=1), TrainingState(progress=0.4, seconds=24), reserved=6)
    assert timetable.progress_of(1) == pytest.approx(0.4)
    now[0] += 15
    assert timetable.progress_of(1) == pytest.approx(0.7)


def test_a_slow_start_leaves_time_for_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("scriven.distributed.rendezvous.time.monotonic", lambda: now[0])
    plan = make_job(minutes=1)
    now[0] += 59
    timetable = TimeBudget(plan, TrainingState(), reserved=5)
    now[0] += 7.5
    assert timetable.progress_of(1) == pytest.approx(0.5)


def test_plans_are_plain_data() -> None:
    plan = make_job(minutes=1)
    assert WorkerJob.from_json(plan.to_json()).settings == plan.settings


def test_used_share_of_another_budget() -> None:
    done = TrainingState(step=5, seconds=30, characters=400, predictions=100, epochs=0.75)
    assert budget_fraction(make_job(minutes=2), done) == pytest.approx(0.25)
    assert budget_fraction(make_job(steps=10), done) == pytest.approx(0.5)
    assert budget_fraction(make_job(characters=1600), done) == pytest.approx(0.25)
    assert budget_fraction(make_job(epochs=3), done) == pytest.approx(0.25)
    assert budget_fraction(make_job(steps=4), done) == 1


@pytest.mark.parametrize(("minutes", "seconds", "evaluations"), [(1, 0, 10), (1, 0.1, 10), (1, 3, 3), (0.1, 3, 1)])
def test_evaluations_take_a_share_of_the_time(minutes: float, seconds: float, evaluations: int) -> None:
    assert evaluation_count(make_job(minutes=minutes), lambda: seconds) == evaluations


def test_evaluations_are_as_many_as_asked_for_where_time_is_no_budget() -> None:
    assert evaluation_count(make_job(steps=4), lambda: 1e9) == 10

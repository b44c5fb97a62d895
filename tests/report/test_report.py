"""Reports follow a run, and none of them can stop it."""

import dataclasses
import json
import math

import pytest

from fake_run import make_evaluated, make_started, make_stepped, training
from scriven.errors import InputError
from scriven.events import Event
from scriven.loss import Loss
from scriven.report import as_dict, consume, describe_choices


class Diary:
    """Notes the steps of events, and fails at one of them where it is told to."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.steps: list[int] = []
        self.closed = 0
        self._fails_at, self._error = fails_at, error or RuntimeError("out of ink")

    def handle(self, event: Event) -> None:
        if event.step == self._fails_at:
            raise self._error
        self.steps.append(event.step)

    def close(self) -> None:
        self.closed += 1


def test_every_event_passes_through_every_report() -> None:
    events = list(training("runs/book", last=10))
    one, two = Diary(), Diary()
    assert list(consume(events, [one, two])) == events
    assert one.steps == two.steps == [event.step for event in events]
    assert one.closed == two.closed == 1


def test_a_broken_report_is_told_once_and_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    broken, sound = Diary(fails_at=3), Diary()
    assert len(list(consume(map(make_stepped, range(1, 11)), [broken, sound]))) == 10
    assert broken.steps == [1, 2]
    assert sound.steps == list(range(1, 11))
    assert broken.closed == sound.closed == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "Diary" in told.err
    assert "out of ink" in told.err


def test_what_a_user_can_do_about_a_broken_report_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    list(consume([make_stepped(1)], [Diary(1, InputError("pictures need pip install"))]))
    assert capsys.readouterr().err == "note: pictures need pip install\n"


def test_an_error_of_training_passes_through_and_reports_are_closed() -> None:
    def diverging() -> Event:
        raise ValueError("diverged")

    diary = Diary()
    with pytest.raises(ValueError, match="diverged"):
        list(consume((diverging() for _ in range(1)), [diary]))
    assert diary.closed == 1


def test_an_event_as_plain_values_has_the_sum_and_the_means() -> None:
    values = as_dict(make_evaluated(7, 1.5))
    assert values["event"] == "evaluated"
    assert values["loss"] == {"nats": 1500.0, "characters": 1000, "bytes": 0}
    assert values["nats_per_char"] == 1.5
    assert values["bits_per_char"] == pytest.approx(1.5 / math.log(2))
    assert "bits_per_byte" not in values
    in_bytes = dataclasses.replace(make_evaluated(7), loss=Loss(10.0, 5, 8))
    assert as_dict(in_bytes)["bits_per_byte"] == pytest.approx(10 / 8 / math.log(2))


def test_numbers_that_json_does_not_know_are_null() -> None:
    event = dataclasses.replace(make_started(), expected_seconds=math.nan)
    assert json.loads(json.dumps(as_dict(event), allow_nan=False))["expected_seconds"] is None
    nothing = dataclasses.replace(make_evaluated(1), loss=Loss(0.0, 0))
    assert as_dict(nothing)["nats_per_char"] is None
    endless = dataclasses.replace(make_stepped(1), loss=Loss(math.inf, 5))
    assert as_dict(endless)["loss"]["nats"] is None


@pytest.mark.parametrize(
    ("nats", "words"),
    [
        (math.log(4.13), "like guessing among 4.1 characters"),
        (math.log(2745), "like guessing among 2,745 characters"),
        (20.0, "worse than guessing among all characters of Unicode"),
        (math.inf, "worse than guessing among all characters of Unicode"),
        (math.nan, "worse than guessing among all characters of Unicode"),
    ],
)
def test_a_loss_is_said_as_a_choice_among_characters(nats: float, words: str) -> None:
    assert describe_choices(nats) == words

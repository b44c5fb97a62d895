"""`loss.png` shows what `metrics.jsonl` holds."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fake_run import PER_STEP, make_evaluated, make_stepped, training
from scriven.errors import InputError
from scriven.events import Event
from scriven.report.files import FilesReport, LossCurve, PlotReport, draw


@pytest.fixture(autouse=True)
def plain_picture() -> None:
    """Here pictures are drawn; what stands in for them elsewhere is in conftest.py."""


def write(run: Path, events: list[Event]) -> Path:
    report = FilesReport()
    for event in events:
        report.handle(event)
    report.close()
    return run / "metrics.jsonl"


@pytest.fixture
def events(tmp_path: Path) -> list[Event]:
    return list(training(tmp_path))


def test_the_picture_is_a_png_and_nothing_else_is_left(tmp_path: Path, events: list[Event]) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, events)
    path = draw(tmp_path)
    assert path == tmp_path / "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert {each.name for each in tmp_path.iterdir()} == {
        "metrics.jsonl",
        "samples.jsonl",
        "progress.jsonl",
        "loss.png",
    }


def test_it_is_drawn_when_the_run_has_finished(tmp_path: Path, events: list[Event]) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, events)
    report = PlotReport()
    for event in events[:-1]:
        report.handle(event)
    assert not (tmp_path / "loss.png").exists()
    report.handle(events[-1])
    assert (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("count", [2, 3])
def test_a_run_of_a_step_or_two_without_validation_is_drawn(tmp_path: Path, events: list[Event], count: int) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, events[:count])
    assert draw(tmp_path).exists()


def test_without_matplotlib_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'scriven\[plot\]'"):
        draw(tmp_path)


def test_a_run_that_did_nothing_has_no_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="no training steps"):
        draw(tmp_path)


def test_the_course_is_that_of_the_events(tmp_path: Path, events: list[Event]) -> None:
    course = LossCurve.read(write(tmp_path, [*events, make_evaluated(100, 9.0, final=True)]))
    assert course.steps == list(range(1, 101))
    np.testing.assert_allclose(course.raw, [1 + 1 / step for step in course.steps])
    at, loss = course.validation_points()
    np.testing.assert_allclose(at, [step * PER_STEP for step in (20, 40, 60, 80, 100)])
    np.testing.assert_allclose(loss, [1.4 + 1 / step for step in (20, 40, 60, 80, 100)])


def test_the_smooth_line_is_a_sum_over_a_sum(tmp_path: Path) -> None:
    course = LossCurve.read(write(tmp_path, [*training(tmp_path, last=300)]))
    nats, counts = np.array(course.nats), np.array(course.counts)
    slow = [
        nats[max(at - 3, 0) : at + 4].sum() / counts[max(at - 3, 0) : at + 4].sum()  # 2 % of 300, three on each side
        for at in range(300)
    ]
    np.testing.assert_allclose(course.smooth(), slow)


def test_one_step_is_its_own_smooth_line(tmp_path: Path, events: list[Event]) -> None:
    course = LossCurve.read(write(tmp_path, [events[0], make_stepped(1)]))
    np.testing.assert_allclose(course.smooth(), course.raw)

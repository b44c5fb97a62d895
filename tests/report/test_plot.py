"""The losses of a run as a table and as a picture, from what `metrics.jsonl` holds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest

from fake_run import PER_STEP, make_evaluated, make_started, make_stepped, training
from scriven.errors import InputError, UsageError
from scriven.events import Event
from scriven.report.files import FilesReport, PlotReport
from scriven.report.metrics import Metrics, read_metrics
from scriven.report.plot import COLOURS, TRAINING, VALIDATION, Curve, plot_losses

SVG = "{http://www.w3.org/2000/svg}"


def write(run: Path, events: list[Event]) -> Metrics:
    """The losses of a run with these events."""
    run.mkdir(exist_ok=True)
    report = FilesReport()
    for event in events:
        report.handle(event)
    report.close()
    return read_metrics(run)


@pytest.fixture
def events(tmp_path: Path) -> list[Event]:
    return list(training(tmp_path))


def lines(svg: Element, colour: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a colour."""
    found = [each.attrib["points"] for each in svg.iter(f"{SVG}polyline") if each.attrib["stroke"] == colour]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points.split())] for points in found]


def words(svg: Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


# --- the table


def test_the_table_has_a_row_per_step_and_the_validation_losses_in_theirs(tmp_path: Path, events: list[Event]) -> None:
    metrics = write(tmp_path, [*events, make_evaluated(100, 9.0, final=True)])
    assert {len(column) for column in metrics.values()} == {100} == {metrics.rows}
    assert metrics["step"] == list(range(1, 101))
    assert metrics["characters"] == [PER_STEP * step for step in metrics["step"]]
    np.testing.assert_allclose(metrics["training_bits_per_char"], [(1 + 1 / n) / math.log(2) for n in metrics["step"]])
    validated = {n: bits for n, bits in zip(metrics["step"], metrics["validation_bits_per_char"], strict=True) if bits}
    assert validated == pytest.approx({n: (1.4 + 1 / n) / math.log(2) for n in (20, 40, 60, 80, 100)})


def test_pandas_takes_the_table(tmp_path: Path, events: list[Event]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(write(tmp_path, events))
    assert frame.shape == (100, 10)
    assert frame["validation_bits_per_char"].notna().sum() == 5
    assert frame.dtypes.map(str).to_dict() == {
        "step": "int64",
        "characters": "int64",
        "counted_characters": "int64",
        **dict.fromkeys(["epochs", "seconds", "learning_rate", "gradient_norm"], "float64"),
        **dict.fromkeys(["training_bits_per_char", "validation_bits_per_char"], "float64"),
        "validation_accuracy": "object",  # never measured here
    }


def test_a_validation_before_the_first_step_is_in_the_table(tmp_path: Path, events: list[Event]) -> None:
    metrics = write(tmp_path, [events[0], make_evaluated(0), make_stepped(1)])
    assert (metrics["step"], metrics["characters"]) == ([0, 1], [0, PER_STEP])
    assert [bits is None for bits in metrics["training_bits_per_char"]] == [True, False]
    assert [bits is None for bits in metrics["validation_bits_per_char"]] == [False, True]


def test_values_of_other_types_count_as_not_measured(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"event": "started", "step": 0, "name": ["x"], "parameters": "many", "training_characters": None},
        {"event": "stepped", "step": 1, "bits_per_char": "2", "loss": 7, "characters": True},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    metrics = read_metrics(tmp_path)
    assert {column: values for column, values in metrics.items() if values != [None]} == {"step": [1]}
    assert plot_losses([metrics]).summary.endswith("not validated")


def test_a_notebook_shows_the_ends_of_the_table(tmp_path: Path, events: list[Event]) -> None:
    shown = write(tmp_path, events)._repr_html_()
    assert shown.count("<tr>") == 1 + 8 + 1
    assert "92 rows more" in shown


def test_numbers_that_no_training_writes_are_no_numbers(tmp_path: Path) -> None:
    huge = {"event": "stepped", "step": 1, "epochs": 10**400, "characters": -5, "loss": {"characters": 10**400}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(huge) + "\n", "utf-8")
    metrics = read_metrics(tmp_path)
    assert (metrics["step"], metrics["epochs"], metrics["characters"]) == ([1], [None], [None])
    assert "nan" not in plot_losses([metrics]).svg  # it was an OverflowError


# --- the picture


def test_a_name_of_another_kind_of_picture_is_refused(tmp_path: Path, events: list[Event]) -> None:
    with pytest.raises(UsageError, match=r"both.png: the picture is SVG; give a name that ends in .svg"):
        plot_losses([write(tmp_path, events)]).save(tmp_path / "both.png")
    assert not (tmp_path / "both.png").exists()


def test_the_picture_is_svg_and_nothing_else_is_left(tmp_path: Path, events: list[Event]) -> None:
    path = plot_losses([write(tmp_path, events)]).save(tmp_path / "loss.svg")
    svg = fromstring(path.read_text("utf-8"))
    assert svg.tag == f"{SVG}svg"
    assert "prefers-color-scheme:dark" in (svg.findtext(f"{SVG}style") or "")
    assert {each.name for each in tmp_path.iterdir()} == {
        "metrics.jsonl",
        "samples.jsonl",
        "progress.jsonl",
        "loss.svg",
    }


def test_lines_run_where_the_losses_are(tmp_path: Path, events: list[Event]) -> None:
    metrics = write(tmp_path, events)
    svg = fromstring(plot_losses([metrics]).svg)
    raw, smooth = lines(svg, TRAINING)
    (validation,) = lines(svg, VALIDATION)
    assert (len(raw), len(smooth), len(validation)) == (200, 100, 5)
    assert validation == sorted(validation)  # to the right and, as the loss falls, down
    scale = (validation[1][1] - validation[0][1]) / (1 / 20 - 1 / 40)  # pixels per nat
    assert scale > 0
    falls = [(a[1] - validation[0][1]) / scale for a in validation]
    np.testing.assert_allclose(falls, [1 / 20 - 1 / n for n in (20, 40, 60, 80, 100)], atol=0.002)
    shown = words(svg)
    assert {"training", "bits per character", "characters read (the training text has 9,000)"} <= {*shown}
    assert any("best: 2.0342 bits/char" in each for each in shown)


def test_losses_beside_counts_are_called_those_of_the_network_alone(tmp_path: Path, events: list[Event]) -> None:
    started = replace(make_started(tmp_path), counts=True)
    metrics = write(tmp_path, [started, *events[1:]])
    assert metrics.network_alone and repr(metrics).endswith(", of the network alone)")
    plot = plot_losses([metrics])
    assert "best of the network alone: 2.0342 bits/char" in plot.summary
    assert "validation, best of the network alone: 2.0342 bits/char" in words(fromstring(plot.svg))


def test_several_runs_are_drawn_over_each_other(tmp_path: Path, events: list[Event]) -> None:
    runs = [write(tmp_path / name, list(training(tmp_path / name, last=last))) for name, last in (("a", 60), ("b", 90))]
    plot = plot_losses(runs, by="minutes")
    svg = fromstring(plot.svg)
    ends = [max(x for line in lines(svg, colour) for x, _ in line) for colour in COLOURS[:2]]
    assert ends[0] == pytest.approx(52 + (ends[1] - 52) * 60 / 90, abs=0.2)  # a second per step
    assert "minutes of training" in words(svg)
    assert [sum(each.startswith(name) for each in words(svg)) for name in ("a, best", "b, best")] == [1, 1]
    assert plot.summary in repr(plot)
    assert plot._repr_html_() == plot.svg


def test_names_cannot_write_into_the_picture(tmp_path: Path) -> None:
    name = "<script>&\x1b\u202e"
    metrics = write(tmp_path / name, list(training(tmp_path / name)))
    svg = fromstring(plot_losses([metrics]).svg)
    assert "<script>&\\x1b\\u202e" in words(svg)
    assert not list(svg.iter(f"{SVG}script"))


@pytest.mark.parametrize("count", [2, 3])
def test_a_run_of_a_step_or_two_without_validation_is_drawn(tmp_path: Path, events: list[Event], count: int) -> None:
    plot = plot_losses([write(tmp_path, events[:count])])
    assert "nan" not in plot.svg
    assert "not validated" in plot.summary


def test_it_is_drawn_when_the_run_has_finished(tmp_path: Path, events: list[Event]) -> None:
    write(tmp_path, events)
    report = PlotReport()
    for event in events[:-1]:
        report.handle(event)
    assert not (tmp_path / "loss.svg").exists()
    report.handle(events[-1])
    assert (tmp_path / "loss.svg").exists()


def test_a_run_that_did_nothing_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training steps"):
        plot_losses([read_metrics(tmp_path)])


def test_the_smooth_line_is_a_sum_over_a_sum(tmp_path: Path) -> None:
    metrics = write(tmp_path, list(training(tmp_path, last=300)))
    bits, counts = np.array(metrics["training_bits_per_char"]), np.array(metrics["counted_characters"])
    near = [slice(max(at - 3, 0), at + 4) for at in range(300)]  # 2 % of 300, three on each side
    slow = [(bits[each] * counts[each]).sum() / counts[each].sum() for each in near]
    np.testing.assert_allclose(Curve.of(metrics, "steps").smooth, slow)


def test_one_step_is_its_own_smooth_line(tmp_path: Path, events: list[Event]) -> None:
    curve = Curve.of(write(tmp_path, [events[0], make_stepped(1)]), "steps")
    np.testing.assert_allclose(curve.smooth, curve.training)

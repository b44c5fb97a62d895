"""The proof that a resume is exact: it says so where it is, and finds what is not."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from scriven.runs import open_run
from scriven.runtime import available_cores
from scriven.settings_values import merge_settings, validate
from scriven.training import workload
from scriven.training.loop import Trainer
from scriven.training.optimizer import Average, Optimizer
from scriven.training.request import Request
from scriven.training.resume import request_from_run
from scriven.training.start import train
from scriven.training.verify import Trail, compare_trails, verify_resume

SMALL: dict[str, Any] = {
    "model": {"width": 8, "dropout": 0.1},
    "reader": {"batch": 4, "length": 8},
    "training": {"workers": 1, "groups": 2, "threads": 1},
    "monitor": {"sample_length": 20, "save_minutes": 0},  # at evaluations alone, however slow the machine is
}


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings take the cores they are given; that of conftest.py does not stand in."""
    monkeypatch.setattr(workload, "measure_speed", lambda *_: 1e5)


def request(book: Path, over: dict[str, Any] | None = None) -> Request:
    return Request((str(book),), validate(merge_settings(SMALL, over or {})))


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"training": {"optimizer": "adamw", "averaging": "nonmonotonic"}, "model": {"cell": "gru"}},
        {"corpus": {"documents": "lines"}, "model": {"cell": "mingru"}},
        {"reader": {"kind": "windows"}, "training": {"optimizer": "sgd", "accumulate": 2}, "model": {"cell": "rnn"}},
    ],
)
def test_what_resumes_exactly_is_found_to(book: Path, over: dict[str, Any]) -> None:
    verdict, settings = verify_resume(request(book, over), 3)
    assert verdict.equal, verdict.differences
    assert (verdict.steps, settings.budget.steps) == (6, 6)
    assert verdict.evaluations >= 4
    assert verdict.arrays > 10
    assert verdict.cores == (available_cores(), 1 if hasattr(os, "sched_setaffinity") else available_cores())


def test_an_optimizer_that_forgets_is_found(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizer, "restore", lambda self, tensors: None)
    verdict, _ = verify_resume(request(book), 3)
    assert not verdict.equal
    assert verdict.differences[0].startswith("step 5: ")  # the one after the first that it could show in
    assert any(difference.startswith("optimizer.muon.momentum differs by up to ") for difference in verdict.differences)


def test_an_average_that_is_lost_is_found(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Average, "restore", lambda self, tensors, weights: None)
    hot = {"training": {"averaging": "nonmonotonic", "learning_rate": 1.0}}  # so that the loss rises soon
    verdict, _ = verify_resume(request(book, hot), 6)
    assert any("average." in difference for difference in verdict.differences), verdict


@pytest.mark.parametrize("there_is_time", [[True, False], [False, True], [True, True]])
def test_exact_losses_that_only_one_training_had_time_for_are_no_difference(
    book: Path, monkeypatch: pytest.MonkeyPatch, there_is_time: list[bool]
) -> None:
    times = iter(there_is_time)  # asked at the end of the whole training, and of the resumed one
    monkeypatch.setattr(Trainer, "_final_fits", lambda self: next(times))
    verdict, _ = verify_resume(request(book), 2)
    assert verdict.equal, verdict.differences
    assert verdict.evaluations == 4 + (2 if all(there_is_time) else 0)


def test_both_trainings_have_the_precision_that_was_measured_once(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter(["fp32", "bf16"])

    def choose(asked: str, *_: object, **__: object) -> str:
        return next(measured) if asked == "auto" else asked

    monkeypatch.setattr(workload, "choose_precision", choose)
    verdict, settings = verify_resume(request(book), 2)
    assert verdict.equal, verdict.differences
    assert settings.training.precision == "fp32"


def test_exact_losses_that_differ_are_found() -> None:
    one, other = (Trail(final={(1, "stream at the end"): nats}) for nats in (1.5, 1.25))
    assert compare_trails(one, other).differences == ["evaluation (1, 'stream at the end'): 1.5 nats became 1.25"]
    assert compare_trails(one, Trail()).equal


def test_a_run_is_tried_as_it_was_trained(book: Path, tmp_path: Path) -> None:
    settings = validate(merge_settings(SMALL, {"budget": {"minutes": 0.01}, "corpus": {"lowercase": True}}))
    list(train(Request((str(book),), settings, tmp_path / "run")))
    before = sorted(tmp_path.rglob("*"))
    verdict, tried = verify_resume(request_from_run(open_run(tmp_path / "run")), 2)
    assert verdict.equal
    assert tried.model == open_run(tmp_path / "run").settings.model
    assert tried.corpus.lowercase
    assert sorted(tmp_path.rglob("*")) == before
    assert request_from_run(open_run(tmp_path / "run"), 3).settings.training.groups == 3


def test_trails_part_where_they_do() -> None:
    one = Trail({1: ("a",), 2: ("b",)}, {(2, "stream"): 1.5}, {"x": torch.ones(2), "y": torch.zeros(1)})
    assert compare_trails(one, one).equal
    other = Trail({1: ("a",)}, {(2, "stream"): 1.25}, {"x": torch.tensor([1.0, 1.5]), "y": torch.tensor([-0.0])})
    assert compare_trails(one, other).differences == [
        "step 2: ('b',) became None",
        "evaluation (2, 'stream'): 1.5 nats became 1.25",
        "x differs by up to 0.5",
        "y differs by up to 0",
    ]
    assert compare_trails(one, Trail(one.steps, one.evaluations)).differences == [
        "x differs by up to 0",
        "y differs by up to 0",
    ]

"""A loss or gradient that is not finite never reaches the weights: skipped, counted, gone back from, given up."""

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import request, run, weights

from scriven.errors import DivergedError
from scriven.events import Evaluated, Event, Finished, RolledBack, Saved, Skipped, Stepped
from scriven.loss import Loss
from scriven.report import consume
from scriven.report.files import FilesReport
from scriven.runs import open_run
from scriven.training.gradients import GradientStep, StepGradients
from scriven.training.loop import Trainer
from scriven.training.request import Request
from scriven.training.start import train

OVER: dict[str, Any] = {"budget": {"steps": 12}, "monitor": {"every_steps": 4, "sample_length": 0}}


def spoilt(patch: pytest.MonkeyPatch, calls: set[int], what: str) -> None:
    """Makes these steps, counted as they are done, give a loss or gradient that is not finite."""
    teach, done = GradientStep.compute, [0]

    def _teach(self: GradientStep, *arguments: Any) -> StepGradients:
        taught = teach(self, *arguments)
        done[0] += 1
        if done[0] in calls:
            self.states = [tuple(tuple(part + math.nan for part in layer) for layer in each) for each in self.states]
            if what == "loss":
                taught = replace(taught, sums=replace(taught.sums, nats=math.nan))
            taught.gradients[0].view(-1)[3] = math.inf
        return taught

    patch.setattr(GradientStep, "compute", _teach)


def kinds(events: list[Event], *wanted: type) -> list[tuple[str, int]]:
    return [(type(event).__name__, event.step) for event in events if isinstance(event, wanted)]


def all_finite(path: Path) -> bool:
    return all(bool(value.isfinite().all()) for value in weights(path).values())


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_a_step_that_is_not_finite_is_skipped(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, optimizer: str
) -> None:
    spoilt(monkeypatch, {3, 6, 7}, what)
    events = run(book, tmp_path / "run", OVER | {"training": {"optimizer": optimizer, "learning_rate": 0.01}})
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert [(event.step, event.in_a_row, event.in_all) for event in skipped] == [(3, 1, 1), (6, 1, 2), (7, 2, 3)]
    assert [step for _, step in kinds(events, Stepped, Skipped)] == list(range(1, 13))
    assert all(math.isfinite(event.loss.nats) for event in events if isinstance(event, Stepped))
    assert isinstance(events[-1], Finished) and "3 steps were skipped" in " ".join(events[-1].notes)
    assert open_run(tmp_path / "run").checkpoint("last").manifest["skipped_steps"] == 3
    assert all_finite(tmp_path / "run")


def test_who_trains_with_relu_is_told_the_way_out(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, {1, 2}, "loss")
    over = OVER | {"training": {"max_skipped_steps": 2, "max_rollbacks": 0}, "model": {"activation": "tanh,relu"}}
    with pytest.raises(DivergedError, match=r"--model\.activation tanh, or try a --training") as caught:
        run(book, tmp_path / "run", over)
    assert "nan" not in str(caught.value)


def test_a_last_loss_that_is_no_number_is_said_in_words(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [("stream", Loss(math.nan, 10)), ("window-256", Loss(20.0, 10))]
    monkeypatch.setattr("scriven.training.evaluation.Evaluator.final_losses", lambda _: iter(losses))
    events = run(book, tmp_path / "run", OVER)
    assert [event.protocol for event in events if isinstance(event, Evaluated) and event.final] == ["window-256"]
    assert isinstance(events[-1], Finished)
    said = "Measured by stream, the best model's values grow without limit"
    assert any(note.startswith(said) for note in events[-1].notes)


def test_many_in_a_row_lead_back_to_the_last_checkpoint(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose steps are done again with half the learning rate, also by who resumes; the files tell one story."""
    whole = run(book, tmp_path / "whole", OVER)
    spoilt(monkeypatch, {6, 7, 8}, "loss")
    asked = request(book, tmp_path / "run", OVER | {"training": {"max_skipped_steps": 3}})
    events = list(consume(train(asked), [FilesReport()]))
    story = kinds(events, Stepped, Skipped, RolledBack)
    expected = [("Stepped", n) for n in range(1, 6)] + [("Skipped", 6), ("Skipped", 7), ("RolledBack", 4)]
    assert story == expected + [("Stepped", n) for n in range(5, 13)]
    back = next(event for event in events if isinstance(event, RolledBack))
    assert (back.left, back.learning_rate_factor) == (8, 0.5)
    assert "3 steps" in back.reason
    rates = [{e.step: e.learning_rate for e in each if isinstance(e, Stepped)} for each in (whole, events)]
    assert rates[1][4] == rates[0][4]
    assert rates[1][5] == pytest.approx(rates[0][5] / 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "stepped"] == list(range(1, 13))
    assert [line["left"] for line in lines if line["event"] == "rolled_back"] == [8]
    more = list(train(Request((), asked.settings.model_validate({"budget": {"steps": 16}}), tmp_path / "run", "last")))
    again = next(event for event in more if isinstance(event, Stepped))
    assert again.learning_rate < rates[0][8]
    assert open_run(tmp_path / "run").checkpoint("last").manifest["rollbacks"] == 1


def test_who_resumes_from_the_checkpoint_gone_back_to_knows_it(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where training is killed before its next save; the weights there, and the best model, are as they were."""
    whole = {e.step: e for e in run(book, tmp_path / "whole", OVER) if isinstance(e, Stepped)}
    with monkeypatch.context() as patch:
        spoilt(patch, {6, 7, 8}, "loss")
        killed = train(request(book, tmp_path / "run", OVER | {"training": {"max_skipped_steps": 3}}))
        for event in killed:
            if isinstance(event, Saved) and not (tmp_path / "first").exists():
                shutil.copytree(tmp_path / "run", tmp_path / "first")
            if isinstance(event, Stepped) and event.step == 5 and event.learning_rate < whole[5].learning_rate:
                shutil.copytree(tmp_path / "run", tmp_path / "left")
                break
        killed.close()
    before, after = (open_run(tmp_path / name).checkpoint("last").manifest for name in ("first", "left"))
    assert after["best"] == before["best"]
    assert after["files"]["model.safetensors"] == before["files"]["model.safetensors"]
    more = list(train(Request(output=tmp_path / "left", resume=4)))
    rates = {e.step: e.learning_rate for e in more if isinstance(e, Stepped)}
    assert rates == pytest.approx({step: whole[step].learning_rate / 2 for step in range(5, 13)})
    assert open_run(tmp_path / "left").checkpoint("last").manifest["skipped_steps"] == 3


def test_before_the_first_checkpoint_training_begins_again(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(monkeypatch, {2, 3}, "gradient")
    events = run(book, tmp_path / "run", OVER | {"training": {"max_skipped_steps": 2}})
    assert kinds(events, Stepped, Skipped, RolledBack)[:5] == [
        ("Stepped", 1), ("Skipped", 2), ("RolledBack", 0), ("Stepped", 1), ("Stepped", 2)
    ]  # fmt: skip
    assert isinstance(events[-1], Finished) and events[-1].step == 12


def test_it_is_given_up_after_the_last_time(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, set(range(6, 999)), "loss")
    events: list[Event] = []
    with pytest.raises(DivergedError, match=r"rolled back 2 times, skipped 6 steps.*step 4, is kept.*below") as error:
        for event in train(
            request(book, tmp_path / "run", OVER | {"training": {"max_skipped_steps": 2, "max_rollbacks": 2}})
        ):
            events.append(event)
    assert error.value.exit_code == 4
    assert [step for _, step in kinds(events, RolledBack)] == [4, 4]
    assert [step for _, step in kinds(events, Saved)] == [4, 4, 4]
    assert all_finite(tmp_path / "run")


def test_every_worker_decides_alike(book: Path, tmp_path: Path) -> None:
    """A training that really diverges: two workers see, skip, and go back as one does."""
    sgd = {"optimizer": "sgd", "learning_rate": 100.0, "clip": 1e38, "momentum": 0.99, "precision": "fp32"}
    sgd |= {"weight_decay": 50.0, "groups": 2, "max_skipped_steps": 2, "max_rollbacks": 1}
    over = {"budget": {"steps": 200}, "training": sgd, "monitor": {"every_steps": 2, "sample_length": 0}}
    stories = []
    for workers in (1, 2):
        events: list[Event] = []
        with pytest.raises(DivergedError):
            each = over | {"training": sgd | {"workers": workers}}
            for event in train(request(book, tmp_path / str(workers), each)):
                events.append(event)
        stories.append(kinds(events, Stepped, Skipped, RolledBack))
    assert stories[0] == stories[1]
    assert "RolledBack" in {name for name, _ in stories[0]}
    assert all(torch.equal(weights(tmp_path / "1")[name], value) for name, value in weights(tmp_path / "2").items())


def test_going_back_to_before_the_first_evaluation_forgets_what_came_after(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop at step 3 is saved before anything was evaluated; the evaluation at step 4 cannot be saved."""
    save, seen = Trainer._save, [0]

    def _save(self: Trainer, **more: bool) -> None:
        if self.state.step == 4 and not self.state.rollbacks:
            raise DivergedError("weights that are not finite")
        save(self, **more)

    def stopping() -> int:
        return signal.SIGTERM * (seen[0] == 2)

    for event in train(request(book, tmp_path / "run", OVER), stopping):
        seen[0] = event.step if isinstance(event, Stepped) else seen[0]
    assert open_run(tmp_path / "run").checkpoint("last").manifest["best"] is None
    monkeypatch.setattr(Trainer, "_save", _save)
    stop_at = [0]
    for event in train(Request(output=tmp_path / "run", resume="last"), lambda: signal.SIGTERM * (stop_at[0] == 3)):
        if isinstance(event, RolledBack):
            stop_at[0] = event.step
    told = open_run(tmp_path / "run").checkpoint("last").manifest
    assert (told["step"], told["best"]) == (4, None)
    assert told["validation"]["characters"] == told["last_validation"]["characters"] == 0

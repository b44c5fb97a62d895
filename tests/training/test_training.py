"""Training from request to run folder: what it reaches, that resuming is exact, that nothing depends on the workers."""

import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import DivergedError, InputError, UsageError
from scriven.events import Evaluated, Event, Finished, Sampled, Saved, Started, Stepped
from scriven.runs import open_run
from scriven.settings_values import merge_settings, validate
from scriven.training.budget import budget_fraction
from scriven.training.request import Request
from scriven.training.resume import _larger_budget
from scriven.training.start import train
from scriven.training.state import TrainingState

SMALL: dict[str, Any] = {
    "model": {"width": 16, "dropout": 0.1},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "groups": 1, "threads": 1, "evaluations": 2},
    "monitor": {"sample_length": 20, "save_minutes": 0},  # at evaluations alone, however slow the machine is
}


def request(texts: list[Path] | Path, output: Path, over: dict[str, Any] | None = None, **more: Any) -> Request:
    texts = [texts] if isinstance(texts, Path) else texts
    return Request(tuple(map(str, texts)), validate(merge_settings(SMALL, over or {})), output, **more)


def run(*arguments: Any, stop: Any = lambda: 0, **more: Any) -> list[Event]:
    return list(train(request(*arguments, **more), stop))


def cut(text: Path, output: Path, over: dict[str, Any], step: int) -> list[Event]:
    """A training that is asked to stop while it does that step."""
    seen, events = [0], list[Event]()
    for event in train(request(text, output, over), lambda: signal.SIGTERM * (seen[0] == step - 1)):
        events.append(event)
        seen[0] = event.step if isinstance(event, Stepped) else seen[0]
    return events


def fingerprints(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.step, event.fingerprint) for event in events if isinstance(event, Stepped)]


def evaluations(events: list[Event]) -> list[tuple[int, str, float]]:
    return [(event.step, event.protocol, event.loss.nats) for event in events if isinstance(event, Evaluated)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return open_run(path).checkpoint("last").weights()


def same(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


def test_a_model_learns_and_is_kept(book: Path, tmp_path: Path) -> None:
    events = run(book, tmp_path / "run", {"budget": {"steps": 160}})
    kinds = [type(event) for event in events if not isinstance(event, Stepped | Saved)]
    assert kinds == [Started, *[Evaluated, Sampled] * 2, Evaluated, Evaluated, Finished]
    saved = [event.step for event in events if isinstance(event, Saved)]  # while it trains on, so at any later time
    assert saved == [event.step for event in events if isinstance(event, Sampled)]
    started, finished = events[0], events[-1]
    assert isinstance(started, Started) and isinstance(finished, Finished)
    assert (started.training_characters, started.validation_characters) == (4500, 500)
    assert finished.best.nats_per_char < 2.5  # knowing how often each character comes gives 2.94
    final = [event for event in events if isinstance(event, Evaluated) and event.final]
    assert [event.protocol for event in final] == ["stream", "window-256"]
    assert final[0].loss.characters == 500
    assert open_run(tmp_path / "run").checkpoint("best").step == finished.best_step


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru"])
def test_resumed_equals_uninterrupted_to_the_bit(book: Path, tmp_path: Path, optimizer: str, cell: str) -> None:
    chosen = {
        "budget": {"steps": 12},
        "training": {"optimizer": optimizer, "learning_rate": 0.01},
        "model": {"cell": cell},
    }
    whole = run(book, tmp_path / "whole", chosen)
    first = cut(book, tmp_path / "cut", chosen, step=6)  # the step of an evaluation
    assert isinstance(first[-1], Finished) and first[-1].reason == "interrupted"
    assert "stopped at 50 %" in first[-1].notes[0]
    rest = list(train(Request(output=tmp_path / "cut", resume="last")))
    assert fingerprints(first) + fingerprints(rest) == fingerprints(whole)
    assert evaluations(first) + evaluations(rest) == evaluations(whole)
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_resumed_run_says_that_other_kernels_go_on(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes(kernels: str, **more: Any) -> tuple[str, ...]:
        monkeypatch.setattr("scriven.training.resume.level", lambda: kernels)
        started = next(iter(train(Request(output=tmp_path / "run", resume="last", **more))))
        assert isinstance(started, Started)
        return started.notes

    monkeypatch.setattr("scriven.runs.claim.level", lambda: "avx2")
    run(book, tmp_path / "run", {"budget": {"steps": 1}, "training": {"precision": "fp32"}})
    more = validate({"budget": {"steps": 2}})
    assert not any("kernels" in note for note in notes("avx2", settings=more))
    monkeypatch.setattr("scriven.training.notes.has_native_code", lambda *_: True)
    assert not any("kernels" in note for note in notes("amx", settings=more))  # in fp32 they give the same bits
    assert any("kernels were amx so far and are portable now" in note for note in notes("portable", settings=more))
    monkeypatch.setattr("scriven.training.notes.has_native_code", lambda *_: False)
    assert any("portable so far and are off now" in note for note in notes("off", settings=more))
    threads = open_run(tmp_path / "run").settings.training.threads
    other = validate({"budget": {"steps": 2}, "training": {"threads": threads + 1}})
    told = f"The run's threads were {threads} so far and are {threads + 1} now"
    assert any(told in note for note in notes("avx2", settings=other))
    other = validate({"budget": {"steps": 2}, "training": {"threads": threads + 2}})
    monkeypatch.setattr("scriven.training.notes.has_native_code", lambda *_: True)
    assert not any("threads" in note for note in notes("avx2", settings=other))


def test_ends_of_documents_have_their_own_part_of_a_steps_loss(tmp_path: Path) -> None:
    """At first a model expects all symbols about equally, so that an end costs as much as a character."""
    (tmp_path / "words.txt").write_text("to\nbe\nor\nnot\n" * 50, encoding="utf-8")
    over = {"corpus": {"documents": "lines"}, "budget": {"steps": 1}}
    (first,) = [each for each in run(tmp_path / "words.txt", tmp_path / "run", over) if isinstance(each, Stepped)]
    loss = first.loss
    assert loss.characters + loss.ends == SMALL["reader"]["batch"] * SMALL["reader"]["length"]
    assert loss.end_nats / loss.ends == pytest.approx(loss.nats / loss.characters, rel=0.2)


def test_training_leaves_the_process_as_it_was(book: Path, tmp_path: Path) -> None:
    """It once left denormal numbers flushed, which broke another test in the same process every time."""
    threads = torch.get_num_threads()
    run(book, tmp_path / "run", {"budget": {"steps": 1}, "training": {"threads": threads + 1}})
    assert torch.get_num_threads() == threads
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_the_number_of_workers_changes_nothing(book: Path, tmp_path: Path) -> None:
    chosen = {"budget": {"steps": 6}, "training": {"groups": 2}}
    one = run(book, tmp_path / "one", chosen)
    two = run(book, tmp_path / "two", merge_settings(chosen, {"training": {"workers": 2}}))
    assert fingerprints(one) == fingerprints(two)
    assert same(tmp_path / "one", tmp_path / "two")
    losses = [[e.loss for e in events if isinstance(e, Evaluated)] for events in (one, two)]
    for mine, theirs in zip(*losses, strict=True):
        assert mine.characters == theirs.characters
        assert mine.nats == theirs.nats


def test_a_run_made_by_two_workers_is_resumed_by_one(book: Path, tmp_path: Path) -> None:
    chosen = {"budget": {"steps": 8}, "training": {"groups": 2}}
    whole = run(book, tmp_path / "whole", chosen)
    first = cut(book, tmp_path / "cut", merge_settings(chosen, {"training": {"workers": 2}}), step=3)
    fewer = validate({"training": {"workers": 1}})
    rest = list(train(Request(output=tmp_path / "cut", resume="last", settings=fewer)))
    assert fingerprints(first) + fingerprints(rest) == fingerprints(whole)


def test_a_finished_run_is_extended_by_a_larger_budget_only(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "run", {"budget": {"steps": 4}})
    with pytest.raises(UsageError, match=r"--resume -o .*run --steps 8"):
        list(train(Request(output=tmp_path / "run", resume="last")))
    more = list(train(Request(output=tmp_path / "run", resume="last", settings=validate({"budget": {"steps": 6}}))))
    assert [step for step, _ in fingerprints(more)] == [5, 6]
    assert open_run(tmp_path / "run").settings.budget.steps == 6
    with pytest.raises(UsageError, match=r"model\.width"):
        list(train(Request(output=tmp_path / "run", resume="last", settings=validate({"model": {"width": 9}}))))


@pytest.mark.parametrize(
    ("budget", "done", "flag"),
    [
        ({"steps": 10}, {"step": 60}, "--steps 120"),  # 20 was proposed, which is used up too
        ({"steps": 60}, {"step": 60}, "--steps 120"),
        ({"characters": 5}, {"characters": 1_234_567}, "--characters 2469134"),
        ({"epochs": 0.01}, {"epochs": 0.123456}, "--epochs 0.247"),
        ({"epochs": 3}, {"epochs": 2.5}, "--epochs 6"),
        ({"minutes": 0.1}, {"seconds": 12.0, "progress": 1.0}, "--minutes 0.4"),
        ({"minutes": 5}, {"seconds": 297.5, "progress": 1.0}, "--minutes 10"),
        ({"minutes": 500}, {"seconds": 90000.0, "progress": 1.0}, "--minutes 3000"),
    ],
)
def test_the_budget_that_is_proposed_is_one_to_go_on_with(
    budget: dict[str, float], done: dict[str, Any], flag: str
) -> None:
    settings = validate({"budget": budget})
    assert _larger_budget(settings.budget, TrainingState(**done)) == flag
    name, value = flag.removeprefix("--").split()
    larger = validate({"budget": {name: value}})
    assert budget_fraction(WorkerJob(settings, ""), TrainingState(**done)) >= 0.8
    assert budget_fraction(WorkerJob(larger, ""), TrainingState(**done)) <= 0.5


def test_a_run_goes_on_with_its_own_text_only(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "run", {"budget": {"steps": 2}})
    longer = validate({"budget": {"steps": 4}})
    other = tmp_path / "other.txt"
    other.write_text(book.read_text()[::-1])  # the same alphabet
    with pytest.raises(InputError, match="was trained on another text"):
        list(train(Request((str(other),), longer, tmp_path / "run", resume="last")))
    again = list(train(Request((str(book),), longer, tmp_path / "run", resume="last")))
    assert [step for step, _ in fingerprints(again)] == [3, 4]


def test_a_large_validation_text_is_read_in_part_and_it_is_said(tmp_path: Path) -> None:
    text = tmp_path / "large.txt"
    text.write_text("0123456789abcdef" * 100_000)
    settings = validate({"model": {"width": 4}, "budget": {"steps": 1}, "training": {"workers": 1}})
    events = list(train(Request((str(text),), settings, tmp_path / "run")))
    assert isinstance(events[0], Started) and any("validation characters" in note for note in events[0].notes)
    losses = [event for event in events if isinstance(event, Evaluated)]
    assert losses[0].loss.characters < 160_000
    assert all("first" in event.protocol for event in losses if event.final)


def test_a_step_that_is_kept_can_be_resumed_from(book: Path, tmp_path: Path) -> None:
    events = run(book, tmp_path / "run", {"budget": {"steps": 8}})
    step = open_run(tmp_path / "run").steps()[-1]
    longer = validate({"budget": {"steps": step + 1}})
    more = list(train(Request(output=tmp_path / "run", resume=step, settings=longer)))
    assert [s for s, _ in fingerprints(more)] == [step + 1]
    with pytest.raises(InputError, match="no checkpoint 777"):
        list(train(Request(output=tmp_path / "run", resume=777, settings=validate({"budget": {"steps": 99}}))))
    assert isinstance(events[-1], Finished)


def test_training_goes_on_from_another_models_weights(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "old", {"budget": {"steps": 100}})
    other = tmp_path / "other.txt"
    other.write_text(book.read_text().replace("fox", "f\u00f6x"), encoding="utf-8")
    settings = validate({k: v for k, v in SMALL.items() if k != "model"} | {"budget": {"steps": 3}})
    events = list(train(Request((str(other),), settings, tmp_path / "new", initial=tmp_path / "old")))
    started = events[0]
    assert isinstance(started, Started) and any("\u00f6" in note for note in started.notes)
    first = next(event for event in events if isinstance(event, Stepped))
    assert first.loss.nats_per_char < 2.8 < math.log(28)
    assert open_run(tmp_path / "new").settings.model == open_run(tmp_path / "old").settings.model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"width": 8}, r"old has model\.width 16, not 8, .* drop model\.width, or .*--model\.embedding \S+old"),
        ({"cell": "gru", "layers": 1}, r"model\.cell lstm, not gru and model\.layers 2, not 1"),
        ({"input": "onehot"}, r"model\.input embedding, not onehot, .* drop model\.input, or give --from none$"),
        ({"norm": "rms", "dropout": 0.3}, r"has model\.norm none, not rms, and"),
    ],
)
def test_weights_of_another_shape_are_refused_by_the_settings_that_differ(
    book: Path, tmp_path: Path, model: dict[str, Any], said: str
) -> None:
    """They were told as torch tells them, by the sizes of arrays."""
    run(book, tmp_path / "old", {"budget": {"steps": 1}})
    settings = validate({"budget": {"steps": 1}, "model": model})
    with pytest.raises(UsageError, match=said):
        list(train(Request((str(book),), settings, tmp_path / "new", initial=tmp_path / "old")))
    assert not (tmp_path / "new").exists()


def test_bytes_and_every_other_setting_of_the_model_train(book: Path, tmp_path: Path) -> None:
    for number, model in enumerate([{"norm": "rms", "residual": True, "layers": 3}, {"embedding": 5, "cell": "rnn"}]):
        over = {"model": model, "corpus": {"unit": "byte"}, "budget": {"steps": 2}}
        events = run(book, tmp_path / str(number), over)
        assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("text", ["ab", "hello world", "a" * 700])
def test_a_tiny_text_trains_with_settings_fitted_to_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiny.txt"
    path.write_text(text)
    settings = validate({"budget": {"steps": 3}, "model": {"width": 8}})
    events = list(train(Request((str(path),), settings, tmp_path / "run")))
    started = events[0]
    assert isinstance(started, Started) and any("small" in note for note in started.notes)
    assert isinstance(events[-1], Finished)


def test_one_character_is_too_few(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("x")
    with pytest.raises(InputError, match="at least 2 are needed"):
        run(path, tmp_path / "run", {"budget": {"steps": 1}})


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_best(book: Path, tmp_path: Path) -> None:
    sgd = {"optimizer": "sgd", "learning_rate": 100.0, "clip": 1e38, "momentum": 0.99, "precision": "fp32"}
    over = {"budget": {"steps": 200}, "training": sgd | {"weight_decay": 50.0, "evaluations": 200}}
    with pytest.raises(DivergedError, match="learning-rate"):
        run(book, tmp_path / "run", over)
    for checkpoint in map(open_run(tmp_path / "run").checkpoint, open_run(tmp_path / "run").steps()):
        assert all(bool(value.isfinite().all()) for value in checkpoint.weights().values())


def test_a_time_budget_ends_the_training_and_is_logged(book: Path, tmp_path: Path) -> None:
    events = run(book, tmp_path / "run", {"budget": {"minutes": 0.05}})
    progress = [event.progress for event in events if isinstance(event, Stepped)]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    manifest = open_run(tmp_path / "run").checkpoint("last").manifest
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["progress"] == 1


def test_no_validation_text_keeps_the_last_model(book: Path, tmp_path: Path) -> None:
    events = run(book, tmp_path / "run", {"budget": {"steps": 4}, "corpus": {"validation": 0.0}})
    assert not any(isinstance(event, Evaluated) for event in events)
    assert open_run(tmp_path / "run").checkpoint("best").step == 4


def test_a_run_is_never_written_over(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "run", {"budget": {"steps": 1}})
    with pytest.raises(UsageError, match="already has a run"):
        run(book, tmp_path / "run", {"budget": {"steps": 1}})
    with pytest.raises(UsageError, match="how long to train"):
        run(book, tmp_path / "other")


def test_notes_say_what_a_newcomer_would_wonder_at(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = tmp_path / "short.txt"
    short.write_text(book.read_text()[:500])
    (tmp_path / "runs/short").mkdir(parents=True)
    asked = Request((str(short),), validate(merge_settings(SMALL, {"budget": {"steps": 2}})))
    notes = " ".join(next(event.notes for event in train(asked) if isinstance(event, Started)))
    assert "runs/short exists already, so this run is runs/short-2" in notes
    assert "The validation text is short (50 characters)" in notes and "the last model is kept" in notes


@pytest.mark.parametrize(
    ("minutes", "says"),
    [(60.5, "of the 3630.0 seconds; "), (0.3, "were left for all, so there are only a few steps; ")],
)
def test_a_start_that_takes_most_of_the_time_is_noted(book: Path, tmp_path: Path, minutes: float, says: str) -> None:
    late = time.monotonic() - 3600
    events = train(request(book, tmp_path / "run", {"budget": {"minutes": minutes}}, begun=late))
    started = next(events)
    events.close()
    assert isinstance(started, Started)
    (note,) = (note for note in started.notes if note.startswith("Reading the text and the first weights took 36"))
    assert says in note

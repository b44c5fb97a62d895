"""Trackers get curves, samples and settings, without names of files; none of them can stop or delay a training."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conftest import Command
from fake_run import PER_STEP, make_evaluated, make_started, make_stepped, training
from random_run import make_random_run
from scriven.errors import UsageError
from scriven.events import Event, RolledBack, Sampled
from scriven.loss import Loss
from scriven.report import consume, trackers
from scriven.report.trackers import Curves, TrackedRun, TrackerReport, make_tracker

SMALL = ["--model.width=8", "--model.layers=1", "--reader.batch=2", "--reader.length=8", "--training.workers=1"]


class Notes:
    """Notes the calls, and does something else in one of them."""

    def __init__(self, odd: str = "", does: Callable[[], object] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._odd, self._does = odd, does

    def _note(self, name: str, *values: Any) -> None:
        self.calls.append((name, *values))
        if name == self._odd:
            self._does()

    def begin(self, run: TrackedRun) -> None:
        self._note("begin", run)

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        self._note("values", step, dict(values))

    def log_text(self, step: int, name: str, text: str) -> None:
        self._note("text", step, name, text)

    def rewind(self, step: int) -> None:
        self._note("rewind", step)

    def end(self, *, completed: bool) -> None:
        self._note("end", completed)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_random_run(tmp_path / "book", corpus={"alphabet": "/home/ann/letters.json"})


def follow(events: Iterator[Event], *reports: TrackerReport) -> list[Event]:
    return list(consume(events, reports))


def test_a_tracker_gets_settings_curves_samples_and_the_end(run: Path) -> None:
    notes = Notes()
    events = follow(training(run, last=40), TrackerReport(notes))
    assert len(events) == 40 + 2 * 3 + 2
    (begun,) = (each[1] for each in notes.calls if each[0] == "begin")
    assert (begun.name, begun.step, begun.folder) == ("book", 0, run)
    assert begun.settings["model.width"] == 8
    assert begun.settings["model.parameters"] == 500_000
    assert "home" not in json.dumps(dict(begun.settings)) and "ann" not in json.dumps(dict(begun.settings))
    assert notes.calls[0][0] == "begin" and notes.calls[-1] == ("end", True)
    evaluated = {step: values for kind, step, values, *_ in calls(notes, "values") if "validation" in str(values)}
    assert evaluated[20]["validation/bits_per_char"] == pytest.approx((1.4 + 1 / 20) / 0.6931471805599453)
    texts = calls(notes, "text")
    assert texts == [("text", step, "samples/temperature_0.8", "It was a dark night.\n") for step in (20, 40)]


def test_samples_of_one_step_have_names_of_their_own(run: Path) -> None:
    notes = Notes()
    samples = [Sampled(step, prompt, "", heat, 1) for step in (1, 2) for prompt in "ab" for heat in (0.5, 1.0)]
    follow(iter([make_started(run), *samples]), TrackerReport(notes))
    names = [each[1:] for each in calls(notes, "text")]
    assert len(names) == len({each[:2] for each in names}) == 8
    assert names[2] == (1, "samples/temperature_0.5_prompt_2", "b")


def calls(notes: Notes, kind: str) -> list[tuple[Any, ...]]:
    return [each for each in notes.calls if each[0] == kind]


def test_points_are_means_over_all_steps_of_a_second() -> None:
    """Each step is in one point; their losses add up to that of all steps."""
    steps = [make_stepped(step, seconds=0.3 * step) for step in range(1, 50)]
    curves = Curves()
    events: list[Event] = [*steps[:30], make_evaluated(30), *steps[30:], make_evaluated(49)]
    found = [point for event in events for point in curves.points(event)]
    training_points = [point for point in found if "training/bits_per_char" in point[1]]
    assert len(training_points) < 20
    covered, total = 0, Loss(0.0, 0)
    for last, values in training_points:
        those = steps[covered:last]
        wanted = sum((each.loss for each in those), Loss(0.0, 0)).bits_per_char
        assert values["training/bits_per_char"] == pytest.approx(wanted)
        total += sum((each.loss for each in those), Loss(0.0, 0))
        covered = last
    assert covered == 49 and total.characters == 49 * PER_STEP
    speeds = [values.get("training/characters_per_second") for _, values in training_points]
    assert [each for each in speeds if each] == pytest.approx([PER_STEP / 0.3] * len([each for each in speeds if each]))


def test_final_losses_are_named_by_their_protocol() -> None:
    ((step, values),) = Curves().points(make_evaluated(7, 1.5, final=True))
    assert step == 7 and values == pytest.approx({"final/stream/bits_per_char": 1.5 / 0.6931471805599453})


def test_a_rollback_is_passed_on(run: Path) -> None:
    notes = Notes()
    back = RolledBack(step=20, left=31, learning_rate_factor=0.5, reason="it diverged")
    follow(iter([make_started(run), make_stepped(31), back, make_stepped(21)]), TrackerReport(notes))
    kinds = [each[:2] for each in notes.calls[1:]]
    assert kinds == [("values", 31), ("rewind", 20), ("end", False)] or ("values", 21) in kinds


def fail() -> None:
    raise ValueError("no such project")


def leave() -> None:
    sys.exit(3)


@pytest.mark.parametrize("odd", ["begin", "values", "text", "end"])
@pytest.mark.parametrize(("does", "word"), [(fail, "ValueError: no such project"), (leave, "SystemExit: 3")])
def test_an_error_is_said_once_and_stops_nothing(
    run: Path, odd: str, does: Callable[[], None], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, sound = Notes(odd, does), Notes()
    report = TrackerReport(notes)

    def slowly() -> Iterator[Event]:
        for event in training(run, last=40):
            yield event
            deadline = time.monotonic() + 5
            while report._tasks.qsize() and not report._error and time.monotonic() < deadline:
                time.sleep(0.001)

    assert len(follow(slowly(), report, TrackerReport(sound))) == 40 + 2 * 3 + 2
    said = capsys.readouterr().err
    assert said == f"note: the tracker Notes is left out from now on, and training is not affected: {word}\n"
    assert len([each for each in notes.calls if each[0] == odd]) == 1
    assert sound.calls[-1] == ("end", True)


def test_a_tracker_that_hangs_delays_a_training_by_a_bounded_time(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "END_SECONDS", 0.05)
    monkeypatch.setattr(trackers, "WAITING_TASKS", 10)
    forever = threading.Event()
    assert len(follow(training(run, last=40), TrackerReport(Notes("begin", forever.wait)))) == 40 + 2 * 3 + 2
    assert len(follow(training(run, last=4), TrackerReport(Notes("begin", forever.wait)))) == 6
    forever.set()
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("it is more than 10 points behind")
    assert second.endswith("it has not written everything after 0 s")


# --- stand-ins that have the signatures of the real libraries; those were tried by hand, see docs/training.md


class Module(ModuleType):
    """A module of a library that is not installed here."""

    def __init__(self, name: str, **values: Any) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        vars(self).update(values)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Installs a stand-in for a library; its functions note what they are called with."""

    def install(name: str, module: Module) -> list[Any]:
        monkeypatch.setitem(sys.modules, name, module)
        find = importlib.util.find_spec
        known = name.partition(".")[0].replace("torch", "tensorboard")
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda each, *rest: ModuleSpec(each, None) if each == known else find(each)
        )
        return []

    return install


def test_tensorboard_gets_event_files_in_the_run(run: Path, library: Callable[..., list[Any]]) -> None:
    calls: list[Any] = []

    class SummaryWriter:
        def __init__(
            self,
            log_dir: str | None = None,
            comment: str = "",
            purge_step: int | None = None,
            max_queue: int = 10,
            flush_secs: int = 120,
            filename_suffix: str = "",
        ) -> None:
            calls.append(("open", log_dir, purge_step))

        def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
            calls.append((tag, scalar_value, global_step))

        def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
            calls.append((tag, text_string, global_step))

        def flush(self) -> None: ...

        def close(self) -> None:
            calls.append("close")

    library("torch.utils.tensorboard", Module("torch.utils.tensorboard", SummaryWriter=SummaryWriter))
    follow(training(run, last=20), TrackerReport("tensorboard"))
    assert calls[0] == ("open", str(run / "tensorboard"), None) and calls[-1] == "close"
    assert calls[1][0] == "settings" and "    model.width = 8\n" in calls[1][1]
    assert ("samples/temperature_0.8", "    It was a dark night.\n    \n", 20) in calls
    assert {each[0] for each in calls} >= {"training/bits_per_char", "validation/bits_per_char"}
    calls.clear()
    back = RolledBack(step=20, left=31, learning_rate_factor=0.5, reason="it diverged")
    follow(iter([make_started(run, step=30), back]), TrackerReport("tensorboard"))
    assert [each[2] for each in calls if each[0] == "open"] == [31, 21]


def test_trackio_prints_nothing_where_results_go(
    run: Path, library: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Run:
        def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
            calls.append((metrics, step))

        def finish(self) -> None:
            print("* Run finished.")

    def init(
        project: str,
        name: str | None = None,
        group: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
        embed: bool = True,
        auto_log_gpu: bool | None = None,
        auto_log_cpu: bool | None = None,
    ) -> Run:
        print("* Trackio project initialized")
        calls.append((project, name, resume, config))
        return Run()

    markdown = lambda text="": ("markdown", text)  # noqa: E731
    library("trackio", Module("trackio", init=init, Markdown=markdown))
    for first in (1, 21):
        follow(training(run, first=first, last=40), TrackerReport("trackio"))
    assert [each[:3] for each in calls if len(each) == 4] == [("scriven", "book", each) for each in ("never", "allow")]
    assert ({"samples/temperature_0.8": ("markdown", "```\nIt was a dark night.\n\n```")}, 20) in calls
    said = capsys.readouterr()
    assert said.out == "" and "Trackio project" in said.err


def test_wandb_keeps_its_number_and_collects_nothing(
    run: Path, library: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    begun: list[dict[str, Any]] = []
    logged: list[Any] = []

    class Run:
        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            logged.append((name, step_metric))

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            assert step is None
            logged.append(data)

        def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
            logged.append(exit_code)

    def init(**values: Any) -> Run:
        begun.append(values)
        return Run()

    library("wandb", Module("wandb", init=init, Settings=lambda **values: values, Html=lambda data: ("html", data)))
    for first in (1, 21, 1):
        follow(training(run, first=first, last=40), TrackerReport("wandb"))
    one, again, other = (each["id"] for each in begun)
    assert one == again != other
    assert begun[0]["dir"] == str(run) and begun[0]["settings"]["x_disable_meta"] is True
    assert ("*", "step") in logged and logged[-1] == 0
    assert {"step": 20, "samples/temperature_0.8": ("html", "<pre>It was a dark night.\n</pre>")} in logged
    monkeypatch.setenv("WANDB_MODE", "online")
    make_tracker("wandb")
    assert os.environ["WANDB_MODE"] == "online"


def test_mlflow_gets_all_settings_though_it_takes_few_at_once(run: Path, library: Callable[..., list[Any]]) -> None:
    runs: dict[str, list[Any]] = {}

    class MlflowException(Exception):
        pass

    class Client:
        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id="1") if runs else None

        def create_experiment(self, name: str) -> str:
            return "1"

        def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
            runs[number := f"r{len(runs)}"] = []
            return SimpleNamespace(info=SimpleNamespace(run_id=number))

        def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
            if run_id not in runs:
                raise MlflowException("no such run")

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
            assert len(params) <= 100 and len(metrics) <= 1000
            runs[run_id] += [*metrics, *params]

        def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
            runs[run_id].append((artifact_file, text))

        def set_terminated(self, run_id: str, status: str | None = None) -> None:
            runs[run_id].append(status)

    entities = SimpleNamespace(Param=lambda key, value: (key, value), Metric=lambda *values: values)
    exceptions = SimpleNamespace(MlflowException=MlflowException)
    library("mlflow", Module("mlflow", MlflowClient=Client, entities=entities, exceptions=exceptions))
    follow(training(run, last=20), TrackerReport("mlflow"))
    follow(training(run, first=21, last=40), TrackerReport("mlflow"))
    assert list(runs) == ["r0"]
    assert ("model.width", "8") in runs["r0"] and runs["r0"].count("FINISHED") == 2
    assert ("samples/temperature_0.8/step-00000020.txt", "It was a dark night.\n") in runs["r0"]
    runs.clear()  # as with the database of another folder
    follow(training(run, first=41, last=60), TrackerReport("mlflow"))
    assert list(runs) == ["r0"] and "FINISHED" in runs["r0"]


# --- the command line


def test_a_missing_package_is_said_before_anything_is_done(
    command: Command, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    done = command("train", "book.txt", "--steps", "3", "--log", "mlflow")
    assert (done.code, done.out) == (2, "")
    assert done.err == "scriven: mlflow is not installed; to log to it, pip install 'scriven[mlflow]'\n"
    assert not Path("runs").exists()
    assert command("train", "book.txt", "--steps", "3", "--log", "paper").code == 2
    with pytest.raises(UsageError, match="there is no tracker 'paper'"):
        make_tracker("paper")


def test_a_training_sends_what_it_writes(
    command: Command, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = {name: Notes() for name in ("wandb", "mlflow")}
    monkeypatch.setattr(trackers, "make_tracker", made.__getitem__)
    done = command("train", "book.txt", "--steps", "4", *SMALL, "--log", "wandb", "--log", "mlflow", "--json")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    for notes in made.values():
        begun = notes.calls[0][1]
        assert begun.settings["run.text"] and str(tmp_path) not in str(dict(begun.settings))
        found = [step for _, step, values in calls(notes, "values") if "training/bits_per_char" in values]
        assert found[-1] == 4
        losses = [values for *_, values in calls(notes, "values") if "validation/bits_per_char" in values]
        wanted = [each["bits_per_char"] for each in events if each["event"] == "evaluated" and not each["final"]]
        assert [each["validation/bits_per_char"] for each in losses] == wanted
        assert notes.calls[-1] == ("end", True)

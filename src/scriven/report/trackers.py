"""Sends the curves, samples and settings of a training to a tracker: TensorBoard, trackio, Weights & Biases or MLflow.

A tracker works in a thread of its own, so a training never waits for it, and none of its errors reaches the training.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import queue
import re
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from scriven.errors import InputError, UsageError
from scriven.events import Compared, Evaluated, Event, Finished, RolledBack, Sampled, Started, Stepped
from scriven.loss import Loss
from scriven.runtime import keep_trackers_offline
from scriven.safe_files import ensure_regular, exists, read_json, read_toml, replace_file

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]
PROJECT = "scriven"  # the project or experiment that runs are part of, where a tracker has such
POINT_SECONDS = 1.0  # of training, at least, between two points of a curve; a point is a mean over the steps since
END_SECONDS = 30.0  # that a tracker gets to write what is left when the training ends
WAITING_TASKS = 10_000  # for a tracker at most; one that is so slow is left out
IDS_FILE = "trackers.json"  # in the run's folder: under which number a tracker knows the run
PLACES = {"corpus.alphabet", "corpus.validation_file"}  # settings that name files of this machine
ORIGIN_SENT = ("text", "scriven", "kernels")  # of the run table: no names of files or folders
MLFLOW_BATCH = 100  # parameters that MLflow takes at once


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of a run: its folder and name, its settings as `section.key`, and where it begins."""

    folder: Path
    name: str
    settings: Mapping[str, Any]  # with facts on the model and the text, and without names of files
    step: int = 0  # steps done before, if the run is resumed

    def known_id(self, tracker: str) -> str:
        """Returns the number under which a tracker knows the run, if it is resumed; else ""."""
        return str(self._ids().get(tracker, "")) if self.step else ""

    def remember_id(self, tracker: str, number: str) -> str:
        """Writes the number under which a tracker knows the run into its folder, and returns it."""
        text = json.dumps(self._ids() | {tracker: number}, indent=1) + "\n"
        replace_file(ensure_regular(self.folder / IDS_FILE), text.encode())
        return number

    def _ids(self) -> dict[str, Any]:
        path = self.folder / IDS_FILE
        known = read_json(path) if exists(path) else {}
        return known if isinstance(known, dict) else {}


class Tracker(Protocol):
    """What keeps curves and texts of many runs. All calls are made in one thread, in this order; any may raise."""

    def begin(self, run: TrackedRun) -> None:
        """Opens a new run, or continues one that is resumed."""

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves, which have names such as `training/bits_per_char`."""

    def log_text(self, step: int, name: str, text: str) -> None:
        """Adds a text, such as a sample."""

    def rewind(self, step: int) -> None:
        """Takes note that training continues from this step, and repeats those after it."""

    def end(self, *, completed: bool) -> None:
        """Writes what is left. `completed` says whether the training came to the end of its budget."""


class TrackerReport:
    """Sends a run to a tracker: by its name, or any object with the methods of `Tracker`.

    It is for one training. It gets the settings when that starts, a point of each curve about once a second, and all
    evaluations and samples. Names of files and folders are left out. Raises UsageError if the package of a tracker is
    not installed.
    """

    def __init__(self, tracker: TrackerName | Tracker) -> None:
        named = isinstance(tracker, str)
        self.name = tracker if isinstance(tracker, str) else type(tracker).__name__
        self._tracker: Tracker = make_tracker(tracker) if isinstance(tracker, str) else tracker
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}" if named else None, daemon=True)
        self._error = ""
        self._curves = Curves()
        self._sampled_step, self._samples = -1, Counter[float]()  # how many samples of a step each temperature has
        self._ended = self._left_out = False

    def handle(self, event: Event) -> None:
        """Gives the tracker what the event says. Raises InputError if it stopped with an error, or is far behind."""
        if self._error or self._tasks.qsize() > WAITING_TASKS:
            raise self._failure(self._error or f"it is more than {WAITING_TASKS:,} points behind")
        if isinstance(event, Started):
            self._put(self._tracker.begin, _describe_run(event))
            self._thread.start()
        for step, values in self._curves.points(event):
            self._put(self._tracker.log_values, step, values)
        if isinstance(event, Sampled):
            self._put(self._tracker.log_text, event.step, self._name_sample(event), event.prompt + event.text)
        elif isinstance(event, RolledBack):
            self._put(self._tracker.rewind, event.step)
        elif isinstance(event, Finished):
            self._end(completed=event.reason == "budget")

    def _name_sample(self, event: Sampled) -> str:
        """Returns the name of a sample; those of one step and temperature, after several prompts, are numbered."""
        if event.step != self._sampled_step:
            self._sampled_step, self._samples = event.step, Counter()
        self._samples[event.temperature] += 1
        number = self._samples[event.temperature]
        return f"samples/temperature_{event.temperature:g}" + (f"_prompt_{number}" if number > 1 else "")

    def close(self) -> None:
        """Waits until the tracker has written everything, for 30 s at most. Raises InputError if it has not."""
        if self._left_out or self._thread.ident is None:
            return
        self._end(completed=False)
        self._thread.join(END_SECONDS)
        if self._error or self._thread.is_alive():
            raise self._failure(self._error or f"it has not written everything after {END_SECONDS:.0f} s")

    def _put(self, task: Callable[..., None], *values: Any) -> None:
        self._tasks.put(partial(task, *values))

    def _end(self, *, completed: bool) -> None:
        if not self._ended:
            self._ended = True
            self._tasks.put(partial(self._tracker.end, completed=completed))
            self._tasks.put(None)

    def _work(self) -> None:
        """Does the tasks in order, in the tracker's thread, until the last one or the first error."""
        try:
            while task := self._tasks.get():
                task()
        except BaseException as error:  # a tracker may even try to end the program
            self._error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    def _failure(self, why: str) -> InputError:
        self._left_out = True
        return InputError(f"the tracker {self.name} is left out from now on, and training is not affected: {why}")


class Curves:
    """Makes points of curves from events: a mean over the steps of a second, and each evaluation."""

    def __init__(self) -> None:
        self._steps: list[Stepped] = []
        self._before: Stepped | None = None  # the last step of the point before

    def points(self, event: Event) -> list[tuple[int, dict[str, float]]]:
        """Returns the points that an event completes: a step, and values by the names of curves."""
        if isinstance(event, Stepped):
            self._steps.append(event)
            due = event.seconds - (self._before or self._steps[0]).seconds >= POINT_SECONDS
            return self._take_point() if due else []
        found = self._take_point()
        self._before = None  # the next step comes late because of this event
        if isinstance(event, Evaluated | Compared) and event.loss.characters:
            found.append((event.step, _finite(_of_evaluation(event))))
        return found

    def _take_point(self) -> list[tuple[int, dict[str, float]]]:
        """Returns the point of the steps since the last one; none without steps."""
        if not self._steps:
            return []
        last, first = self._steps[-1], self._before or self._steps[0]
        loss = sum((each.loss for each in self._steps), Loss(0.0, 0))
        seconds = last.seconds - first.seconds
        values = {
            "training/bits_per_char": loss.bits_per_char if loss.characters else math.nan,
            "training/learning_rate": last.learning_rate,
            "training/gradient_norm": last.gradient_norm,
            "training/epochs": last.epochs,
            "training/flops_per_second": last.flops_per_second or math.nan,
            "training/peak_share": last.peak_share,
            "training/characters": float(last.characters),
            "training/characters_per_second": (last.characters - first.characters) / seconds if seconds else math.nan,
        }
        self._steps, self._before = [], last
        return [(last.step, _finite(values))]


def _of_evaluation(event: Evaluated | Compared) -> dict[str, float]:
    """Returns the values of an evaluation; names of the last ones have the protocol."""
    where = f"final/{_plain(event.protocol)}" if event.final else "validation"
    if isinstance(event, Compared):
        return {f"{where}/{event.model}_bits_per_char": event.loss.bits_per_char}
    values = {f"{where}/bits_per_char": event.loss.bits_per_char}
    return values | ({f"{where}/accuracy": event.loss.accuracy} if event.loss.judged else {})


def _plain(name: str) -> str:
    """Returns a name of letters that every tracker takes."""
    return re.sub(r"[^\w.-]+", "_", name)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _describe_run(event: Started) -> TrackedRun:
    folder = Path(event.run)
    tables = read_toml(folder / "settings.toml")
    origin = tables.pop("run", {})
    settings = {f"{section}.{key}": value for section, values in tables.items() for key, value in values.items()}
    facts = {"model.name": event.name, "model.parameters": event.parameters}
    facts |= {"text.training_characters": event.training_characters}
    facts |= {"text.validation_characters": event.validation_characters}
    facts |= {f"run.{name}": origin[name] for name in ORIGIN_SENT if name in origin}
    shown = {name: value for name, value in (settings | facts).items() if name not in PLACES}
    return TrackedRun(folder, folder.resolve().name, shown, event.step)


# --- the trackers


def make_tracker(name: str) -> Tracker:
    """Returns the tracker of a name. Raises UsageError for another name, or if its package is not installed."""
    if name not in get_args(TrackerName):
        raise UsageError(f"there is no tracker {name!r}; there are {', '.join(get_args(TrackerName))}")
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"{name} is not installed; to log to it, pip install 'scriven[{name}]'")
    keep_trackers_offline()
    return _TRACKERS[name]()


@dataclass
class TensorBoardTracker:
    """Writes event files into the folder `tensorboard` of the run, by the writer of torch."""

    _folder: Path = Path()
    _writer: Any = None

    def begin(self, run: TrackedRun) -> None:
        """Opens a new event file. What TensorBoard has of later steps, it will drop."""
        self._folder = run.folder / "tensorboard"
        self._open(run.step)
        lines = "".join(f"    {name} = {json.dumps(value)}\n" for name, value in run.settings.items())
        self._writer.add_text("settings", lines, run.step)

    def _open(self, step: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(self._folder), purge_step=step + 1 if step else None)

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points to the event file."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Adds a text. It is indented, so that TensorBoard shows it as it is and not as Markdown."""
        self._writer.add_text(name, "".join(f"    {line}\n" for line in text.split("\n")), step)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """Opens another event file, with which TensorBoard drops the steps that are repeated."""
        self._writer.close()
        self._open(step)

    def end(self, *, completed: bool) -> None:
        """Writes the rest."""
        self._writer.close()


@dataclass
class TrackioTracker:
    """Writes into trackio's own database, in its project `scriven`."""

    _module: Any = None
    _run: Any = None

    def begin(self, run: TrackedRun) -> None:
        """Opens the run, or the last one of this name if it is resumed."""
        self._module = importlib.import_module("trackio")
        with contextlib.redirect_stdout(sys.stderr):  # it prints where the database is
            self._run = self._module.init(
                project=PROJECT,
                name=run.name,
                config=dict(run.settings),
                resume="allow" if run.step else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points."""
        self._run.log(dict(values), step=step)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Adds a text as Markdown."""
        self._run.log({name: self._module.Markdown(_fenced(text))}, step=step)

    def rewind(self, step: int) -> None:
        """Does nothing: points of a step that is repeated are added to those before."""

    def end(self, *, completed: bool) -> None:
        """Writes the rest."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


@dataclass
class WandbTracker:
    """Writes into the folder `wandb` of the run, from where `wandb sync` sends it, if you want that."""

    _module: Any = None
    _run: Any = None

    def begin(self, run: TrackedRun) -> None:
        """Opens the run. Nothing is collected of the machine, the program and its arguments, or a git repository."""
        self._module = importlib.import_module("wandb")
        settings = self._module.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            host="",
            program="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = self._module.init(
            project=PROJECT,
            name=run.name,
            id=run.known_id("wandb") or run.remember_id("wandb", secrets.token_hex(4)),
            dir=str(run.folder),
            config=dict(run.settings),
            resume="allow",
            save_code=False,
            settings=settings,
        )
        self._run.define_metric("step")  # its own count of steps could not go back
        self._run.define_metric("*", step_metric="step")

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points."""
        self._run.log({"step": step, **values})

    def log_text(self, step: int, name: str, text: str) -> None:
        """Adds a text as HTML."""
        import html  # noqa: PLC0415 - for this tracker alone

        self._run.log({"step": step, name: self._module.Html(f"<pre>{html.escape(text)}</pre>")})

    def rewind(self, step: int) -> None:
        """Does nothing: each point has its step, so that curves go back by themselves."""

    def end(self, *, completed: bool) -> None:
        """Writes the rest."""
        self._run.finish(exit_code=0 if completed else 1)


@dataclass
class MlflowTracker:
    """Writes where MLFLOW_TRACKING_URI says, or else where MLflow does by itself: `mlflow.db` in the current folder."""

    _module: Any = None
    _client: Any = None
    _id: str = ""

    def begin(self, run: TrackedRun) -> None:
        """Opens the run in the experiment `scriven`, or continues one that is resumed."""
        self._module = importlib.import_module("mlflow")
        self._client = self._module.MlflowClient()
        self._id = run.known_id("mlflow")
        if self._id:
            with contextlib.suppress(self._module.exceptions.MlflowException):  # its database was another one
                self._client.update_run(self._id, status="RUNNING")
                return  # MLflow does not let parameters change
        self._id = run.remember_id("mlflow", self._create(run))
        entity = self._module.entities.Param
        params = [entity(name, str(value)) for name, value in run.settings.items()]
        for first in range(0, len(params), MLFLOW_BATCH):
            self._client.log_batch(self._id, params=params[first : first + MLFLOW_BATCH])

    def _create(self, run: TrackedRun) -> str:
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        return str(self._client.create_run(experiment, run_name=run.name).info.run_id)

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points."""
        now, entity = int(time.time() * 1000), self._module.entities.Metric
        self._client.log_batch(self._id, metrics=[entity(name, value, now, step) for name, value in values.items()])

    def log_text(self, step: int, name: str, text: str) -> None:
        """Adds a text as a file."""
        self._client.log_text(self._id, text, f"{name}/step-{step:08d}.txt")

    def rewind(self, step: int) -> None:
        """Does nothing: points of a step that is repeated are added to those before."""

    def end(self, *, completed: bool) -> None:
        """Marks the run as finished, or as killed if it was stopped."""
        self._client.set_terminated(self._id, "FINISHED" if completed else "KILLED")


def _fenced(text: str) -> str:
    """Returns a text as a block of Markdown that is shown as it is, also if it has such marks."""
    marks = max((len(each) for each in re.findall("`+", text)), default=0)
    fence = "`" * max(3, marks + 1)
    return f"{fence}\n{text}\n{fence}"


_TRACKERS: dict[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}

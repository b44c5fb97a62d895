"""The functions that programs and notebooks call to train."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from scriven import recipes, starts
from scriven.arguments import check_choice, check_path, check_step, python_words
from scriven.corpus.build import name_texts, settings_for_text
from scriven.errors import Interrupted, UsageError
from scriven.events import Event, Finished, Started
from scriven.loss import Loss
from scriven.report import Report, consume
from scriven.report.files import FilesReport, PlotReport
from scriven.report.metrics import Metrics, read_metrics
from scriven.report.notebook import NotebookReport, in_notebook, run_html
from scriven.report.plot import By, Plot, plot_losses
from scriven.report.terminal import TerminalReport
from scriven.report.words import NETWORK_ALONE
from scriven.runs.folder import find_run
from scriven.settings import Settings
from scriven.settings_values import overlay_settings, validate
from scriven.signals import StopFlag
from scriven.trained_model import Model, load
from scriven.training.request import Request
from scriven.training.start import train as training

Resume = Literal["last", "auto"] | int | str | None
STOPPED_BY_PROGRAM = 1  # instead of a signal's number, if the program itself ends a training


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained: its folder and how it ended."""

    path: Path
    finished: Finished

    def __repr__(self) -> str:
        end, best = self.finished, self.best.describe() if self.best.characters else "not validated"
        best += f" ({NETWORK_ALONE})" * end.network_alone
        return f"TrainedRun({str(self.path)!r}, step {end.best_step:,}: {best}; {end.reason} at step {end.step:,})"

    def _repr_html_(self) -> str:
        """The losses and the last sample, in a notebook."""
        return run_html(repr(self), self.path)

    @property
    def best(self) -> Loss:
        """The loss of the model on validation text, as `load` gives the model: mixed with counts if that is better.

        If there was no time to measure that (`finished.network_alone`), it is the loss of the network alone.
        """
        return self.finished.best

    @property
    def interrupted(self) -> bool:
        """Whether training was stopped before its budget was used up; `resume='last'` continues it."""
        return self.finished.reason == "interrupted"

    @property
    def metrics(self) -> Metrics:
        """The losses of all steps and evaluations as a table: `pandas.DataFrame(run.metrics)` takes it."""
        return read_metrics(self.path)

    def plot(self, by: By = "characters") -> Plot:
        """Draws the losses; `by` is what the x axis counts: characters, epochs, minutes or steps."""
        return plot_runs(self, by=by)

    def load(self) -> Model:
        """Returns the best model, as `scriven.load` does."""
        return load(self.path)


def plot_runs(*runs: TrainedRun | Model | str | Path, by: By = "characters") -> Plot:
    """Draws the losses of one or more runs over each other, as a picture that a notebook shows.

    A run is what `train` returned, a model of it, or its folder. `by` is what the x axis counts: characters, epochs,
    minutes or steps. `save` writes the picture to a file. Raises UsageError without runs, InputError if one is no run
    or has no training steps.
    """
    if not runs:
        raise UsageError("name at least one run to draw")
    check_choice("by", by, get_args(By))
    return plot_losses([_metrics_of(run) for run in runs], by)


def _metrics_of(run: TrainedRun | Model | str | Path) -> Metrics:
    if isinstance(run, TrainedRun | Model):
        return run.metrics
    path = check_path("run", run)
    if not path:
        raise UsageError(f"{run!r} belongs to no run; give a run, or its folder")
    return read_metrics(find_run(path))


def train(
    *texts: str | Path,
    text: str | Iterable[str] | None = None,
    minutes: float = 0,
    epochs: float = 0,
    steps: int = 0,
    characters: int = 0,
    output: str | Path | None = None,
    resume: Resume = None,
    initial: str | Path | None = None,
    replay: str | Path | None = None,
    recipe: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    reports: Sequence[Report] | None = None,
) -> TrainedRun:
    """Trains a model on texts and returns the run, with its best model.

    `texts` are files, folders, globs, `python`, `shakespeare` or a corpus folder. Instead, `text` is a text in memory,
    or an iterable of documents, each a str, whose ends are learned too. Exactly one budget is needed: `minutes` of wall
    time, `epochs`, `steps` or `characters`. `output` is the run's folder, by default runs/NAME.

    `settings` are nested as in settings.toml, for example `{"model": {"width": 256}}`. They win over those of the
    `recipe` (`scriven recipe list` names them), which has a budget too. All other settings are chosen to suit the text,
    the budget and the machine. `resume` continues the run in `output` from its last checkpoint, or from that of a step
    or an epoch. `initial` is what to start from: a run, whose weights are taken; the name of a general model that comes
    with Scriven (`scriven starts` lists them); "auto", one of these if it helps; or "none", random weights. `replay` is
    a run to repeat, and needs nothing else.

    `reports` replace the usual display of progress. A report is an object with `handle(event)` and `close()`. It may
    raise `scriven.Stop` to end the training, which then saves and returns the run. Any other error in a report is
    shown, and training continues without it. Raises UsageError, InputError or DivergedError; on Ctrl-C it saves and
    raises Interrupted.
    """
    events = train_events(
        *texts,
        text=text,
        minutes=minutes,
        epochs=epochs,
        steps=steps,
        characters=characters,
        output=output,
        resume=resume,
        initial=starts.NONE if initial is None and recipe is not None else initial,
        replay=replay,
        recipe=recipe,
        settings=settings,
        reports=[_progress_report()] if reports is None else reports,
    )
    return _end_of(events)


def _progress_report() -> Report:
    """Returns the report that shows progress here."""
    return NotebookReport() if in_notebook() else TerminalReport()


def train_events(
    *texts: str | Path,
    text: str | Iterable[str] | None = None,
    minutes: float = 0,
    epochs: float = 0,
    steps: int = 0,
    characters: int = 0,
    output: str | Path | None = None,
    resume: Resume = None,
    initial: str | Path | None = None,
    replay: str | Path | None = None,
    recipe: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    reports: Sequence[Report] = (),
) -> Iterator[Event]:
    """Trains like `train`, with the same arguments, and yields one event after another.

    The first event is `Started`, the last one `Finished`. If you leave the loop, training saves after its next step and
    stops; it can be resumed. Nothing is shown, except by `reports`. Raises as `train` does; wrong arguments raise at
    once.
    """
    _check(texts, text, settings, reports)
    request = _make_request(
        name_texts(texts, text),
        {"minutes": minutes, "epochs": epochs, "steps": steps, "characters": characters},
        _overlay(recipe, settings, text),
        output=output,
        resume=resume,
        initial=starts.NONE if initial is None and recipe is not None else initial,
        replay=replay,
    )
    return _train(request, reports)


def _overlay(
    recipe: str | None, settings: Settings | Mapping[str, Any] | None, text: str | Iterable[str] | None
) -> dict[str, dict[str, Any]]:
    """Returns the settings of the recipe and the given ones, which win. Documents in memory are rows of a table."""
    if not (recipe is None or isinstance(recipe, str)):
        check_choice("recipe", recipe, recipes.names())
    given = settings.explicit() if isinstance(settings, Settings) else dict(settings or {})
    with python_words():
        base = {} if recipe is None else recipes.values(recipe)
        if stored := settings_for_text(text):
            base = overlay_settings(base, {"corpus": stored})
        return overlay_settings(base, given)


def _make_request(
    texts: tuple[str, ...],
    budget: Mapping[str, float],
    settings: dict[str, dict[str, Any]],
    *,
    output: str | Path | None,
    resume: Resume,
    initial: str | Path | None,
    replay: str | Path | None,
) -> Request:
    """Checks the arguments and returns the request. Raises UsageError."""
    if resume is not None:
        check_step("resume", resume, ["last", "auto"])
    for name, value in budget.items():
        if isinstance(value, bool):
            raise UsageError(f"{name} {value}: give a number")
    chosen = {name: value for name, value in budget.items() if value}
    with python_words():
        return Request(
            texts=texts,
            settings=validate(overlay_settings(settings, {"budget": chosen} if chosen else {})),
            output=check_path("output", output),
            resume=resume,
            initial=initial if isinstance(initial, str) and initial else check_path("initial", initial),
            replay=check_path("replay", replay),
        )


def _check(texts: Sequence[object], text: object, settings: object, reports: object) -> None:
    """Raises UsageError for arguments of other types."""
    for each in texts:
        if isinstance(each, list | tuple):
            raise UsageError("give the texts one by one; for a list of them, write scriven.train(*texts)")
        if each is None or not check_path("a text", each):
            raise UsageError("a text is None; give the name of a file or folder")
    if text is not None and texts:
        raise UsageError("text is a text in memory, but texts are named too; give only one of them")
    if not (text is None or isinstance(text, Iterable)) or isinstance(text, bytes | bytearray | Mapping):
        raise UsageError(f"text is {type(text).__name__}; give a str, or an iterable of documents, each a str")
    if not (settings is None or isinstance(settings, Settings | Mapping)):
        raise UsageError(
            f"settings {settings!r}: give a dictionary, such as {{'model': {{'width': 256}}}}, or "
            "load one from a file with tomllib.load"
        )
    if not (reports is None or (isinstance(reports, Sequence) and not isinstance(reports, str | bytes))):
        raise UsageError(f"reports is {type(reports).__name__}; give a list of reports, empty to show nothing")
    for report in reports or ():
        if not all(callable(getattr(report, name, None)) for name in ("handle", "close")):
            raise UsageError(f"reports contain {report!r}: give objects that have handle(event) and close()")


def _train(request: Request, reports: Sequence[Report]) -> Iterator[Event]:
    """Trains, and yields events after the reports and files have them. Raises Interrupted after a signal."""
    asked = threading.Event()  # set when a report or the caller wants to stop
    stop, run = StopFlag(), ""
    with python_words(), stop.listening():
        trained = training(request, lambda: stop() or STOPPED_BY_PROGRAM * asked.is_set())
        events = follow(trained, reports, asked.set)
        try:
            for event in events:
                run = event.run if isinstance(event, Started) else run
                yield event
        except GeneratorExit:
            if not sys.is_finalizing():  # then no thread of the training runs any more
                asked.set()
                deque(events, 0)
            raise
    if isinstance(event, Finished) and event.reason == "interrupted" and event.signal != STOPPED_BY_PROGRAM:
        words = f"training was stopped and saved; continue with resume='last', output={run!r}"
        raise Interrupted(words, event.signal)


def follow(
    events: Iterable[Event], reports: Sequence[Report], ask_to_stop: Callable[[], None] = lambda: None
) -> Iterator[Event]:
    """Passes the events of a training through its reports, and through those that write its files; see `consume`."""
    return consume(events, [*reports, FilesReport(), PlotReport()], ask_to_stop)


def _end_of(events: Iterable[Event]) -> TrainedRun:
    """Consumes the events of a training and returns the run."""
    run = ""
    for event in events:
        if isinstance(event, Started):
            run = event.run
        if isinstance(event, Finished):
            finished = event
    return TrainedRun(Path(run), finished)

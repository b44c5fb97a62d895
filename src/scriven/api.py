"""The functions that programs and notebooks call to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scriven import recipes
from scriven.arguments import check_choice, check_path, check_step, python_words
from scriven.errors import Interrupted, UsageError
from scriven.events import Event, Finished, Loss, Started
from scriven.report import Report, consume
from scriven.report.files import FilesReport
from scriven.report.plot import PlotReport
from scriven.report.terminal import TerminalReport
from scriven.session import Model, load
from scriven.settings import Settings, overlay_settings, validate
from scriven.signals import StopFlag
from scriven.training.request import Request
from scriven.training.start import train as training


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained: its folder and how it ended."""

    path: Path
    finished: Finished

    def __repr__(self) -> str:
        end, best = self.finished, self.best.describe() if self.best.characters else "not validated"
        return f"TrainedRun({str(self.path)!r}, step {end.best_step:,}: {best}; {end.reason} at step {end.step:,})"

    @property
    def best(self) -> Loss:
        """The best validation loss."""
        return self.finished.best

    @property
    def interrupted(self) -> bool:
        """Whether training was asked to stop before its budget was used up."""
        return self.finished.reason == "interrupted"

    def load(self) -> Model:
        """The best model, as `scriven.load` gives it."""
        return load(self.path)


def train(
    *texts: str | Path,
    minutes: float = 0,
    epochs: float = 0,
    steps: int = 0,
    characters: int = 0,
    output: str | Path | None = None,
    resume: Literal["last", "auto"] | int | str | None = None,
    initial: str | Path | None = None,
    replay: str | Path | None = None,
    recipe: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    reports: Sequence[Report] | None = None,
) -> TrainedRun:
    """Trains a model of the texts and gives the run, whose best model is kept.

    `texts` are files, folders, globs, `python`, `shakespeare` or a corpus folder. Exactly one budget is needed:
    `minutes` of wall time, `epochs`, `steps` or `characters`. `settings` are nested as in settings.toml, for example
    `{"model": {"width": 256}}`; they win over those of the `recipe` (see `scriven.recipes`), which has a budget too;
    what is in neither is fitted. `replay` is a run to do again, which needs nothing else. `reports` replace the
    progress that is shown.
    Raises UsageError, InputError or DivergedError; on Ctrl-C it saves and raises Interrupted.
    """
    _check(texts, settings, reports)
    if not (recipe is None or isinstance(recipe, str)):
        check_choice("recipe", recipe, recipes.names())
    if resume is not None:
        check_step("resume", resume, ["last", "auto"])
    budget = {"minutes": minutes, "epochs": epochs, "steps": steps, "characters": characters}
    for name, value in budget.items():
        if isinstance(value, bool):
            raise UsageError(f"{name} {value}: give a number")
    given = settings.explicit() if isinstance(settings, Settings) else dict(settings or {})
    with python_words():
        given = overlay_settings({} if recipe is None else recipes.values(recipe), given)
    chosen = {name: value for name, value in budget.items() if value}
    stop = StopFlag()
    with python_words(), stop.listening():
        request = Request(
            texts=tuple(map(str, texts)),
            settings=validate(overlay_settings(given, {"budget": chosen} if chosen else {})),
            output=check_path("output", output),
            resume=resume,
            initial=check_path("initial", initial),
            replay=check_path("replay", replay),
        )
        run = follow(training(request, stop), [TerminalReport()] if reports is None else reports)
    if run.interrupted:
        words = f"training was stopped and saved; go on with resume='last', output={str(run.path)!r}"
        raise Interrupted(words, run.finished.signal)
    return run


def _check(texts: Sequence[object], settings: object, reports: object) -> None:
    """Raises UsageError where an argument is of a type that cannot be meant."""
    for text in texts:
        if isinstance(text, list | tuple):
            raise UsageError("texts are given one by one; write scriven.train(*texts) where they are a list")
        if text is None or not check_path("a text", text):
            raise UsageError("a text is None; give the name of a file or folder")
    if not (settings is None or isinstance(settings, Settings | Mapping)):
        raise UsageError(
            f"settings {settings!r}: give a dictionary, such as {{'model': {{'width': 256}}}}, which tomllib.load "
            "makes of a file"
        )
    if not (reports is None or (isinstance(reports, Sequence) and not isinstance(reports, str | bytes))):
        raise UsageError(f"reports is {type(reports).__name__}; give a list of reports, empty to show nothing")
    for report in reports or ():
        if not all(callable(getattr(report, name, None)) for name in ("handle", "close")):
            raise UsageError(f"reports have {report!r} in them: give objects that have handle(event) and close()")


def follow(events: Iterable[Event], reports: Sequence[Report]) -> TrainedRun:
    """Passes a training's events through its reports and those that keep it on disk; gives the run at its end."""
    run = ""
    for event in consume(events, [*reports, FilesReport(), PlotReport()]):
        if isinstance(event, Started):
            run = event.run
        if isinstance(event, Finished):
            finished = event
    return TrainedRun(Path(run), finished)

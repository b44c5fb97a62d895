"""`scriven train`: trains a model on your text."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scriven import recipes, starts
from scriven.cli import BEGUN, end_output
from scriven.cli.common import (
    Device,
    FilePath,
    Json,
    Output,
    Precision,
    Switch,
    Text,
    check_can_serve,
    check_named,
    note,
    parse_resume,
    path_given,
    unescape_separator,
)
from scriven.errors import DivergedError, Interrupted, LostError
from scriven.report.trackers import TrackerName
from scriven.safe_files import read_toml
from scriven.settings import (
    BudgetSettings,
    CorpusSettings,
    ModelSettings,
    MonitorSettings,
    ReaderSettings,
    Settings,
    TrainingSettings,
)
from scriven.settings_values import merge_settings, overlay_settings, validate

if TYPE_CHECKING:
    from scriven.distributed.launch import ProcessInfo
    from scriven.events import Event
    from scriven.report import Report


END_SECONDS = 10.0  # that the server of the page gets to end

Texts = Annotated[
    Text,
    Parameter(
        help="files (also .gz, .xz, .bz2, .zst), folders, globs, - for standard input, a corpus folder, or built in: "
        "python, shakespeare"
    ),
]
Budget = Annotated[BudgetSettings, Parameter(name="*", show_default=False)]
RunOutput = Annotated[Output, Parameter(help="folder of the run; unless given, runs/NAME, named after the first text")]
Resume = Annotated[
    Literal["last", "auto"] | int | str | None,
    Parameter(
        converter=parse_resume,
        help="resume a run from its last checkpoint, or from a step or an epoch (such as epoch:17). Give a larger "
        "budget to train for longer. auto resumes if there is a checkpoint and starts a new run if not, so that one "
        "command does both",
    ),
]
Initial = Annotated[
    str | None,
    Parameter(
        name="--from",
        converter=path_given,
        help="what to start from: a run, whose best weights are taken; the name of a start, a general model (`scriven "
        "starts` lists them); auto, one of these if that helps; or none, random weights",
    ),
]
Replay = Annotated[
    FilePath,
    Parameter(
        help="repeat the steps of this run with identical results, even if its budget was a time. The text and the "
        "settings are taken from that run"
    ),
]
Recipe = Annotated[
    str | None,
    Parameter(
        help="train the way a known system did (`scriven recipe list` names them); --settings and flags override it"
    ),
]
SettingsFile = Annotated[
    FilePath, Parameter(help="TOML file of settings, like the settings.toml of a run; flags override it")
]
Kept = Annotated[
    str | None, Parameter(help="checkpoints to keep: all; best (and the last); or N, the last N (and the best)")
]
Watching = Annotated[
    bool,
    Parameter(
        negative="",
        help="open the page in a browser at the first checkpoint, to watch the training and write with the model. On a "
        "terminal it stays until Ctrl-C",
    ),
]
Trackers = Annotated[
    tuple[TrackerName, ...],
    Parameter(
        name="--log",
        negative="",
        show_default=False,
        help="also send curves, samples and settings to a tracker, on this machine alone unless its own variables say "
        "otherwise; may be given more than once",
    ),
]
Attached = Annotated[bool, Parameter(negative="", show=False, help="save and end when standard input ends")]
GroupOfSettings = Parameter(show_default=False)


def train(
    *texts: Texts,
    budget: Budget = BudgetSettings(),
    output: RunOutput = None,
    resume: Resume = None,
    initial: Initial = None,
    replay: Replay = None,
    recipe: Recipe = None,
    settings: SettingsFile = None,
    device: Device | None = None,
    precision: Precision | None = None,
    keep: Kept = None,
    watch: Watching = False,
    log: Trackers = (),
    verbose: Annotated[Switch, Parameter(help="show everything that was chosen and measured, and how")] = False,
    quiet: Annotated[Switch, Parameter(help="show only errors")] = False,
    as_json: Json = False,
    attached: Attached = False,
    corpus: Annotated[CorpusSettings, GroupOfSettings] = CorpusSettings(),
    reader: Annotated[ReaderSettings, GroupOfSettings] = ReaderSettings(),
    model: Annotated[ModelSettings, GroupOfSettings] = ModelSettings(),
    training: Annotated[TrainingSettings, GroupOfSettings] = TrainingSettings(),
    monitor: Annotated[MonitorSettings, GroupOfSettings] = MonitorSettings(),
) -> None:
    """Train a model on your text. Say how long: give --minutes, --epochs, --steps or --characters.

    A recipe has a length of its own. Ctrl-C finishes the current step, saves, and shows how to resume.
    """
    texts = tuple(check_named(texts))
    flags = Settings(
        budget=budget, corpus=unescape_separator(corpus), reader=reader, model=model, training=training, monitor=monitor
    ).explicit()
    short = {"device": device, "precision": precision}
    flags = merge_settings(flags, {"training": {name: value for name, value in short.items() if value}})
    flags = merge_settings(flags, {"monitor": {"keep": keep}} if keep else {})
    base = overlay_settings({} if recipe is None else _read_recipe(recipe, texts), _read_settings(settings))
    given = validate(overlay_settings(base, {name: values for name, values in flags.items() if values}))

    from scriven.distributed.launch import torchrun_process

    place = torchrun_process()
    if place and place.rank:  # started by torchrun, to work for the first of its processes
        return _work(texts, place)

    from scriven.api import follow
    from scriven.events import Started
    from scriven.report.terminal import JsonReport, TerminalReport
    from scriven.report.trackers import TrackerReport
    from scriven.signals import LAUNCHER_SECONDS, StopFlag, stop_with_input
    from scriven.training.request import Request
    from scriven.training.start import train as training_events

    initial = starts.NONE if initial is None and recipe is not None else initial  # a known system had no start
    request = Request(texts, given, output, resume, initial, BEGUN, replay=replay)
    report = JsonReport() if as_json else TerminalReport(quiet=quiet, verbose=verbose)
    trackers = [TrackerReport(name) for name in dict.fromkeys(log)]
    once_for = LAUNCHER_SECONDS if place or attached else 0.0
    stop, run = StopFlag(None if quiet else _say_stopping, once_for=once_for), ""
    with watching(watch) as pages:
        with stop.listening():
            if attached:
                stop_with_input()
            for event in follow(training_events(request, stop), [report, *trackers, *pages]):
                run = event.run if isinstance(event, Started) else run
        end_output()  # what could not be printed does not concern the model
        _check_finished(event, run)


def _check_finished(event: Event, run: str) -> None:
    """Raises Interrupted if the last event of a run says that a signal stopped it, after a clean save."""
    from scriven.events import Finished

    if isinstance(event, Finished) and event.reason == "interrupted":
        words = f"stopped and saved at step {event.step:,}; resume with: scriven train --resume -o {run}"
        raise Interrupted(words, event.signal)


def _say_stopping() -> None:
    """Confirms a signal on standard error, past its buffer, which the signal may have interrupted."""
    with suppress(OSError):
        os.write(2, b"stopping after this step, and saving; press Ctrl-C again to stop at once\n")


def worker() -> None:
    """Join a training run that another process leads. That process starts this command, not people."""
    _work()


def _work(texts: tuple[str, ...] = (), place: ProcessInfo | None = None) -> None:
    from scriven.signals import LAUNCHER_SECONDS, StopFlag
    from scriven.training.start import work

    stop = StopFlag(once_for=LAUNCHER_SECONDS)
    try:
        with stop.listening():
            number = work(texts, place, stop)
        code = 128 + number if number else 0
    except (DivergedError, Interrupted, LostError) as error:  # the leader has the same error, and reports it
        code = error.exit_code
    os._exit(code)  # there is nothing to save here, and torch's threads sometimes abort an interpreter that ends


def _read_settings(path: Path | None) -> dict[str, dict[str, object]]:
    values = read_toml(path) if path else {}
    origin = values.pop("run", {})  # where a run came from, in a run's own settings.toml
    return merge_settings(values, {"model": {"embedding": origin["embedding"]}}) if "embedding" in origin else values


def _read_recipe(name: str, texts: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """Returns a recipe's settings; those about the text are left out when a built corpus is given."""
    from scriven.corpus import is_corpus

    values = recipes.values(name)
    if "corpus" in values and is_corpus(texts):
        note(f"{texts[0]} is a built corpus, so the recipe's settings about the text are not used")
        del values["corpus"]
    return values


# --- the page of a training, with --watch


class PageReport:
    """Opens the page of a run once it has a checkpoint. `process` serves it, until somebody ends it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._run = ""

    def handle(self, event: Event) -> None:
        """Starts the server after the first checkpoint. A resumed run has one already."""
        from scriven.events import Saved, Started

        if isinstance(event, Started):
            self._run = event.run
        if self.process is None and (isinstance(event, Saved) or (isinstance(event, Started) and event.step)):
            # On the CPU, since one page needs no more, and a GPU is for the training.
            words = [sys.executable, "-m", "scriven", "serve", self._run, "--open", "--port", "0", "--device", "cpu"]
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            threading.Thread(target=_pass_on, args=(self.process,), daemon=True).start()

    def close(self) -> None:
        """Does nothing: the page stays after the training."""


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Shows what the server says: its address, that no browser could be opened, or an error."""
    assert process.stderr
    for line in process.stderr:
        sys.stderr.write(line)


@contextmanager
def watching(wanted: bool) -> Iterator[Sequence[Report]]:
    """Yields the reports that open the page, if it is wanted. On a terminal the page then stays until Ctrl-C.

    Raises UsageError if what serving needs is not installed.
    """
    if not wanted:
        yield []
        return
    check_can_serve()
    report = PageReport()
    try:
        yield [report]
        if report.process and report.process.poll() is None and sys.stderr.isatty():
            note("the page stays open; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):  # the training is done
                report.process.wait()
    finally:
        if report.process:
            report.process.terminate()
            try:
                report.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                report.process.kill()

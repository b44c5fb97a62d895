"""Scriven: small recurrent language models, trained on your own text, character by character, on the machine you have.

    import scriven
    run = scriven.train("book.txt", minutes=5)
    model = scriven.load("runs/book")
    model.sample("Once upon a time", length=400, temperature=0.8)

The names below are imported when they are first used, so that `import scriven` takes no time.
"""

from typing import TYPE_CHECKING

from scriven import runtime
from scriven.errors import DivergedError, InputError, Interrupted, ScrivenError, Stop, UsageError

if TYPE_CHECKING:
    from scriven.api import TrainedRun, plot_runs, train, train_events
    from scriven.batches import Batch
    from scriven.corpus.store import Corpus
    from scriven.events import (
        Compared,
        Evaluated,
        Event,
        Finished,
        RolledBack,
        Sampled,
        Saved,
        Skipped,
        Started,
        Stepped,
    )
    from scriven.exchange.formats import export_model, import_model
    from scriven.inference.novelty import Novelty, Stretch
    from scriven.inference.proofreading import Suggestion
    from scriven.loss import Loss
    from scriven.model import CharLM
    from scriven.own_loop import build_corpus, iterate_batches, register_cell, register_optimizer, save_run
    from scriven.report import Report
    from scriven.report.metrics import Metrics
    from scriven.report.plot import Plot
    from scriven.report.terminal import TerminalReport
    from scriven.report.trackers import Tracker, TrackerReport
    from scriven.results import Score, Step, WrittenText
    from scriven.rules import Rule
    from scriven.session import Session
    from scriven.settings import CorpusSettings, ModelSettings, ReaderSettings, Settings
    from scriven.trained_model import Model, load, load_session

    __version__: str

__all__ = [
    "Batch",
    "CharLM",
    "Compared",
    "Corpus",
    "CorpusSettings",
    "DivergedError",
    "Evaluated",
    "Event",
    "Finished",
    "InputError",
    "Interrupted",
    "Loss",
    "Metrics",
    "Model",
    "ModelSettings",
    "Novelty",
    "Plot",
    "ReaderSettings",
    "Report",
    "RolledBack",
    "Rule",
    "Sampled",
    "Saved",
    "Score",
    "ScrivenError",
    "Session",
    "Settings",
    "Skipped",
    "Started",
    "Step",
    "Stepped",
    "Stop",
    "Stretch",
    "Suggestion",
    "TerminalReport",
    "Tracker",
    "TrackerReport",
    "TrainedRun",
    "UsageError",
    "WrittenText",
    "__version__",
    "build_corpus",
    "export_model",
    "import_model",
    "iterate_batches",
    "load",
    "load_session",
    "plot_runs",
    "register_cell",
    "register_optimizer",
    "save_run",
    "train",
    "train_events",
]

runtime.settle_environment()

_EVENTS = [
    "Compared",
    "Evaluated",
    "Event",
    "Finished",
    "RolledBack",
    "Sampled",
    "Saved",
    "Skipped",
    "Started",
    "Stepped",
]
_HOMES = {
    **dict.fromkeys(_EVENTS, "scriven.events"),
    **dict.fromkeys(
        ["build_corpus", "iterate_batches", "register_cell", "register_optimizer", "save_run"], "scriven.own_loop"
    ),
    **dict.fromkeys(["export_model", "import_model"], "scriven.exchange.formats"),
    **dict.fromkeys(["Novelty", "Stretch"], "scriven.inference.novelty"),
    **dict.fromkeys(["CorpusSettings", "ModelSettings", "ReaderSettings", "Settings"], "scriven.settings"),
    "Batch": "scriven.batches",
    "CharLM": "scriven.model",
    "Corpus": "scriven.corpus.store",
    "Loss": "scriven.loss",
    "Metrics": "scriven.report.metrics",
    "Model": "scriven.trained_model",
    "Plot": "scriven.report.plot",
    "Report": "scriven.report",
    "Rule": "scriven.rules",
    "Score": "scriven.results",
    "Session": "scriven.session",
    "Step": "scriven.results",
    "Suggestion": "scriven.inference.proofreading",
    "TerminalReport": "scriven.report.terminal",
    "Tracker": "scriven.report.trackers",
    "TrackerReport": "scriven.report.trackers",
    "TrainedRun": "scriven.api",
    "WrittenText": "scriven.results",
    "load": "scriven.trained_model",
    "load_session": "scriven.trained_model",
    "plot_runs": "scriven.api",
    "train": "scriven.api",
    "train_events": "scriven.api",
}
# Functions that commands call too, with errors that name flags.
_COMMANDS_TOO = ["export_model", "import_model", "load", "load_session"]


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name != "__version__" and name not in _HOMES:
        raise AttributeError(f"module 'scriven' has no attribute {name!r}")
    from importlib import import_module, metadata  # noqa: PLC0415 - only when a name is used

    with runtime.needing_torch(f"scriven.{name}"):
        value = metadata.version("scriven") if name == "__version__" else getattr(import_module(_HOMES[name]), name)
    if name in _COMMANDS_TOO:
        value = import_module("scriven.arguments").speak_python(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet, for completion."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

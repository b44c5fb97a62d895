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
    from scriven.api import TrainedRun, train, train_events
    from scriven.events import (
        Evaluated,
        Event,
        Finished,
        Loss,
        RolledBack,
        Sampled,
        Saved,
        Skipped,
        Started,
        Stepped,
    )
    from scriven.report import Report
    from scriven.report.terminal import TerminalReport
    from scriven.session import Model, Score, Session, Step, load, load_session
    from scriven.settings import Settings

    __version__: str

__all__ = [
    "DivergedError",
    "Evaluated",
    "Event",
    "Finished",
    "InputError",
    "Interrupted",
    "Loss",
    "Model",
    "Report",
    "RolledBack",
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
    "TerminalReport",
    "TrainedRun",
    "UsageError",
    "__version__",
    "load",
    "load_session",
    "train",
    "train_events",
]

runtime.settle_environment()

_EVENTS = ["Evaluated", "Event", "Finished", "Loss", "RolledBack", "Sampled", "Saved", "Skipped", "Started", "Stepped"]
_HOMES = {
    **dict.fromkeys(_EVENTS, "scriven.events"),
    "Model": "scriven.session",
    "Report": "scriven.report",
    "Score": "scriven.session",
    "Session": "scriven.session",
    "Settings": "scriven.settings",
    "Step": "scriven.session",
    "TerminalReport": "scriven.report.terminal",
    "TrainedRun": "scriven.api",
    "load": "scriven.session",
    "load_session": "scriven.session",
    "train": "scriven.api",
    "train_events": "scriven.api",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name != "__version__" and name not in _HOMES:
        raise AttributeError(f"module 'scriven' has no attribute {name!r}")
    from importlib import import_module, metadata  # noqa: PLC0415 - only when a name is used

    value = metadata.version("scriven") if name == "__version__" else getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet, for completion."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

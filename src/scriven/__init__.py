"""Scriven: small recurrent language models, trained on your own text, character by character, on the machine you have.

    import scriven
    run = scriven.train("book.txt", minutes=5)
    model = scriven.load("runs/book")
    model.sample("Once upon a time", length=400, temperature=0.8)

The names below are imported when they are first used, so that `import scriven` takes no time.
"""

from typing import TYPE_CHECKING

from scriven import runtime
from scriven.errors import DivergedError, InputError, Interrupted, ScrivenError, UsageError

if TYPE_CHECKING:
    from scriven.api import TrainedRun, train
    from scriven.session import Model, Score, Session, load
    from scriven.settings import Settings

__all__ = [
    "DivergedError",
    "InputError",
    "Interrupted",
    "Model",
    "Score",
    "ScrivenError",
    "Session",
    "Settings",
    "TrainedRun",
    "UsageError",
    "load",
    "train",
]

runtime.settle_environment()

_HOMES = {
    "Model": "scriven.session",
    "Score": "scriven.session",
    "Session": "scriven.session",
    "Settings": "scriven.settings",
    "TrainedRun": "scriven.api",
    "load": "scriven.session",
    "train": "scriven.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'scriven' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only when a name is used

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

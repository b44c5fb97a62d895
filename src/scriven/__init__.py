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

    __version__: str

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
    "__version__",
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

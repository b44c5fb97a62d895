"""Run folders: settings, vocabulary, checkpoints that exist whole or not at all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scriven.runs.checkpoints import Checkpoint, load_weights
    from scriven.runs.claim import create_run, writing
    from scriven.runs.folder import Run, open_run
    from scriven.runs.saver import Saver

__all__ = ["Checkpoint", "Run", "Saver", "create_run", "load_weights", "open_run", "writing"]

_HOMES = {
    "Checkpoint": "checkpoints",
    "Run": "folder",
    "Saver": "saver",
    "create_run": "claim",
    "load_weights": "checkpoints",
    "open_run": "folder",
    "writing": "claim",
}


def __getattr__(name: str) -> object:
    """Imports a name when it is first used: what only reads a run needs nothing that writes one."""
    if name not in _HOMES:
        raise AttributeError(f"module 'scriven.runs' has no attribute {name!r}")
    return getattr(import_module(f"scriven.runs.{_HOMES[name]}"), name)

"""Recurrent layers, the language model, and the choice of what computes them: device, precision and code."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scriven.model.backends import Backend, choose_backend, choose_device
    from scriven.model.language_model import CharLM, State
    from scriven.model.precision import choose_precision

__all__ = ["Backend", "CharLM", "State", "choose_backend", "choose_device", "choose_precision"]

_HOMES = {
    **dict.fromkeys(["Backend", "choose_backend", "choose_device"], "scriven.model.backends"),
    **dict.fromkeys(["CharLM", "State"], "scriven.model.language_model"),
    "choose_precision": "scriven.model.precision",
}


def __getattr__(name: str) -> object:
    """Imports a name, and torch, when it is first used: the shapes of a model need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'scriven.model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

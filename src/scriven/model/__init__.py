"""Recurrent layers, the language model, and the choice of what computes them: device, precision and code."""

from scriven.model.backends import Backend, choose_backend, choose_device
from scriven.model.language_model import CharLM, State
from scriven.model.precision import choose_precision

__all__ = ["Backend", "CharLM", "State", "choose_backend", "choose_device", "choose_precision"]

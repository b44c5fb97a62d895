"""Recurrent layers, the language model, and where it computes."""

from scriven.model.backends import choose_precision
from scriven.model.device import choose_device, computing
from scriven.model.language_model import CharLM, State

__all__ = ["CharLM", "State", "choose_device", "choose_precision", "computing"]

"""Recurrent layers, the language model, and where it computes."""

from scriven.model.compute import choose_device, computing
from scriven.model.language_model import CharLM, State
from scriven.model.machine import choose_precision

__all__ = ["CharLM", "State", "choose_device", "choose_precision", "computing"]

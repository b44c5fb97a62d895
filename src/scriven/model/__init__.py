"""Recurrent layers, the language model, and the choice of device and precision."""

from scriven.model.backends import choose_precision
from scriven.model.device import autocast_context, choose_device
from scriven.model.language_model import CharLM, State

__all__ = ["CharLM", "State", "autocast_context", "choose_device", "choose_precision"]

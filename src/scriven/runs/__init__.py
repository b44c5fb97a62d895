"""Run folders: settings, vocabulary, checkpoints that exist whole or not at all."""

from scriven.runs.checkpoints import Checkpoint, load_weights
from scriven.runs.claim import create_run, writing
from scriven.runs.folder import Run, open_run
from scriven.runs.saver import Saver

__all__ = ["Checkpoint", "Run", "Saver", "create_run", "load_weights", "open_run", "writing"]

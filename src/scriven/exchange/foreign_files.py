"""Reads a model of another program, by the kind of its file."""

from __future__ import annotations

from pathlib import Path

from scriven.errors import InputError, UsageError, close_paths, did_you_mean, join_names
from scriven.exchange.foreign import ForeignModel
from scriven.exchange.keras_file import read_keras
from scriven.exchange.state_dict import read_state_dict
from scriven.exchange.torch7_file import read_torch_rnn

KERAS, TORCH, TORCH_RNN = (".keras", ".h5", ".hdf5"), (".pt", ".pth", ".safetensors"), (".t7",)


def read_foreign(path: Path, activation: str = "tanh") -> ForeignModel:
    """Reads a model of Keras, torch or torch-rnn. `activation` is used for an nn.RNN of torch.

    Raises InputError if it cannot be read or is damaged; UsageError if Scriven cannot hold it.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file{did_you_mean(close_paths(str(path)))}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a model's file, or copy a run of Scriven as it is")
    ending = path.suffix.lower()
    if ending in TORCH:
        model = read_state_dict(path, activation)
        if activation != "tanh" and model.cell != "rnn":
            raise _without_choice(activation, f"torch's {model.cell} has tanh")
        return model
    if activation != "tanh" and ending in KERAS + TORCH_RNN:
        raise _without_choice(activation, "this kind of file tells its own")
    if ending in KERAS:
        return read_keras(path)
    if ending in TORCH_RNN:
        return read_torch_rnn(path)
    known = join_names([*KERAS, *TORCH, *TORCH_RNN])
    raise UsageError(f"{path}: the kind of a model's file is told by its ending, one of {known}; rename it")


def _without_choice(activation: str, why: str) -> UsageError:
    return UsageError(f"--activation {activation} is for an nn.RNN of torch, and {why}; leave it out")

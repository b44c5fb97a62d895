"""Reads models that Keras saved, .keras and .h5, without Keras and without running anything that a file holds.

Layouts: https://keras.io/api/layers/recurrent_layers and Keras's saving_lib (3.x) and legacy/saving (.h5). Keras orders
the gates of an LSTM as torch does, i, f, g, o; those of a GRU are z, r, n, and torch's r, z, n.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scriven.arrays import Float32s
from scriven.errors import InputError, UsageError
from scriven.exchange.foreign import (
    MOST_UNPACKED,
    ForeignLayer,
    ForeignModel,
    check_unpacked,
    refuse_part,
    reorder_gates,
)

CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}
GATE_ORDER = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}  # Keras's places of torch's gates
SKIPPED = {"InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "Softmax"}  # in predicting
CONFIG_LIMIT = 10_000_000  # bytes of a model's description
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.weights.h5"
DAMAGES = (  # what readers of zip files, JSON and HDF5 raise; NotImplementedError is a RuntimeError
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(zipfile.BadZipFile, zlib.error),
)
Weights = Callable[[str], list[Float32s]]  # of the layer of a name
Config = Mapping[str, Any]


def read_keras(path: Path) -> ForeignModel:
    """Reads the model in a file of Keras. Raises InputError if it is damaged; UsageError if Scriven cannot hold it."""
    try:
        import h5py  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "files of Keras are read with h5py, which is not installed; install it with: pip install 'scriven[import]'"
        ) from None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(CONFIG_FILE).file_size > CONFIG_LIMIT:
                    raise InputError(f"{path}: the model's description has more than {CONFIG_LIMIT:,} bytes")
                check_unpacked(archive, path)
                config = json.loads(archive.read(CONFIG_FILE))
                data = io.BytesIO(archive.read(WEIGHTS_FILE))
            with h5py.File(data, "r") as file:
                return _model(config, lambda name: _variables(file, name))
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise UsageError(f"{path} has weights alone, without the model's layers; save it with model.save")
            return _model(json.loads(file.attrs["model_config"]), lambda name: _legacy_variables(file, name))
    except DAMAGES as error:
        raise InputError(f"{path} is damaged, or no model that Keras saved ({error}); save it again") from None


def _variables(file: Any, name: str) -> list[Float32s]:
    """Returns the weights of a layer of a .keras file, in Keras's order."""
    groups = file["layers"]
    # Groups are named by the layer's class in Keras 3, and its name is an attribute; before, by its name.
    named = (key for key in groups if groups[key].get("vars") is not None)
    found = next((key for key in named if groups[key]["vars"].attrs.get("name") == name), name)
    group = groups[found]
    for part in ("cell", "layer"):  # of recurrent layers, and of TimeDistributed
        group = group.get(part, group)
    variables = group["vars"]
    return [_array(file, variables[key]) for key in sorted(variables, key=int)]


def _legacy_variables(file: Any, name: str) -> list[Float32s]:
    """Returns the weights of a layer of an .h5 file, in Keras's order."""
    group = file["model_weights"][name]
    names = [each.decode() if isinstance(each, bytes) else each for each in group.attrs["weight_names"]]
    return [_array(file, group[each]) for each in names]


def _array(file: Any, dataset: Any) -> Float32s:
    """Returns the values of a dataset. Raises ValueError if it claims more bytes than its file can have."""
    if dataset.nbytes > MOST_UNPACKED * file.id.get_filesize():
        raise ValueError(f"an array of shape {dataset.shape} in a file of {file.id.get_filesize():,} bytes")
    return np.asarray(dataset, np.float32)


def _model(config: Config, weights: Weights) -> ForeignModel:
    """Returns the model of a chain of layers: an embedding or one-hot vectors, recurrent layers, one dense layer."""
    embedding: Float32s | None = None
    layers: list[ForeignLayer] = []
    head: list[Float32s] = []
    cells: set[str] = set()
    window = 0
    for kind, its in _chain(config):
        if kind == "Embedding" and not layers:
            if its.get("mask_zero"):
                raise refuse_part("an embedding that masks symbol 0", "Scriven's reads every symbol")
            (embedding,) = weights(its["name"])
        elif kind in CELLS and not head:
            cells.add(CELLS[kind])
            layers.append(_recurrent_layer(CELLS[kind], its, weights(its["name"])))
            window = 0 if its.get("return_sequences") else _input_length(config)
        elif kind == "Dense" and layers and not head:
            head = weights(its["name"])
            _check_activation(its, "softmax", "linear")
        elif kind == "Activation" and head:
            _check_activation(its, "softmax")
        else:
            raise refuse_part(
                f"a layer {kind} at that place", "Scriven's are an embedding, recurrent layers, a dense one"
            )
    if not layers or not head or len(cells) > 1:
        raise refuse_part(
            "no chain of recurrent layers of one kind and a dense layer", "every model of Scriven is such a chain"
        )
    kernel, *bias = head
    return ForeignModel(
        program="Keras",
        cell=cells.pop(),
        embedding=embedding,
        layers=layers,
        head_weight=kernel.T,
        head_bias=bias[0] if bias else np.zeros(kernel.shape[1], np.float32),
        window=window,
    )


def _chain(config: Config) -> Iterator[tuple[str, Config]]:
    """Yields class and settings of each layer that predicts, in order. Raises UsageError unless they are a chain."""
    if config["class_name"] not in ("Sequential", "Functional", "Model"):
        raise refuse_part(f"the class {config['class_name']}", "only chains of Keras's own layers can be read")
    if len(config["config"].get("output_layers", [[]])) > 1 and isinstance(config["config"]["output_layers"][0], list):
        raise refuse_part("several outputs", "Scriven's models have one")
    if [layer["class_name"] for layer in config["config"]["layers"]].count("InputLayer") > 1:
        raise refuse_part("several inputs", "Scriven's models read one text")
    before = ""
    for layer in config["config"]["layers"]:
        kind, its = layer["class_name"], layer["config"]
        if (read := [*_tensors_of(layer.get("inbound_nodes") or [])]) not in ([], [before]):
            raise refuse_part(
                f"a layer {kind} that reads {' and '.join(read)}", "each of Scriven's reads the one before"
            )
        before = its["name"]
        if kind == "TimeDistributed":
            kind, its = its["layer"]["class_name"], its["layer"]["config"] | {"name": its["name"]}
        if kind not in SKIPPED:
            yield kind, its


def _tensors_of(nodes: Any) -> Iterator[str]:
    """Yields the name of the layer that made each tensor in the calls of a layer, from [name, number, number, ...]."""
    if isinstance(nodes, list) and len(nodes) > 2 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
        yield nodes[0]
    elif isinstance(nodes, list | dict):
        for each in nodes.values() if isinstance(nodes, dict) else nodes:
            yield from _tensors_of(each)


def _input_length(config: Config) -> int:
    """Returns how many characters the model reads at once; 0 if any number."""
    for layer in config["config"]["layers"]:
        for key in ("batch_shape", "batch_input_shape"):
            shape = layer["config"].get(key) or [None]
            if len(shape) > 1:
                return int(shape[1] or 0)
    return 0


def _recurrent_layer(cell: str, its: Config, weights: list[Float32s]) -> ForeignLayer:
    """Returns a recurrent layer with torch's order of gates. Raises UsageError if Scriven has no such cell."""
    if its.get("go_backwards"):
        raise refuse_part("a layer that reads backwards", "Scriven's read forwards")
    if cell == "gru" and not its.get("reset_after", False):
        raise refuse_part(
            "a GRU with reset_after=False", "Scriven's resets after the product, as cuDNN's and torch's do"
        )
    if cell != "rnn" and its.get("recurrent_activation") != "sigmoid":
        raise refuse_part(f"the gates' activation {its.get('recurrent_activation')}", "Scriven's gates have sigmoid")
    _check_activation(its, "tanh", "relu")
    kernel, recurrent, *bias = weights
    order = GATE_ORDER[cell]
    biases = np.zeros((2, kernel.shape[1]), np.float32)
    if bias:
        biases[: bias[0].ndim] = bias[0]  # a GRU has two; others one, as here the second one is 0
    return ForeignLayer(
        reorder_gates(kernel.T, order),
        reorder_gates(recurrent.T, order),
        reorder_gates(biases[0], order),
        reorder_gates(biases[1], order),
        its["activation"],
    )


def _check_activation(its: Config, *known: str) -> None:
    if its.get("activation") not in known:
        raise refuse_part(f"the activation {its.get('activation')}", f"Scriven's have {' or '.join(known)} there")

"""Reads state dicts of plain torch models, .pt and .safetensors: nn.Embedding, nn.LSTM, nn.GRU or nn.RNN, nn.Linear.

Names of modules are free: a recurrent layer is known by weight_ih and weight_hh, and its cell by their shapes.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np

from scriven.arrays import Float32s
from scriven.errors import InputError, UsageError
from scriven.exchange.foreign import (
    SYMBOL_NAMES,
    ForeignLayer,
    ForeignModel,
    check_unpacked,
    entries_of,
    refuse_part,
)
from scriven.runs.tensors import decode, read_checked
from scriven.runtime import needing_torch

RECURRENT = re.compile(r"(?P<module>.*?)(?P<part>(?:weight|bias)_(?:ih|hh|hr))(?:_l(?P<layer>\d+))?(?P<rest>.*)")
CELLS = {4: "lstm", 3: "gru", 1: "rnn"}  # by the number of gates; that of mingru has no weight_hh
EMBEDDING = re.compile(r"emb|encoder|lookup|wte", re.IGNORECASE)
MOST_NESTED = 3  # objects around a state dict
NO_LAYER = "the file has no recurrent layer of torch (weight_ih, weight_hh), so it cannot be imported"


def read_state_dict(path: Path, activation: str = "tanh") -> ForeignModel:
    """Reads a model of torch's own modules. `activation` is used for an RNN, whose weights do not say.

    Raises InputError if the file is damaged; UsageError if it holds anything but tensors, or another kind of model.
    """
    if path.suffix.lower() == ".safetensors":
        return model_of(decode(path, read_checked(path)), activation, in_order=False)
    weights, symbols = _load(path)
    return replace(model_of(weights, activation), symbols=symbols)


def _load(path: Path) -> tuple[dict[str, Float32s], list[Any] | None]:
    """Returns the arrays of a file of torch.save by name, and the symbols if the file has a list of them.

    Only tensors and plain values are read: no code of the file is run.
    """
    with needing_torch("scriven import of a file of torch"):
        import torch  # noqa: PLC0415 - no other format needs it
    try:
        if is_zipfile(path):  # older ones are none
            with ZipFile(path) as archive:
                check_unpacked(archive, path)
        with warnings.catch_warnings(action="error"):
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path} holds Python objects, and reading these would run code of the file; in its own program, save the "
            "weights alone: torch.save(model.state_dict(), ...)"
        ) from None
    except (RuntimeError, ValueError, LookupError, EOFError, OSError, UserWarning, AssertionError, BadZipFile) as error:
        told = str(error).partition("\n")[0]
        raise InputError(f"{path} is damaged, or no file that torch saved ({told}); save it again") from None
    found = _find_weights(values, MOST_NESTED)
    if found is None:
        raise UsageError(NO_LAYER)
    listed = (entries_of(values[name]) for name in SYMBOL_NAMES if name in values)
    symbols = next((each for each in listed if each is not None), None)
    tensors = {name: each.detach() for name, each in found.items() if isinstance(each, torch.Tensor)}
    for name, each in tensors.items():
        if each.layout != torch.strided or each.is_complex() or each.is_meta:
            raise refuse_part(f"the weight {name}, which is sparse, complex or without values", "Scriven's are numbers")
    return {name: each.float().numpy() for name, each in tensors.items()}, symbols


def _find_weights(values: Any, depth: int) -> Mapping[str, Any] | None:
    """Returns the mapping of weights in a checkpoint, which may also have settings and an optimizer's state.

    Raises UsageError if there are several.
    """
    if not isinstance(values, Mapping) or not depth:
        return None
    if any("weight_ih" in str(name) for name in values):
        return {str(name): each for name, each in values.items()}
    inner = {str(name): _find_weights(each, depth - 1) for name, each in values.items()}
    found = {name: each for name, each in inner.items() if each is not None}
    if len(found) > 1:
        raise UsageError(
            f"the file has the weights of {len(found)} models, {' and '.join(found)}; save a file with those of one"
        )
    return next(iter(found.values()), None)


def model_of(weights: Mapping[str, Float32s], activation: str = "tanh", *, in_order: bool = True) -> ForeignModel:
    """Returns the model of a state dict. Raises UsageError if Scriven cannot hold it.

    `in_order` says that the mapping has the modules in order of depth, as a state dict of torch does; otherwise numbers
    in their names must give the order.
    """
    weights = {name: np.asarray(each, np.float32) for name, each in weights.items()}
    parts: dict[tuple[str, int], dict[str, Float32s]] = {}
    others: dict[str, Float32s] = {}
    for name, each in weights.items():
        match = RECURRENT.fullmatch(name)
        if match and (match["rest"] or match["part"] == "weight_hr"):
            why = "Scriven's layers read forwards" if "reverse" in match["rest"] else "Scriven's layers have none"
            raise refuse_part(f"the weight {name}", why)
        if match:
            parts.setdefault((match["module"], int(match["layer"] or 0)), {})[match["part"]] = each
        else:
            others[name] = each
    if not parts:
        raise UsageError(NO_LAYER)
    layers = [_layer(parts[each], "".join(map(str, each)), activation) for each in _ordered(parts, in_order)]
    cells = {cell for cell, _ in layers}
    if len(cells) > 1:
        raise refuse_part(f"layers of several cells ({', '.join(sorted(cells))})", "a model of Scriven has one")
    embedding, head, bias = _ends(others)
    return ForeignModel("torch", cells.pop(), embedding, [layer for _, layer in layers], head, bias)


def _ordered(parts: Mapping[tuple[str, int], Any], in_order: bool) -> list[tuple[str, int]]:
    """Returns modules and layers in order of depth. Raises UsageError if that is not known."""
    modules = [*dict.fromkeys(module for module, _ in parts)]
    if not in_order and len({re.sub(r"\d+", "", each) for each in modules}) > 1:
        raise refuse_part(
            f"the recurrent modules {' and '.join(modules)}, whose order the file does not tell",
            "their names have no numbers; save a state dict with torch.save, which keeps the order",
        )
    if not in_order:
        modules.sort(key=lambda module: [int(number) for number in re.findall(r"\d+", module)])
    return sorted(parts, key=lambda each: (modules.index(each[0]), each[1]))


def _layer(its: Mapping[str, Float32s], name: str, activation: str) -> tuple[str, ForeignLayer]:
    """Returns the cell of a layer, and the layer, from its weights by the names of torch."""
    if missing := [each for each in ("weight_ih", "weight_hh") if each not in its]:
        raise refuse_part(f"no {missing[0]} in layer {name}", "a recurrent layer of torch has both")
    rows, width = (*its["weight_hh"].shape, 0, 0)[:2]
    cell = CELLS.get(rows // width if width and rows % width == 0 else 0)
    if cell is None:
        raise refuse_part(f"a weight_hh of {list(its['weight_hh'].shape)}", "no cell of torch has such a matrix")
    zeros = np.zeros(rows, np.float32)
    biases = its.get("bias_ih", zeros), its.get("bias_hh", zeros)
    return cell, ForeignLayer(its["weight_ih"], its["weight_hh"], *biases, activation if cell == "rnn" else "tanh")


def _ends(others: Mapping[str, Float32s]) -> tuple[Float32s | None, Float32s, Float32s]:
    """Returns the embedding, and weight and bias of the output layer, from all weights that are not recurrent.

    Of two matrices, the output layer is the one with a bias, or else the one that is not called an embedding.
    """
    matrices = [name for name, each in others.items() if each.ndim == 2]
    biases = {name: name.removesuffix("weight") + "bias" for name in matrices}
    heads = [name for name in matrices if biases[name] in others] or [
        name for name in matrices if len(matrices) == 1 or not EMBEDDING.search(name)
    ]
    if len(heads) != 1 or len(matrices) > 2:
        raise refuse_part(
            f"the matrices {', '.join(matrices) or 'of its recurrent layers alone'}",
            "Scriven needs one output layer (nn.Linear) and at most one embedding, which must be told apart",
        )
    (head,) = heads
    embedding = next((name for name in matrices if name != head), None)
    if unknown := [name for name in others if name not in (head, biases[head], embedding)]:
        raise refuse_part(f"the weight {unknown[0]}", "Scriven has an embedding, recurrent layers and one output layer")
    bias = others.get(biases[head], np.zeros(len(others[head]), np.float32))
    return (None if embedding is None else others[embedding]), others[head], bias

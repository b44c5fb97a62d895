"""Reads checkpoints of torch-rnn (.t7) without Torch 7, and without running anything that a file holds.

The format is defined by torch7's File.lua, in binary: a value is its type as an int, then its content. Tables and
objects have a number, so that one that stands twice is written once. https://github.com/jcjohnson/torch-rnn has the
layers: its LSTM has the gates i, f, o, g, and one matrix (D + H, 4H) for its input and its state.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scriven.arrays import Float32s
from scriven.errors import InputError, UsageError
from scriven.exchange.foreign import ForeignLayer, ForeignModel, refuse_part, reorder_gates

NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN = range(6)
STORAGES = {"Float": "<f4", "Double": "<f8", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Byte": "u1", "Char": "i1"}
CELLS = {"nn.LSTM": "lstm", "nn.VanillaRNN": "rnn"}
GATE_ORDER = {"lstm": (0, 1, 3, 2), "rnn": (0,)}  # torch-rnn's places of torch's gates
SKIPPED = {"nn.View", "nn.Dropout"}  # in predicting
MOST_NESTED = 100  # values in one another
LARGEST_TABLE = 10_000_000  # entries
Table = dict[Any, Any]


def read_torch_rnn(path: Path) -> ForeignModel:
    """Reads the model in a checkpoint of torch-rnn. Raises InputError if it is damaged; UsageError if it is another."""
    try:
        with path.open("rb") as file:
            return _model(_Torch7Reader(file, path.stat().st_size).read())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise InputError(f"{path} is damaged, or no checkpoint of torch-rnn ({error}); copy it again") from None


class _Torch7Reader:
    """Reads the values of a .t7 file one after another. Objects become tables, with their class under None."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._left = file, size, size  # bytes of the file, and those that were not read
        self._known: dict[int, Any] = {}

    def read(self, depth: int = 0) -> Any:
        """Returns the next value. Raises ValueError for a value that no model has."""
        if depth > MOST_NESTED:
            raise ValueError(f"more than {MOST_NESTED} values in one another")
        kind = self._int()
        if kind == NIL:
            return None
        if kind == NUMBER:
            return self._numbers("<d", 1)[0]
        if kind == STRING:
            return self._string()
        if kind == BOOLEAN:
            return bool(self._int())
        if kind not in (TABLE, OBJECT):
            raise ValueError(f"a value of type {kind}, such as a function, which is not read")
        number = self._int()
        if number not in self._known:
            self._known[number] = {}
            self._known[number] = self._table(number, depth) if kind == TABLE else self._object(number, depth)
        return self._known[number]

    def _table(self, number: int, depth: int) -> Table:
        size = self._int()
        table: Table = self._known[number]
        if not 0 <= size <= LARGEST_TABLE:
            raise ValueError(f"a table of {size:,} entries")
        for _ in range(size):
            key = self.read(depth + 1)
            table[int(key) if isinstance(key, float) else key] = self.read(depth + 1)
        return table

    def _object(self, number: int, depth: int) -> Any:
        name = self._string()
        if name.startswith("V "):  # the version; the oldest files have none
            name = self._string()
        kind = name.removeprefix("torch.")
        if kind.endswith("Storage") and kind.removesuffix("Storage") in STORAGES:
            return self._numbers(STORAGES[kind.removesuffix("Storage")], self._long())
        if kind.endswith("Tensor"):
            return self._tensor(depth)
        fields = self.read(depth + 1)
        table: Table = self._known[number]
        table.update(fields)
        table[None] = name
        return table

    def _tensor(self, depth: int) -> Any:
        dimensions = self._int()
        if not 0 <= dimensions <= 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        sizes, strides = ([self._long() for _ in range(dimensions)] for _ in range(2))
        first, storage = self._long() - 1, self.read(depth + 1)
        if not dimensions:
            return np.zeros(0, np.float32)
        last = first + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        # A stride of 0 would give a few bytes any size.
        fits = math.prod(sizes) <= len(storage) and last < len(storage)
        if min(sizes) < 1 or min(strides) < 0 or first < 0 or not fits:
            raise ValueError("a tensor larger than its numbers")
        bytes_each = storage.itemsize
        return np.lib.stride_tricks.as_strided(
            storage[first:], sizes, [stride * bytes_each for stride in strides]
        ).copy()

    def _int(self) -> int:
        return int(self._numbers("<i4", 1)[0])

    def _long(self) -> int:
        return int(self._numbers("<i8", 1)[0])

    def _string(self) -> str:
        return self._take(self._int()).decode("utf-8", "surrogateescape")  # a symbol may be a byte

    def _numbers(self, kind: str, count: int) -> Any:
        return np.frombuffer(self._take(count * np.dtype(kind).itemsize), kind)

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= self._left or len(data := self._file.read(size)) < size:
            raise ValueError(f"it ends after {self._size:,} bytes, in the midst of a value")
        self._left -= size
        return data


def _model(checkpoint: Any) -> ForeignModel:
    """Returns the model of a checkpoint of torch-rnn."""
    model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(model, dict) or model.get(None) != "nn.LanguageModel":
        why = "char-rnn's graphs and other objects of Lua have no fixed layout"
        raise refuse_part("no language model of torch-rnn", why)
    embedding, head = None, None
    layers: list[ForeignLayer] = []
    cells: set[str] = set()
    for module in _listed(model["net"]["modules"]):
        name = module[None]
        if name == "nn.LookupTable" and not layers:
            embedding = _float32(module["weight"])
        elif name in CELLS and head is None:
            cells.add(CELLS[name])
            layers.append(_recurrent_layer(CELLS[name], _float32(module["weight"]), _float32(module["bias"])))
        elif name == "nn.Linear" and layers and head is None:
            head = module
        elif name not in SKIPPED:
            raise refuse_part(f"a layer {name}", "Scriven has its LSTM and VanillaRNN, without normalisation")
    if embedding is None or head is None or len(cells) != 1:
        raise refuse_part("not all of embedding, recurrent layers and output layer", "torch-rnn's models have them")
    return ForeignModel(
        program="torch-rnn",
        cell=cells.pop(),
        embedding=embedding,
        layers=layers,
        head_weight=_float32(head["weight"]),
        head_bias=_float32(head["bias"]),
        symbols=tuple(_listed(model["idx_to_token"])),
    )


def _listed(table: Table) -> Iterator[Any]:
    """Yields the values of a table 1, 2, 3, ..."""
    for number in range(1, len([key for key in table if isinstance(key, int)]) + 1):
        yield table[number]


def _float32(array: Any) -> Float32s:
    return np.asarray(array, np.float32)


def _recurrent_layer(cell: str, weight: Float32s, bias: Float32s) -> ForeignLayer:
    """Returns a layer with torch's order of gates, from one matrix (D + H, G*H) for its input and its state."""
    order = GATE_ORDER[cell]
    width = weight.shape[1] // len(order)
    rows = reorder_gates(weight.T, order)  # (G*H, D + H)
    inputs = weight.shape[0] - width
    if inputs < 1:
        raise UsageError("a recurrent layer of torch-rnn reads nothing")
    return ForeignLayer(rows[:, :inputs], rows[:, inputs:], reorder_gates(bias, order), np.zeros_like(bias))

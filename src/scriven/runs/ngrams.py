"""The n-gram table of a run, and the weights of its mixture with the network.

The table is one file in the run's folder, which never changes, and whose hash its settings keep.

It is a safetensors file of the table's arrays, as bytes; the array `table` has its format, V, the id of the boundary
(-1 for none) and the deepest level of tails. See kernels/counts.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from scriven.arrays import Float64s
from scriven.errors import InputError
from scriven.kernels import native_library
from scriven.kernels.counts import ARRAYS, LONGEST, NgramMixture, NgramTable, array_types
from scriven.runs.tensors import decode, encode, read_checked
from scriven.vocabulary import Vocabulary

COUNTS_FILE = "counts.safetensors"
FORMAT = 1


Weight = Annotated[float, Field(ge=0, le=100)]
Weights = Annotated[tuple[Weight, Weight], Field(strict=False)]  # of the network and of the counts
Line = tuple[tuple[float, float], tuple[float, float]]


class MixtureWeights(BaseModel):
    """The exponents of a network and of counts in their mixture: to read with, and to write with.

    Each has those where the counts know no context, and those where they know the longest. Between both they are linear
    in the length of the context that is known. When it writes, the counts look at contexts of up to `order` symbols.
    `discount` is what the counts' discounts are multiplied by.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    reading: Annotated[tuple[Weights, Weights], Field(strict=False)]
    writing: Annotated[tuple[Weights, Weights], Field(strict=False)]
    order: int = Field(ge=1, le=LONGEST)
    discount: float = Field(default=1.0, ge=0, le=1)

    @field_validator("reading", "writing", mode="before")
    @classmethod
    def _accept_one_pair(cls, value: Any) -> Any:
        """Earlier files have one pair of exponents for contexts of any length."""
        one = isinstance(value, list | tuple) and not any(isinstance(each, list | tuple) for each in value)
        return (value, value) if one else value

    def mixtures(self, table: NgramTable, order: int | None = None) -> tuple[NgramMixture, NgramMixture]:
        """Returns the mixtures to read and to write with; the second looks at contexts of up to `order` symbols.

        The weights of an order above the fitted one lie between those for writing and those for reading.
        """
        order = self.order if order is None else min(order, table.longest)
        beyond = max(0, order - self.order) / max(1, table.longest - self.order)
        reading, writing = np.array(self.reading), np.array(self.writing)
        writing += beyond * (reading - writing)
        longest = max(order, self.order)
        read = NgramMixture(table, _by_length(reading, table.longest, table), discount=self.discount)
        return read, NgramMixture(table, _by_length(writing, longest, table), order, self.discount)


def _by_length(ends: Float64s, longest: int, table: NgramTable) -> Float64s:
    """Returns the weights for known contexts of each length, which are linear up to `longest` symbols."""
    known = np.minimum(np.arange(table.longest + 1) / max(1, longest), 1.0)[:, None]
    weights: Float64s = (1 - known) * ends[0] + known * ends[1]
    return weights


def encode_table(table: NgramTable) -> tuple[bytes, str]:
    """Returns the content of a table's file, and its SHA-256."""
    boundary = -1 if table.boundary is None else table.boundary
    arrays = {"table": np.array([FORMAT, table.symbols, boundary, table.reach], np.int64)}
    data = b"".join(encode(arrays | {name: _bytes(array) for name, array in table.arrays.items()}))
    return data, hashlib.sha256(data).hexdigest()


def read_table(folder: Path, size: int, sha256: str, vocabulary: Vocabulary) -> NgramTable:
    """Reads the table in a run's folder, a file of `size` bytes.

    Raises InputError if the file is missing or damaged, is of another vocabulary, or cannot be used here.
    """
    path = folder / COUNTS_FILE
    if native_library.library() is None:
        raise InputError(f"{path} needs native code, and there is none: {native_library.why()}")
    data = read_checked(path, wanted=size)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path} is damaged: the SHA-256 of its {len(data):,} bytes is wrong; restore it from a copy")
    found = decode(path, data)
    try:
        number, symbols, boundary, reach = _header(found.pop("table", None))
        if number != FORMAT:
            raise ValueError(f"its format is {number}, not {FORMAT}")
        if (symbols, boundary) != (vocabulary.size, -1 if vocabulary.boundary is None else vocabulary.boundary):
            raise ValueError("it is of another vocabulary")
        types = array_types(symbols)
        if sorted(found) != sorted(ARRAYS) or any(array.dtype != np.uint8 for array in found.values()):
            raise ValueError("it has other arrays")
        arrays = {name: found[name].view(kind).reshape(shape) for name, (kind, shape) in types.items()}
        return NgramTable(symbols, vocabulary.boundary, reach, arrays)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; restore it from a copy") from None


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _header(values: np.ndarray[Any, Any] | None) -> list[int]:
    if values is None or values.shape != (4,) or values.dtype != np.int64:
        raise ValueError("it has no table")
    numbers: list[int] = values.tolist()
    return numbers

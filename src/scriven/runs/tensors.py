"""Writes arrays as safetensors without copying them, and reads them after checking everything that the header claims.

The format: the length of the header in 8 bytes; a JSON object of each array's type, shape and place; the arrays.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from scriven import strict_json
from scriven.errors import InputError, UnreadableError
from scriven.safe_files import BUFFER, open_regular

if TYPE_CHECKING:
    from torch import Tensor

    AnyArray = npt.NDArray[Any] | Tensor  # of numpy or torch

HEADER_LIMIT = 4_000_000  # bytes; an array takes about 100
TYPES = {  # the bytes of a value, and the type's name in numpy and torch; numpy has no bfloat16
    "F64": (8, "float64"),
    "I64": (8, "int64"),
    "F32": (4, "float32"),
    "I32": (4, "int32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
}
NAMES = {name: kind for kind, (_, name) in TYPES.items()}
Shapes = Mapping[str, Sequence[int]]  # by name


@dataclass(frozen=True)
class Array:
    """One entry of a header: the type (one of TYPES), shape and place (in bytes) of an array."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def kind_of(array: AnyArray) -> str | None:
    """The type of an array, one of TYPES; None for another one."""
    return NAMES.get(str(array.dtype).removeprefix("torch."))


def encode(arrays: Mapping[str, AnyArray], metadata: Mapping[str, str] | None = None) -> list[BUFFER]:
    """The pieces of a safetensors file. Those of arrays share their memory, which must be on the CPU.

    Raises KeyError for an array of another type than TYPES.
    """
    kinds = {name: NAMES[str(array.dtype).removeprefix("torch.")] for name, array in arrays.items()}
    flat = {name: _bytes_of(array) for name, array in arrays.items()}
    order = sorted(flat, key=lambda name: (-TYPES[kinds[name]][0], name))  # so that each is aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + flat[name].nbytes
        header[name] = {"dtype": kinds[name], "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(flat[name].data for name in order)]


def _bytes_of(array: AnyArray) -> npt.NDArray[np.uint8]:
    """The bytes of an array's values."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    import torch  # noqa: PLC0415 - it is there, since the array is torch's

    return array.detach().contiguous().flatten().view(torch.uint8).numpy()


def layout(path: Path, file: BinaryIO, size: int) -> dict[str, Array]:
    """Reads the header of a safetensors file of `size` bytes: its arrays, by name.

    Raises InputError if it is not such a file, or if the arrays do not fill it exactly.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, HEADER_LIMIT):
        raise _damaged_error(path, f"its header would have {length:,} bytes" if size > 8 else "it has no header")
    try:
        values = strict_json.parse(file.read(length).decode())
        arrays = {name: _array(entry) for name, entry in values.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged_error(path, f"its header cannot be read ({error})") from None
    places = sorted((array.begin, array.end) for array in arrays.values())
    edges = [(0, 0), *places, (size - 8 - length,) * 2]
    if any(before[1] != after[0] for before, after in pairwise(edges)):
        raise _damaged_error(path, "its arrays overlap, or do not fill the file")
    return arrays


def _array(entry: dict[str, Any]) -> Array:
    """Parses one entry of a header. Raises ValueError, TypeError or KeyError if it is malformed."""
    (size, _), (begin, end), shape = TYPES[entry["dtype"]], entry["data_offsets"], entry["shape"]
    numbers = [begin, end, *shape]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise ValueError("a size is not a number")
    if len(shape) > 8 or end - begin != prod(shape) * size:
        raise ValueError("an array does not have the size that its shape needs")
    return Array(entry["dtype"], tuple(shape), begin, end)


def check_shapes(path: Path, arrays: Mapping[str, Array], expected: Shapes) -> None:
    """Raises InputError unless a file has exactly the arrays of these names and shapes, in fp32."""
    for name in [*expected, *arrays]:
        there = arrays.get(name)
        wanted = tuple(expected[name]) if name in expected else None
        if there is None or (there.shape, there.kind) != (wanted, "F32"):
            has = "lacks it" if there is None else f"has {list(there.shape)} of {there.kind}"
            needs = "should not be there" if wanted is None else f"should be {list(wanted)} of F32"
            raise InputError(
                f"the weights in {path.parent} do not fit the model's settings "
                f"({show_name(name)} {needs}; the file {has})"
            )


def finite(values: AnyArray) -> bool:
    """Whether all values are finite numbers; reads them once, without a copy."""
    if isinstance(values, np.ndarray):
        with np.errstate(invalid="ignore"):
            return not (values.dtype.kind == "f" and values.size) or bool(
                np.isfinite([values.min(), values.max()]).all()
            )
    if not (values.is_floating_point() and values.numel()):
        return True
    return all(bool(edge.isfinite()) for edge in values.detach().aminmax())


def check_arrays(arrays: Mapping[str, AnyArray], expected: Shapes) -> None:
    """Raises ValueError unless these are exactly the arrays of these names and shapes, in fp32."""
    for name in sorted({*arrays, *expected}):
        there, wanted = arrays.get(name), tuple(expected[name]) if name in expected else None
        if there is None or wanted is None:
            raise ValueError(f"{show_name(name)} {'is missing' if there is None else 'should not be there'}")
        if (there.shape, kind_of(there)) != (wanted, "F32"):
            raise ValueError(f"{name} is {list(there.shape)} of {kind_of(there)}, not {list(wanted)} of F32")


def show_name(name: str) -> str:
    """An array's name, shortened and escaped, for messages."""
    return name[:60].encode("unicode_escape").decode()


def read_checked(path: Path, expected: Shapes | None = None, wanted: int | None = None) -> bytes:
    """Reads the bytes of a safetensors file after checking its header, with `check_shapes` if `expected` is given.

    A file of another size than `wanted` bytes is not read, and no memory is allocated before the header is checked.
    Raises InputError; UnreadableError if the file may be good but is larger than the memory.
    """
    with open_regular(path) as (file, size):
        if wanted is not None and size != wanted:
            raise _damaged_error(path, f"it has {size:,} bytes, but {wanted:,} were written")
        arrays = layout(path, file, size)
        if expected is not None:
            check_shapes(path, arrays, expected)
        if size > physical_memory():
            raise UnreadableError(f"{path} has {size:,} bytes, more than the memory of this machine; use a larger one")
        file.seek(0)
        return file.read()


def decode(path: Path, data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays in the bytes of a safetensors file, by name, as copies. Raises InputError if it is not one.

    Those in bf16, which numpy does not have, are returned in fp32.
    """
    arrays, found = layout(path, io.BytesIO(data), len(data)), {}
    begin = 8 + int.from_bytes(data[:8], "little")
    for name, array in arrays.items():
        half = array.kind == "BF16"
        kind = "<u2" if half else TYPES[array.kind][1]
        flat = np.frombuffer(data, kind, prod(array.shape), begin + array.begin)
        values = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32) if half else flat.copy()
        found[name] = values.reshape(array.shape)
    return found


def decode_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """The arrays in the bytes of a safetensors file, as torch's, on the CPU. Raises InputError if it is not one."""
    import safetensors.torch  # noqa: PLC0415 - only training needs torch
    from safetensors import SafetensorError  # noqa: PLC0415

    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise _damaged_error(path, f"it is not a safetensors file ({error})") from None


def physical_memory() -> int:
    """Bytes of memory of this machine; a very large number if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def _damaged_error(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged: {why}; restore it from a copy, or use another checkpoint")

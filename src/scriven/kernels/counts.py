"""An n-gram model of a text: counts of what came after each context, smoothed after Kneser and Ney.

`NgramCounter` counts a text, in bounded memory, and makes an `NgramTable`, which gives probabilities. A context is the
last `longest` symbols at most, and no more than those since the last boundary, with it. The probability of a symbol is
interpolated over all lengths of the context, from none on: it is the sum of (count - discount) / total in the context's
row and of what the discounts leave, times the probability in the context that is shorter by one symbol. In all but the
longest contexts a count is the number of different symbols before the n-gram; see Chen and Goodman (1998). A discount
depends on the length of the context, on the number of symbols in the row (1, 2, up to 4, or more) and on the count (1,
2, or more). Discounts are fitted: they make five blocks of the text, which are not counted at first, most probable.
Any symbol has a probability above 0, since symbols of no row share what the empty context's discounts leave.

All numbers are the same to the bit on every processor, for any number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import POINTER, addressof, byref, c_int64, c_void_p, string_at
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from scriven.arrays import Bools, Float32s, Float64s, Ids
from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields

LONGEST = 15  # symbols of a context at most; as in native/counts.h
KEY_BITS = 128  # of the number that stands for an n-gram
USUAL_LONGEST = 8  # longer contexts gain nothing on a million characters
BUDGET = 512 << 20  # bytes to count in
TABLE_BYTES = 96 << 20  # of a table
NODES_PER_BLOCK, BLOCK = 16, 64
DISCOUNT_KINDS, DISCOUNT_CLASSES = 4, 3
IDS_AT_ONCE = 1 << 16  # so that an interrupt need not wait for long

Array = npt.NDArray[Any]


def longest_context(symbols: int, most: int = USUAL_LONGEST) -> int:
    """The number of symbols of the longest context that is counted, for V symbols."""
    return max(0, min(most, LONGEST, KEY_BITS // symbols.bit_length() - 1))


class _CountsTable(NativeStruct):
    _fields_ = (
        *fields(c_int64, "symbols boundary width longest reach size entries large_size tail_size"),
        *fields(c_void_p, "levels nodes successors counts large tails discounts"),
    )


class _CountsOpen(NativeStruct):
    _fields_ = (*fields(c_int64, "symbols boundary longest total budget bytes"), *fields(c_void_p, "counter"))


class _CountsAdd(NativeStruct):
    _fields_ = (*fields(c_int64, "count"), *fields(c_void_p, "counter ids"))


class _CountsFinish(NativeStruct):
    _fields_ = tuple(fields(c_void_p, "counter table fit pruned"))


class _CountsScore(NativeStruct):
    _fields_ = (*fields(c_int64, "threads rows length first"), *fields(c_void_p, "table ids nats right"))


class _CountsPartner(NativeStruct):
    _fields_ = (*fields(c_int64, "longest"), *fields(c_void_p, "table weights"))


class _CountsMix(NativeStruct):
    _fields_ = (*fields(c_int64, "threads rows length first"), *fields(c_void_p, "partner ids logits"))


class _CountsDistribution(NativeStruct):
    _fields_ = (*fields(c_int64, "rows length"), *fields(c_void_p, "table ids probabilities"))


ARRAYS = ("levels", "nodes", "successors", "counts", "large", "tails", "discounts")


@dataclass(frozen=True)
class Counted:
    """How a table was made.

    characters: how many symbols were counted, with boundaries. held_out: to how many of them the discounts were fitted;
    they cost `usual_nats` each with the usual discounts, and `nats` with the fitted ones. pruned_early, pruned: up to
    how many occurrences an n-gram was left out, while counting and at the end, by the length of its context.
    """

    characters: int
    held_out: int
    usual_nats: float
    nats: float
    pruned_early: tuple[int, ...]
    pruned: tuple[int, ...]


class NgramTable:
    """An n-gram model: arrays that nothing changes, which may be mapped from a file."""

    def __init__(self, symbols: int, boundary: int | None, reach: int, arrays: Mapping[str, Array]) -> None:
        """Takes the arrays of another table. Raises ValueError unless they are one."""
        self.symbols = symbols
        self.boundary = boundary
        self.reach = reach
        self.arrays = dict(arrays)
        _check_arrays(symbols, self.arrays)
        self.native = _pack(symbols, boundary, reach, self.arrays)
        check = native_library.declare("scriven_counts_check", [POINTER(_CountsTable)], c_int64)
        if check(byref(self.native)):
            raise ValueError("the n-grams do not belong together")

    @property
    def longest(self) -> int:
        """The number of symbols of the longest contexts."""
        return len(self.arrays["levels"]) - 2

    @property
    def bytes(self) -> int:
        """The size of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def score(self, ids: Ids, first: int = 0, threads: int = 1) -> Float64s:
        """-ln of the probabilities of ids (N, T) from place `first` of each row on, (N, T - first).

        The ids before one in its row are its context.
        """
        return self._score(ids, first, threads, judged=False)[0]

    def judge(self, ids: Ids, first: int = 0, threads: int = 1) -> tuple[Float64s, Bools]:
        """Returns the same as `score`, and which ids are the most likely ones (N, T - first), which takes longer."""
        return self._score(ids, first, threads, judged=True)

    def _score(self, ids: Ids, first: int, threads: int, *, judged: bool) -> tuple[Float64s, Bools]:
        ids = _rows(ids)
        if not 0 <= first <= ids.shape[1]:
            raise ValueError(f"there is no place {first} in rows of {ids.shape[1]}")
        rows, length = ids.shape
        nats, right = np.empty((rows, length - first)), np.zeros((rows, length - first), np.bool_)
        native_library.call(
            _CountsScore(
                threads=threads,
                rows=rows,
                length=length,
                first=first,
                table=addressof(self.native),
                ids=ids.ctypes.data,
                nats=nats.ctypes.data,
                right=right.ctypes.data if judged else None,
            )
        )
        return nats, right

    def distribution(self, ids: Ids) -> Float64s:
        """The probabilities (N, V) of what follows ids (N, T)."""
        ids = _rows(ids)
        probabilities = np.empty((len(ids), self.symbols))
        rows, length = ids.shape
        native_library.call(
            _CountsDistribution(
                rows=rows,
                length=length,
                table=addressof(self.native),
                ids=ids.ctypes.data,
                probabilities=probabilities.ctypes.data,
            )
        )
        return probabilities

    def known_lengths(self, ids: Ids, predictions: int, longest: int) -> Float32s:
        """The lengths of the contexts that the table has, `longest` at most, for each of the last predictions (t, N).

        They follow the last t of ids (T, N), as in `NgramMixture.mix`.
        """
        lengths = np.ones((predictions, ids.shape[1], self.symbols), np.float32)
        by_length = np.stack([np.arange(self.longest + 1.0), np.zeros(self.longest + 1)], 1)
        NgramMixture(self, by_length, longest).mix(lengths, ids)
        return lengths[..., 0]


class NgramMixture:
    """A table as a partner of a network: the logits of a mixture are sums of theirs.

    The probabilities are products of powers of both, which sum to 1 as those of any logits do. `weights` (longest + 1,
    2) are the exponents of the network and of the table, by the number of symbols of the longest context that the table
    has. With 0 and 1 the table stands alone. `longest` is the number of symbols of a context that are looked at, at
    most. The table's discounts are multiplied by `discount`: a table alone needs all of them, and beside a network
    less.
    """

    def __init__(self, table: NgramTable, weights: Float64s, longest: int | None = None, discount: float = 1.0) -> None:
        """Copies the weights. Raises ValueError if they are not of this table, or if `discount` is not from 0 to 1."""
        if not 0 <= discount <= 1:
            raise ValueError(f"discounts are multiplied by 0 to 1, not by {discount}")
        self.table = table
        self.discount = discount
        self.weights = np.array(weights, np.float64)
        self.longest = table.longest if longest is None else min(longest, table.longest)
        if self.weights.shape != (table.longest + 1, 2):
            raise ValueError(f"weights must be ({table.longest + 1}, 2), not {self.weights.shape}")
        self._arrays = table.arrays | {"discounts": table.arrays["discounts"] * discount}
        self._table = _pack(table.symbols, table.boundary, table.reach, self._arrays)
        self._partner = _CountsPartner(
            longest=self.longest, table=addressof(self._table), weights=self.weights.ctypes.data
        )

    @classmethod
    def alone(cls, table: NgramTable, longest: int | None = None, discount: float = 1.0) -> NgramMixture:
        """A mixture with the table's own probabilities; the network has no part in it."""
        return cls(table, np.tile([0.0, 1.0], (table.longest + 1, 1)), longest, discount)

    @property
    def native(self) -> int:
        """The address of the mixture, for native functions."""
        return addressof(self._partner)

    def mix(self, logits: Float32s, ids: Ids, threads: int = 1) -> None:
        """Makes logits (t, N, V) of what follows the last t of ids (T, N) those of the mixture, in place.

        The ids before one in its column are its context; the first logits follow all but t - 1 ids.
        """
        length, rows = ids.shape
        first, ids = length - len(logits), np.ascontiguousarray(ids, np.int64)
        if logits.shape[1:] != (rows, self.table.symbols) or logits.dtype != np.float32 or first < 0:
            raise ValueError(f"logits are {logits.shape} {logits.dtype}, which ids {ids.shape} do not give")
        if not (logits.flags.c_contiguous and logits.flags.writeable):
            raise ValueError("logits must be in one piece, and not be read-only")
        native_library.call(
            _CountsMix(
                threads=threads,
                rows=rows,
                length=length,
                first=first,
                partner=self.native,
                ids=ids.ctypes.data,
                logits=logits.ctypes.data,
            )
        )


class NgramCounter:
    """Counts a text piece by piece, for an NgramTable. It must be closed; it is a context manager."""

    def __init__(
        self,
        symbols: int,
        total: int,
        *,
        boundary: int | None = None,
        longest: int | None = None,
        budget: int = BUDGET,
        table_bytes: int = TABLE_BYTES,
    ) -> None:
        """Counts `total` of V symbols, with boundaries, in about `budget` bytes of memory.

        A text with a boundary begins after one. The table is pruned to about `table_bytes`: n-grams of the longest
        contexts that occurred once are left out first. Raises RuntimeError for what cannot be counted, or
        if there is no library.
        """
        self.symbols = symbols
        self.boundary = boundary
        self.characters = 0
        self._longest = longest_context(symbols) if longest is None else longest
        self._counter = c_void_p()
        native_library.call(
            _CountsOpen(
                symbols=symbols,
                boundary=-1 if boundary is None else boundary,
                longest=self._longest,
                total=total,
                budget=budget,
                bytes=table_bytes,
                counter=addressof(self._counter),
            )
        )

    def __enter__(self) -> NgramCounter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the counter's memory; what it made stays."""
        counter, self._counter = self._counter, c_void_p()
        native_library.declare("scriven_counts_close", [c_void_p], c_int64)(counter)

    def count(self, ids: npt.NDArray[np.integer[Any]]) -> None:
        """Counts the next ids (T,) of the text. Raises RuntimeError for an id that is no symbol."""
        for begin in range(0, ids.size, IDS_AT_ONCE):
            piece = np.ascontiguousarray(ids[begin : begin + IDS_AT_ONCE], np.int64)
            native_library.call(_CountsAdd(count=piece.size, counter=self._counter.value, ids=piece.ctypes.data))
            self.characters += piece.size

    def finish(self) -> tuple[NgramTable, Counted]:
        """Makes the table. Nothing can be counted any more."""
        table, fit, pruned = _CountsTable(), np.empty(3), np.empty((2, self._longest + 1), np.int64)
        native_library.call(
            _CountsFinish(
                counter=self._counter.value, table=addressof(table), fit=fit.ctypes.data, pruned=pruned.ctypes.data
            )
        )
        shapes = _shapes(table.symbols, table.longest, table.size, table.entries, table.large_size, table.tail_size)
        arrays = {name: _copy(getattr(table, name), *shape) for name, shape in shapes.items()}
        held_out = max(1, int(fit[0]))
        counted = Counted(
            characters=self.characters,
            held_out=int(fit[0]),
            usual_nats=float(fit[1]) / held_out,
            nats=float(fit[2]) / held_out,
            pruned_early=tuple(pruned[0].tolist()),
            pruned=tuple(pruned[1].tolist()),
        )
        return NgramTable(self.symbols, self.boundary, table.reach, arrays), counted


def symbol_type(symbols: int) -> np.dtype[Any]:
    """The type of symbols in a table of V symbols, which must hold V as well."""
    return np.dtype("<u1" if symbols <= 255 else "<u2" if symbols <= 65535 else "<u4")


def array_types(symbols: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """The type of each array of a table of V symbols, and its shape, with -1 for a length that is not fixed."""
    return {name: (kind, (-1, *shape[1:])) for name, (shape, kind) in _shapes(symbols, 0, 0, 0, 0, 0).items()}


def _shapes(
    symbols: int, longest: int, size: int, entries: int, large: int, tails: int
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shape and type of each array of a table."""
    symbol, uint, place = symbol_type(symbols), np.dtype("<u4"), np.dtype("<i8")
    return {
        "levels": ((longest + 2, 3), place),
        "nodes": ((-(-size // NODES_PER_BLOCK), BLOCK), symbol),
        "successors": ((entries,), symbol),
        "counts": ((entries,), np.dtype("u1")),
        "large": ((large, 2), uint),
        "tails": ((tails,), symbol),
        "discounts": ((longest + 1, DISCOUNT_KINDS, DISCOUNT_CLASSES), np.dtype("<f8")),
    }


def _pack(symbols: int, boundary: int | None, reach: int, arrays: Mapping[str, Array]) -> _CountsTable:
    """Returns what native code reads arrays by, which must stay alive."""
    return _CountsTable(
        symbols=symbols,
        boundary=-1 if boundary is None else boundary,
        width=symbol_type(symbols).itemsize,
        longest=len(arrays["levels"]) - 2,
        reach=reach,
        size=int(arrays["levels"][-1, 0]),
        entries=arrays["counts"].size,
        large_size=len(arrays["large"]),
        tail_size=arrays["tails"].size,
        levels=arrays["levels"].ctypes.data,
        nodes=arrays["nodes"].ctypes.data,
        successors=arrays["successors"].ctypes.data,
        counts=arrays["counts"].ctypes.data,
        large=arrays["large"].ctypes.data,
        tails=arrays["tails"].ctypes.data,
        discounts=arrays["discounts"].ctypes.data,
    )


def _copy(address: int | None, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    """Copies an array that native code made."""
    size = prod(shape) * kind.itemsize
    return np.frombuffer(string_at(address, size) if address else b"", kind).reshape(shape)


def _check_arrays(symbols: int, arrays: Mapping[str, Array]) -> None:
    """Raises ValueError unless arrays have the types and shapes that native code reads them by."""
    if sorted(arrays) != sorted(ARRAYS):
        raise ValueError(f"the arrays of n-grams are {', '.join(ARRAYS)}, not {', '.join(arrays) or 'none'}")
    levels = arrays["levels"]
    if levels.ndim != 2 or levels.shape[1] != 3 or not 2 <= len(levels) <= LONGEST + 2:
        raise ValueError(f"levels is {list(levels.shape)}, not (levels, 3)")
    entries, large, tails = (len(arrays[name]) if arrays[name].ndim else 0 for name in ("counts", "large", "tails"))
    size = int(levels.flat[-3])
    for name, (shape, kind) in _shapes(symbols, len(levels) - 2, size, entries, large, tails).items():
        array = arrays[name]
        if array.shape != shape or array.dtype != kind or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {list(array.shape)} of {array.dtype}, not {list(shape)} of {kind}")


def _rows(ids: Ids) -> Ids:
    """Returns ids as native code reads them. Raises ValueError unless they are (N, T)."""
    if ids.ndim != 2:
        raise ValueError(f"ids must be (N, T), not {ids.shape}")
    return np.ascontiguousarray(ids, np.int64)

"""Translates symbols into ids by a table, in native code; numpy is the reference and the fallback.

Symbols are code points, bytes, or ids of another kind: unsigned numbers of one, two or four bytes. A table (int32) has
the id of symbol s at place s. The id is negative, or the table ends before s, if the symbol has no id.
"""

from __future__ import annotations

import sys
from ctypes import c_int64, c_void_p

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields

SYMBOLS_PER_BLOCK = 1 << 14  # symbols that numpy learns from at once: nearly all that are new come in the first block

Symbols = npt.NDArray[np.unsignedinteger]
Table = npt.NDArray[np.int32]
Ints = Ids


class _TextTranslate(NativeStruct):
    _fields_ = (
        *fields(c_int64, "symbol_bytes id_bytes length size"),
        *fields(c_void_p, "symbols table ids counts"),
    )


class _TextLearn(NativeStruct):
    _fields_ = (
        *fields(c_int64, "symbol_bytes length size known"),
        *fields(c_void_p, "symbols table places"),
    )


def usable() -> bool:
    """Whether native code can run here, and SCRIVEN_KERNELS allows it."""
    return native_library.library() is not None and sys.byteorder == "little"  # like the ids on disk


def translate(
    symbols: Symbols, table: Table, kind: np.dtype[np.unsignedinteger], counts: Ints | None = None
) -> Symbols | None:
    """The ids of symbols (n,) as numbers of this kind, (n,); None when a symbol has no id. The result may be read-only.

    If all have ids, `counts`, which is as long as the table, is increased by one at each symbol's place.
    """
    _check(symbols, table, counts)
    if not usable():
        return _translate_plain(symbols, table, kind, counts)
    symbols, ids = np.ascontiguousarray(symbols), np.empty(symbols.size, kind)
    done = native_library.call_for_count(
        _TextTranslate(
            symbol_bytes=symbols.itemsize,
            id_bytes=ids.itemsize,
            length=symbols.size,
            size=table.size,
            symbols=symbols.ctypes.data,
            table=table.ctypes.data,
            ids=ids.ctypes.data,
            counts=None if counts is None else counts.ctypes.data,
        )
    )
    return ids if done == symbols.size else None


def learn(symbols: Symbols, table: Table, known: int) -> Ints:
    """Gives new symbols the ids known, known + 1, ... in the table. Returns their first places in `symbols`, (m,).

    Raises IndexError for a symbol beyond the end of the table.
    """
    _check(symbols, table)
    if symbols.size and symbols.max() >= table.size:
        raise IndexError(f"the symbol {symbols.max()} is beyond a table of {table.size}")
    if not usable():
        return _learn_plain(symbols, table, known)
    symbols, places = np.ascontiguousarray(symbols), np.empty(min(symbols.size, table.size), np.int64)
    found = native_library.call_for_count(
        _TextLearn(
            symbol_bytes=symbols.itemsize,
            length=symbols.size,
            size=table.size,
            known=known,
            symbols=symbols.ctypes.data,
            table=table.ctypes.data,
            places=places.ctypes.data,
        )
    )
    return places[:found].copy()  # so that the unused rest is freed


def _translate_plain(
    symbols: Symbols, table: Table, kind: np.dtype[np.unsignedinteger], counts: Ints | None
) -> Symbols | None:
    ids: Symbols | None
    if symbols.dtype == kind == np.uint8:
        ids = _translate_bytes(symbols.tobytes(), table)
    else:
        ids = _look_up(symbols, table, kind)
    if ids is not None and counts is not None:
        counts += np.bincount(symbols, minlength=counts.size)
    return ids


def _translate_bytes(symbols: bytes, table: Table) -> Symbols | None:
    """Translates bytes into bytes, five times as fast as a look-up."""
    ids = np.full(256, -1, np.int32)
    ids[: table.size] = table[:256]
    if symbols.translate(None, delete=np.flatnonzero(ids >= 0).astype(np.uint8).tobytes()):
        return None
    return np.frombuffer(symbols.translate(ids.astype(np.uint8).tobytes()), np.uint8)


def _look_up(symbols: Symbols, table: Table, kind: np.dtype[np.unsignedinteger]) -> Symbols | None:
    if symbols.size and symbols.max() >= table.size:
        return None
    ids = table.take(symbols)  # not table[symbols], which takes twice as long
    return None if ids.min(initial=0) < 0 else ids.astype(kind)


def _learn_plain(symbols: Symbols, table: Table, known: int) -> Ints:
    found = [np.empty(0, np.int64)]
    for start in range(0, symbols.size, SYMBOLS_PER_BLOCK):
        block = symbols[start : start + SYMBOLS_PER_BLOCK]
        places = np.flatnonzero(table.take(block) < 0)
        _, first = np.unique(block[places], return_index=True)
        first = np.sort(places[first])
        table[block[first]] = np.arange(known, known + first.size)
        known += first.size
        found.append(start + first)
    return np.concatenate(found)


def _check(symbols: Symbols, table: Table, counts: Ints | None = None) -> None:
    """Raises ValueError for arrays that native code must not get, as it would access memory outside of them."""
    if symbols.ndim != 1 or symbols.dtype not in (np.uint8, np.uint16, np.uint32):
        raise ValueError(f"symbols must be (n,) of one, two or four bytes, not {symbols.shape} {symbols.dtype}")
    if table.ndim != 1 or table.dtype != np.int32 or not table.flags.carray:
        raise ValueError(f"the table must be (symbols,) int32 in one piece, not {table.shape} {table.dtype}")
    if counts is not None and not (counts.shape == table.shape and counts.dtype == np.int64 and counts.flags.carray):
        raise ValueError(f"counts must be {table.shape} int64 in one piece, not {counts.shape} {counts.dtype}")

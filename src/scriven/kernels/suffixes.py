"""Suffix arrays: which stretches of a text are in another one, the training text, and where.

The training text is cut into blocks. Each has the places of all suffixes that begin in it, sorted; its text reaches
beyond its own places, into the next block, so that a stretch is found as a whole. All of it may be mapped from files.
The separator, if there is one, is between two documents, and no stretch has it. Native code sorts and searches; numpy
is the reference and the fallback, many times slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import addressof, c_int64, c_void_p
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.kernels import native_library
from scriven.kernels.encode import usable
from scriven.kernels.native_library import NativeStruct, fields

PLACES_AT_ONCE = 1 << 12  # of a query that a thread looks up
FIRST_PLACES = (
    16  # of the first piece; later ones have more, or fewer where texts repeat themselves and each takes long
)
PIECE_SECONDS = 0.1
COMPARED_AT_ONCE = 64  # ids, by numpy

Text = npt.NDArray[np.unsignedinteger]
Order = npt.NDArray[np.int32]


class _SuffixBlock(NativeStruct):
    _fields_ = (*fields(c_int64, "length count"), *fields(c_void_p, "text order"))


class _SuffixIndex(NativeStruct):
    _fields_ = (*fields(c_int64, "width separator blocks"), *fields(c_void_p, "block"))


class _SuffixSort(NativeStruct):
    _fields_ = (*fields(c_int64, "width length symbols"), *fields(c_void_p, "text order"))


class _SuffixMatch(NativeStruct):
    _fields_ = (*fields(c_int64, "first last length"), *fields(c_void_p, "index ids lengths blocks places"))


class _SuffixFollow(NativeStruct):
    _fields_ = (*fields(c_int64, "count symbols"), *fields(c_void_p, "index ids found"))


class Block(NamedTuple):
    """A block of a text: the place of its first id, ids (T,), and the sorted places (M,) in it of its own suffixes."""

    first: int
    text: Text
    order: Order


class Matches(NamedTuple):
    """The longest stretch of the training text at each place of a text (T,), and a place in the training text."""

    lengths: Ids
    places: Ids


def id_type(symbols: int) -> np.dtype[Any]:
    """The type of ids below `symbols` in an index."""
    return np.dtype("<u1" if symbols <= 1 << 8 else "<u2" if symbols <= 1 << 16 else "<u4")


def sort_suffixes(text: Text, symbols: int) -> Order:
    """Returns the places (T,) of all suffixes of ids (T,), sorted; one that another begins with comes first.

    Raises RuntimeError for ids that are not below `symbols`, or without enough memory.
    """
    if not usable():
        return _sort_plain(text)
    text, order = np.ascontiguousarray(text), np.empty(len(text), np.int32)
    native_library.call(
        _SuffixSort(
            width=text.itemsize,
            length=len(text),
            symbols=symbols,
            text=text.ctypes.data,
            order=order.ctypes.data,
        )
    )
    return order


def _sort_plain(text: Text) -> Order:
    """Sorts by the first id, then by the first two, four, eight, ..., until all suffixes differ."""
    ranks, length = text.astype(np.int64) + 1, 1  # (T,); 0 is the end of the text
    order = np.argsort(ranks, kind="stable")
    while len(text):
        after = np.concatenate((ranks[length:], np.zeros(min(length, len(ranks)), np.int64)))
        keys = ranks * (max(len(ranks), int(ranks.max())) + 1) + after
        order = np.argsort(keys, kind="stable")
        found = keys[order]
        ranks[order] = np.concatenate(([0], np.cumsum(found[1:] != found[:-1]))) + 1
        if ranks[order[-1]] == len(ranks):
            break
        length *= 2
    return order.astype(np.int32)


class SuffixTable:
    """The sorted suffixes of a training text, in blocks. Nothing changes it."""

    def __init__(self, blocks: Sequence[Block], separator: int | None = None) -> None:
        """Takes blocks of one type of ids. Raises ValueError for arrays that are not such."""
        self.blocks = tuple(blocks)
        self.separator = separator
        for block in self.blocks:
            good = block.text.dtype.kind == "u" and block.order.dtype == np.int32
            if not (good and block.text.flags.c_contiguous and block.order.flags.c_contiguous):
                raise ValueError(f"a block has ids of {block.text.dtype} and places of {block.order.dtype}")
        if len({block.text.dtype for block in self.blocks}) > 1:
            raise ValueError("the blocks have ids of several types")
        self._table = (_SuffixBlock * len(self.blocks))(
            *(
                _SuffixBlock(
                    length=len(block.text),
                    count=len(block.order),
                    text=block.text.ctypes.data,
                    order=block.order.ctypes.data,
                )
                for block in self.blocks
            )
        )
        self._native = _SuffixIndex(
            width=self.blocks[0].text.itemsize if self.blocks else 1,
            separator=-1 if separator is None else separator,
            blocks=len(self.blocks),
            block=addressof(self._table),
        )

    @property
    def native(self) -> int:
        """The address of the index, for native functions."""
        return addressof(self._native)

    def match(self, ids: Ids, check_stop: Callable[[], object] = lambda: None) -> Matches:
        """Returns the longest stretch at each place of ids (T,): up to where the text, or a document, ends.

        `check_stop` is called before each piece of at most PLACES_AT_ONCE places, and may raise an error to end it.
        """
        if not usable():
            return self._match_plain(ids, check_stop)
        ids = np.ascontiguousarray(ids, np.int64)
        lengths, blocks, places = (np.empty(len(ids), np.int64) for _ in range(3))

        def _match_piece(first: int, last: int) -> None:
            check_stop()
            native_library.call(
                _SuffixMatch(
                    first=first,
                    last=last,
                    length=len(ids),
                    index=self.native,
                    ids=ids.ctypes.data,
                    lengths=lengths.ctypes.data,
                    blocks=blocks.ctypes.data,
                    places=places.ctypes.data,
                )
            )

        def _match(first: int, last: int) -> None:
            count = min(FIRST_PLACES, PLACES_AT_ONCE)
            while first < last:
                started = time.perf_counter()
                _match_piece(first, min(first + count, last))
                first += count
                slow = time.perf_counter() - started > PIECE_SECONDS
                count = max(1, count // 2) if slow else min(PLACES_AT_ONCE, 2 * count)

        if len(ids) and self.blocks:
            native_library.parallel_for(_match, len(ids), PLACES_AT_ONCE, native_library.threads())
            return Matches(lengths, places + np.array([block.first for block in self.blocks])[blocks])
        return Matches(np.zeros(len(ids), np.int64), np.full(len(ids), -1))

    def followers(self, ids: Ids, symbols: int) -> Ids:
        """Returns which ids below `symbols` follow ids (T,) somewhere in a document of the text; all for no ids."""
        ids = np.ascontiguousarray(ids, np.int64)
        if self.separator is not None and (ids == self.separator).any():
            return np.empty(0, np.int64)
        found = np.zeros(symbols, np.uint8)
        if usable():
            native_library.call(
                _SuffixFollow(
                    count=len(ids),
                    symbols=symbols,
                    index=self.native,
                    ids=ids.ctypes.data,
                    found=found.ctypes.data,
                )
            )
        else:
            for block in self.blocks:
                after = _places_after(block, ids)
                found[[each for each in np.unique(block.text[after]).tolist() if each < symbols]] = 1
            if self.separator is not None and self.separator < symbols:
                found[self.separator] = 0
        return np.flatnonzero(found)

    def _match_plain(self, ids: Ids, check_stop: Callable[[], object]) -> Matches:
        lengths, places = np.zeros(len(ids), np.int64), np.full(len(ids), -1)
        for first, last in self._documents(ids):
            for place in range(first, last):
                check_stop()
                for block in self.blocks:
                    _, length, found = _find(block, ids[place:last])
                    if length > lengths[place]:
                        lengths[place], places[place] = length, block.first + found
        return Matches(lengths, places)

    def _documents(self, ids: Ids) -> Iterator[tuple[int, int]]:
        ends = np.flatnonzero(ids == (-1 if self.separator is None else self.separator)).tolist()
        return zip([0, *(end + 1 for end in ends)], [*ends, len(ids)], strict=True)


def _common(text: Text, place: int, ids: Ids) -> int:
    """Returns how many of the ids (T,) a text has from a place on."""
    same, most = 0, min(len(ids), len(text) - place)
    while same < most:
        last = min(most, same + COMPARED_AT_ONCE)
        differ = np.flatnonzero(text[place + same : place + last] != ids[same:last])
        if differ.size:
            return same + int(differ[0])
        same = last
    return same


def _find(block: Block, ids: Ids) -> tuple[int, int, int]:
    """Returns the first suffix in the order that is not before ids (T,), and the longest stretch next to it."""
    text, first, last, length, found = block.text, 0, len(block.order), 0, -1
    while first < last:
        middle = (first + last) // 2
        place = int(block.order[middle])
        same = _common(text, place, ids)
        if same > length:
            length, found = same, place
        if same < len(ids) and (place + same >= len(text) or text[place + same] < ids[same]):
            first = middle + 1
        else:
            last = middle
    return first, length, found


def _places_after(block: Block, ids: Ids) -> Ids:
    """Returns the places in a block that follow ids (T,), within its text."""
    first = _find(block, ids)[0]
    last, end = len(block.order), first
    while end < last:
        middle = (end + last) // 2
        if _common(block.text, int(block.order[middle]), ids) == len(ids):
            end = middle + 1
        else:
            last = middle
    after = block.order[first:end].astype(np.int64) + len(ids)
    places: Ids = after[after < len(block.text)]
    return places

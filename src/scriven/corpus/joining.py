"""Strips of ids that lie on the disk, one after another, as one draft: they need not be written once more."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scriven.corpus.header import Shard
from scriven.corpus.numbers import Numbers
from scriven.corpus.shards import BLOCK, Ends, Provisional, smallest
from scriven.errors import InputError
from scriven.kernels import text as kernel
from scriven.settings import Frozen
from scriven.vocabulary import Ids

DEPTH = 4  # blocks that a thread may be ahead
ENDS_AT_ONCE = 1 << 20
Item = TypeVar("Item")


class Lying(Frozen):
    """A file of provisional ids: the symbol of each, runs of (bytes of an id, number of ids), name, length and hash."""

    symbols: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    ids: Shard


class Joined:
    """Strips as one draft, which `scriven.corpus.shards.PartWriter` takes from; all hashes are checked meanwhile."""

    def __init__(self, strips: Sequence[tuple[Lying, Path]], documents: Sequence[Numbers | None], ends: Path) -> None:
        """Strips, each in its folder, and where documents end in each, which is written to `ends`."""
        self.taken, self.ends = 0, Ends(ends)
        self._strips = strips
        self._starts = [0, *accumulate(strip.ids.length for strip, _ in strips)]  # in characters
        self._digests = [hashlib.sha256() for _ in strips]
        self._ids: dict[int, int] = {}  # of each symbol, by its first appearance
        for strip, _ in strips:
            for symbol in strip.symbols:
                self._ids.setdefault(symbol, len(self._ids))
        for start, inside in zip(self._starts, documents, strict=False):
            if inside:
                for first in range(0, inside.size, ENDS_AT_ONCE):
                    last = min(first + ENDS_AT_ONCE, inside.size)
                    self.ends.append(inside.read(first, last).astype(np.int64) + start)

    @property
    def length(self) -> int:
        """Characters of all strips."""
        return self._starts[-1]

    def symbols(self, before: int) -> Ids:
        """The distinct symbols of the first `before` characters: those of provisional ids 0, 1, 2, ..."""
        whole = bisect_right(self._starts, before) - 1
        found = [symbol for strip, _ in self._strips[:whole] for symbol in strip.symbols]
        if before > self._starts[whole]:
            ids = self._blocks(whole, 0, before - self._starts[whole])
            found += self._strips[whole][0].symbols[: 1 + max(int(block.max()) for block in ids)]
        return np.fromiter(dict.fromkeys(found), np.int64)

    def take(self, count: int) -> Iterator[Provisional]:
        """The next `count` ids, in blocks, which a thread reads ahead."""
        return ahead(self._next(count))

    def _next(self, count: int) -> Iterator[Provisional]:
        """As `take`. Raises InputError where a file is not as it was written."""
        while count:
            number = bisect_right(self._starts, self.taken) - 1
            start, length = self.taken - self._starts[number], min(count, self._starts[number + 1] - self.taken)
            strip, folder = self._strips[number]
            table = np.array([self._ids[symbol] for symbol in strip.symbols], np.int32)  # (local ids,)
            kind, digest = smallest(len(self._ids)), self._digests[number]
            for block in self._blocks(number, start, length):
                digest.update(block.data)
                ids = kernel.translate(block, table, kind)
                if ids is None:
                    raise damaged(folder / strip.ids.file)
                self.taken += ids.size
                yield ids
            if start + length == strip.ids.length and digest.hexdigest() != strip.ids.sha256:
                raise damaged(folder / strip.ids.file)
            count -= length

    def _blocks(self, number: int, start: int, count: int) -> Iterator[Provisional]:
        """Some ids of a strip as they lie there, in blocks."""
        strip, folder = self._strips[number]
        path, at, place = folder / strip.ids.file, 0, 0
        with path.open("rb") as file:
            for size, length in strip.runs:
                first, last = max(start, at), min(start + count, at + length)
                for done in range(first, last, BLOCK):
                    wanted = min(BLOCK, last - done)
                    file.seek(place + (done - at) * size)
                    data = file.read(wanted * size)
                    if len(data) < wanted * size:
                        raise damaged(path)
                    yield np.frombuffer(data, smallest(1 << 8 * size))
                at, place = at + length, place + length * size


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items, made by a thread while those before are used."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, items, end) for _ in range(DEPTH))
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, items, end))
            yield item


def damaged(path: Path) -> InputError:
    """The error for a file of a part that is not as it was written."""
    return InputError(f"{path} is damaged; build the part again")

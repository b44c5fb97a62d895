"""Part of a corpus, built apart from the others: its text as ids of its own, and what was found in it.

A part knows neither which of its documents validate nor which characters the training text has, since that depends on
the other parts. So it holds provisional ids with the symbols they stand for; merging takes the symbols of all parts in
order, as if they had been read at once, and makes the corpus of them. The text itself is not needed for that.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from itertools import accumulate
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field

from scriven.arrays import Ids
from scriven.corpus.decoding import ReadCounts
from scriven.corpus.header import Shard, check_file, read_json, write_json
from scriven.corpus.inputs import CorpusInput, CorpusOrigin, Name, Progress, Stretch
from scriven.corpus.line_ends import LineEnds
from scriven.corpus.numbers import Numbers
from scriven.corpus.shards import BLOCK, Bytes, Draft, Ends, Provisional, smallest, stretches
from scriven.corpus.sources import short_hash
from scriven.errors import InputError
from scriven.kernels import encode as kernel
from scriven.settings import Frozen
from scriven.vocabulary import UNICODE_SIZE

DEPTH = 4  # blocks that a thread may be ahead
ENDS_AT_ONCE = 1 << 20
Item = TypeVar("Item")


class StoredIds(Frozen):
    """A file of provisional ids: the symbol of each, runs of (bytes of an id, number of ids), name, length and hash."""

    symbols: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    ids: Shard


class ConcatenatedDraft:
    """Strips as one draft, which `scriven.corpus.shards.PartWriter` takes from; all hashes are checked meanwhile."""

    def __init__(
        self, strips: Sequence[tuple[StoredIds, Path]], documents: Sequence[Numbers | None], ends: Path
    ) -> None:
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
                    raise damaged_error(folder / strip.ids.file)
                self.taken += ids.size
                yield ids
            if start + length == strip.ids.length and digest.hexdigest() != strip.ids.sha256:
                raise damaged_error(folder / strip.ids.file)
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
                        raise damaged_error(path)
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


def damaged_error(path: Path) -> InputError:
    """The error for a file of a part that is not as it was written."""
    return InputError(f"{path} is damaged; build the part again")


FORMAT = 1
NAME = "part.json"
TEXT, HELD = "text", "held"
Whole = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]
Lost = Annotated[int, Field(gt=-(1 << 53), lt=1 << 53, strict=True)]  # of many parts they are summed as int64
Symbol = Annotated[int, Field(ge=0, lt=UNICODE_SIZE, strict=True)]


class PartArrays(StoredIds):
    """One text as provisional ids, and the file of where its documents end."""

    symbols: tuple[Symbol, ...]
    runs: tuple[tuple[Literal[1, 2, 4], Whole], ...]
    documents: Shard | None


class Findings(Frozen):
    """A `ReadCounts` as JSON; of what was replaced, pairs of a code point and by how much it became rarer."""

    position: Whole
    marks: Whole = 0
    invalid: Whole
    line_ends: tuple[Whole, Whole, Whole] = (0, 0, 0)
    punctuation: tuple[tuple[Symbol, Lost], ...] = ()
    lowercased: tuple[tuple[Symbol, Lost], ...]
    normalized: tuple[tuple[Symbol, Lost], ...]
    documents: Whole
    empty: Whole
    separators: Whole
    bad_rows: Whole
    structure: str = ""


class PartFile(Frozen):
    """What a part says of itself in `part.json`, which is written last: it is number 1, 2, ... of `count`."""

    format: int
    number: Annotated[int, Field(ge=1, strict=True)]
    count: Annotated[int, Field(ge=1, strict=True)]
    origin: CorpusOrigin
    findings: Findings
    text: PartArrays
    held: PartArrays


class Parts:
    """The parts of one corpus as its material; see `scriven.corpus.inputs.CorpusInput`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises InputError where one is no part, is damaged, missing, there twice or of another corpus."""
        files = sorted(((read_part(folder), folder) for folder in folders), key=lambda pair: pair[0].number)
        _check_complete(files)
        self._files, self._origin = files, files[0][0].origin
        self.settings, self.tally, self.position = self._origin.settings, ReadCounts(), 0
        self.has_held = bool(self.settings.validation_file)

    @property
    def size(self) -> int:
        """Characters (or bytes, by the unit) of all parts."""
        return sum(strip.ids.length for file, _ in self._files for strip in (file.text, file.held))

    def draft(self, name: Name, ends: Path) -> ConcatenatedDraft:
        """See `CorpusInput`."""
        strips = [(getattr(file, name), folder) for file, folder in self._files]
        if name == "text":
            self._add_findings()
        return ConcatenatedDraft(strips, [_ends(strip, folder) for strip, folder in strips], ends)

    def text(self) -> Iterator[Stretch]:
        """See `CorpusInput`."""
        self._add_findings()
        yield from self._stretches(TEXT)

    def validation_file(self) -> Iterator[Stretch]:
        """See `CorpusInput`."""
        return self._stretches(HELD)

    def origin(self) -> CorpusOrigin:
        """See `CorpusInput`."""
        return self._origin

    def stamps(self) -> str:
        """See `CorpusInput`."""
        return short_hash([file.model_dump(mode="json") for file, _ in self._files])

    def _add_findings(self) -> None:
        for file, _ in self._files:
            _add(self.tally, file.findings)

    def _stretches(self, name: str) -> Iterator[Stretch]:
        for file, folder in self._files:
            for symbols, ends in _read_arrays(getattr(file, name), folder):
                self.position += symbols.size
                yield symbols, ends


def write_part(work: Path, material: CorpusInput, part: tuple[int, int], progress: Progress) -> None:
    """Reads a part's material into an empty folder."""
    strips = []
    for name, coming in ((TEXT, material.text()), (HELD, material.validation_file())):
        with (work / f"{name}.ids").open("wb") as raw:
            hashed = _Hashed(raw)
            draft = Draft(hashed, work / f"{name}-documents.npy")
            for symbols, ends in coming:
                draft.append(symbols, ends)
                progress(material.position, material.size)
            strips.append(_strip(draft, hashed, f"{name}.ids"))
    tally = material.tally
    changes = {name: getattr(tally, name).to_pairs() for name in ("lowercased", "punctuation", "normalized")}
    counted = changes | {"line_ends": astuple(tally.line_ends)}
    numbers = {name: getattr(tally, name) for name in Findings.model_fields if name not in counted}
    file = PartFile(
        format=FORMAT,
        number=part[0],
        count=part[1],
        origin=material.origin(),
        findings=Findings.model_validate({**numbers, **counted}),
        text=strips[0],
        held=strips[1],
    )
    write_json(work / NAME, file)


def read_part(folder: Path) -> PartFile:
    """What the part in a folder says of itself; its files are checked by their sizes.

    Raises InputError where it is not a part, or is damaged.
    """
    path = folder / NAME
    if not path.exists():
        raise InputError(f"{folder} is no part of a corpus; make one with: scriven corpus build TEXT --part 1/2 -o DIR")
    file = read_json(path, PartFile, FORMAT, "build the part again")
    for name, strip in ((TEXT, file.text), (HELD, file.held)):
        _check_strip(folder, name, strip)
    return file


def _check_strip(folder: Path, name: str, strip: PartArrays) -> None:
    lengths = [count for _, count in strip.runs]
    fits = (
        strip.ids.file == f"{name}.ids"
        and strip.ids.length == sum(lengths)
        and strip.ids.size == sum(size * count for size, count in strip.runs)
        and len(set(strip.symbols)) == len(strip.symbols)
        and (strip.documents is None or strip.documents.file == f"{name}-documents.npy")
    )
    if not fits:
        raise InputError(f"{folder / NAME} is damaged; build the part again")
    for shard in (strip.ids, *([strip.documents] if strip.documents else [])):
        check_file(folder, shard, "build the part again")


def _check_complete(files: Sequence[tuple[PartFile, Path]]) -> None:
    """Raises InputError unless there is each part of one corpus once; `files` are sorted by number."""
    first, place = files[0]
    for file, folder in files[1:]:
        if (file.count, file.origin) != (first.count, first.origin):
            raise InputError(
                f"{folder} (part {file.number}/{file.count}) and {place} (part {first.number}/{first.count}) are not "
                "of one corpus: their texts, settings or numbers of parts differ; build both in the same way"
            )
    numbers = [file.number for file, _ in files]
    for (before, one), (after, two) in itertools.pairwise(files):
        if before.number == after.number:
            raise InputError(f"{one} and {two} are both part {after.number}/{after.count}; name one of them")
    if missing := sorted(set(range(1, first.count + 1)) - set(numbers)):
        raise InputError(
            f"part {missing[0]}/{first.count} is missing ({len(missing):,} in all); build it with: "
            f"scriven corpus build ... --part {missing[0]}/{first.count} -o DIR"
        )


def _add(tally: ReadCounts, findings: Findings) -> None:
    for name in Findings.model_fields:
        value = getattr(findings, name)
        if name == "structure":
            tally.note_structure(value)
        elif isinstance(value, int):
            setattr(tally, name, getattr(tally, name) + value)
        elif name == "line_ends":
            tally.line_ends += LineEnds(*value)
        else:
            getattr(tally, name).add_pairs(value)


def _strip(draft: Draft, hashed: _Hashed, name: str) -> PartArrays:
    runs = tuple((dtype.itemsize, count) for dtype, count in draft.runs)
    size = sum(size * count for size, count in runs)
    ids = Shard(file=name, length=draft.length, size=size, sha256=hashed.digest.hexdigest())
    symbols = tuple(draft.symbols(draft.length).tolist())
    values = {"symbols": symbols, "runs": runs, "ids": ids, "documents": draft.ends.finish()}
    return PartArrays.model_validate(values)


def _read_arrays(strip: PartArrays, folder: Path) -> Iterator[Stretch]:
    """The symbols of a strip, and where documents end in them.

    Raises InputError where the files are not as they were written.
    """
    ends, read = _ends(strip, folder) or Ends(Path()), 0
    with (folder / strip.ids.file).open("rb") as raw:
        hashed = _Hashed(raw)
        draft = Draft.from_file(hashed, [(smallest(1 << 8 * size), count) for size, count in strip.runs])
        for stretch in stretches(draft.take(draft.length), np.array(strip.symbols, np.int64), ends):
            if stretch is None:
                raise damaged_error(folder / strip.ids.file)
            read += stretch[1].size
            yield stretch
        if hashed.digest.hexdigest() != strip.ids.sha256 or read < ends.size:
            raise damaged_error(folder / strip.ids.file)


def _ends(strip: PartArrays, folder: Path) -> Numbers | None:
    """Where the documents of a strip end; none where it has no documents."""
    if strip.documents is None:
        return None
    path = folder / strip.documents.file
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != strip.documents.sha256:
            raise damaged_error(path)
    return Numbers(path, strip.documents)


class _Hashed:
    """A file whose bytes are hashed as they are written, or read, from the first one on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: Bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data

    def seek(self, place: int) -> int:
        return self._file.seek(place)

"""Writes and reads parts of a corpus that are built separately: text as provisional ids, and counts.

The other parts decide which documents are validation, and which characters the training text has. So a part holds
provisional ids and the symbol of each id. Merging reads the symbols of all parts in order, as if they were
one text, and makes a corpus from them. It does not need the text files.
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
from scriven.corpus.decoding import LineEnds, ReadCounts
from scriven.corpus.header import Shard, check_file, read_json, write_json
from scriven.corpus.inputs import CorpusInput, CorpusOrigin, Name, Progress, SymbolChunk
from scriven.corpus.shard_reader import Numbers
from scriven.corpus.shards import BLOCK_CHARACTERS, Bytes, Draft, Ends, Provisional, decode_chunks, smallest_dtype
from scriven.corpus.sources import short_hash
from scriven.errors import InputError
from scriven.kernels import encode as kernel
from scriven.settings import Frozen
from scriven.tokens import TokenNumbers, is_token
from scriven.vocabulary import UNICODE_SIZE

BLOCKS_AHEAD = 4  # that the reading thread may be ahead
ENDS_AT_ONCE = 1 << 20
Item = TypeVar("Item")


class StoredIds(Frozen):
    """A file of provisional ids: the symbol of each id, runs of (bytes per id, number of ids), and the file itself."""

    symbols: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    ids: Shard


class ConcatenatedDraft:
    """The stored ids of all parts as one draft for `scriven.corpus.shards.PartWriter`; checks all hashes meanwhile."""

    def __init__(
        self, stored_texts: Sequence[tuple[StoredIds, Path]], documents: Sequence[Numbers | None], ends: Path
    ) -> None:
        """Stored ids with their folders, and the ends of their documents, which are written to `ends`."""
        self.taken, self.ends = 0, Ends(ends)
        self._stored = stored_texts
        self._starts = [0, *accumulate(stored.ids.length for stored, _ in stored_texts)]  # in characters
        self._digests = [hashlib.sha256() for _ in stored_texts]
        self._ids: dict[int, int] = {}  # the id of each symbol, in the order of first appearance
        for stored, _ in stored_texts:
            for symbol in stored.symbols:
                self._ids.setdefault(symbol, len(self._ids))
        for start, inside in zip(self._starts, documents, strict=False):
            if inside:
                for first in range(0, inside.size, ENDS_AT_ONCE):
                    last = min(first + ENDS_AT_ONCE, inside.size)
                    self.ends.append(inside.read(first, last).astype(np.int64) + start)

    @property
    def length(self) -> int:
        """The number of characters of all parts."""
        return self._starts[-1]

    def symbols(self, before: int) -> Ids:
        """The distinct symbols among the first `before` characters, in the order of provisional ids 0, 1, 2, ..."""
        whole = bisect_right(self._starts, before) - 1
        found = [symbol for stored, _ in self._stored[:whole] for symbol in stored.symbols]
        if before > self._starts[whole]:
            ids = self._blocks(whole, 0, before - self._starts[whole])
            found += self._stored[whole][0].symbols[: 1 + max(int(block.max()) for block in ids)]
        return np.fromiter(dict.fromkeys(found), np.int64)

    def take(self, count: int) -> Iterator[Provisional]:
        """Reads the next `count` ids, in blocks; a thread reads ahead."""
        return read_ahead(self._next(count))

    def _next(self, count: int) -> Iterator[Provisional]:
        """Like `take`, without a thread. Raises InputError if a file is damaged."""
        while count:
            number = bisect_right(self._starts, self.taken) - 1
            start, length = self.taken - self._starts[number], min(count, self._starts[number + 1] - self.taken)
            stored, folder = self._stored[number]
            table = np.array([self._ids[symbol] for symbol in stored.symbols], np.int32)  # (local ids,)
            kind, digest = smallest_dtype(len(self._ids)), self._digests[number]
            for block in self._blocks(number, start, length):
                digest.update(block.data)
                ids = kernel.translate(block, table, kind)
                if ids is None:
                    raise damaged_error(folder / stored.ids.file)
                self.taken += ids.size
                yield ids
            if start + length == stored.ids.length and digest.hexdigest() != stored.ids.sha256:
                raise damaged_error(folder / stored.ids.file)
            count -= length

    def _blocks(self, number: int, start: int, count: int) -> Iterator[Provisional]:
        """Reads some ids of one part as they are stored, in blocks."""
        stored, folder = self._stored[number]
        path, at, place = folder / stored.ids.file, 0, 0
        with path.open("rb") as file:
            for size, length in stored.runs:
                first, last = max(start, at), min(start + count, at + length)
                for done in range(first, last, BLOCK_CHARACTERS):
                    wanted = min(BLOCK_CHARACTERS, last - done)
                    file.seek(place + (done - at) * size)
                    data = file.read(wanted * size)
                    if len(data) < wanted * size:
                        raise damaged_error(path)
                    yield np.frombuffer(data, smallest_dtype(1 << 8 * size))
                at, place = at + length, place + length * size


def read_ahead(items: Iterator[Item]) -> Generator[Item]:
    """Yields the same items; a thread computes the next ones meanwhile."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, items, end) for _ in range(BLOCKS_AHEAD))
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, items, end))
            yield item


def damaged_error(path: Path) -> InputError:
    """The error for a damaged file of a part."""
    return InputError(f"{path} is damaged; build the part again")


FORMAT, FORMAT_OF_TOKENS = 1, 2  # earlier versions know no tokens
NAME = "part.json"
TEXT, HELD = "text", "held"
Whole = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]
Lost = Annotated[int, Field(gt=-(1 << 53), lt=1 << 53, strict=True)]  # the sum over many parts must fit int64
Symbol = Annotated[int, Field(ge=0, lt=UNICODE_SIZE, strict=True)]


class PartArrays(StoredIds):
    """One text as provisional ids, and the file of the places where its documents end."""

    symbols: tuple[Symbol, ...]
    tokens: tuple[str, ...] = ()  # in place of symbols, which are then their numbers
    runs: tuple[tuple[Literal[1, 2, 4], Whole], ...]
    documents: Shard | None


class Findings(Frozen):
    """A `ReadCounts` as JSON. Replaced characters are pairs of a code point and how much rarer it became."""

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
    spaces: Whole = 0
    structure: str = ""


class PartFile(Frozen):
    """The header of a part, `part.json`, which is written last. The part is `number` (from 1) of `count`."""

    format: int
    number: Annotated[int, Field(ge=1, strict=True)]
    count: Annotated[int, Field(ge=1, strict=True)]
    origin: CorpusOrigin
    findings: Findings
    text: PartArrays
    held: PartArrays


class Parts:
    """The parts of one corpus as its input; see `scriven.corpus.inputs.CorpusInput`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises InputError if a folder is not a part or is damaged, or parts are missing, double or do not belong."""
        files = sorted(((read_part(folder), folder) for folder in folders), key=lambda pair: pair[0].number)
        _check_complete(files)
        self._files, self._origin = files, files[0][0].origin
        self.settings, self.tally, self.position = self._origin.settings, ReadCounts(), 0
        self.tokens = TokenNumbers()
        if self.settings.unit == "token":
            self._files = [(_renumber(file, self.tokens), folder) for file, folder in files]
        self.has_validation_file = bool(self.settings.validation_file)

    @property
    def size(self) -> int:
        """The characters of all parts (bytes, if the unit is byte)."""
        return sum(stored.ids.length for file, _ in self._files for stored in (file.text, file.held))

    def draft(self, name: Name, ends: Path) -> ConcatenatedDraft:
        """See `CorpusInput`."""
        stored_texts = [(getattr(file, name), folder) for file, folder in self._files]
        if name == "text":
            self._add_findings()
        return ConcatenatedDraft(stored_texts, [_ends(stored, folder) for stored, folder in stored_texts], ends)

    def text(self) -> Iterator[SymbolChunk]:
        """See `CorpusInput`."""
        self._add_findings()
        yield from self._read_chunks(TEXT)

    def validation_file(self) -> Iterator[SymbolChunk]:
        """See `CorpusInput`."""
        return self._read_chunks(HELD)

    def origin(self) -> CorpusOrigin:
        """See `CorpusInput`."""
        return self._origin

    def stamps(self) -> str:
        """See `CorpusInput`."""
        return short_hash([file.model_dump(mode="json") for file, _ in self._files])

    def _add_findings(self) -> None:
        for file, _ in self._files:
            _add(self.tally, file.findings)

    def _read_chunks(self, name: str) -> Iterator[SymbolChunk]:
        for file, folder in self._files:
            for symbols, ends in _read_arrays(getattr(file, name), folder):
                self.position += symbols.size
                yield symbols, ends


def write_part(work: Path, corpus_input: CorpusInput, part: tuple[int, int], progress: Progress) -> None:
    """Reads the input of one part and writes it into the empty folder `work`."""
    stored_texts = []
    for name, coming in ((TEXT, corpus_input.text()), (HELD, corpus_input.validation_file())):
        with (work / f"{name}.ids").open("wb") as raw:
            hashed = _Hashed(raw)
            draft = Draft(hashed, work / f"{name}-documents.npy")
            for symbols, ends in coming:
                draft.append(symbols, ends)
                progress(corpus_input.position, corpus_input.size)
            stored_texts.append(_store(draft, hashed, f"{name}.ids", corpus_input.tokens.names))
    tally = corpus_input.tally
    changes = {name: getattr(tally, name).to_pairs() for name in ("lowercased", "punctuation", "normalized")}
    counted = changes | {"line_ends": astuple(tally.line_ends)}
    numbers = {name: getattr(tally, name) for name in Findings.model_fields if name not in counted}
    file = PartFile(
        format=FORMAT_OF_TOKENS if corpus_input.settings.unit == "token" else FORMAT,
        number=part[0],
        count=part[1],
        origin=corpus_input.origin(),
        findings=Findings.model_validate({**numbers, **counted}),
        text=stored_texts[0],
        held=stored_texts[1],
    )
    write_json(work / NAME, file)


def read_part(folder: Path) -> PartFile:
    """Reads the header of the part in a folder, and checks the sizes of its files.

    Raises InputError if it is not a part, or is damaged.
    """
    path = folder / NAME
    if not path.exists():
        raise InputError(f"{folder} is not a part; make one with: scriven corpus build TEXT --part 1/2 -o DIR")
    file = read_json(path, PartFile, (FORMAT, FORMAT_OF_TOKENS), "build the part again")
    for name, stored in ((TEXT, file.text), (HELD, file.held)):
        _check_stored(folder, name, stored)
    return file


def _check_stored(folder: Path, name: str, stored: PartArrays) -> None:
    lengths = [count for _, count in stored.runs]
    fits = (
        stored.ids.file == f"{name}.ids"
        and stored.ids.length == sum(lengths)
        and stored.ids.size == sum(size * count for size, count in stored.runs)
        and len(set(stored.symbols)) == len(stored.symbols)
        and (not stored.tokens or (all(map(is_token, stored.tokens)) and len(set(stored.tokens)) == len(stored.tokens)))
        and len(stored.tokens) in {0, len(stored.symbols)}
        and (stored.documents is None or stored.documents.file == f"{name}-documents.npy")
    )
    if not fits:
        raise InputError(f"{folder / NAME} is damaged; build the part again")
    for shard in (stored.ids, *([stored.documents] if stored.documents else [])):
        check_file(folder, shard, "build the part again")


def _check_complete(files: Sequence[tuple[PartFile, Path]]) -> None:
    """Raises InputError unless each part of one corpus is given exactly once. `files` are sorted by number."""
    first, place = files[0]
    for file, folder in files[1:]:
        if (file.count, file.origin) != (first.count, first.origin):
            raise InputError(
                f"{folder} (part {file.number}/{file.count}) and {place} (part {first.number}/{first.count}) do not "
                "belong to one corpus: their texts, settings or numbers of parts differ; build both in the same way"
            )
    numbers = [file.number for file, _ in files]
    for (before, one), (after, two) in itertools.pairwise(files):
        if before.number == after.number:
            raise InputError(f"{one} and {two} are both part {after.number}/{after.count}; give only one of them")
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


def _renumber(file: PartFile, numbers: TokenNumbers) -> PartFile:
    """Returns the header of a part of tokens with their numbers among those of all parts as its symbols."""
    arrays = {}
    for name in (TEXT, HELD):
        stored = getattr(file, name)
        arrays[name] = stored.model_copy(update={"symbols": tuple(numbers[token] for token in stored.tokens)})
    return file.model_copy(update=arrays)


def _store(draft: Draft, hashed: _Hashed, name: str, names: Sequence[str]) -> PartArrays:
    runs = tuple((dtype.itemsize, count) for dtype, count in draft.runs)
    size = sum(size * count for size, count in runs)
    ids = Shard(file=name, length=draft.length, size=size, sha256=hashed.digest.hexdigest())
    symbols = tuple(draft.symbols(draft.length).tolist())
    tokens = tuple(names[symbol] for symbol in symbols) if names else ()
    values = {"symbols": symbols, "tokens": tokens, "runs": runs, "ids": ids, "documents": draft.ends.finish()}
    return PartArrays.model_validate(values)


def _read_arrays(stored: PartArrays, folder: Path) -> Iterator[SymbolChunk]:
    """Reads the symbols of one part's text, and the places in them where documents end.

    Raises InputError if the files are damaged.
    """
    ends, read = _ends(stored, folder) or Ends(Path()), 0
    with (folder / stored.ids.file).open("rb") as raw:
        hashed = _Hashed(raw)
        draft = Draft.from_file(hashed, [(smallest_dtype(1 << 8 * size), count) for size, count in stored.runs])
        for chunk in decode_chunks(draft.take(draft.length), np.array(stored.symbols, np.int64), ends):
            if chunk is None:
                raise damaged_error(folder / stored.ids.file)
            read += chunk[1].size
            yield chunk
        if hashed.digest.hexdigest() != stored.ids.sha256 or read < ends.size:
            raise damaged_error(folder / stored.ids.file)


def _ends(stored: PartArrays, folder: Path) -> Numbers | None:
    """The places where the documents of one part's text end; None when it has no documents."""
    if stored.documents is None:
        return None
    path = folder / stored.documents.file
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != stored.documents.sha256:
            raise damaged_error(path)
    return Numbers(path, stored.documents)


class _Hashed:
    """A file whose bytes are hashed while they are written or read in order."""

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

"""What of a text is new, and what is copied: an index of the training text, and the stretches of a text that it has.

The index has the ids of the training text, with the boundary between documents, and their sorted suffixes, block by
block; see `scriven.kernels.suffixes`. It is built once for each corpus, in the user's cache, in memory that does not
grow with the text, and read from there, or mapped if it is large. The id of a character that the vocabulary lacks is V
and its place in the corpus's list of those.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.corpus.header import Whole, read_json, write_json
from scriven.corpus.shard_reader import KEPT_BYTES
from scriven.corpus.store import Corpus
from scriven.errors import InputError
from scriven.inference.chunks import chunks_of, documents_of
from scriven.kernels.encode import usable
from scriven.kernels.suffixes import Block, SuffixTable, Text, id_type, sort_suffixes
from scriven.runs.folder import Run
from scriven.runs.recovery import open_run_corpus
from scriven.runtime import cache_folder
from scriven.safe_files import flush_file, publish, staging_folder
from scriven.settings import Frozen, symbol_word
from scriven.vocabulary import Vocabulary

FORMAT = 1
HEADER_FILE, TEXT_FILE = "index.json", "text.ids"
OWN_FILES = re.compile(r"index\.json|text\.ids|order-\d{12}\.places")
BLOCK = 1 << 26  # ids whose suffixes are sorted at once: 5 bytes of memory for each, and some more
PLAIN_BLOCK = 1 << 22  # the same for numpy, which needs 50 bytes for each
OVERLAP = 1 << 16  # ids of the next block that a block has, too: longer stretches may be found as shorter ones
SHOWN_LENGTHS = (5, 10, 15, 20, 30, 40, 50, 75, 100)  # of stretches whose novel share is shown
COUNTED_AT_ONCE = 1 << 24  # ids
PLACES_AT_ONCE = 1 << 20  # of suffixes that are written
CHECKED_AT_ONCE = 1 << 24  # bytes

Progress = Callable[[int, int | None], None]


class IndexHeader(Frozen):
    """The header of an index. `size` counts ids, with boundaries; `block` counts the suffixes of a block.

    `unseen` are the code points that the vocabulary of V `symbols` lacks. `file` is the name of the text, if it is one
    file that the training text begins with.
    """

    format: int
    size: Whole
    symbols: Whole
    separator: int | None
    unseen: tuple[Whole, ...]
    block: Whole
    file: str
    crc32: dict[str, Whole]  # of each file, by its name

    @property
    def kind(self) -> np.dtype[np.unsignedinteger]:
        """The type of the ids."""
        return id_type(self.symbols + len(self.unseen))

    @property
    def starts(self) -> range:
        """The first id of each block."""
        return range(0, self.size, max(1, self.block))

    def is_whole(self, folder: Path) -> bool:
        """Whether a folder has all files, of the right sizes and with the right checksums."""
        sized = all(
            (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in self._sizes()
        )
        return sized and all(_checksum(folder / name) == self.crc32.get(name) for name, _ in self._sizes())

    def _sizes(self) -> Iterator[tuple[str, int]]:
        """Yields each file and its bytes, one by one: a damaged header may ask for any number of files."""
        yield TEXT_FILE, self.size * self.kind.itemsize
        for first in self.starts:
            yield _order_file(first), 4 * min(self.block, self.size - first)


def _order_file(first: int) -> str:
    return f"order-{first:012}.places"


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while piece := file.read(CHECKED_AT_ONCE):
            found = zlib.crc32(piece, found)
    return found


class TrainingIndex:
    """The index of a training text. Files of up to KEPT_BYTES are in memory; larger ones are mapped."""

    def __init__(self, folder: Path, header: IndexHeader, vocabulary: Vocabulary) -> None:
        """Reads or maps the files, which must be whole; the vocabulary is the corpus's. Raises OSError."""
        self.folder = folder
        self.header = header
        self._vocabulary = vocabulary
        self._mapped: list[tuple[BinaryIO, int]] = []  # files, and their bytes
        self._text: Text = self._read(TEXT_FILE, header.kind, header.size)
        reach = header.block + OVERLAP
        sizes = {first: min(header.block, header.size - first) for first in header.starts}
        orders = {first: self._read(_order_file(first), np.dtype(np.int32), size) for first, size in sizes.items()}
        # Ids are those of the model, but for unknown characters.
        self.suffixes = SuffixTable(
            [Block(first, self._text[first : first + reach], order) for first, order in orders.items()],
            header.separator,
        )

    def _read(self, name: str, kind: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        size = count * kind.itemsize
        if size <= KEPT_BYTES:
            values: npt.NDArray[Any] = np.fromfile(self.folder / name, kind, count)
            if len(values) < count:
                raise OSError(errno.EIO, "it was cut short", str(self.folder / name))
            return values
        file = (self.folder / name).open("rb")
        weakref.finalize(self, file.close)
        self._mapped.append((file, size))
        return np.memmap(file, kind, "r", shape=(count,))

    @property
    def is_cut(self) -> bool:
        """Whether a mapped file was cut short. To read it would end the process; a file that was removed stays."""
        return any(os.fstat(file.fileno()).st_size < size for file, size in self._mapped)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def ids(self, ids: Ids) -> Ids:
        """Returns ids (T,) of a model as those of the index; characters that the text lacks become `<unk>`."""
        return _number_unseen(ids, self._vocabulary, self.header.unseen)

    def find(self, place: int) -> tuple[int, int, int]:
        """Returns the character of the training text at a place, its line and its document, which count from 1.

        The character counts from 0. The document is 0 if there are none.
        """
        line_end = self.ids(self._vocabulary.encode("\n"))[0]
        counts_lines = line_end != self._vocabulary.unknown  # else any symbol that was left out would be a line's end
        separators = lines = 0
        for first in range(0, place, COUNTED_AT_ONCE):
            before = self._text[first : min(place, first + COUNTED_AT_ONCE)]
            lines += int(np.count_nonzero(before == line_end)) if counts_lines else 0
            if self.header.separator is not None:
                separators += int(np.count_nonzero(before == self.header.separator))
        return place - separators, lines + 1, separators + (self.header.separator is not None)

    def describe(self, character: int, line: int, document: int) -> str:
        """Returns where a place is, for people: FILE:LINE if the text was one file, else a line or a document."""
        if self.header.file:
            return f"{self.header.file}:{line}"
        where = f"document {document:,}" if document else f"line {line:,}"
        return f"{where} of the training text (character {character:,})"


def _number_unseen(ids: Ids, vocabulary: Vocabulary, unseen: Sequence[int]) -> Ids:
    """Returns ids (T,) whose unknown characters have the numbers V, V + 1, ..., or the id of `<unk>`."""
    found = ids.copy()
    unknown = np.flatnonzero(ids >= vocabulary.size)
    if unknown.size:
        known, points = np.array([*unseen, -1], np.int64), ids[unknown] - vocabulary.size
        place = np.searchsorted(known[:-1], points)
        found[unknown] = np.where(known[place] == points, vocabulary.size + place, vocabulary.unknown)
    return found


def open_index(
    run: Run, progress: Progress | None = None, *, build: bool = True, read_texts: bool = True
) -> TrainingIndex | None:
    """Returns the index of the text that a run was trained on, built first if it is missing and may be built.

    `progress(done, total)` is called with characters meanwhile. Without `read_texts` it is built of the corpus alone,
    which is not made again. Raises InputError if the text is gone, or if the index cannot be written.
    """
    known = run.origin.get("text")
    if known and (found := _find_index(_folder_of(known), run.vocabulary)):
        return found
    if not build:
        return None
    try:
        corpus = open_run_corpus(run, build=read_texts)
    except InputError as error:
        raise InputError(
            f"{error}. What is copied can only be found with the training text: put it back where it was, or train "
            "again on the text that there is"
        ) from None
    if corpus.vocabulary != run.vocabulary:
        raise InputError(f"{run.path} has other characters than its corpus {corpus.name}; train again")
    folder = _folder_of(corpus.text_hash)
    if found := _find_index(folder, corpus.vocabulary):
        return found
    return _build_index(corpus, folder, progress or (lambda done, total: None))


def _folder_of(text_hash: str) -> Path:
    return cache_folder() / "indexes" / text_hash[:32]


def _find_index(folder: Path, vocabulary: Vocabulary) -> TrainingIndex | None:
    """Returns the index in a folder, if it is one and whole."""
    header = _read_header(folder)
    if header is None or header.symbols != vocabulary.size:
        return None
    with contextlib.suppress(OSError):  # it was removed or cut short since
        return TrainingIndex(folder, header, vocabulary)
    return None


def _read_header(folder: Path) -> IndexHeader | None:
    try:
        header = read_json(folder / HEADER_FILE, IndexHeader, (FORMAT,), "it is built again")
        return header if header.is_whole(folder) else None
    except (InputError, OSError):
        return None


def _build_index(corpus: Corpus, folder: Path, progress: Progress) -> TrainingIndex:
    _check_own(folder)
    try:
        with staging_folder(folder.parent) as work:
            _write_index(corpus, work, progress)
            publish(work, folder, lambda there: _read_header(there) is not None, replace=True)
    except OSError as error:
        raise InputError(
            f"cannot write the index of the training text to {folder.parent} ({error.strerror or error}); it takes 5 "
            "to 8 bytes for each character: free some space, or choose another place with the environment variable "
            "SCRIVEN_CACHE"
        ) from None
    found = _find_index(folder, corpus.vocabulary)
    if found is None:
        raise InputError(f"{folder} was changed while it was built; try again")
    return found


def _check_own(folder: Path) -> None:
    """Raises InputError if a folder that a new index would replace is a link, or has files of others."""
    others = [folder.name] if folder.is_symlink() else []
    if folder.is_dir() and not others:
        others = [path.name for path in folder.iterdir() if not OWN_FILES.fullmatch(path.name)]
    if others:
        raise InputError(
            f"the index of the training text belongs in {folder}, where {others[0]} is, which Scriven did not make; "
            "move it away"
        )


def _write_index(corpus: Corpus, work: Path, progress: Progress) -> None:
    """Writes the files of an index into an empty folder, the header last."""
    vocabulary, part, settings = corpus.vocabulary, corpus.training, corpus.settings
    size = part.characters + part.documents * (vocabulary.boundary is not None)
    one_file = settings.documents == "none" and corpus.counts.sources == 1 and len(corpus.texts) == 1
    header = IndexHeader(
        format=FORMAT,
        size=size,
        symbols=vocabulary.size,
        separator=vocabulary.boundary,
        unseen=corpus.header.unseen,
        block=BLOCK if usable() else PLAIN_BLOCK,
        file=corpus.texts[0] if one_file and corpus.texts[0] != "-" else "",
        crc32={},
    )
    ids = (_number_unseen(chunk, vocabulary, header.unseen).astype(header.kind) for chunk in _training_ids(corpus))
    progress(0, size)
    checksums = {TEXT_FILE: _write_arrays(work / TEXT_FILE, ids)}
    for first in header.starts:
        progress(first, size)
        name = _order_file(first)
        checksums[name] = _write_arrays(work / name, _sort_block(work, header, first))
    write_json(work / HEADER_FILE, header.model_copy(update={"crc32": checksums}))
    progress(size, size)


def _write_arrays(path: Path, arrays: Iterable[npt.NDArray[Any]]) -> int:
    """Writes arrays one after the other to a file, and returns the checksum of all."""
    checksum = 0
    with path.open("wb") as file:
        for each in arrays:
            data = each.tobytes()
            checksum = zlib.crc32(data, checksum)
            file.write(data)
    flush_file(path)
    return checksum


def _training_ids(corpus: Corpus) -> Iterator[Ids]:
    boundary = corpus.vocabulary.boundary
    return chunks_of(corpus.training) if boundary is None else documents_of(corpus.training, boundary)


def _sort_block(work: Path, header: IndexHeader, first: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yields the sorted suffixes that begin in a block, in pieces; the text after it is sorted with them."""
    offset, count = first * header.kind.itemsize, header.block + OVERLAP
    text = np.fromfile(work / TEXT_FILE, header.kind, count, offset=offset)
    order = sort_suffixes(text, header.symbols + len(header.unseen))
    for start in range(0, len(order), PLACES_AT_ONCE):
        piece = order[start : start + PLACES_AT_ONCE]
        yield piece[piece < header.block]


# --- what of a text is new


@dataclass(frozen=True)
class Stretch:
    """A stretch of a text that is in the training text, too.

    `start` is its first character in the text, from 0 on; `line` and `column` are the same, from 1 on. `character` is
    its first character in the training text, and `source` names this place for people.
    """

    text: str
    length: int
    start: int
    line: int
    column: int
    source: str
    character: int


@dataclass(frozen=True)
class Novelty:
    """What of a text is new: the longest stretches that are in the training text, and the shares that are not.

    `stretches` have the longest first and do not overlap. `lengths` (T,) has, for each character, the longest stretch
    from there on that is in the training text, and `left` (T,) how many characters the document has from there on.
    """

    stretches: tuple[Stretch, ...]
    lengths: Ids = field(repr=False, compare=False)
    left: Ids = field(repr=False, compare=False)
    symbol: str = "character"  # what a character is called: for a model of tokens, they are tokens

    @property
    def characters(self) -> int:
        """The number of characters, without ends of documents."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """The characters of the longest stretch that is in the training text."""
        return int(self.lengths.max(initial=0))

    def count(self, length: int) -> tuple[int, int]:
        """Returns how many stretches of this length are not in the training text, and how many there are."""
        there = self.left >= length
        return int(np.count_nonzero(there & (self.lengths < length))), int(np.count_nonzero(there))

    def share(self, length: int) -> float | None:
        """Returns the share of the stretches of this length that are not in the training text; None without any."""
        novel, there = self.count(length)
        return novel / there if there else None

    def values(self) -> dict[str, Any]:
        """Returns the novelty as values for JSON. A text shorter than a length has no share of it."""
        shares = {str(length): self.share(length) for length in SHOWN_LENGTHS}
        return {
            "characters": self.characters,
            "longest": self.longest,
            "stretches": [dict(vars(each)) for each in self.stretches],
            "novel": {length: share for length, share in shares.items() if share is not None},
        }


def measure_novelty(
    index: TrainingIndex,
    vocabulary: Vocabulary,
    ids: Ids,
    stretches: int = 1,
    *,
    check_stop: Callable[[], object] = lambda: None,
) -> Novelty:
    """Returns what of a text is new, ids (T,) with boundaries, with its longest stretches that are not.

    A stretch is within one document. `check_stop` is called now and then, and may raise an error to end it.
    """
    matches = index.suffixes.match(index.ids(ids), check_stop)
    boundary = -1 if vocabulary.boundary is None else vocabulary.boundary
    inside = ids != boundary
    ends = np.append(np.flatnonzero(~inside), len(ids))
    left = ends[np.searchsorted(ends, np.arange(len(ids)))] - np.arange(len(ids))  # (T,)
    chosen = choose_stretches(matches.lengths, stretches)
    found = []
    for place in chosen:
        check_stop()  # as its line is counted from the start of the training text
        found.append(_stretch(index, vocabulary, ids, place, matches))
    return Novelty(tuple(found), matches.lengths[inside], left[inside], symbol_word(vocabulary.unit))


def choose_stretches(lengths: Ids, most: int) -> list[int]:
    """Returns where the longest stretches begin that do not overlap, `most` at most, given that at each place (T,)."""
    chosen: list[int] = []
    before = np.concatenate(([0], lengths[:-1]))
    whole = np.flatnonzero((lengths > 0) & (lengths >= before))  # a shorter one is within that one place before
    left = whole[np.argsort(-lengths[whole], kind="stable")]  # that do not overlap with those chosen
    while len(chosen) < most and len(left):
        place = int(left[0])
        chosen.append(place)
        left = left[(left + lengths[left] <= place) | (place + lengths[place] <= left)]
    return chosen


def _stretch(index: TrainingIndex, vocabulary: Vocabulary, ids: Ids, place: int, matches: tuple[Ids, Ids]) -> Stretch:
    length, there = int(matches[0][place]), int(matches[1][place])
    text, before = vocabulary.decode(ids[place : place + length]), vocabulary.decode(ids[:place])
    spaces = len(vocabulary.fit_between(before, text, "")) - len(text)  # between two tokens
    boundary = -1 if vocabulary.boundary is None else vocabulary.boundary
    found = index.find(there)
    return Stretch(
        text=text,
        length=length,
        start=int(np.count_nonzero(ids[:place] != boundary)),
        line=before.count("\n") + 1,
        column=len(before) + spaces - (before.rfind("\n") + 1) + 1,
        source=index.describe(*found),
        character=found[0],
    )

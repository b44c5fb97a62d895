"""Text -> a corpus: a folder of ids on disk, built in one streaming pass and found again while the text is the same."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import platformdirs

from scriven.allocator import keep_buffers
from scriven.corpus.alphabet import Alphabet, read_alphabet
from scriven.corpus.documents import cut
from scriven.corpus.header import FORMAT, Counts, Header, PartHeader, read_header, write_header
from scriven.corpus.shards import Draft, Layout, PartWriter
from scriven.corpus.sources import PIECE, Found, Tally, find
from scriven.corpus.split import Split, validation_characters
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings
from scriven.vocabulary import Ids, Symbols, Vocabulary, byte_places, byte_values, code_points

KEPT_BYTES = 2 * PIECE  # smaller buffers than that, a piece read among them, are kept; see `keep_buffers`
SLICE = 1 << 17  # characters made symbols at once: their buffers are kept, and stay in the processor's cache
UNFINISHED = ".scriven-building-"
DAY = 24 * 3600
Progress = Callable[[int, int | None], None]


def build(
    texts: Sequence[str], settings: CorpusSettings, folder: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of the corpus that these texts make (see `scriven.corpus.sources`); built unless it is there already.

    Without `folder` it is kept in the user's cache, by the path, size and time of change of each file and the settings.
    `progress(done, total)` is told bytes of the files, each counted twice: read, then written; the total is none while
    it is not known.
    Raises InputError when a text cannot be read or the corpus cannot be written, UsageError when no text is named.
    """
    keep_buffers(KEPT_BYTES)
    if not texts:
        raise UsageError("no text is named; name a file, a folder, - for standard input, python or shakespeare")
    job = _Job(texts, settings, progress or (lambda done, total: None))
    target = folder or cache_folder() / "corpora" / job.key()
    if job.size is not None and _is_built(target, job.key()):
        return target
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not the corpus of these texts; choose another folder, or remove it")
    with _explained(target.parent, job), _unfinished(target.parent) as work:
        job.write(work)
        return _moved(work, folder or target.with_name(job.key()), job.key(), cached=folder is None)


def cache_folder() -> Path:
    """Where what can be made again is kept: the environment variable SCRIVEN_CACHE, else the user's cache folder."""
    return Path(os.environ.get("SCRIVEN_CACHE") or platformdirs.user_cache_path("scriven", appauthor=False)).absolute()


class _Job:
    """One corpus to build: what to read, how, and what was found on the way."""

    def __init__(self, texts: Sequence[str], settings: CorpusSettings, progress: Progress) -> None:
        self.texts, self.settings, self.progress = tuple(texts), settings, progress
        self.found = find(texts), find([settings.validation_file] if settings.validation_file else [])
        self.alphabet = _alphabet(settings)
        self.tally = Tally()

    @property
    def size(self) -> int | None:
        """Bytes of the files as they lie on the disk; none where they are known only once they are read."""
        stamps = [source.stamp for part in self.found for source in part.sources]
        return None if None in stamps else sum(stamp[0] for stamp in stamps if stamp)

    def key(self) -> str:
        """What the corpus depends on, as a short hash; of standard input and pipes, what was read of them so far."""
        parts = [[(str(source.path), source.stamp) for source in part.sources] for part in self.found]
        streamed = self.tally.streamed.hexdigest()
        alphabet = self.alphabet.symbols if self.alphabet else None
        values = [FORMAT, unicodedata.unidata_version, self.settings.model_dump(), parts, streamed, alphabet]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]

    def write(self, work: Path) -> None:
        """The whole corpus, in an empty folder."""
        names = "training", "validation"
        with ExitStack() as stack:  # drafts have names, so that their age shows that the builder lives
            files = [stack.enter_context((work / f"{name}-draft").open("w+b")) for name in names]
            drafts = [Draft(file, work / f"{name}-documents.npy") for file, name in zip(files, names, strict=True)]
            training, validation = self._read(*drafts)
            layout = self._layout(training, validation)
            writers = [PartWriter(work, name, layout) for name in names]
            trained = writers[0].write(*training, lambda: self._wrote(drafts))
            validated = writers[1].write(*validation, lambda: self._wrote(drafts))
        for name in names:
            (work / f"{name}-draft").unlink()
        frequencies = np.stack([writer.frequencies for writer in writers])  # (2, ids)
        write_header(work, self._header(layout, trained, validated, frequencies))

    def _header(self, layout: Layout, training: PartHeader, validation: PartHeader, frequencies: Ids) -> Header:
        counts = self._counts(layout, frequencies)
        return Header(
            format=FORMAT,
            key=self.key(),
            texts=tuple(text.encode("utf-8", "replace").decode() for text in self.texts),
            settings=self.settings,
            notes=tuple(self._notes(counts, layout, frequencies.sum(axis=0))),
            counts=counts,
            training=training,
            validation=validation,
            unseen=tuple(layout.unseen.tolist()),
            vocabulary=json.loads(layout.vocabulary.to_json()),
            frequencies=tuple(frequencies[0, : layout.known].tolist()),
        )

    def _read(self, training: Draft, validation: Draft) -> tuple[tuple[Draft, int], tuple[Draft, int]]:
        """Everything into drafts; gives the draft and the length of the training part, and of the validation part."""
        (texts, held), share = self.found, self.settings.validation
        shared = self.settings.documents != "none" and not held.sources
        self._take(texts, self.texts, Split(share, training, validation).append if shared else training.append)
        if held.sources:
            self._take(held, (self.settings.validation_file,), validation.append)
        if held.sources or shared:
            return (training, training.length), (validation, validation.length)
        length = validation_characters(training.length, share)
        return (training, training.length - length), (training, length)

    def _take(self, found: Found, names: Sequence[str], append: Callable[[Symbols, Ids], None]) -> None:
        """The text of sources as symbols, with the places where documents end."""
        total = None if self.size is None else 2 * self.size
        is_empty, empty = True, self.tally.empty
        for text, ends in cut(found.sources, self.settings, self.tally, PIECE):
            for part, inside in _sliced(text, ends, SLICE):
                if self.settings.unit == "byte":
                    append(byte_values(part), byte_places(part, inside))
                else:
                    append(code_points(part), inside)
            is_empty = is_empty and not text
            self.progress(self.tally.position, total)
        if is_empty:
            left_out = self.tally.empty - empty
            beside = f" beside the ends of {left_out:,} empty documents" if left_out else ""
            raise InputError(f"there is not one character in {', '.join(names)}{beside}; name a file with text in it")

    def _layout(self, training: tuple[Draft, int], validation: tuple[Draft, int]) -> Layout:
        """The vocabulary that the training part has, or that is given, and ids for all other symbols."""
        trained = np.sort(training[0].symbols(training[1]))
        found = np.union1d(*(draft.symbols(draft.length) for draft, _ in (training, validation)))
        known = np.array(self.alphabet.symbols, np.int64) if self.alphabet else trained
        if not np.isin(trained, known).any():
            raise InputError(
                f"not one character of {', '.join(self.texts)} is in the alphabet {self.settings.alphabet}; choose "
                "another one, or leave it out"
            )
        separator = {"none": None, "separator": self.settings.separator}.get(self.settings.documents, "\n")
        if self.settings.unit == "byte":
            return Layout.of(Vocabulary.of_bytes(separator), found)
        return Layout.of(Vocabulary("character", tuple(known.tolist()), separator), found)

    def _wrote(self, drafts: Sequence[Draft]) -> None:
        taken, length = sum(draft.taken for draft in drafts), sum(draft.length for draft in drafts)
        size = self.tally.position
        self.progress(size + size * taken // length, 2 * size)

    def _counts(self, layout: Layout, frequencies: Ids) -> Counts:
        """`frequencies` of all ids in the training and the validation part, (2, ids)."""
        separator = layout.vocabulary.separator or ""
        both = frequencies.sum(axis=0)  # (ids,)
        return Counts(
            sources=sum(len(part.sources) for part in self.found),
            skipped=sum(len(part.skipped) for part in self.found),
            characters=int(both.sum()),
            bytes=int(both @ layout.lengths),
            lines=int(both[layout.symbols == ord("\n")].sum()) + self.tally.separators * separator.count("\n"),
            lowercased=self.tally.lowercased.characters if self.settings.lowercase else 0,
            normalized=self.tally.normalized.characters if self.settings.normalize == "nfc" else 0,
            invalid=self.tally.invalid,
            unseen=int(frequencies[1, layout.known :].sum()),
            unknown=int(both[layout.known :].sum()),
            documents=self.tally.documents,
            empty=self.tally.empty,
        )

    def _notes(self, counts: Counts, layout: Layout, frequencies: Ids) -> Iterator[str]:
        """What the user should know, a sentence each; `frequencies` of all ids in both parts together, (ids,)."""
        if skipped := [name for part in self.found for name in part.skipped]:
            yield f"skipped in folders, as not text by their names: {_some(skipped)}"
        if counts.lowercased:
            yield f"lower case replaced {counts.lowercased:,} characters"
        if counts.normalized:
            yield f"NFC replaced {counts.normalized:,} characters"
        if counts.invalid:
            became = "replaced by U+FFFD" if self.settings.invalid == "replace" else "kept as a symbol"
            yield f"{counts.invalid:,} bytes were not valid UTF-8; each was {became}"
        if self.alphabet:
            yield from self.alphabet.notes()
        yield from self._notes_on_documents(counts)
        if counts.unknown:
            yield self._note_on_unknown(counts, layout, frequencies)

    def _notes_on_documents(self, counts: Counts) -> Iterator[str]:
        if counts.empty:
            yield f"{counts.empty:,} documents without a character were left out"
        if self.settings.documents == "separator" and not self.tally.separators:
            yield f"the separator {self.settings.separator!r} does not occur; each file is one document"
        if counts.documents == 1 and self.settings.validation:
            yield (
                "there is one document only, so none is left for validation; name a --corpus.validation-file, or say "
                "otherwise what a document is"
            )

    def _note_on_unknown(self, counts: Counts, layout: Layout, frequencies: Ids) -> str:
        if not self.alphabet:
            new = [repr(chr(symbol)) for symbol in layout.unseen.tolist()]
            return (
                f"{counts.unseen:,} characters of the validation text do not occur in the training text, and count as "
                f"unknown: {_some(new)}"
            )
        counted = zip(frequencies[layout.known :].tolist(), layout.unseen.tolist(), strict=True)
        frequent = [f"{chr(symbol)!r} {count:,}" for count, symbol in sorted(counted, key=lambda pair: -pair[0])]
        return (
            f"{counts.unknown:,} of {counts.characters:,} characters are not in the alphabet, and count as unknown: "
            f"{_some(frequent)}"
        )


def _alphabet(settings: CorpusSettings) -> Alphabet | None:
    if not settings.alphabet:
        return None
    if settings.unit == "byte":
        raise UsageError("corpus.alphabet is of characters, and corpus.unit byte knows all bytes; drop one of them")
    return read_alphabet(Path(settings.alphabet))


def _sliced(text: str, ends: Ids, size: int) -> Iterator[tuple[str, Ids]]:
    """A text and the places in it where documents end, (M,), in slices; one empty slice where there is no text."""
    starts = range(0, len(text) or 1, size)
    for start, inside in zip(starts, np.split(ends, np.searchsorted(ends, starts[1:], "right")), strict=True):
        yield text[start : start + size], inside - start  # an end between two slices is in the first one


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _is_built(folder: Path, key: str) -> bool:
    with suppress(InputError):
        return read_header(folder).key == key
    return False


@contextmanager
def _unfinished(parent: Path) -> Iterator[Path]:
    """A new folder to build in, removed unless it was moved; what dead builders left there a day ago is removed too."""
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(UNFINISHED + "*"):
        if time.time() - _touched(path) > DAY:
            shutil.rmtree(path, ignore_errors=True)
    work = parent / f"{UNFINISHED}{uuid.uuid4().hex}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _touched(folder: Path) -> float:
    """When something in a folder was last written; now where it cannot be known."""
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return time.time()


def _moved(work: Path, target: Path, key: str, *, cached: bool) -> Path:
    """The finished corpus in its place, unless another process was faster."""
    try:
        if target.is_dir() and not cached:
            target.rmdir()  # the user may have made an empty one; some systems do not rename onto it
        work.rename(target)
    except OSError:
        if _is_built(target, key):
            return target
        if not cached or not target.is_dir():
            raise
        shutil.rmtree(target)  # a damaged corpus
        work.rename(target)
    return target


@contextmanager
def _explained(folder: Path, job: _Job) -> Iterator[None]:
    """Turns what goes wrong with writing into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            needed = 2 * max(job.size or 0, job.tally.position) / 1e6
            why = f"the disk is full, and at least {needed:,.0f} MB are needed there while building"
        else:
            why = error.strerror or str(error)
        raise InputError(
            f"cannot write the corpus in {folder} ({why}); make room, or choose another place with --output or the "
            "environment variable SCRIVEN_CACHE"
        ) from None

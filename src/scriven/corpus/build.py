"""Builds a corpus (a folder of ids on disk) from text, in one streaming pass, and finds it again in the cache.

Several builders can share the work: each builds a part, and `merge` makes the same corpus from all parts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from scriven.arguments import check_text
from scriven.corpus.decoding import PIECE_BYTES
from scriven.corpus.filesystem import explain_errors
from scriven.corpus.header import NAME, read_header
from scriven.corpus.inputs import CorpusInput, Progress, TextInput
from scriven.corpus.parts import NAME as PART_NAME
from scriven.corpus.parts import Parts, read_part, write_part
from scriven.corpus.sources import Notes, changed_error, hash_content, short_hash
from scriven.corpus.store import Corpus, is_corpus
from scriven.corpus.writer import assemble
from scriven.errors import InputError, UsageError
from scriven.runtime import cache_folder, keep_buffers
from scriven.safe_files import publish, staging_folder
from scriven.settings import CorpusSettings
from scriven.vocabulary import byte_values

COLUMN = "text"  # in the JSON lines that store documents from memory
OTHER = "exists and is not the corpus of these texts as they are now; choose another folder"
KEPT_BUFFER_BYTES = 2 * PIECE_BYTES  # buffers below this size, such as a piece of text, are kept; see `keep_buffers`


def build(
    texts: Sequence[str],
    settings: CorpusSettings,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    strict: bool = True,
) -> Path:
    """Builds the corpus of some texts (see `scriven.corpus.sources`), unless it exists. Returns its folder.

    Without `folder` it is kept in the user's cache, under a name made from the settings and the path and content of
    each file. A file whose size, times and place are unchanged is not read again.
    `progress(done, total)` is called with bytes of the files, each counted twice: once read, once written. The total is
    None while it is unknown.
    Raises InputError if a text cannot be read or the corpus cannot be written; UsageError if no text is named or, with
    `strict`, a setting would have no effect on the texts.
    """
    corpus_input = _make_input(texts, settings, strict=strict)
    if folder:
        return _make_in_folder(
            folder, corpus_input, lambda work: assemble(work, corpus_input, progress or _ignore_progress), _hash_corpus
        )
    if found := _find_cached(corpus_input, progress or _ignore_progress):
        return found
    corpora = cache_folder() / "corpora"
    with _explain_errors(corpora, corpus_input), staging_folder(corpora) as work:
        content = _hash_meanwhile(corpus_input, lambda: assemble(work, corpus_input, progress or _ignore_progress))
        name = corpus_input.key() if corpus_input.size is None else _name(corpus_input, content)
        _check_unchanged(corpus_input)
        made = publish(work, corpora / name, _is_whole, replace=True)
    _open_notes().write(name, corpus_input.stamps())
    return made


def open_or_build(
    texts: Sequence[str], settings: CorpusSettings, progress: Progress | None = None, *, strict: bool = True
) -> Corpus:
    """Opens the corpus that the texts name, or the one that `build` makes of them.

    Raises errors like `build`; InputError if the corpus is damaged.
    """
    return Corpus.open(texts[0] if is_corpus(texts) else build(texts, settings, progress=progress, strict=strict))


def store_text(text: str | Iterable[str]) -> Path:
    """Stores a text, or documents as JSON lines, in a file in the user's cache, which `build` can read. Returns it.

    Its name depends on the content, so that the same text is found again. Raises InputError if it cannot be written.
    """
    folder, digest = cache_folder() / "texts", hashlib.sha256()
    name, lines = ("text.txt", [text]) if isinstance(text, str) else ("documents.jsonl", map(_json_line, text))
    try:
        with staging_folder(folder) as work:
            with (work / name).open("wb") as file:
                for line in lines:
                    data = byte_values(line).tobytes()
                    digest.update(data)
                    file.write(data)
            target = folder / f"{digest.hexdigest()[:32]}-{name.partition('.')[0]}"
            return publish(work, target, lambda there: (there / name).is_file(), replace=True) / name
    except OSError as error:
        raise InputError(
            f"cannot write the text to {folder} ({error.strerror or error}); free some space, or choose "
            "another place with the environment variable SCRIVEN_CACHE"
        ) from None


def _json_line(document: str) -> str:
    return json.dumps({COLUMN: check_text("a document", document)}) + "\n"


def name_texts(texts: Sequence[str | Path], text: str | Iterable[str] | None) -> tuple[str, ...]:
    """Returns the names that `build` takes: those of the texts, or of a text in memory, which is stored first."""
    return tuple(map(str, texts)) if text is None else (str(store_text(text)),)


def settings_for_text(text: str | Iterable[str] | None) -> dict[str, str]:
    """Returns the corpus settings that read what `store_text` stored: documents are rows of a table."""
    return {} if text is None or isinstance(text, str) else {"documents": "files", "column": COLUMN}


def is_made_of(
    folder: Path, texts: Sequence[str], settings: CorpusSettings, progress: Progress | None = None
) -> bool | None:
    """Whether a corpus in the user's cache was made from these texts as they are now; None if that is unknown.

    Reads texts that may have changed, but builds nothing. Raises InputError if they cannot be read.
    """
    corpus_input, content = _make_input(texts, settings, strict=False), folder.name.partition("-")[2]
    if folder.parent != cache_folder() / "corpora" or corpus_input.size is None or not content:
        return None
    stamps, notes = corpus_input.stamps(), _open_notes()
    if notes.read(folder.name) == stamps:
        return True
    if (
        hash_content(
            corpus_input.sources, partial(_report_progress, progress or _ignore_progress, 2 * corpus_input.size)
        )
        != content
    ):
        return False
    notes.write(folder.name, stamps)
    return True


def build_part(
    texts: Sequence[str],
    settings: CorpusSettings,
    folder: Path,
    part: tuple[int, int],
    progress: Progress | None = None,
) -> Path:
    """Builds part (i, n) of the corpus of some texts, with i from 1 to n, unless it exists. Returns its folder.

    Raises InputError like `build`; UsageError if there is no such part.
    """
    number, count = part
    if not 1 <= number <= count:
        raise UsageError(f"there is no part {number}/{count}; the parts of {count} are 1/{count} to {count}/{count}")
    corpus_input = _make_input(texts, settings, part)

    def _hash(target: Path, settings: CorpusSettings) -> str:
        file = read_part(target)
        values = file.model_dump(mode="json") | {"origin": None}
        return short_hash(values) if (file.number, file.count, file.origin.settings) == (*part, settings) else ""

    return _make_in_folder(
        folder, corpus_input, lambda work: write_part(work, corpus_input, part, progress or _ignore_progress), _hash
    )


def merge(folders: Sequence[Path], folder: Path, progress: Progress | None = None) -> Path:
    """Merges the parts in some folders, in any order, into a corpus: the same files as `build` makes from the texts.

    Raises InputError if parts are missing, given twice, damaged or of different corpora, or the corpus cannot be
    written; UsageError if no part is named.
    """
    keep_buffers(KEPT_BUFFER_BYTES)
    if not folders:
        raise UsageError("no part is given; give the folders that scriven corpus build --part made")
    corpus_input = Parts(folders)
    return _make_in_folder(
        folder, corpus_input, lambda work: assemble(work, corpus_input, progress or _ignore_progress), _hash_corpus
    )


def _ignore_progress(done: int, total: int | None) -> None:
    pass


def _make_input(
    texts: Sequence[str], settings: CorpusSettings, part: tuple[int, int] | None = None, *, strict: bool = True
) -> TextInput:
    keep_buffers(KEPT_BUFFER_BYTES)
    if not texts:
        raise UsageError("no text is given; give a file, a folder, - for standard input, python or shakespeare")
    return TextInput(texts, settings, part, strict=strict)


def _check_free(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} exists and is not a folder; choose another name for the corpus")
    if (folder / NAME).exists() or (folder / PART_NAME).exists():
        raise InputError(f"{folder} {OTHER}")
    if any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty and is not a corpus, so nothing is written to it; choose a new folder, such as "
            f"{folder / 'corpus'}"
        )
    if folder.samefile(Path.cwd()):  # the corpus would replace this empty folder
        raise InputError(f"{folder} is the current folder; give a new one, such as {folder / 'corpus'}")


def _is_whole(folder: Path) -> bool:
    with suppress(InputError):
        read_header(folder)
        return True
    return False


def _hash_corpus(folder: Path, settings: CorpusSettings) -> str:
    """Returns a hash of a corpus's header without times and names of files; empty if the corpus has other settings.

    Raises InputError if the folder has no corpus.
    """
    header = read_header(folder)
    return short_hash(header.model_dump(mode="json") | {"key": "", "texts": []}) if header.settings == settings else ""


def _open_notes() -> Notes:
    """Returns the notes with the stamps of the sources of each corpus in the cache or in a user's folder."""
    return Notes(cache_folder() / "stamps")


def _name(corpus_input: TextInput, content: str) -> str:
    """Returns the name of a corpus in the cache."""
    return f"{corpus_input.timeless_key()}-{content}"


def _find_cached(corpus_input: TextInput, progress: Progress) -> Path | None:
    """Returns the folder of the corpus of the texts as they are now, if the cache has it."""
    if corpus_input.size is None:
        return None
    folders = sorted((cache_folder() / "corpora").glob(f"{corpus_input.timeless_key()}-*"))
    there = {folder.name: folder for folder in folders if _is_whole(folder)}
    stamps, notes = corpus_input.stamps(), _open_notes()
    if same := [folder for name, folder in there.items() if notes.read(name) == stamps]:
        return same[0]
    if not there:
        return None
    name = _name(
        corpus_input, hash_content(corpus_input.sources, partial(_report_progress, progress, 2 * corpus_input.size))
    )
    if name in there:
        notes.write(name, stamps)
    return there.get(name)


def _report_progress(progress: Progress, total: int, done: int) -> None:
    progress(min(done, total), total)


def _hash_meanwhile(corpus_input: TextInput, task: Callable[[], None]) -> str:
    """Runs a task while a thread reads the sources. Returns the hash of their content."""
    abandoned = threading.Event()

    def _check_abandoned(done: int) -> None:
        if abandoned.is_set():
            raise InputError("building the corpus was abandoned")

    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hash_content, corpus_input.sources, _check_abandoned)
        try:
            task()
        except BaseException:
            abandoned.set()
            raise
        return hashing.result()


def _check_unchanged(corpus_input: TextInput) -> None:
    """Raises InputError if a file has changed since it was found; it may have grown."""
    for source in corpus_input.sources:
        if isinstance(source.path, Path) and source.stamp:
            with explain_errors(source.name):
                now = source.path.stat()
            if now.st_size <= source.stamp[0] and (now.st_ctime_ns, now.st_ino) != source.identity:
                raise changed_error(source)


def _make_in_folder(
    folder: Path,
    corpus_input: TextInput | Parts,
    write: Callable[[Path], None],
    hash_of: Callable[[Path, CorpusSettings], str],
) -> Path:
    """Makes a corpus or part with `write` in a folder of the user, or finds it there if its sources are unchanged.

    If they may have changed, it is made once more in a staging folder and compared by `hash_of`. That returns an empty
    string or raises InputError for anything else that is in the folder.
    """

    def _find_hash(place: Path) -> str:
        with suppress(InputError):
            return hash_of(place, corpus_input.settings)
        return ""

    stamps, name, there = corpus_input.stamps(), short_hash(str(folder.absolute())), _find_hash(folder)
    if there and _open_notes().read(name) == f"{there} {stamps}":
        return folder
    if not there:
        _check_free(folder)
    with _explain_errors(folder.parent, corpus_input), staging_folder(folder.parent) as work:
        write(work)
        made = _find_hash(work)
        if there and made != there:
            raise InputError(f"{folder} {OTHER}")
        if not there:
            publish(work, folder, lambda target: _find_hash(target) == made, replace=False)
    if stamps:
        _open_notes().write(name, f"{made} {stamps}")
    return folder


@contextmanager
def _explain_errors(folder: Path, corpus_input: CorpusInput) -> Iterator[None]:
    """Turns errors of writing into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            needed = 2 * max(corpus_input.size or 0, corpus_input.position) / 1e6
            why = f"the disk is full, and at least {needed:,.0f} MB are needed there while building"
        else:
            why = error.strerror or str(error)
        raise InputError(
            f"cannot write the corpus in {folder} ({why}); free some space, or choose another place with --output or "
            "the environment variable SCRIVEN_CACHE"
        ) from None


__all__ = ["Progress", "build", "build_part", "cache_folder", "is_made_of", "merge", "open_or_build", "store_text"]

"""Text -> a corpus: a folder of ids on disk, built in one streaming pass and found again while the text is the same.

Many builders can share the work: each builds a part, and `merge` makes of all parts the corpus of one build.
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
from scriven.corpus.decoding import PIECE
from scriven.corpus.filesystem import explain_errors
from scriven.corpus.header import NAME, read_header
from scriven.corpus.inputs import CorpusInput, Progress, TextInput
from scriven.corpus.parts import NAME as PART_NAME
from scriven.corpus.parts import Parts, read_part, write_part
from scriven.corpus.sources import Notes, changed_error, content_of, short_hash
from scriven.corpus.staging import publish, staging_folder
from scriven.corpus.writer import assemble
from scriven.errors import InputError, UsageError
from scriven.runtime import cache_folder, keep_buffers
from scriven.settings import CorpusSettings
from scriven.vocabulary import byte_values

COLUMN = "text"  # of the JSON lines that documents in memory are stored as
OTHER = "exists and is not the corpus of these texts as they are now; choose another folder"
KEPT_BYTES = 2 * PIECE  # smaller buffers than that, a piece read among them, are kept; see `keep_buffers`


def build(
    texts: Sequence[str],
    settings: CorpusSettings,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    strict: bool = True,
) -> Path:
    """The folder of the corpus that these texts make (see `scriven.corpus.sources`); built unless it is there already.

    Without `folder` it is kept in the user's cache, by the path and content of each file and the settings; where
    neither size nor times nor place of a file have changed, its content is not read again.
    `progress(done, total)` is told bytes of the files, each counted twice: read, then written; the total is none while
    it is not known.
    Raises InputError when a text cannot be read or the corpus cannot be written, UsageError when no text is named or,
    if `strict`, a setting would do nothing for the texts.
    """
    material = _texts(texts, settings, strict=strict)
    if folder:
        return _in_folder(folder, material, lambda work: assemble(work, material, progress or _silent), _corpus_hash)
    if found := _cached_corpus(material, progress or _silent):
        return found
    corpora = cache_folder() / "corpora"
    with _explain(corpora, material), staging_folder(corpora) as work:
        content = _hash_beside(material, lambda: assemble(work, material, progress or _silent))
        name = material.key() if material.size is None else _name(material, content)
        _check_unchanged(material)
        made = publish(work, corpora / name, _is_whole, replace=True)
    _notes().write(name, material.stamps())
    return made


def store_text(text: str | Iterable[str]) -> Path:
    """Returns a file in the user's cache with a text, or with documents as JSON lines: a file that `build` can read.

    Its name depends on the content, so that the same text is found again. Raises InputError when it cannot be written.
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
            f"cannot write the text to {folder} ({error.strerror or error}); make room, or choose another place with "
            "the environment variable SCRIVEN_CACHE"
        ) from None


def _json_line(document: str) -> str:
    return json.dumps({COLUMN: check_text("a document", document)}) + "\n"


def is_made_of(
    folder: Path, texts: Sequence[str], settings: CorpusSettings, progress: Progress | None = None
) -> bool | None:
    """Whether a corpus in the user's cache was made of these texts as they are now; None where that cannot be told.

    They are read where they may have changed, and nothing is built. Raises InputError where they cannot be read.
    """
    material, content = _texts(texts, settings, strict=False), folder.name.partition("-")[2]
    if folder.parent != cache_folder() / "corpora" or material.size is None or not content:
        return None
    stamps, notes = material.stamps(), _notes()
    if notes.read(folder.name) == stamps:
        return True
    if content_of(material.sources, partial(_report_progress, progress or _silent, 2 * material.size)) != content:
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
    """Part (i, n) of the corpus that these texts make: the i-th of n, from 1 on; built unless it is there already.

    Raises InputError as `build` does, UsageError when there can be no such part.
    """
    number, count = part
    if not 1 <= number <= count:
        raise UsageError(f"there is no part {number}/{count}; the parts of {count} are 1/{count} to {count}/{count}")
    material = _texts(texts, settings, part)

    def _hash(target: Path, settings: CorpusSettings) -> str:
        file = read_part(target)
        values = file.model_dump(mode="json") | {"origin": None}
        return short_hash(values) if (file.number, file.count, file.origin.settings) == (*part, settings) else ""

    return _in_folder(folder, material, lambda work: write_part(work, material, part, progress or _silent), _hash)


def merge(folders: Sequence[Path], folder: Path, progress: Progress | None = None) -> Path:
    """The corpus that the parts in these folders make, in any order: the same files as `build` makes of the texts.

    Raises InputError when parts are missing, there twice, damaged or not of one corpus, or it cannot be written;
    UsageError when none is named.
    """
    keep_buffers(KEPT_BYTES)
    if not folders:
        raise UsageError("no part is named; name the folders that scriven corpus build --part made")
    material = Parts(folders)
    return _in_folder(folder, material, lambda work: assemble(work, material, progress or _silent), _corpus_hash)


def _silent(done: int, total: int | None) -> None:
    pass


def _texts(
    texts: Sequence[str], settings: CorpusSettings, part: tuple[int, int] | None = None, *, strict: bool = True
) -> TextInput:
    keep_buffers(KEPT_BYTES)
    if not texts:
        raise UsageError("no text is named; name a file, a folder, - for standard input, python or shakespeare")
    return TextInput(texts, settings, part, strict=strict)


def _check_free(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is there and is no folder; choose another name for the corpus")
    if (folder / NAME).exists() or (folder / PART_NAME).exists():
        raise InputError(f"{folder} {OTHER}")
    if any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty and is not a corpus, so nothing is written to it; choose a new folder, such as "
            f"{folder / 'corpus'}"
        )
    if folder.samefile(Path.cwd()):  # a corpus takes the place of an empty folder
        raise InputError(f"{folder} is the folder that you are in; name a new one, such as {folder / 'corpus'}")


def _is_whole(folder: Path) -> bool:
    with suppress(InputError):
        read_header(folder)
        return True
    return False


def _corpus_hash(folder: Path, settings: CorpusSettings) -> str:
    """A hash of what a corpus says of itself, but for times and names of files; empty where it is of other settings.

    Raises InputError where there is none.
    """
    header = read_header(folder)
    return short_hash(header.model_dump(mode="json") | {"key": "", "texts": []}) if header.settings == settings else ""


def _notes() -> Notes:
    """Of corpora in the cache, and of those in folders that users chose: the stamps of what they were made of."""
    return Notes(cache_folder() / "stamps")


def _name(material: TextInput, content: str) -> str:
    """The name of a corpus in the cache."""
    return f"{material.timeless_key()}-{content}"


def _cached_corpus(material: TextInput, progress: Progress) -> Path | None:
    """The corpus of the texts as they are now, if the cache has it."""
    if material.size is None:
        return None
    folders = sorted((cache_folder() / "corpora").glob(f"{material.timeless_key()}-*"))
    there = {folder.name: folder for folder in folders if _is_whole(folder)}
    stamps, notes = material.stamps(), _notes()
    if same := [folder for name, folder in there.items() if notes.read(name) == stamps]:
        return same[0]
    if not there:
        return None
    name = _name(material, content_of(material.sources, partial(_report_progress, progress, 2 * material.size)))
    if name in there:
        notes.write(name, stamps)
    return there.get(name)


def _report_progress(progress: Progress, total: int, done: int) -> None:
    progress(min(done, total), total)


def _hash_beside(material: TextInput, task: Callable[[], None]) -> str:
    """Does a task; gives the hash of the sources' content, read by a thread meanwhile."""
    left = threading.Event()

    def _look(done: int) -> None:
        if left.is_set():
            raise InputError("the corpus is not built any more")

    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(content_of, material.sources, _look)
        try:
            task()
        except BaseException:
            left.set()
            raise
        return hashing.result()


def _check_unchanged(material: TextInput) -> None:
    """Raises InputError where a file is not the one any more that was found; one that has only grown still is."""
    for source in material.sources:
        if isinstance(source.path, Path) and source.stamp:
            with explain_errors(source.name):
                now = source.path.stat()
            if now.st_size <= source.stamp[0] and (now.st_ctime_ns, now.st_ino) != source.identity:
                raise changed_error(source)


def _in_folder(
    folder: Path,
    material: TextInput | Parts,
    write: Callable[[Path], None],
    hash_of: Callable[[Path, CorpusSettings], str],
) -> Path:
    """What `write` makes, in a folder that a user chose; it may be there already, where its sources are unchanged.

    Where they may have changed it is made once more, beside it, and compared by `hash_of`, which is empty or raises
    InputError for what is something else.
    """

    def _found(place: Path) -> str:
        with suppress(InputError):
            return hash_of(place, material.settings)
        return ""

    stamps, name, there = material.stamps(), short_hash(str(folder.absolute())), _found(folder)
    if there and _notes().read(name) == f"{there} {stamps}":
        return folder
    if not there:
        _check_free(folder)
    with _explain(folder.parent, material), staging_folder(folder.parent) as work:
        write(work)
        made = _found(work)
        if there and made != there:
            raise InputError(f"{folder} {OTHER}")
        if not there:
            publish(work, folder, lambda target: _found(target) == made, replace=False)
    if stamps:
        _notes().write(name, f"{made} {stamps}")
    return folder


@contextmanager
def _explain(folder: Path, material: CorpusInput) -> Iterator[None]:
    """Turns what goes wrong with writing into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            needed = 2 * max(material.size or 0, material.position) / 1e6
            why = f"the disk is full, and at least {needed:,.0f} MB are needed there while building"
        else:
            why = error.strerror or str(error)
        raise InputError(
            f"cannot write the corpus in {folder} ({why}); make room, or choose another place with --output or the "
            "environment variable SCRIVEN_CACHE"
        ) from None


__all__ = ["Progress", "build", "build_part", "cache_folder", "is_made_of", "merge", "store_text"]

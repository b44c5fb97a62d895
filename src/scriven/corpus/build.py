"""Text -> a corpus: a folder of ids on disk, built in one streaming pass and found again while the text is the same.

Many builders can share the work: each builds a part, and `merge` makes of all parts the corpus of one build.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from scriven.allocator import keep_buffers
from scriven.corpus.assembly import assemble
from scriven.corpus.header import read_header
from scriven.corpus.material import Material, Progress, Texts
from scriven.corpus.parts import Parts, read_part, write_part
from scriven.corpus.reading import PIECE
from scriven.corpus.workplace import moved, unfinished
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings

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

    Without `folder` it is kept in the user's cache, by the path, size and time of change of each file and the settings.
    `progress(done, total)` is told bytes of the files, each counted twice: read, then written; the total is none while
    it is not known.
    Raises InputError when a text cannot be read or the corpus cannot be written, UsageError when no text is named or,
    if `strict`, a setting would do nothing for the texts.
    """
    material = _texts(texts, settings, strict=strict)
    target = folder or cache_folder() / "corpora" / material.key()
    if material.size is not None and _is_built(target, material.key()):
        return target
    _check_free(folder)

    def _write(work: Path) -> str:
        assemble(work, material, progress or _silent)
        return material.key()

    place = (lambda key: folder) if folder else target.with_name
    return _made(target.parent, material, _write, place, _is_built, replace=folder is None)


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
    key = material.key()

    def _is_there(target: Path, key: str) -> bool:
        with suppress(InputError):
            file = read_part(target)
            return (file.number, file.count, file.origin.key) == (number, count, key)
        return False

    def _write(work: Path) -> str:
        write_part(work, material, part, progress or _silent)
        return key

    if _is_there(folder, key):
        return folder
    _check_free(folder)
    return _made(folder.parent, material, _write, lambda key: folder, _is_there, replace=False)


def merge(folders: Sequence[Path], folder: Path, progress: Progress | None = None) -> Path:
    """The corpus that the parts in these folders make, in any order: the same files as `build` makes of the texts.

    Raises InputError when parts are missing, there twice, damaged or not of one corpus, or it cannot be written;
    UsageError when none is named.
    """
    keep_buffers(KEPT_BYTES)
    if not folders:
        raise UsageError("no part is named; name the folders that scriven corpus build --part made")
    material = Parts(folders)
    key = material.origin().key
    if _is_built(folder, key):
        return folder
    _check_free(folder)

    def _write(work: Path) -> str:
        assemble(work, material, progress or _silent)
        return key

    return _made(folder.parent, material, _write, lambda key: folder, _is_built, replace=False)


def cache_folder() -> Path:
    """Where what can be made again is kept: the environment variable SCRIVEN_CACHE, else the user's cache folder."""
    return Path(os.environ.get("SCRIVEN_CACHE") or platformdirs.user_cache_path("scriven", appauthor=False)).absolute()


def _silent(done: int, total: int | None) -> None:
    pass


def _texts(
    texts: Sequence[str], settings: CorpusSettings, part: tuple[int, int] | None = None, *, strict: bool = True
) -> Texts:
    keep_buffers(KEPT_BYTES)
    if not texts:
        raise UsageError("no text is named; name a file, a folder, - for standard input, python or shakespeare")
    return Texts(texts, settings, part, strict=strict)


def _check_free(folder: Path | None) -> None:
    if folder is None or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise InputError(f"{folder} exists and is not the corpus of these texts; choose another folder, or remove it")
    if folder.samefile(Path.cwd()):  # a corpus takes the place of an empty folder
        raise InputError(f"{folder} is the folder that you are in; name a new one, such as {folder / 'corpus'}")


def _is_built(folder: Path, key: str) -> bool:
    with suppress(InputError):
        return read_header(folder).key == key
    return False


def _made(
    parent: Path,
    material: Material,
    write: Callable[[Path], str],
    place: Callable[[str], Path],
    is_built: Callable[[Path, str], bool],
    *,
    replace: bool,
) -> Path:
    """Writes into a folder of its own and puts it in its place, by the key that writing gives."""
    with _explained(parent, material), unfinished(parent) as work:
        key = write(work)
        return moved(work, place(key), lambda target: is_built(target, key), replace=replace)


@contextmanager
def _explained(folder: Path, material: Material) -> Iterator[None]:
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


__all__ = ["Progress", "build", "build_part", "cache_folder", "merge"]

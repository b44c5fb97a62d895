"""Files of a run: written so that a crash leaves the old or the new one, read so that a hostile one does no harm."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from scriven import strict_json
from scriven.errors import InputError, UnreadableError


def make_folder(path: Path) -> None:
    """Makes a folder and those above it where they are missing, each on the disk under its name. Raises OSError."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        flush_folder(each.parent)


def flush_file(path: Path) -> None:
    """Waits until the disk has all that is in a file; nothing where there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        _flush(path, os.O_RDWR)  # some systems want to be allowed to write


def flush_folder(path: Path) -> None:
    """Waits until the disk has the folder's names, on systems that can be asked to. Raises OSError."""
    if os.name != "nt":
        _flush(path, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


TEXT_LIMIT = 9_000_000  # bytes of a text or JSON file; a vocabulary of all of Unicode has 8.9 million
BUFFER = memoryview | bytes


@dataclass(frozen=True)
class FileDigest:
    """What went to the disk: how many bytes, and their SHA-256."""

    bytes: int
    sha256: str


# --- writing


def write_flushed(path: Path, *pieces: BUFFER) -> FileDigest:
    """Writes a new file, all of it, and waits until the disk has it. Raises OSError, also where something is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        size, digest = 0, hashlib.sha256()
        for piece in pieces:
            size += _write_all(descriptor, memoryview(piece))
            digest.update(piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileDigest(size, digest.hexdigest())


def _write_all(descriptor: int, data: memoryview) -> int:
    """Writes all of it, however little the system takes at once."""
    done = 0
    while done < len(data):
        done += os.write(descriptor, data[done:])
    return done


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part; nothing else may write it.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    discard(temporary)
    try:
        write_flushed(temporary, data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder, at once under its name and then from the disk; what cannot be removed now is swept later.

    A kill in the midst of it leaves no folder of this name that lacks something.
    """
    gone = path.with_name(f".{path.name}.tmp")
    discard(gone)
    with contextlib.suppress(OSError):
        path.rename(gone)
    discard(gone)


def discard(path: Path) -> None:
    """Removes a folder with all that is in it, or anything else of that name; never what a link leads to.

    What cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def ensure_regular(path: Path) -> Path:
    """The same path, to write a file to.

    Raises InputError when a link, a pipe or a folder has that name, which no run makes; OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(f"{path} is not a plain file, and a run writes a file of that name; move it elsewhere")
    return path


# --- reading


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A plain file and its size in bytes.

    Raises InputError when there is none, but a symbolic link, which may lead anywhere, a pipe, a device, a folder, or
    nothing; UnreadableError when it cannot be read.
    """
    try:
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link, which is not followed; put the file itself there")
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOWING | _NO_WAITING | _BINARY)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - of a descriptor
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{path} is not a file; take it from a copy")
            yield file, found.st_size
    except OSError as error:
        raise _unread(path, error) from None


def list_names(folder: Path) -> list[str]:
    """The names in a folder; none where there is no folder. Raises UnreadableError when it cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - pathlib's glob takes what it cannot read for empty
    except OSError as error:
        if error.errno in _NOT_THERE:
            return []
        raise _unread(folder, error) from None


def exists(path: Path) -> bool:
    """Whether there is anything of that name. Raises UnreadableError when that cannot be told."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise _unread(path, error) from None
    return True


def _unread(path: Path, error: OSError) -> InputError:
    if error.errno in _NOT_THERE:
        return InputError(f"cannot read {path}: {error.strerror}")
    return UnreadableError(f"cannot read {path}: {error.strerror}; allow it, or try again")


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a UTF-8 file.

    Raises InputError when it cannot be read, is no text, or has more than `limit` bytes.
    """
    with open_regular(path) as (file, size):
        if size > limit:
            raise InputError(f"{path} is damaged: it has {size:,} bytes, and none has more than {limit:,}")
        data = file.read(limit + 1)
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises InputError when it cannot be read or is not JSON; see `scriven.strict_json`.
    """
    text = read_text(path)
    try:
        return strict_json.parse(text)
    except ValueError as error:
        raise InputError(f"cannot read {path}: {error}") from None


def real_folder(path: Path) -> Path:
    """The same path.

    Raises InputError when it is a symbolic link, which may lead anywhere, UnreadableError when that cannot be told.
    """
    try:
        linked = path.is_symlink()
    except OSError as error:
        raise _unread(path, error) from None
    if linked:
        raise InputError(f"{path} is a symbolic link, which is not followed; put the folder itself there")
    return path


_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}  # other errors may pass
_NO_FOLLOWING = getattr(os, "O_NOFOLLOW", 0)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # else a pipe is waited for until somebody writes to it
_BINARY = getattr(os, "O_BINARY", 0)

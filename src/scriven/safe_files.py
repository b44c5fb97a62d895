"""Writes files so that a crash leaves the old or the new one, and reads files so that a hostile one does no harm.

Many files that belong together, such as a corpus, are made in a staging folder, which is renamed when it is complete.
Builders of the same thing do not disturb each other. Each has its own folder; the first one to finish publishes its
folder, and the others use that. The folder of a builder that was killed is removed by the next builder on the same
machine, which sees by a lock that it is dead. Folders of other machines are removed after a day without a write.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from scriven import strict_json
from scriven.errors import InputError, UnreadableError, UsageError, close_paths, did_you_mean, shorten

PIECE_BYTES = 1 << 20  # read at once
TEXT_LIMIT = 9_000_000  # bytes of a text or JSON file; a vocabulary of all of Unicode takes 8.9 million
BUFFER = memoryview | bytes
MOST_DOTS = 1000  # in numbers and in keys like a.b.c: tomllib's time is quadratic in the length of a key
LONGEST_NUMBER = 1000  # digits: Python prints none of over 4,300, but reads longer ones if they are hexadecimal
_LONG_NUMBER = re.compile(rf"0[xob][0-9a-fA-F_]{{{LONGEST_NUMBER}}}")
_BASIC_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+"?')  # to the end of the line if it is not closed
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}  # other errors may be temporary
_NO_FOLLOWING = getattr(os, "O_NOFOLLOW", 0)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # else opening a pipe waits until somebody writes to it
_BINARY = getattr(os, "O_BINARY", 0)


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents, and waits until the disk has their names. Raises OSError."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        flush_folder(each.parent)


def flush_file(path: Path) -> None:
    """Waits until the disk has all of a file; a missing file is ignored. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        _flush(path, os.O_RDWR)  # some systems flush only what is open for writing


def flush_folder(path: Path) -> None:
    """Waits until the disk has the names in a folder, if the system can do that. Raises OSError."""
    if os.name != "nt":
        _flush(path, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileDigest:
    """The number of bytes that a file has, and their SHA-256."""

    bytes: int
    sha256: str


# --- writing


def write_flushed(path: Path, *pieces: BUFFER) -> FileDigest:
    """Writes a new file and waits until the disk has it. Raises OSError, also if the name is taken."""
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
    """Writes all of the data, in as many calls as the system needs."""
    done = 0
    while done < len(data):
        done += os.write(descriptor, data[done:])
    return done


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part. Only one process may write it.

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


def check_free(path: Path, *, replace: bool) -> None:
    """Raises UsageError if a new file cannot have this name: it is taken, and no file that it may `replace`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file with -o")
    if os.path.lexists(path) and not replace:
        raise _taken(path)


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} exists; name another file with -o, or allow --replace")


def remove_folder(path: Path) -> None:
    """Removes a folder: renames it first, then deletes it, so that a kill never leaves half of it under its name.

    Anything that cannot be deleted now is deleted by a later call.
    """
    gone = path.with_name(f".{path.name}.tmp")
    discard(gone)
    with contextlib.suppress(OSError):
        path.rename(gone)
    discard(gone)


def discard(path: Path) -> None:
    """Removes a folder with its contents, or anything else of that name. Links are not followed.

    Anything that cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def ensure_regular(path: Path) -> Path:
    """Returns `path` if it is a plain file or does not exist, so that a file can be written there.

    Raises InputError for a link, a pipe or a folder, which no run makes; OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(f"{path} is not a plain file, but a run writes a file of that name; move it elsewhere")
    return path


# --- reading


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a plain file; yields it and its size in bytes.

    Raises InputError if it is missing, or is a symbolic link (which may lead anywhere), a pipe, a device or a folder;
    UnreadableError if it cannot be read.
    """
    try:
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link, which is not followed; put the file itself there")
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOWING | _NO_WAITING | _BINARY)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - opens a descriptor
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{path} is not a plain file; restore it from a copy")
            yield file, found.st_size
    except OSError as error:
        raise _unread(path, error) from None


def refuse_device(path: Path, status: os.stat_result) -> None:
    """Raises InputError for a device, such as /dev/zero, which may never end. A pipe is read as a file is."""
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        raise InputError(f"{path} is a device, which may never end; give a file, or - for standard input")


def refuse_stream(path: Path, way: str) -> None:
    """Raises InputError, with a way out, for a pipe, a device or a socket, in which no place can be sought."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a pipe, a device or a socket; {way}")


def read_whole(path: Path, limit: int) -> bytes:
    """Returns the content of a file or a pipe. Raises InputError for a device or over `limit` bytes; OSError."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        refuse_device(path, found)
        if found.st_size > limit:
            raise _large_error(str(path), limit)
        return read_to_end(file, str(path), limit)


def read_to_end(file: BinaryIO, name: str, limit: int) -> bytes:
    """Returns the rest of an open file. Raises InputError, which has its name, if that has over `limit` bytes."""
    pieces, size = list[bytes](), 0
    while piece := file.read(PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _large_error(name, limit)
    return b"".join(pieces)


def _large_error(name: str, limit: int) -> InputError:
    return InputError(f"{name} has over {limit:,} bytes, too many to be read as a whole; give a smaller one")


def list_names(folder: Path) -> list[str]:
    """The names in a folder; empty if there is no such folder. Raises UnreadableError if it cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - pathlib's glob treats an unreadable folder as empty
    except OSError as error:
        if error.errno in _NOT_THERE:
            return []
        raise _unread(folder, error) from None


def exists(path: Path) -> bool:
    """Whether anything has that name, a broken link too. Raises UnreadableError if the system does not say."""
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

    Raises InputError if it cannot be read, is not UTF-8, or has more than `limit` bytes.
    """
    with open_regular(path) as (file, size):
        if size > limit:
            raise InputError(f"{path} is damaged: it has {size:,} bytes, but such a file has at most {limit:,}")
        data = file.read(limit + 1)
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises InputError if it cannot be read or is not JSON; see `scriven.strict_json`.
    """
    text = read_text(path)
    try:
        return strict_json.parse(text)
    except ValueError as error:
        raise InputError(f"cannot read {path}: {error}") from None


def real_folder(path: Path) -> Path:
    """Returns `path` if it is not a symbolic link.

    Raises InputError for a symbolic link, which may lead anywhere; UnreadableError if the system does not say.
    """
    try:
        linked = path.is_symlink()
    except OSError as error:
        raise _unread(path, error) from None
    if linked:
        raise InputError(f"{path} is a symbolic link, which is not followed; put the folder itself there")
    return path


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the nested values of a TOML file of settings.

    Raises InputError if it cannot be read or is not TOML.
    """
    try:
        return parse_toml(read_whole(path, TEXT_LIMIT).decode("utf-8"), path)
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path} to read settings from{did_you_mean(close_paths(str(path)))}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read settings from {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read settings from {path}, which is not UTF-8 at byte {error.start}") from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Returns the nested values of settings as TOML text. Errors name the file `path` that it came from.

    Raises InputError if it is not TOML.
    """
    try:
        rest = _BASIC_STRING.sub("", text)
        if rest.count(".") > MOST_DOTS:
            raise ValueError(f"it has more than {MOST_DOTS} dots outside of strings")
        if _LONG_NUMBER.search(rest):
            raise ValueError(f"it has a number of over {LONGEST_NUMBER} digits")
        return tomllib.loads(text.removeprefix("\ufeff"))  # editors on Windows write a byte order mark
    except ValueError as error:
        raise InputError(f"cannot read settings from {path}: {shorten(str(error))}") from None
    except RecursionError:
        raise InputError(f"cannot read settings from {path}: they are nested too deeply") from None


# --- folders that are complete when they have their name

STAGING = ".scriven-building-"
STAGING_LOCK, DAMAGED = ".lock", "-damaged"
STAGING_NAME = re.compile(rf"{re.escape(STAGING)}[0-9a-f]{{8}}-[0-9a-f]{{32}}(\{STAGING_LOCK}|{DAMAGED})?")
ABANDONED_SECONDS = 24 * 3600  # a folder of any machine is removed after this time without a write
PUBLISH_TRIES = 5


@contextlib.contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A new folder to build in, removed at the end unless it was moved. First removes folders of dead builders."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_dead_folders(parent)
    work = parent / f"{STAGING}{_host_code()}-{uuid.uuid4().hex}"
    from filelock import FileLock  # noqa: PLC0415 - slow to import, and only what builds folders needs it

    with FileLock(_lock_of(work)):
        try:
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):  # another builder may be removing it at this moment
                _lock_of(work).unlink(missing_ok=True)


def publish(work: Path, target: Path, is_built: Callable[[Path], bool], *, replace: bool) -> Path:
    """Renames the finished folder to `target`, unless another process was faster. Returns `target`.

    With `replace`, a folder there that `is_built` refuses counts as damaged, and is removed. Raises OSError if the
    folder cannot be renamed.
    """
    flush_folder(work)
    for _ in range(PUBLISH_TRIES):
        try:
            if target.is_dir() and not replace:
                target.rmdir()  # the user may have made an empty one; some systems do not rename onto it
            work.rename(target)
        except OSError:
            if is_built(target):
                return target
            if not replace or not target.is_dir():
                raise
            aside = work.with_name(work.name + DAMAGED)
            with contextlib.suppress(OSError):  # another builder may be doing the same
                target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            flush_folder(target.parent)
            return target
    raise OSError(f"{target} cannot be replaced")


@contextlib.contextmanager
def create_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Opens a new file, which gets its name when the context ends without an error; an error removes it.

    Until then it is in a staging folder next to it. Raises UsageError if the name is taken, unless it may `replace` a
    file; OSError, which names the file.
    """
    check_free(path, replace=replace)
    if not path.parent.is_dir():  # a staging folder would make it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with staging_folder(path.parent) as work, naming(path, work):
        temporary = work / "file"
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:  # since it was looked for
                raise _taken(path) from None
            except OSError:  # no hard links here
                temporary.rename(path)
        flush_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path, work: Path) -> Iterator[None]:
    """In this context, errors of writing name `path` in place of the place `work` in which it is made."""
    try:
        yield
    except InputError as error:
        raise type(error)(str(error).replace(str(work), str(path))) from None
    except OSError as error:
        if error.filename is None or str(work) in str(error.filename):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise


@contextlib.contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder, which gets its name when the context ends without an error; an error removes it.

    Raises UsageError if anything but an empty folder has the name; OSError.
    """
    if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not list_names(path)):
        raise UsageError(f"{path} exists; name another folder with -o, or remove it first")
    with staging_folder(path.parent) as work, naming(path, work):
        yield work
        publish(work, path, lambda there: False, replace=False)


def _host_code() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lock_of(work: Path) -> Path:
    return work.with_name(work.name + STAGING_LOCK)


def _remove_dead_folders(parent: Path) -> None:
    from filelock import FileLock, Timeout  # noqa: PLC0415

    for path in parent.glob(STAGING + "*"):
        if not STAGING_NAME.fullmatch(path.name):
            continue
        if time.time() - _last_written(path) > ABANDONED_SECONDS:
            discard(path)
        elif path.name.endswith(STAGING_LOCK) and path.name.startswith(STAGING + _host_code()):
            with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0):  # a living builder holds it
                discard(path.with_name(path.name.removesuffix(STAGING_LOCK)))
                path.unlink(missing_ok=True)


def _last_written(path: Path) -> float:
    """The time when a file, or anything in a folder, was last written; the present time if unknown."""
    with contextlib.suppress(OSError):
        inside = list(path.iterdir()) if path.is_dir() else []
        return max(each.stat().st_mtime for each in [path, *inside])
    return time.time()

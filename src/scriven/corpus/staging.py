"""Builds a corpus in a staging folder, which is renamed to the corpus when it is complete.

Builders of the same corpus do not disturb each other. Each has its own folder; the first one to finish publishes its
folder, and the others use that. The folder of a builder that was killed is removed by the next builder on the same
machine, which sees by a lock that it is dead. Folders of other machines are removed after a day without a write.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from scriven.safe_files import flush_folder

UNFINISHED = ".scriven-building-"
LOCK, DAMAGED = ".lock", "-damaged"
MADE = re.compile(rf"{re.escape(UNFINISHED)}[0-9a-f]{{8}}-[0-9a-f]{{32}}(\{LOCK}|{DAMAGED})?")  # names of our folders
ABANDONED_SECONDS = 24 * 3600  # a folder of any machine is removed after this time without a write
PUBLISH_TRIES = 5


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A new folder to build in, removed at the end unless it was moved. First removes folders of dead builders."""
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    work = parent / f"{UNFINISHED}{_host()}-{uuid.uuid4().hex}"
    lock = FileLock(_lock_of(work))
    with lock:
        try:
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            with suppress(OSError):  # another builder may be removing it at this moment
                _lock_of(work).unlink(missing_ok=True)


def publish(work: Path, target: Path, is_built: Callable[[Path], bool], *, replace: bool) -> Path:
    """Renames the finished folder to `target`, unless another process was faster. Returns `target`.

    With `replace`, a folder there that is not a built corpus counts as damaged, and is removed. Raises OSError if the
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
            with suppress(OSError):  # another builder may be doing the same
                target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            flush_folder(target.parent)
            return target
    raise OSError(f"{target} cannot be replaced")


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lock_of(work: Path) -> Path:
    return work.with_name(work.name + LOCK)


def _sweep(parent: Path) -> None:
    for path in parent.glob(UNFINISHED + "*"):
        if not MADE.fullmatch(path.name):
            continue
        if time.time() - _last_touched(path) > ABANDONED_SECONDS:
            _remove(path)
        elif path.name.endswith(LOCK) and path.name.startswith(UNFINISHED + _host()):
            with suppress(Timeout, OSError), FileLock(path, timeout=0):  # its builder holds it while it is alive
                _remove(path.with_name(path.name.removesuffix(LOCK)))
                path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _last_touched(path: Path) -> float:
    """The time when a file, or anything in a folder, was last written; the present time if unknown."""
    with suppress(OSError):
        inside = list(path.iterdir()) if path.is_dir() else []
        return max(each.stat().st_mtime for each in [path, *inside])
    return time.time()

"""What of a folder is on the disk, and not only in the system's memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


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

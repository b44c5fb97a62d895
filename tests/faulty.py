"""A layer over the system's file operations that fails the one asked for, for tests of what survives that."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# What `os` does to files and folders that a save makes, moves or removes; pathlib and shutil go through these too.
OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir")
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "PermissionError": errno.EACCES}
KINDS = (*ERRORS, "short write", "torn write")


class Faults:
    """Counts operations, and fails the one with the number `at`, counted from 0; none where it is None.

    A short write writes half and says so, as a system may; a torn one writes half, and then the disk is full. Where
    the operation is no write, both are as ENOSPC. After a fault of ENOSPC the disk stays full: later writes fail too.
    """

    def __init__(self, at: int | None = None, kind: str = "ENOSPC") -> None:
        self.at, self.kind = at, kind
        self.done: list[str] = []
        self.fallen = False

    @contextlib.contextmanager
    def injected(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(os, name, self._failing(name, getattr(os, name)))
            yield

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def _operation(*arguments: Any, **more: Any) -> Any:
            number = len(self.done)
            self.done.append(name)
            if number != self.at and not (self.fallen and name == "write" and self.kind == "ENOSPC"):
                return real(*arguments, **more)
            self.fallen = True
            if name == "close":  # which frees the descriptor even where it fails
                real(*arguments, **more)
            if name == "write" and self.kind in {"short write", "torn write"}:
                descriptor, data = arguments
                written = real(descriptor, data[: len(data) // 2])
                if self.kind == "short write":
                    return written
            code = ERRORS.get(self.kind, errno.ENOSPC)
            raise OSError(code, os.strerror(code))

        return _operation


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

"""What a disk may hold after the power failed: what was not flushed may be there, not there, or torn.

The operations of some work in a folder are found by comparing the folder before and after each call of `os`, so that
also files that Python writes by itself are seen. Of a file's data and a folder's names, what came before an fsync of
that file or folder is on the disk; all else may have reached it or not, in any order.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CALLS = (
    "open",
    "write",
    "fsync",
    "close",
    "mkdir",
    "rename",
    "replace",
    "link",
    "unlink",
    "remove",
    "rmdir",
    "truncate",
)
ROOT = 0
Names = dict[str, int]  # of a folder: the object that each stands for


@dataclass(frozen=True)
class Change:
    """One operation on an object (a file or a folder), by its number."""

    of: int
    flush: bool = False
    at: int = 0  # of a write
    data: bytes = b""
    emptied: bool = False  # before the write
    names: tuple[tuple[str, int | None], ...] = ()  # of a folder: what each stands for from now on; None: nothing


@dataclass
class Disk:
    """Files and folders by number."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, Names] = field(default_factory=lambda: {ROOT: {}})

    def copy(self) -> Disk:
        return Disk(dict(self.files), {number: dict(names) for number, names in self.folders.items()})

    def apply(self, change: Change) -> None:
        if change.names:
            names = self.folders.setdefault(change.of, {})
            for name, number in change.names:
                names.pop(name, None)
                if number is not None:
                    names[name] = number
        elif not change.flush:
            before = b"" if change.emptied else self.files.get(change.of, b"")
            self.files[change.of] = (
                before[: change.at].ljust(change.at, b"\0") + change.data + before[change.at + len(change.data) :]
            )

    def tree(self, number: int = ROOT) -> dict[str, Any]:
        """What a person would see: names, and below them bytes or trees."""
        return {
            name: self.tree(of) if of in self.folders else self.files.get(of, b"")
            for name, of in sorted(self.folders.get(number, {}).items())
        }


class Recorder:
    """Notes what is done in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.changes, self.folders = folder, list[Change](), set[int]()
        self._numbers: dict[int, int] = {}  # of the system's inodes
        self._count, self._read_window, self._one_at_a_time = ROOT, Disk(), threading.Lock()
        self._notice()
        self.begin, self.changes = self._read_window.copy(), []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._noticed(name, getattr(os, name)))
            yield
        self._notice()

    def _noticed(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def _call(*arguments: Any, **more: Any) -> Any:
            self._notice()
            inode = os.fstat(arguments[0]).st_ino if name == "fsync" else 0
            result = real(*arguments, **more)
            self._notice()
            if inode in self._numbers:
                self.changes.append(Change(self._numbers[inode], flush=True))
            return result

        return _call

    def _notice(self) -> None:
        """Notes how the folder differs from what was seen of it last; training and the thread that saves both do."""
        with self._one_at_a_time:
            self._compare()

    def _compare(self) -> None:
        now = Disk()
        self._look(self.folder, ROOT, now)
        for number, data in now.files.items():
            before = self._read_window.files.get(number, b"")
            if data != before:
                grown = data.startswith(before)
                at = len(before) if grown else 0
                self.changes.append(Change(number, at=at, data=data[at:], emptied=not grown))
        for number, names in now.folders.items():
            before_names = self._read_window.folders.get(number, {})
            gone = [(name, None) for name in before_names if name not in names]
            come = [(name, of) for name, of in names.items() if before_names.get(name) != of]
            if gone or come:  # a rename within a folder is one change of it
                self.changes.append(Change(number, names=(*gone, *come)))
        self._read_window = now

    def _look(self, path: Path, number: int, now: Disk) -> None:
        self._numbers[path.stat().st_ino] = number
        self.folders.add(number)
        now.folders[number] = {}
        for each in sorted(path.iterdir()):
            inode, folder = each.lstat().st_ino, each.is_dir()
            of = self._numbers.get(inode)
            if of is None or of not in (
                self._read_window.folders if folder else self._read_window.files
            ):  # or of what was removed
                self._count += 1
                of = self._numbers[inode] = self._count
            now.folders[number][each.name] = of
            if folder:
                self._look(each, of, now)
            else:
                now.files[of] = each.read_bytes()


def states(recorder: Recorder) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Every tree that may be found after the power failed, each once, with its story, and whether all was done by then.

    At every instant: only what was flushed; all; all but one of what was not flushed; one of it alone; the last write
    half, or as long as it should be and empty.
    """
    changes, found = recorder.changes, set[str]()
    for end in range(len(changes) + 1):
        loose = [place for place in range(end) if not changes[place].flush and not _is_flushed(changes, place, end)]
        kept = [{*range(end)} - {*loose}, {*range(end)}]
        kept += [{*range(end)} - {place} for place in loose] + [kept[0] | {place} for place in loose]
        variants: list[tuple[set[int], tuple[int, str] | None]] = [(keep, None) for keep in kept]
        torn = [place for place in loose if changes[place].data]
        variants += [({*range(end)}, (place, shape)) for place in torn for shape in ("half", "empty")]
        for keep, tear in variants:
            tree = _replay(recorder, keep, tear).tree()
            if (key := repr(tree)) not in found:
                found.add(key)
                lost = sorted({*range(end)} - keep)
                yield f"after {end} of {len(changes)}, without {lost}, torn {tear}", end == len(changes), tree


def _is_flushed(changes: list[Change], place: int, end: int) -> bool:
    return any(change.flush and change.of == changes[place].of for change in changes[place + 1 : end])


def _replay(recorder: Recorder, keep: set[int], tear: tuple[int, str] | None) -> Disk:
    disk = recorder.begin.copy()
    for number in recorder.folders:
        disk.folders.setdefault(number, {})
    for place in sorted(keep):
        change = recorder.changes[place]
        if tear and place == tear[0]:
            half = change.data[: len(change.data) // 2]
            change = Change(change.of, at=change.at, data=half if tear[1] == "half" else bytes(len(change.data)))
        disk.apply(change)
    return disk


def write_tree(tree: dict[str, Any], folder: Path) -> None:
    """Makes a folder that holds a tree."""
    folder.mkdir()
    for name, of in tree.items():
        if isinstance(of, bytes):
            (folder / name).write_bytes(of)
        else:
            write_tree(of, folder / name)

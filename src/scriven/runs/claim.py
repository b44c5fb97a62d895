"""Checks that a new run may be made in a folder: it must be empty, or have a run that saved nothing."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from scriven.errors import InputError, UsageError
from scriven.runs.folder import (
    CHECKPOINTS,
    LOCK_FILE,
    SETTINGS_FILE,
    VOCABULARY_FILE,
    has_checkpoints,
    open_run,
    writing,
)
from scriven.safe_files import exists, list_names, read_text
from scriven.vocabulary import Vocabulary

BEGUN = {LOCK_FILE, CHECKPOINTS, VOCABULARY_FILE, f".{VOCABULARY_FILE}.tmp", f".{SETTINGS_FILE}.tmp"}


@contextlib.contextmanager
def hold_claim(path: Path) -> Iterator[None]:
    """Holds the right to make a new run in a folder while the context lasts.

    Raises errors like `check_new_run`; InputError if another process has the right.
    """
    check_new_run(path)
    with writing(path):
        check_new_run(path)  # another process may have made a run there meanwhile
        yield


def check_new_run(path: Path) -> None:
    """Checks that a new run would overwrite nothing, except files of an earlier run that saved no checkpoint.

    Raises UsageError if the folder has a run with checkpoints; InputError if it has anything else.
    """
    if exists(path) and not path.is_dir():
        raise InputError(f"{path} exists and is not a folder; choose another name for the run's folder")
    if (names := list_names(path)) and not _is_run(path, {*names}):
        raise InputError(
            f"{path} is not empty and is not the folder of a run, so nothing is written to it; choose a new folder, "
            f"such as {path / 'run'}"
        )
    if has_checkpoints(path):
        raise UsageError(f"{path} already has a run; continue it with --resume, or choose another folder with -o")


def _is_run(path: Path, names: set[str]) -> bool:
    """Whether Scriven made the files in a folder: a run, or the files of a run that was killed very early.

    A file of settings that a user copied from a run is not enough.
    """
    with contextlib.suppress(InputError):
        if SETTINGS_FILE in names:
            open_run(path)
            return CHECKPOINTS not in names or stat.S_ISDIR((path / CHECKPOINTS).lstat().st_mode)
        if LOCK_FILE in names and names <= BEGUN:
            if VOCABULARY_FILE in names:
                Vocabulary.from_json(read_text(path / VOCABULARY_FILE))
            return not (path / LOCK_FILE).lstat().st_size and not list_names(path / CHECKPOINTS)
    return False

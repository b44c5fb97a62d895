"""Makes new run folders, and lets one writer into each.

A new run is made only in an empty folder, or over a run that saved nothing.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import tomli_w

from scriven.errors import InputError, UsageError
from scriven.kernels.counts import NgramTable
from scriven.kernels.native_library import level
from scriven.runs.checkpoints import extend_seals, settings_seal
from scriven.runs.folder import (
    CHECKPOINTS,
    INDEX_FILE,
    PLOT_FILE,
    SETTINGS_FILE,
    SETTINGS_LIMIT,
    VOCABULARY_FILE,
    Run,
    has_checkpoints,
    open_run,
)
from scriven.runs.journal import LOGS, drop_log_backups
from scriven.runs.ngrams import COUNTS_FILE, encode_table
from scriven.safe_files import (
    discard,
    ensure_regular,
    exists,
    list_names,
    make_folder,
    parse_toml,
    read_text,
    replace_file,
)
from scriven.settings import Settings
from scriven.vocabulary import Vocabulary

LOCK_FILE = ".lock"
WRITTEN_FILES = SETTINGS_FILE, VOCABULARY_FILE, COUNTS_FILE, PLOT_FILE, *LOGS
# of a run that was killed before it had settings
EARLY_NAMES = VOCABULARY_FILE, COUNTS_FILE
EARLY_FILES = {LOCK_FILE, CHECKPOINTS, *EARLY_NAMES, *(f".{name}.tmp" for name in (*EARLY_NAMES, SETTINGS_FILE))}


def create_run(
    path: Path,
    settings: Settings,
    vocabulary: Vocabulary,
    origin: dict[str, Any],
    seals: tuple[str, ...] = (),
    counts: NgramTable | None = None,
) -> Run:
    """Makes a run folder, or gives new settings to a run that is extended, whose `seals` were these before.

    A new run may have `counts` of its training text.

    Raises InputError if it cannot be written; UsageError if the names of texts are too long to be written down.
    """
    table = None
    if counts is not None:
        table, sha256 = encode_table(counts)
        origin = origin | {"counts": {"bytes": len(table), "sha256": sha256}}
    values = parse_toml(tomli_w.dumps(settings.model_dump()), path / SETTINGS_FILE)  # as they will be read
    run = Run(path, settings, vocabulary, origin, extend_seals(seals, settings_seal(values, origin)))
    text = tomli_w.dumps(values | {"run": {"seals": run.setting_seals, **origin}}).encode()
    if len(text) > SETTINGS_LIMIT:
        raise UsageError(
            f"the names of {len(origin.get('texts', ())):,} texts take {len(text):,} bytes of settings, but at most "
            f"{SETTINGS_LIMIT:,} are allowed; give their folder, or a pattern in quotes"
        )
    try:
        make_folder(path / CHECKPOINTS)
        if not has_checkpoints(path):
            discard(path / CHECKPOINTS / INDEX_FILE)  # its checkpoints are gone
            drop_log_backups(path)
        replace_file(path / VOCABULARY_FILE, vocabulary.to_json().encode())
        if table is not None:
            replace_file(path / COUNTS_FILE, table)
        replace_file(path / SETTINGS_FILE, text)
    except OSError as error:
        raise InputError(f"cannot write the run folder {path}: {error.strerror}; choose another with -o") from None
    return run


def describe_origin(texts: Sequence[str], text: str, corpus: str, **sources: str) -> dict[str, Any]:
    """Returns what a run is made from, for the table `run` of its settings.toml, with this version and its kernels.

    `text` is the hash of the corpus, `corpus` its folder; `sources` are runs and files that the run starts with.
    """
    made = {"texts": texts, "text": text, "scriven": version("scriven")}
    return made | sources | {"corpus": corpus, "kernels": level()}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Holds the right to write to a run folder while the context lasts; any thread may end it.

    Raises InputError if another process has it, or if something other than a file has the name of a run's file.
    """
    try:
        make_folder(path)
        held = filelock.FileLock(path / LOCK_FILE, timeout=0, thread_local=False).acquire()
    except filelock.Timeout:
        raise InputError(
            f"{path} is in use by another training; wait for it, or choose another folder with -o"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another folder with -o") from error
    with held:
        for name in WRITTEN_FILES:
            ensure_regular(path / name)
        yield


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
        raise UsageError(
            f"{path} already has a run; choose another folder with -o, or continue its training with --resume"
        )


def _is_run(path: Path, names: set[str]) -> bool:
    """Whether Scriven made the files in a folder: a run, or the files of a run that was killed very early.

    A file of settings that a user copied from a run is not enough.
    """
    with contextlib.suppress(InputError):
        if SETTINGS_FILE in names:
            open_run(path)
            return CHECKPOINTS not in names or stat.S_ISDIR((path / CHECKPOINTS).lstat().st_mode)
        if LOCK_FILE in names and names <= EARLY_FILES:
            if VOCABULARY_FILE in names:
                Vocabulary.from_json(read_text(path / VOCABULARY_FILE))
            return not (path / LOCK_FILE).lstat().st_size and not list_names(path / CHECKPOINTS)
    return False

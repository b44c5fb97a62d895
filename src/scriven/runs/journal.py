"""The logs of a run: reads lines of JSON, backs logs up, and records what is needed to replay its steps."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from scriven import strict_json
from scriven.errors import InputError, UnreadableError
from scriven.safe_files import discard, ensure_regular, exists, flush_file, flush_folder, list_names, open_regular

METRICS_FILE, SAMPLES_FILE, PROGRESS_FILE = "metrics.jsonl", "samples.jsonl", "progress.jsonl"
LOGS = METRICS_FILE, SAMPLES_FILE, PROGRESS_FILE
ROLLED_BACK = "rolled_back", "returned"  # names of one event; files of earlier versions have the second
LINE_LIMIT = 16_000_000  # bytes of a line; a sample has up to a million characters of up to 12 bytes
LARGEST = 1 << 53  # of a number in a record: up to this, floats have all integers
PROGRESS_LINE_BYTES = 24  # padded: the longest float has 23 characters


def read_lines(
    path: Path, skip: bytes = b"", note_damage: Callable[[], None] = lambda: None
) -> Iterator[dict[str, Any]]:
    """Reads the events in a `.jsonl` file as dictionaries. Skips a line that a kill cut short; a missing file is empty.

    Skips lines that have `skip` in them, too. Calls `note_damage` for each other line that is no event, and stops at
    one that is longer than LINE_LIMIT. Raises InputError if the file cannot be read, or is not a plain file.
    """
    if not exists(path):
        return
    with open_regular(path) as (file, _), io.BufferedReader(file) as lines:  # type: ignore[type-var]
        while line := lines.readline(LINE_LIMIT):
            if len(line) == LINE_LIMIT:
                note_damage()
                return
            if skip and skip in line:
                continue
            if record := record_of(line):
                yield record
            elif line.endswith(b"\n") or not line.startswith(b"{"):
                note_damage()


def record_of(line: bytes) -> dict[str, Any] | None:
    """The event in a line of a `.jsonl` file; None when the line is not an event with a step."""
    try:
        record = strict_json.parse(line.decode(errors="replace"))
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a record is a number from 0 to LARGEST; nan is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST


def number_in(record: dict[str, Any], name: str) -> int | float | None:
    """Returns a value of a record, unless it is no number."""
    value = record.get(name)
    return value if is_number(value) else None


def flush_logs(path: Path) -> None:
    """Waits until the disk has everything that was written to a run's logs. Raises OSError."""
    for name in LOGS:
        flush_file(path / name)
    flush_folder(path)


def check_logs(path: Path) -> None:
    """Raises OSError if a log of the run cannot be read and written, which its first save would find too late."""
    for name in filter(lambda name: _is_plain(path / name), LOGS):
        with (path / name).open("r+b"):
            pass


def back_up_logs(path: Path, save: int) -> None:
    """Copies a run's logs when it is resumed from before its newest checkpoint; the copy is for save number `save`.

    Resuming cuts the logs at once, but only its first save removes the checkpoints of the lines that were cut. The copy
    is kept until then. Raises OSError.
    """
    drop_log_backups(path)
    fresh = path / ".logs.tmp"
    discard(fresh)
    fresh.mkdir()
    for name in filter(lambda name: _is_plain(path / name), LOGS):
        shutil.copyfile(path / name, fresh / name)
        flush_file(fresh / name)
    flush_folder(fresh)
    fresh.rename(path / f".logs-{save}")
    flush_folder(path)


def restore_logs(path: Path, saves: int) -> None:
    """Restores logs that were backed up for a save that never came. `saves` is the number of the newest checkpoint.

    A kill meanwhile loses nothing. Raises OSError; InputError if the folder cannot be read.
    """
    for save, aside in _aside(path).items():
        for name in LOGS if save > saves else ():
            if not aside.is_symlink() and _is_plain(aside / name):
                (aside / name).replace(ensure_regular(path / name))
        flush_folder(path)
        discard(aside)


def drop_log_backups(path: Path) -> None:
    """Removes the backups of logs, as the save for which they were kept has come. Errors are left to the next call."""
    with contextlib.suppress(UnreadableError):
        for aside in _aside(path).values():
            discard(aside)


def _aside(path: Path) -> dict[int, Path]:
    """The folders of backups, by the number of the save until which they are kept."""
    names = (re.fullmatch(r"\.logs-([0-9]{1,16})", name) for name in list_names(path))
    return {int(name[1]): path / name[0] for name in names if name}


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


class ProgressLog:
    """Writes `progress.jsonl`: the exact progress that gave each step's learning rate.

    All lines have the same length, so the place of a step's line follows from its number. Lines of steps that are done
    again are cut off, and a line that a crash cut short is overwritten. Raises OSError.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Opens the file of a run that has done `step` steps."""
        self._file = os.fdopen(os.open(ensure_regular(path), os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        if path.stat().st_size > step * PROGRESS_LINE_BYTES:
            self._file.truncate(step * PROGRESS_LINE_BYTES)

    def write(self, step: int, progress: float) -> None:
        """Writes the line of a step at once, so that a killed process loses none."""
        self._file.seek((step - 1) * PROGRESS_LINE_BYTES)
        self._file.write(f"{progress!r:<{PROGRESS_LINE_BYTES - 1}}\n".encode())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@dataclass(frozen=True)
class ReplayLog:
    """Everything about a run that its settings and its text do not determine, as plain data."""

    progress: list[float]  # the progress that gave the learning rates of steps 1, 2, ...
    evaluated: list[int]  # steps with an evaluation after them, in order
    rollbacks: list[list[int]]  # [step, number of rollbacks by then], in order

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.progress)

    def progress_of(self, step: int) -> float:
        """The progress that gave a step's learning rate."""
        return self.progress[step - 1]

    def due(self, step: int) -> int:
        """The number of evaluations up to a step, including one after it."""
        return bisect_right(self.evaluated, step)

    def rollbacks_at(self, step: int) -> int:
        """The number of rollbacks before training last continued from a step."""
        return max((count for at, count in self.rollbacks if at <= step), default=0)


def read_replay_log(path: Path) -> ReplayLog:
    """Reads the replay log of a run's folder.

    Raises InputError if it is missing, damaged or has no step.
    """
    progress = _read_progress(path / PROGRESS_FILE)
    if not progress:
        raise InputError(f"{path} has done no steps, so there is nothing to replay; give another run")
    records = [record for record in _metrics(path) if record["step"] <= len(progress)]
    if not records:  # every run records its start
        raise InputError(f"{path / METRICS_FILE} does not say when evaluations were made; restore it from a copy")
    validated = any(record.get("validation_characters") for record in records)
    kind = "evaluated" if validated else "saved"  # without a validation text, an evaluation only saves
    matching = [record for record in records if record.get("event") == kind and not record.get("final")]
    evaluated = {record["step"] for record in matching if record.get("evaluation", True)}  # saves may not be
    try:
        rollbacks = [
            [record["step"], _count_rollbacks(record)] for record in records if record.get("event") in ROLLED_BACK
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path / METRICS_FILE} is damaged; restore it from a copy") from None
    return ReplayLog(progress, sorted(evaluated), rollbacks)


def read_fingerprints(path: Path) -> dict[int, str]:
    """Reads the fingerprints of a run's steps, as far as `metrics.jsonl` has them.

    Raises InputError if it cannot be read.
    """
    return {record["step"]: record["fingerprint"] for record in _metrics(path) if "fingerprint" in record}


def _count_rollbacks(record: dict[str, Any]) -> int:
    """The number of rollbacks, as each one halved the learning rates."""
    return round(-math.log2(record["learning_rate_factor"]))


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    return read_lines(path / METRICS_FILE)


def _read_progress(path: Path) -> list[float]:
    if not os.path.lexists(path):
        raise InputError(f"{path} is missing, so the run's steps cannot be replayed; give a run that has it")
    found: list[float] = []
    with open_regular(path) as (file, size):
        for _ in range(size // PROGRESS_LINE_BYTES):
            line = file.read(PROGRESS_LINE_BYTES)
            try:
                progress = float(line) if line.endswith(b"\n") else math.nan
            except ValueError:
                progress = math.nan
            if not 0 <= progress <= 1:
                raise InputError(f"{path} lacks the progress of step {len(found) + 1:,}; restore it from a copy")
            found.append(progress)
    return found

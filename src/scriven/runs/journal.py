"""What a run writes down as it goes, read back: lines of JSON, and all that is needed to do its steps again."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scriven import strict_json
from scriven.errors import InputError, UnreadableError
from scriven.safe_files import discard, ensure_regular, exists, flush_file, flush_folder, list_names, open_regular

METRICS_FILE, SAMPLES_FILE, PROGRESS_FILE = "metrics.jsonl", "samples.jsonl", "progress.jsonl"
LOGS = METRICS_FILE, SAMPLES_FILE, PROGRESS_FILE
ROLLED_BACK = "rolled_back", "returned"  # names of one event; files of earlier versions have the second
LINE_LIMIT = 16_000_000  # bytes; a sample has up to a million characters, and each up to 12 bytes there
WIDTH = 24  # bytes of a line of progress, padded: the longest float has 23 characters


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a `.jsonl` file as dictionaries; a line that a kill cut short is left out, a missing file is empty.

    What follows a line that is longer than any is not read. Raises InputError when there is something that cannot be
    read, or is no plain file.
    """
    if not exists(path):
        return
    with open_regular(path) as (file, _), io.BufferedReader(file) as lines:  # type: ignore[type-var]
        while 0 < len(line := lines.readline(LINE_LIMIT)) < LINE_LIMIT:
            if record := record_of(line):
                yield record


def record_of(line: bytes) -> dict[str, Any] | None:
    """The event that a line of a `.jsonl` file tells; None for a line that is none: an event has a step."""
    try:
        record = strict_json.parse(line.decode(errors="replace"))
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def flush_logs(path: Path) -> None:
    """Waits until the disk has all that the run in this folder has written down so far. Raises OSError."""
    for name in LOGS:
        flush_file(path / name)
    flush_folder(path)


def check_logs(path: Path) -> None:
    """Raises OSError where a log of the run may not be read and written: its first save would end it otherwise."""
    for name in filter(lambda name: _is_plain(path / name), LOGS):
        with (path / name).open("r+b"):
            pass


def back_up_logs(path: Path, save: int) -> None:
    """Keeps a copy of a run's logs until its save of that number: training goes on from before the newest checkpoint.

    It takes back lines at once, and only with its first save the checkpoints that they belong to. Raises OSError.
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
    """Puts back what was set aside for a save that never came, where the newest checkpoint is of save `saves`.

    A kill in the midst of it loses nothing. Raises OSError; InputError when the folder cannot be read.
    """
    for save, aside in _aside(path).items():
        for name in LOGS if save > saves else ():
            if not aside.is_symlink() and _is_plain(aside / name):
                (aside / name).replace(ensure_regular(path / name))
        flush_folder(path)
        discard(aside)


def drop_log_backups(path: Path) -> None:
    """Removes what was set aside: the save that it was kept for has come. What cannot be removed now goes later."""
    with contextlib.suppress(UnreadableError):
        for aside in _aside(path).values():
            discard(aside)


def _aside(path: Path) -> dict[int, Path]:
    """What is set aside, by the number of the save that it is kept for."""
    names = (re.fullmatch(r"\.logs-([0-9]{1,16})", name) for name in list_names(path))
    return {int(name[1]): path / name[0] for name in names if name}


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


class ProgressLog:
    """`progress.jsonl`: the progress that each step's learning rate was computed from, to the last bit.

    All lines are of one length, so that the place of a step's line follows from its number: lines of steps that are
    done again are cut off, and a line that a crash cut short is written over. Raises OSError.
    """

    def __init__(self, path: Path, step: int) -> None:
        """For a run that stands at `step`."""
        self._file = os.fdopen(os.open(ensure_regular(path), os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        if path.stat().st_size > step * WIDTH:
            self._file.truncate(step * WIDTH)

    def write(self, step: int, progress: float) -> None:
        """A step's line; a killed process loses none."""
        self._file.seek((step - 1) * WIDTH)
        self._file.write(f"{progress!r:<{WIDTH - 1}}\n".encode())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


@dataclass(frozen=True)
class ReplayLog:
    """What a run did that its settings and its text do not decide, as plain data."""

    progress: list[float]  # of steps 1, 2, ...: what their learning rates were computed from
    evaluated: list[int]  # after which steps, in order
    returned: list[list[int]]  # [step, how many times training had gone back by then], in order

    @property
    def steps(self) -> int:
        """How many steps there were."""
        return len(self.progress)

    def progress_of(self, step: int) -> float:
        """What a step's learning rate was computed from."""
        return self.progress[step - 1]

    def due(self, step: int) -> int:
        """How many evaluations there were up to a step, that after it included."""
        return bisect_right(self.evaluated, step)

    def returns(self, step: int) -> int:
        """How many times training had gone back when it went on from a step for the last time."""
        return max((times for at, times in self.returned if at <= step), default=0)


def read_replay_log(path: Path) -> ReplayLog:
    """The story in a run's folder.

    Raises InputError when it is not there, or not whole, or of no step.
    """
    progress = _read_progress(path / PROGRESS_FILE)
    if not progress:
        raise InputError(f"{path} has done no step, so that there is nothing to do again; name another run")
    records = [record for record in _metrics(path) if record["step"] <= len(progress)]
    if not records:  # a run tells that it started
        raise InputError(f"{path / METRICS_FILE} does not tell when evaluations were made; take it from a copy")
    validated = any(record.get("validation_characters") for record in records)
    kind = "evaluated" if validated else "saved"  # without a validation text, an evaluation does nothing but save
    told = [record for record in records if record.get("event") == kind and not record.get("final")]
    evaluated = {record["step"] for record in told if record.get("evaluation", True)}  # which a save need not be
    try:
        returned = [[record["step"], _times(record)] for record in records if record.get("event") in ROLLED_BACK]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path / METRICS_FILE} is damaged; take it from a copy") from None
    return ReplayLog(progress, sorted(evaluated), returned)


def read_fingerprints(path: Path) -> dict[int, str]:
    """The fingerprints of a run's steps, of as many as `metrics.jsonl` tells.

    Raises InputError when it cannot be read.
    """
    return {record["step"]: record["fingerprint"] for record in _metrics(path) if "fingerprint" in record}


def _times(returned: dict[str, Any]) -> int:
    """How many times training had gone back: each time halved the learning rates."""
    return round(-math.log2(returned["learning_rate_factor"]))


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    return read_lines(path / METRICS_FILE)


def _read_progress(path: Path) -> list[float]:
    if not os.path.lexists(path):
        raise InputError(f"{path} is missing, so that the run's steps cannot be done again; name a run that has it")
    found: list[float] = []
    with open_regular(path) as (file, size):
        for _ in range(size // WIDTH):
            line = file.read(WIDTH)
            try:
                progress = float(line) if line.endswith(b"\n") else math.nan
            except ValueError:
                progress = math.nan
            if not 0 <= progress <= 1:
                raise InputError(f"{path} does not tell the progress of step {len(found) + 1:,}; take it from a copy")
            found.append(progress)
    return found

"""The errors that Scriven raises, and the words that messages share: names that may be meant, lists and amounts.

A message names the thing, its value and the way out, in one or two sentences.
Most libraries have no error type for a lack of memory or threads; `shortage` recognizes these by their words.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

LIKENESS = 0.7  # by difflib, from which one name may mean another
BEGINNING = 3  # letters of a name, at least, that may stand for it
ENTRIES_READ = 10_000  # entries of a folder, at most
MOST_SHOWN = 300  # characters of a value or a name in a message
NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "can't allocate",
    "bad_alloc",
    "failed to map segment",
)
NO_THREADS = ("can't start new thread", "resource temporarily unavailable")  # with which Python's and C++'s begin


class ScrivenError(Exception):
    """Base of all errors that Scriven raises on purpose; `exit_code` is the exit code of the command."""

    exit_code = 3


class UsageError(ScrivenError):
    """The request is wrong: flags or settings contradict each other or are out of range."""

    exit_code = 2


class InputError(ScrivenError):
    """A file, folder or text cannot be used: it is missing, empty, unreadable, not text, damaged or in use."""


class UnreadableError(InputError):
    """A file cannot be read now, but may be undamaged: a failing disk, a permission, too many open files.

    Unlike a damaged file, it must never be replaced or removed.
    """


class DivergedError(ScrivenError):
    """Training produced a loss or gradient that is not a finite number."""

    exit_code = 4


class LostError(ScrivenError):
    """Another process of this training has ended, or cannot be reached."""


class Stop(Exception):
    """Raised by a report to end the training early: the training saves after its next step, and can be resumed."""


class Interrupted(ScrivenError):
    """A signal stopped training or another long job, after a clean save."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def shortage(error: BaseException) -> Literal["memory", "threads", ""]:
    """Returns what the system has too little of, if `error` of any library says so; "" for other errors."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        codes: dict[int | None, Literal["memory", "threads"]] = {errno.ENOMEM: "memory", errno.EAGAIN: "threads"}
        return "" if error.filename else codes.get(error.errno, "")
    if isinstance(error, RuntimeError | ImportError):
        said = str(error).lower()
        return "memory" if any(map(said.__contains__, NO_MEMORY)) else "threads" if said.startswith(NO_THREADS) else ""
    return ""


# --- words


def close_names(name: str, names: Iterable[str], count: int = 1) -> list[str]:
    """Returns at most `count` names that are similar to a name in any case, the most similar first."""
    import difflib  # noqa: PLC0415 (only for mistakes, and slow to import)

    by_lower: dict[str, str] = {}
    for each in names:
        by_lower.setdefault(each.lower(), each)
    return [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, count, LIKENESS)]


def close_dotted(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Returns at most `count` dotted names that an unknown name may have meant.

    It prefers names with the same last part, then those whose last part starts with it, then similar ones.
    """
    lasts = {each: each.rpartition(".")[2] for each in names}
    last = name.rpartition(".")[2]
    same = [each for each in lasts if lasts[each] == last]
    begun = [each for each in lasts if len(last) >= BEGINNING and lasts[each].startswith(last)]
    alike = close_names(name, [*lasts]) or close_names(last, lasts.values())
    return (same or begun or [each for each in lasts if {each, lasts[each]} & set(alike)])[:count]


def close_paths(path: str) -> list[str]:
    """Returns the most similar path in the same folder as one that does not exist, if any."""
    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            found = close_names(name, (entry.name for entry in islice(entries, ENTRIES_READ)))
    except (OSError, ValueError):
        return []
    return [str(Path(folder) / each) for each in found]


def did_you_mean(names: Sequence[str]) -> str:
    """Returns the end of a sentence: `; did you mean A or B?`, or nothing without names."""
    return f"; did you mean {join_names(names)}?" if names else ""


def join_names(names: Sequence[str]) -> str:
    """Joins names as in a sentence: `A, B or C`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def format_bytes(count: int) -> str:
    """Returns a number of bytes as text, in MB or GB (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"


def describe_steps(steps: float) -> str:
    """Returns a number of steps as text. It need not be whole."""
    whole = steps == round(steps) or steps >= 100
    return f"{steps:,.0f} step{'s' * (steps != 1)}" if whole else f"{steps:,.2f} steps"


def shorten(text: str) -> str:
    """Returns the text, cut if it is too long for a message."""
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."

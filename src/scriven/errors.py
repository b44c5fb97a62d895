"""The errors that Scriven raises. Each names the thing, its value and the way out, in one or two sentences.

Most libraries have no error type for a lack of memory or threads; `shortage` recognizes these by their words.
"""

from __future__ import annotations

import errno
from typing import Literal

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

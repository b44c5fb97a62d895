"""One family of errors. Each says the thing, its value and the way out, in one sentence.

What the system lacks has no type of its own in most libraries: `shortage` knows it by its words.
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
    """Base of everything that Scriven raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 3


class UsageError(ScrivenError):
    """The request itself cannot be meant: flags or settings that contradict each other or are out of range."""

    exit_code = 2


class InputError(ScrivenError):
    """A file, folder or text cannot be used: missing, empty, not readable, not text, damaged, in use."""


class UnreadableError(InputError):
    """What may well be whole cannot be read now: a failing disk, a permission, too many open files, too little memory.

    Unlike what is damaged, it must never be replaced or removed for that.
    """


class DivergedError(ScrivenError):
    """Training produced a loss or gradient that is not a finite number."""

    exit_code = 4


class LostError(ScrivenError):
    """Another process of this training has ended, or cannot be reached."""


class Stop(Exception):
    """Raised by a report to end the training early: the training saves after its next step, and can be resumed."""


class Interrupted(ScrivenError):
    """Training or another long job was told to stop and did so after a clean save."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def shortage(error: BaseException) -> Literal["memory", "threads", ""]:
    """What the system has too little of, where `error` says so, whoever raised it; "" for any other error."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        codes: dict[int | None, Literal["memory", "threads"]] = {errno.ENOMEM: "memory", errno.EAGAIN: "threads"}
        return "" if error.filename else codes.get(error.errno, "")
    if isinstance(error, RuntimeError | ImportError):
        said = str(error).lower()
        return "memory" if any(map(said.__contains__, NO_MEMORY)) else "threads" if said.startswith(NO_THREADS) else ""
    return ""

"""Makes standard streams safe to use, even if they are closed, full or without a reader."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from scriven.surrogates import WRITTEN

NAMES = "standard input", "standard output", "standard error"


class StandardFile(io.FileIO):
    """A standard stream's descriptor, whose errors name the stream. Standard error ignores all errors.

    Raises OSError: ENOSPC on a full disk, EBADF if the stream was closed from the start, EPIPE without a reader.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "r" if number == 0 else "w", closefd=False)

    def write(self, data: Any, /) -> int:
        """Writes to the stream. On standard error, text that cannot be written is dropped.

        It waits for the stream even if another program made it non-blocking.
        """
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
            return count
        except OSError as error:
            if self.fileno() == 2:
                return len(data)
            raise _name_stream(error, self.fileno()) from None

    def readinto(self, buffer: Any, /) -> int:
        """Reads from the stream."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _name_stream(error, self.fileno()) from None


def prepare_streams() -> None:
    """Makes sys.stdin, sys.stdout and sys.stderr usable in UTF-8 with any bytes, even if the caller closed them.

    A stream that was closed (`>&-`, a service) gets a descriptor of its own. Otherwise the next file opened would get
    its number, and printing would write into that file. Output to a closed stream fails only when it is written.
    Streams that other code has replaced stay as they are.
    """
    if sys.stdin is sys.__stdin__:
        sys.stdin = _prepare(0, sys.stdin)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _prepare(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _prepare(2, sys.stderr)
    # In any locale, bytes that are not UTF-8 are read and written as lone surrogates, as in corpora that keep them.
    # A model of bytes may also write other half characters.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, WRITTEN)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def end_output() -> None:
    """Writes the rest of our output. What cannot be written is dropped silently."""
    try:
        sys.stdout.flush()
    except OSError:  # else the interpreter would try again at exit, complain, and end with another code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare(number: int, stream: TextIO | None) -> TextIO:
    if stream is None:
        _reopen(number)
    elif os.name == "nt" and stream.isatty():  # a console, which takes more than bytes
        return stream
    raw = StandardFile(number)
    buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="strict" if number < 2 else "backslashreplace",
        line_buffering=number == 2 or getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def _reopen(number: int) -> None:
    """Opens the descriptor so that it can be neither read nor written; standard error takes everything."""
    descriptor = os.open(os.devnull, os.O_WRONLY if number != 1 else os.O_RDONLY)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


def _name_stream(error: OSError, number: int) -> OSError:
    code = error.errno or errno.EIO
    return OSError(code, "it is closed" if code == errno.EBADF else os.strerror(code), NAMES[number])

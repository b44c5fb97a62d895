"""Standard streams that may be closed, full or without a reader: what is written to them decides no other result."""

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
    """A standard stream's descriptor, whose errors name the stream; standard error has none, since none could be told.

    Raises OSError: ENOSPC on a full disk, EBADF where the stream was closed from the start, EPIPE without a reader.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "r" if number == 0 else "w", closefd=False)

    def write(self, data: Any, /) -> int:
        """Writes to the stream, or drops what standard error does not take.

        Where another program made a pipe or terminal non-blocking for all that share it, it waits as if it had not.
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
    """Makes sys.stdin, sys.stdout and sys.stderr usable whatever the caller left of them, in UTF-8 with any bytes.

    A stream that was closed (`>&-`, a service) gets a descriptor of its own: else the next file that is opened would
    be taken for it, and be written to by whoever prints. Output to it fails when it is written, and only then.
    Streams that somebody else has replaced stay as they are.
    """
    if sys.stdin is sys.__stdin__:
        sys.stdin = _prepare(0, sys.stdin)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _prepare(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _prepare(2, sys.stderr)
    # Bytes that are not UTF-8 come and go as lone surrogates, as in corpora that keep them; whatever the locale.
    # A model of bytes may write other half characters too.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, WRITTEN)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def end_output() -> None:
    """Writes what is left of our output; what cannot be written is dropped without a word."""
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
    """Opens the descriptor so that nothing can be read from it or written to it; standard error takes all."""
    descriptor = os.open(os.devnull, os.O_WRONLY if number != 1 else os.O_RDONLY)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


def _name_stream(error: OSError, number: int) -> OSError:
    code = error.errno or errno.EIO
    return OSError(code, "it is closed" if code == errno.EBADF else os.strerror(code), NAMES[number])

"""Reads text while it is written: from standard input as it comes, or from a file that grows.

A file may be replaced by another of its name, as programs that rotate logs do, or may become shorter.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from scriven.corpus.decoding import ReadCounts, prepare
from scriven.corpus.encodings import decode, drop_marks
from scriven.corpus.filesystem import explain_errors
from scriven.settings import CorpusSettings

BYTES_AT_ONCE = 1 << 16
LONGEST_WAIT = 1 << 20  # characters of a line that are held until it ends; more are passed on in parts
SECONDS_BETWEEN_LOOKS = 0.2


def read_standard_input() -> Iterator[bytes]:
    """Yields the bytes of standard input as they come."""
    stream = sys.stdin.buffer
    read = getattr(stream, "read1", stream.read)
    while chunk := read(BYTES_AT_ONCE):
        yield chunk


def follow_file(
    path: Path, say: Callable[[str], None], *, wait: Callable[[], object] | None = None
) -> Generator[bytes]:
    """Yields the bytes of a file from its start, and those that are added to it, without end.

    After a file that was replaced or has become shorter, it is read from its start again, after a line end if the last
    line had none, and `say` gets a sentence. `wait` is called before each new look. Raises InputError if the file
    cannot be opened at first.
    """
    wait = wait or (lambda: time.sleep(SECONDS_BETWEEN_LOOKS))
    with explain_errors(str(path)):
        file: BinaryIO = path.open("rb")
    last, missing, changed = b"\n", False, ""
    try:
        while True:
            while chunk := file.read(BYTES_AT_ONCE):  # also what came to the old file before it was replaced
                last = chunk[-1:]
                yield chunk
            if changed:
                file = _reopen(path, file) if changed == "replaced" else file
                file.seek(0)
                say(f"{path} was {changed}; it is read from its start again")
                changed = ""
                if last != b"\n":
                    last = b"\n"
                    yield b"\n"
                continue
            changed, missing = _find_change(path, file, missing=missing, say=say)
            if not changed:
                wait()
    finally:
        file.close()


def _reopen(path: Path, old: BinaryIO) -> BinaryIO:
    """Opens the new file of a name, and closes the old one."""
    new = path.open("rb")
    old.close()
    return new


def _find_change(path: Path, file: BinaryIO, *, missing: bool, say: Callable[[str], None]) -> tuple[str, bool]:
    """Returns what happened to a file, "" for nothing, and whether there is none of its name now."""
    try:
        now = path.stat()
    except OSError:
        if not missing:
            say(f"{path} is not there any more; waiting for a new one")
        return "", True
    known = os.fstat(file.fileno())
    if (now.st_dev, now.st_ino) != (known.st_dev, known.st_ino):
        return "replaced", False
    return ("truncated" if now.st_size < file.tell() else ""), False


def read_lines_live(chunks: Iterable[bytes], name: str, settings: CorpusSettings, tally: ReadCounts) -> Iterator[str]:
    """Yields the prepared text of bytes that come in chunks, as soon as a line has ended.

    Raises InputError like `decode`.
    """
    held = ""
    for piece in drop_marks(decode(chunks, name, settings, tally.add_invalid, live=True), tally.add_mark):
        held += piece
        cut = held.rfind("\n") + 1 or (len(held) if len(held) > LONGEST_WAIT else 0)
        if cut:
            whole, held = held[:cut], held[cut:]
            tally.line_ends.add(whole)
            yield prepare(whole, settings, tally)
    if held:
        tally.line_ends.add(held)
        yield prepare(held, settings, tally)

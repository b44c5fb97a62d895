"""What sources were when a corpus was made of them, so that it is found again while they are the same.

A file whose size, times or place on the disk have changed may still have the same content, as one that was copied back
has; and one of the same size and time of modification may have another. So stamps that are the same say that nothing
has changed, and where they are not, the content is read and compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scriven.corpus.sources import Source
from scriven.corpus.storage import explained
from scriven.errors import InputError

HASHED_BYTES = 1 << 20  # of a file at once


def stamps_of(sources: Sequence[Source]) -> str:
    """A hash of all that the system says of the sources: their places, sizes, versions, times and numbers."""
    return hashed([(str(source.path), source.stamp, source.identity) for source in sources])


def content_of(sources: Sequence[Source], read: Callable[[int], None]) -> str:
    """A hash of the sources' bytes; of what is elsewhere, of its version. `read` is told bytes read so far.

    Raises InputError where one cannot be read, or has become shorter.
    """
    digests, done = list[str](), 0
    for source in sources:
        if not isinstance(source.path, Path) or not source.stamp:
            digests.append(str(source.stamp))
            continue
        digest, left = hashlib.sha256(), source.stamp[0]
        with explained(source.name), source.path.open("rb") as file:
            while left and (data := file.read(min(left, HASHED_BYTES))):
                digest.update(data)
                left -= len(data)
                done += len(data)
                read(done)
        if left:
            raise changed(source)
        digests.append(digest.hexdigest())
    return hashed(digests)


def changed(source: Source) -> InputError:
    """The error that a file has changed while it was read."""
    return InputError(f"{source.name} changed while it was read; start again when nothing writes to it any more")


def hashed(value: Any) -> str:
    """A short hash of a value of plain values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


class Notes:
    """Small notes in a folder of a cache, by name; one that cannot be written is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str:
        """The note of that name, or an empty string."""
        with contextlib.suppress(OSError, ValueError):
            return (self._folder / name).read_text("ascii")
        return ""

    def put(self, name: str, note: str) -> None:
        """Keeps a note, whole or not at all."""
        temporary = self._folder / f".{os.getpid()}-{name}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(note, "ascii")
            temporary.replace(self._folder / name)

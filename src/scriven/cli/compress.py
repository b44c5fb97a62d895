"""`scriven compress` and `scriven decompress`: files made smaller without loss."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from cyclopts import Parameter

from scriven.cli.common import Json, Output, Switch, path_given, put_json, visible_line
from scriven.errors import InputError, UsageError
from scriven.safe_files import create_file

if TYPE_CHECKING:
    from scriven.archives import ArchiveSize

ENDING = ".scriven"
PIPE = Path("-")
SHOWN_SECONDS = 0.25  # at least, between two states of the progress
BYTES_PER_READ = 1 << 20

InputPath = Annotated[Path, Parameter(allow_leading_hyphen=True, converter=path_given)]
Replace = Annotated[bool, Parameter(negative="", help="replace the file that is written, if it exists")]


def compress(
    file: InputPath, /, *, output: Output = None, replace: Replace = False, quiet: Switch = False, as_json: Json = False
) -> None:
    """Compress a file without loss, with a model that learns while it reads. Any file can be compressed.

    Text becomes smaller than with xz, bzip2 or zpaq. It needs no training, and gives the same archive on every machine.
    It is slow, both ways: about a second for 200,000 bytes. It takes 64 bytes of memory per byte of the file, 640 MB at
    most, and decompressing takes as much.

    Parameters
    ----------
    file
        file to compress, or - for standard input
    output
        archive to write, or - for standard output; unless given, the name of the file with .scriven after it
    quiet
        show neither progress nor sizes
    """
    from scriven.archives import check_native, open_source
    from scriven.archives import compress as write_archive

    check_native()
    if file == PIPE and output is None:
        raise UsageError(
            "standard input has no name; name the archive with -o, or write it to standard output with -o -"
        )
    target = output or file.with_name(file.name + ENDING)
    opened = _standard_input() if file == PIPE else open_source(file)
    with opened as (source, length), _writing(target, replace) as written, _Progress(quiet) as progress:
        size = write_archive(source, length, written, progress)
    _show(size, target, quiet, as_json)


def decompress(
    archive: InputPath,
    /,
    *,
    output: Output = None,
    replace: Replace = False,
    quiet: Switch = False,
    as_json: Json = False,
) -> None:
    """Restore a file from an archive of scriven compress. A damaged archive is refused.

    Parameters
    ----------
    archive
        archive to read, or - for standard input
    output
        file to write, or - for standard output; unless given, the name of the archive without .scriven
    quiet
        show neither progress nor sizes
    """
    from scriven.archives import check_native, open_source
    from scriven.archives import decompress as read_archive

    check_native()
    if output is None and archive.suffix != ENDING:
        raise UsageError(f"{archive} does not end in {ENDING}; name the file to write with -o")
    target = output or archive.with_suffix("")
    with _standard_input() if archive == PIPE else open_source(archive) as (source, _):
        packed = source.read()
    try:
        with _writing(target, replace) as written, _Progress(quiet) as progress:
            size = read_archive(packed, written, progress)
    except InputError as error:
        raise InputError(f"{'standard input' if archive == PIPE else archive}: {error}") from None
    _show(size, target, quiet, as_json)


@contextlib.contextmanager
def _standard_input() -> Iterator[tuple[BinaryIO, int]]:
    """Yields a copy of standard input in a temporary file, and its number of bytes."""
    with tempfile.TemporaryFile() as copy:
        while piece := sys.stdin.buffer.read(BYTES_PER_READ):
            copy.write(piece)
        length = copy.tell()
        copy.seek(0)
        yield copy, length


@contextlib.contextmanager
def _writing(target: Path, replace: bool) -> Iterator[BinaryIO]:
    if target == PIPE:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with create_file(target, replace=replace) as file:
        yield file


class _Progress:
    """Shows on a terminal how much is done; it is called with bytes done and bytes in all."""

    def __init__(self, quiet: bool) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._begun = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._live and now - self._shown > SHOWN_SECONDS:
            self._shown = now
            speed = done / (now - self._begun)
            left = (total - done) / speed if speed else 0
            sys.stderr.write(f"\r{done * 100 // max(total, 1):3} %  {speed / 1000:,.0f} KB/s  {left:,.0f} s left  ")
            sys.stderr.flush()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _show(size: ArchiveSize, target: Path, quiet: bool, as_json: bool) -> None:
    """Prints the sizes, on standard error if standard output has the file."""
    bits = 8 * size.archive / max(size.content, 1)
    if as_json and target != PIPE:
        row = {"bytes": size.content, "archive_bytes": size.archive, "bits_per_byte": bits, "file": str(target)}
        put_json(row)
    elif not quiet:
        sizes = f"{size.content:,} bytes in an archive of {size.archive:,}, {bits:.3f} bits per byte"
        (sys.stderr if target == PIPE else sys.stdout).write(f"{sizes}: {visible_line(target)}\n")

"""`scriven compress` and `scriven decompress`: files made smaller without loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.cli.common import Json, Output, Switch, note, path_given, progress_bar, put_json, visible_line
from scriven.errors import InputError, UsageError, close_paths, did_you_mean
from scriven.safe_files import check_free, create_file, read_to_end, read_whole

if TYPE_CHECKING:
    from scriven.archives import ArchiveNetwork

ENDING = ".scriven"
PIPE = Path("-")
TIMES_IN_MEMORY = 16  # a file, its symbols of 8 bytes, and its archive

InputPath = Annotated[Path, Parameter(allow_leading_hyphen=True, converter=path_given)]
Replace = Annotated[bool, Parameter(negative="", help="replace the file that is written, if it exists")]
With = Annotated[str, Parameter(name="--with", help="network that takes part: a start's name, or a run's folder")]


def compress(
    file: InputPath,
    /,
    *,
    output: Output = None,
    network: With = "",
    replace: Replace = False,
    quiet: Switch = False,
    as_json: Json = False,
) -> None:
    """Compress a file without loss, with a model that learns while it reads. Any file can be compressed.

    Text becomes smaller than with xz, bzip2 or zpaq. It needs no training, and gives the same archive on every machine.
    It is slow, both ways: about a second for 150,000 bytes. It takes 96 to 192 bytes of memory per byte of the file,
    820 MB at most, and decompressing takes as much.

    With a network that knows texts of this kind, text becomes smaller still. The network is not in the archive:
    decompressing needs it again. It finds a start by itself, but a run has to be given.

    Parameters
    ----------
    file
        file to compress, or - for standard input
    output
        archive to write, or - for standard output; unless given, the name of the file with .scriven after it
    quiet
        show neither progress nor sizes
    """
    from scriven import archives

    archives.check_native()
    if file == PIPE and output is None:
        raise UsageError("standard input has no name; name the archive with -o, or write to standard output with -o -")
    target, partner = output or file.with_name(file.name + ENDING), find_network(network) if network else None
    if target != PIPE:
        check_free(target, replace=replace)  # before any work
    content = _read(file)
    with progress_bar("compressing", shown=not quiet) as progress:
        archive = archives.compress(content, partner, progress)
    if partner and not archives.has_network(archive):
        note("the file is not UTF-8, which the network needs, so it takes no part")
    _write(target, archive, replace)
    _show(content, archive, target, quiet=quiet, as_json=as_json, restored=False)


def decompress(
    archive: InputPath,
    /,
    *,
    output: Output = None,
    network: With = "",
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
    from scriven import archives

    archives.check_native()
    if output is None and archive.suffix != ENDING:
        raise UsageError(f"{archive} does not end in {ENDING}; name the file to write with -o")

    def _find(name: str) -> ArchiveNetwork:
        if not network and not name:
            raise InputError("a run's network took part; name the folder of the run: --with RUN")
        return find_network(network or name)

    target = output or archive.with_suffix("")
    if target != PIPE:
        check_free(target, replace=replace)  # before any work
    packed = _read(archive)
    try:
        with progress_bar("decompressing", shown=not quiet) as progress:
            content = archives.decompress(packed, _find, progress)
    except InputError as error:
        raise InputError(f"{'standard input' if archive == PIPE else archive}: {error}") from None
    _write(target, content, replace)
    _show(content, packed, target, quiet=quiet, as_json=as_json, restored=True)


def find_network(name: str) -> ArchiveNetwork:
    """Returns the network of a start or a run. Raises UsageError or InputError if there is none."""
    from scriven import starts
    from scriven.archives import ArchiveNetwork
    from scriven.kernels.sampler import Sampler
    from scriven.runs.folder import locate_run
    from scriven.runs.start_model import StartModel
    from scriven.trained_model import load

    if starts.NAME.fullmatch(name) and not locate_run(name):
        start = StartModel(starts.find(name))
        weights, vocabulary = start.read_arrays(), start.vocabulary
        return ArchiveNetwork(Sampler(start.settings, weights, "int8", vocabulary.boundary), vocabulary, name)
    predictor = load(name, device="cpu", precision="int8").predictor
    if predictor.vocabulary.unit == "token":
        raise UsageError(
            f"{name} reads tokens, which do not have all white space of a file; use a model of characters, or leave "
            "--with out"
        )
    sampler = predictor.sampler()
    if sampler is None:
        raise UsageError(
            f"{name} is a model of counts, which has no network; leave --with out: counts learn by themselves"
        )
    return ArchiveNetwork(sampler, predictor.vocabulary)


def _read(path: Path) -> bytes:
    """Returns the content of a file or of standard input. Raises InputError if it is no file that can be read."""
    from scriven.runs.tensors import physical_memory

    most = physical_memory() // TIMES_IN_MEMORY
    try:
        return read_to_end(sys.stdin.buffer, "standard input", most) if path == PIPE else read_whole(path, most)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file{did_you_mean(close_paths(str(path)))}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; compress one file, such as one that tar made of it") from None


def _write(target: Path, data: bytes, replace: bool) -> None:
    if target == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with create_file(target, replace=replace) as file:
        file.write(data)


def _show(content: bytes, archive: bytes, target: Path, *, quiet: bool, as_json: bool, restored: bool) -> None:
    """Prints the sizes of a file that was compressed or restored, on standard error if standard output has the file."""
    bits = 8 * len(archive) / max(len(content), 1)
    if as_json and target != PIPE:
        row = {"bytes": len(content), "archive_bytes": len(archive), "bits_per_byte": bits, "file": str(target)}
        put_json(row)
    elif not quiet:
        whole, packed = f"{len(content):,} bytes", f"an archive of {len(archive):,}"
        sizes = f"restored {whole} from {packed}" if restored else f"{whole} in {packed}"
        sizes += f", {bits:.3f} bits per byte" if content and not restored else ""
        (sys.stderr if target == PIPE else sys.stdout).write(f"{sizes}: {visible_line(target)}\n")

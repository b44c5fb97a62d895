"""A run written in the format of another program, and a run made of another program's model: one function for each."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from scriven.arguments import ExportFormat, ExportNumbers, ImportedUnit, RnnActivation, check_choice, check_path
from scriven.errors import InputError, UsageError, close_paths, did_you_mean, format_bytes, join_names, shortage
from scriven.exchange.exported import ExportedModel, read_exported
from scriven.exchange.folders import write_safetensors, write_torch, write_transformers
from scriven.exchange.foreign import MOST_UNPACKED, MOVING, ForeignModel, find_symbols, write_imported
from scriven.exchange.html_page import write_html
from scriven.exchange.keras_file import read_keras
from scriven.exchange.onnx_graph import write_onnx
from scriven.exchange.state_dict import read_state_dict
from scriven.exchange.torch7_file import read_torch_rnn
from scriven.runs.folder import RUNS, Which
from scriven.runs.tensors import physical_memory
from scriven.safe_files import refuse_stream

AnyPath = str | os.PathLike[str]
KERAS, TORCH, TORCH_RNN = (".keras", ".h5", ".hdf5"), (".pt", ".pth", ".safetensors"), (".t7",)
# What another process runs to read a file.
READ = "import sys, scriven.exchange.formats as f; sys.stdout.buffer.write(f.read_limited(*sys.argv[1:]))"
READ_SECONDS, READ_BYTES_PER_SECOND = 30, 10_000_000  # of the processor
READ_WAIT = 20  # times as long by the clock, at most, for a machine that is busy
OUT_OF_TIME = getattr(signal, "SIGXCPU", None)  # ends a process after its time; Windows has no such signal
READ_BYTES = 1 << 30  # of memory, besides MOST_UNPACKED times the file's: torch alone takes 0.2 GB


@dataclass(frozen=True)
class Export:
    """A model in a format of other programs: its path, the step of its checkpoint, and notes on what it lacks."""

    path: Path
    format: ExportFormat
    step: int
    notes: tuple[str, ...]  # a sentence for each thing of the run that the format does not hold
    largest_difference: float | None = None  # of its logits from the run's; None where they were not computed


@dataclass(frozen=True)
class Import:
    """A run that was made of another program's model."""

    path: Path
    program: str
    model: str  # its cell, layers and width, in words
    window: int  # characters that the model read from an empty memory for each that it predicted; 0: all of them


def export_model(
    run: AnyPath,
    to: ExportFormat,
    output: AnyPath | None = None,
    *,
    precision: ExportNumbers = "fp32",
    which: Which = "best",
    with_counts: bool = False,
) -> Export:
    """Writes the network of a run for other programs, and returns its path and notes.

    `output` is the folder or file; unless given, the name of the run and of the format, such as book-torch or
    book.onnx. `precision` is the number format of the matrices of an ONNX file. `with_counts` puts the counts of the
    training text into a page. Exports to torch, onnx and transformers are compared with the run before they are put in
    place. Raises UsageError if these do not go together, and InputError if there is no such run or checkpoint,
    something is in the way, or the format cannot hold the model.
    """
    check_choice("--to", to, get_args(ExportFormat))
    check_choice("--precision", precision, get_args(ExportNumbers))
    if precision != "fp32" and to != "onnx":
        raise UsageError(f"--precision is for --to onnx, and {to} has fp32; drop --precision")
    if with_counts and to != "html":
        raise UsageError(f"--with-counts is for --to html, and {to} takes no counts; drop it, or pack the run")
    target = check_path("output", output)
    model = read_exported(str(check_path("run", run) or ""), which)
    target = target or Path(model.run.path.resolve().name + _ending(to, precision))
    step = model.checkpoint.step
    with _naming(target):
        if to == "html":
            page = write_html(model, target, with_counts=with_counts)
            return Export(target, to, step, tuple(page.notes if with_counts else model.notes))
        return Export(target, to, step, tuple(model.notes), _write(model, to, target, precision))


def import_model(
    file: AnyPath,
    output: AnyPath | None = None,
    *,
    vocabulary: AnyPath | None = None,
    text: AnyPath | None = None,
    unit: ImportedUnit = "character",
    lowercase: bool = False,
    activation: RnnActivation = "tanh",
) -> Import:
    """Makes a run of a model of Keras, torch or torch-rnn, and returns its path and what it is. No code in it is run.

    `output` is the folder to make; unless given, the name of the file without its ending, in runs/. `vocabulary` is a
    file of the symbols in the order of the model's numbers, and `text`, in its place, the text that it was trained on.
    With the `unit` byte the numbers are the bytes 0 to 255. With `lowercase` texts are put into small letters before
    the model reads them. `activation` belongs to an nn.RNN of torch. Raises UsageError if these do not go together, and
    InputError if a file cannot be read, something is in the way, or Scriven cannot hold the model.
    """
    check_choice("--activation", activation, get_args(RnnActivation))
    check_choice("--unit", unit, get_args(ImportedUnit))
    path, listed, trained = (
        check_path(name, each) for name, each in (("file", file), ("vocabulary", vocabulary), ("text", text))
    )
    if path is None:
        raise UsageError("file is None; give the path of the model to import")
    folder = check_path("output", output) or RUNS / path.stem
    model = read_foreign(path, activation)
    if activation != "tanh" and model.cell != "rnn":
        raise UsageError(f"--activation is for an nn.RNN of torch, and {path} has a model of {model.cell}; drop it")
    symbols = find_symbols(model, listed, trained, lowercase=lowercase, unit=unit)
    with _naming(folder):
        run = write_imported(model, symbols, folder, lowercase=lowercase)
    return Import(run.path, model.program, run.settings.model.name, model.window)


def read_foreign(path: Path, activation: str = "tanh") -> ForeignModel:
    """Reads a model of Keras, torch or torch-rnn. `activation` is used for an nn.RNN of torch.

    Raises InputError if it cannot be read or is damaged; UsageError if Scriven cannot hold it.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file{did_you_mean(close_paths(str(path)))}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a model's file. {MOVING}")
    refuse_stream(path, "save the model as a plain file")
    ending = path.suffix.lower()
    if ending not in KERAS + TORCH + TORCH_RNN:
        known = join_names([*KERAS, *TORCH, *TORCH_RNN])
        raise UsageError(
            f"{path}: the kind of a model's file is told by its ending, one of {known}; rename it. {MOVING}"
        )
    if activation != "tanh" and ending not in TORCH:
        raise _without_choice(activation, "this kind of file tells its own")
    model = _read_apart(path, activation)
    if activation != "tanh" and model.cell != "rnn":
        raise _without_choice(activation, f"torch's {model.cell} has tanh")
    return model


def read_file(path: Path, activation: str = "tanh") -> ForeignModel:
    """Reads a file whose ending was checked in this process, where a hostile one may take any time and memory."""
    ending = path.suffix.lower()
    if ending in TORCH:
        return read_state_dict(path, activation)
    return read_keras(path) if ending in KERAS else read_torch_rnn(path)


def _read_apart(path: Path, activation: str) -> ForeignModel:
    """Does what `read_file` does, in another process of bounded time and memory. Raises InputError if these are over.

    Damaged files make HDF5 loop forever, where it hears no signal, or crash; hostile ones of torch make Python do so.
    """
    size = path.stat().st_size
    seconds = READ_SECONDS + size // READ_BYTES_PER_SECOND
    most = min(READ_BYTES + MOST_UNPACKED * size, physical_memory() // 2)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-P", "-c", READ]  # -P: nothing is imported from this folder
    words = [*program, str(path), activation, str(seconds), str(most)]
    try:
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, timeout=READ_WAIT * seconds, check=False)
        endless = OUT_OF_TIME is not None and done.returncode == -OUT_OF_TIME
    except subprocess.TimeoutExpired:
        endless = True
    if endless:
        raise InputError(f"{path} is damaged: reading it does not end within {seconds} s; save it again")
    if done.returncode:
        end = f"by signal {-done.returncode}" if done.returncode < 0 else f"with code {done.returncode}"
        raise InputError(f"{path} is damaged: reading it ends {end}; save it again")
    found = pickle.loads(done.stdout)
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, ForeignModel)
    return found


def read_limited(path: str, activation: str, seconds: str, most: str) -> bytes:
    """Returns what `read_file` returns or raises, as a pickle for the process that waits for it.

    First limits the time and the memory of this process.
    """
    _limit(int(seconds), int(most))
    found: Exception
    try:
        return pickle.dumps(read_file(Path(path), activation))  # which copies the model's arrays
    except RecursionError:
        found = InputError(f"{path} is damaged: its values are nested in one another without end; save it again")
    except Exception as error:
        found = error
        if shortage(error) == "memory":
            least = format_bytes(int(most))
            found = InputError(f"{path}: reading it takes over {least} of memory; save the weights alone")
    return pickle.dumps(found)


def _limit(seconds: int, most: int) -> None:
    """Limits the processor's time of this process, and on Linux its memory to `most` bytes more than it has."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - Windows has none

    _lower(resource.RLIMIT_CPU, seconds)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
        _lower(resource.RLIMIT_DATA, pages * resource.getpagesize() + most)


def _lower(limit: int, wanted: int) -> None:
    """Lowers the limit of a resource, unless it is lower."""
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(limit, (wanted, hard))


def _without_choice(activation: str, why: str) -> UsageError:
    return UsageError(f"--activation {activation} is for an nn.RNN of torch, and {why}; leave it out")


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """In this context, an error of the system is an InputError that names what was to be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or error}; free some space, or choose another place with --output"
        ) from None


def _ending(to: ExportFormat, precision: ExportNumbers) -> str:
    """Returns the end of the usual name of an export."""
    if to == "html":
        return ".html"
    if to != "onnx":
        return f"-{to}"
    return ".onnx" if precision == "fp32" else f"-{precision}.onnx"


def _write(model: ExportedModel, to: ExportFormat, target: Path, precision: ExportNumbers) -> float | None:
    """Writes an export. Returns how far its logits are from the run's, if they had to be computed to know."""
    if to == "onnx":
        return write_onnx(model, target, precision)
    if to == "torch":
        return write_torch(model, target)
    if to == "transformers":
        return write_transformers(model, target)
    write_safetensors(model, target)
    return None

"""A run written in the format of another program, and a run made of another program's model: one function for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from scriven.arguments import ExportFormat, ExportNumbers, ImportedUnit, RnnActivation, check_choice, check_path
from scriven.errors import InputError, UsageError, close_paths, did_you_mean, join_names
from scriven.exchange.exported import ExportedModel, read_exported
from scriven.exchange.folders import write_safetensors, write_torch, write_transformers
from scriven.exchange.foreign import ForeignModel, find_symbols, write_imported
from scriven.exchange.html_page import write_html
from scriven.exchange.keras_file import read_keras
from scriven.exchange.onnx_graph import write_onnx
from scriven.exchange.state_dict import read_state_dict
from scriven.exchange.torch7_file import read_torch_rnn
from scriven.runs.folder import RUNS, Which

AnyPath = str | os.PathLike[str]
KERAS, TORCH, TORCH_RNN = (".keras", ".h5", ".hdf5"), (".pt", ".pth", ".safetensors"), (".t7",)


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
        raise InputError(f"{path} is a folder; give a model's file, or copy a run of Scriven as it is")
    ending = path.suffix.lower()
    if ending in TORCH:
        model = read_state_dict(path, activation)
        if activation != "tanh" and model.cell != "rnn":
            raise _without_choice(activation, f"torch's {model.cell} has tanh")
        return model
    if activation != "tanh" and ending in KERAS + TORCH_RNN:
        raise _without_choice(activation, "this kind of file tells its own")
    if ending in KERAS:
        return read_keras(path)
    if ending in TORCH_RNN:
        return read_torch_rnn(path)
    known = join_names([*KERAS, *TORCH, *TORCH_RNN])
    raise UsageError(f"{path}: the kind of a model's file is told by its ending, one of {known}; rename it")


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

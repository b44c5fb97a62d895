"""Writes an export as a folder: weights as safetensors, for transformers too, or as a state dict with its loader."""

from __future__ import annotations

import importlib.resources
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scriven.arrays import Float32s, Ids
from scriven.errors import UsageError
from scriven.exchange.exported import ExportedModel, check_cell_is_own
from scriven.runs.folder import VOCABULARY_FILE
from scriven.runs.tensors import encode
from scriven.runtime import needing_torch
from scriven.safe_files import create_folder, flush_file, write_flushed

CONFIG_FILE = "config.json"
SAFETENSORS_FILE, TORCH_FILE, LOADER_FILE = "model.safetensors", "model.pt", "load_scriven.py"


def write_safetensors(model: ExportedModel, folder: Path) -> None:
    """Writes weights, description and vocabulary into a new folder. Raises UsageError if its name is taken."""
    with create_folder(folder) as work:
        _write_weights(model, work)
        _write_description(model, work)


def write_transformers(model: ExportedModel, folder: Path) -> float:
    """Writes weights, description and tokenizer into a new folder, for the classes of `scriven.transformers`.

    Returns how far the logits of the written model are from the run's. Raises UsageError if the name is taken, or if
    transformers or torch is not installed; InputError if the logits differ.
    """
    try:
        from scriven import transformers  # noqa: PLC0415 - other exports do not need it
    except ImportError as error:  # not installed, or another version
        raise UsageError(
            "scriven export --to transformers needs torch and transformers 5.24 or newer; install them with: "
            f"pip install 'scriven[transformers]' ({error})"
        ) from None
    with create_folder(folder) as work:
        _write_weights(model, work)
        write_flushed(work / VOCABULARY_FILE, model.vocabulary.to_json().encode())
        transformers.write_description(model.config, model.settings, model.run.settings.corpus, work)
        for path in work.iterdir():
            flush_file(path)
        return model.largest_difference(transformers.logits_of(work), forgets=True)


def write_torch(model: ExportedModel, folder: Path) -> float:
    """Writes a state dict of torch, its loader's source, description and vocabulary into a new folder.

    Returns how far the logits of the written model are from the run's. Raises UsageError if torch's modules cannot hold
    the model, or if the name is taken; InputError if the logits differ.
    """
    check_torch_holds(model)
    with needing_torch("scriven export --to torch"):
        import torch  # noqa: PLC0415 - other exports do not need it
    with create_folder(folder) as work:
        data = io.BytesIO()  # a full disk is then an OSError
        torch.save({name: torch.from_numpy(each) for name, each in model.weights.items()}, data)
        write_flushed(work / TORCH_FILE, data.getbuffer())
        write_flushed(work / LOADER_FILE, loader_source().encode())
        _write_description(model, work)
        return model.largest_difference(_computed_by_loader(work))


def loader_source() -> str:
    """Returns the source of the module that loads an export to torch; it needs nothing of Scriven."""
    return importlib.resources.files("scriven.exchange").joinpath("plain_torch.py").read_text("utf-8")


def check_torch_holds(model: ExportedModel) -> None:
    """Raises UsageError if torch's own modules do not compute this cell."""
    check_cell_is_own(model, "torch")
    settings = model.settings
    if settings.cell == "mingru":
        raise UsageError(
            "torch has no module for the cell mingru; use --to safetensors: docs/format.md has its equations"
        )
    if settings.cell != "rnn" and "relu" in settings.activations:
        raise UsageError(
            f"torch's {settings.cell.upper()} has no activation but tanh, and this model has "
            f"{settings.activation}; use --to onnx, or --to safetensors and equations of your own"
        )


def _write_weights(model: ExportedModel, folder: Path) -> None:
    metadata = {"format": "pt", "config": json.dumps(model.config)}
    write_flushed(folder / SAFETENSORS_FILE, *encode(model.weights, metadata))


def _write_description(model: ExportedModel, folder: Path) -> None:
    text = json.dumps(model.config, indent=1, ensure_ascii=True, allow_nan=False)
    write_flushed(folder / CONFIG_FILE, text.encode() + b"\n")
    write_flushed(folder / VOCABULARY_FILE, model.vocabulary.to_json().encode())


def _computed_by_loader(folder: Path) -> Callable[[Ids, Any], tuple[Float32s, Any]]:
    """Returns a function that computes with the model in a folder, as its loader loads it."""
    import torch  # noqa: PLC0415 - it is there

    from scriven.exchange import plain_torch  # noqa: PLC0415 - it imports torch

    loaded = plain_torch.load(folder)

    def _compute(ids: Ids, state: Any) -> tuple[Float32s, Any]:
        with torch.no_grad():
            logits, after = loaded(torch.from_numpy(ids), state)
        values: Float32s = logits.numpy()
        return values, after

    return _compute

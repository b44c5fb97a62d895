"""`scriven info`: describes a run, or what Scriven uses on this machine."""

from __future__ import annotations

import contextlib
import math
import platform
import sys
from datetime import date
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from scriven.cli.common import Json, Row, RunFolder, Switch, show
from scriven.cli.runs import loss_facts, summary_words
from scriven.errors import InputError, UsageError
from scriven.loss import Loss
from scriven.runtime import TRAIN_EXTRA
from scriven.settings import bits_unit, symbol_word

if TYPE_CHECKING:
    import torch

    from scriven.runs import Run


def info(
    run: RunFolder | None = None,
    /,
    *,
    layers: Switch = False,
    machine: Switch = False,
    as_json: Json = False,
) -> None:
    """Describe a run: its text, model and losses, then its checkpoints and files.

    With --machine, show the device and kernels that are used here, and why.

    Parameters
    ----------
    layers
        show how many parameters each layer has
    machine
        show the device and precision that auto selects on this machine
    """
    if run and machine:
        raise UsageError(f"--machine describes this machine, not {run}; drop one of the two")
    if not run and not machine:
        raise UsageError("name the folder of a run, or give --machine")
    if layers and not run:
        raise UsageError("--layers describes the model of a run; name the folder of a run")
    if run:
        _show_run(run, layers, as_json=as_json)
    else:
        show([_machine()], "json" if as_json else "words")


def _show_run(name: str, layers: bool, *, as_json: bool) -> None:
    """Prints what a person asks about a run, then its details; as JSON these, and its loss."""
    from scriven.runs import open_run
    from scriven.runs.summary import summarize

    run = open_run(name)
    row, summary = _describe_run(run, layers), summarize(run)
    if as_json:
        show([row | loss_facts(summary)], "json")
        return
    show([{"run": row.pop("run"), **summary_words(run, summary)}], "words")
    details = {name: value for name, value in row.items() if name not in {"model", "parameters"}}
    details |= {"checkpoints": [_describe(checkpoint, row["unit"]) for checkpoint in row["checkpoints"]]}
    details |= {"chosen": ", ".join(row["chosen"])} if row.get("chosen") else {}
    details |= {"counts": f"{row['counts']['bytes']:,} bytes"} if isinstance(row.get("counts"), dict) else {}
    details |= {"epoch": row["epoch"]["words"]} if "epoch" in row else {}
    details |= {"layers": [_layer_in_words(layer) for layer in row["layers"]]} if "layers" in row else {}
    sys.stdout.write("\n")
    show([{"text_hash" if name == "text" else name: value for name, value in details.items()}], "words")


def _describe_run(run: Run, layers: bool) -> Row:
    from scriven.model.shapes import parameter_count

    model, index = run.settings.model, run.index()
    return {
        "run": str(run.path),
        "model": model.name,
        **({"members": model.members} if model.members > 1 else {}),
        "parameters": parameter_count(model, run.vocabulary.size),
        **({"layers": _layers(run)} if layers else {}),
        "unit": run.vocabulary.unit,
        "symbols": run.vocabulary.size,
        **run.origin,
        **_epoch(run),
        "best_step": index.best,
        "last_step": index.last,
        "checkpoints": [_checkpoint(run, step) for step in run.steps()],
    }


def _layers(run: Run) -> list[Row]:
    """Returns each part of the model, or of one member, in order, with its inputs, outputs and parameters."""
    from scriven.model.shapes import layer_widths, parameters_by_layer

    model, symbols = run.settings.model, run.vocabulary.size
    if model.kind == "counts":
        return []
    widths = layer_widths(model, symbols)
    sides = {f"layer {depth}": (before, width) for depth, (before, width) in enumerate(pairwise(widths), 1)}
    sides |= {f"norm {depth}": (width, width) for depth, width in enumerate(widths[1:], 1)}
    sides |= {"embedding": (symbols, widths[0]), "head": (widths[-1], symbols)}
    return [
        {"layer": name, "inputs": sides[name][0], "outputs": sides[name][1], "parameters": count}
        for name, count in parameters_by_layer(model, symbols).items()
    ]


def _layer_in_words(layer: Row) -> str:
    return f"{layer['layer']}: {layer['inputs']:,} to {layer['outputs']:,}, {layer['parameters']:,} parameters"


def _epoch(run: Run) -> Row:
    """Returns facts on an epoch of the run's training text, if its corpus is still on this machine."""
    from scriven.cli.corpus import epoch_facts
    from scriven.corpus import Corpus

    with contextlib.suppress(InputError):
        if isinstance(run.corpus_path, Path):
            corpus = Corpus.open(run.corpus_path)
            if run.origin.get("text") in {None, corpus.text_hash}:
                return {"epoch": epoch_facts(corpus, run.settings)}
    return {}


def _checkpoint(run: Run, step: int) -> Row:
    try:
        checkpoint = run.checkpoint(step)
        manifest = checkpoint.manifest
    except InputError as error:
        return {"step": step, "damaged": str(error)}
    loss, read = Loss(**{"nats": 0.0, "characters": 0} | manifest["validation"]), manifest.get("characters")
    return {
        "step": step,
        "epochs": checkpoint.epochs,
        "characters": read if isinstance(read, int) else 0,
        "validation_nats_per_char": loss.nats_per_char if loss.characters else None,
        **({"validation_accuracy": loss.accuracy} if loss.judged else {}),
        **_counts(manifest),
    }


def _counts(manifest: Row) -> Row:
    """Returns the loss of the counts alone, if it was measured, and the weights of a mixture with the network.

    With a mixture, the validation loss is of the network alone.
    """
    alone, mixture = Loss(**{"nats": 0.0, "characters": 0} | manifest.get("counts", {})), manifest.get("mixture")
    facts: Row = {"counts_nats_per_char": alone.nats_per_char} if alone.characters else {}
    return facts | ({"network_alone": True, "mixture": mixture} if mixture else {})


def _describe(checkpoint: Row, unit: str) -> str:
    if "damaged" in checkpoint:
        return f"step {checkpoint['step']:,}: {checkpoint['damaged']}"
    loss = checkpoint["validation_nats_per_char"]
    of = "network alone" if checkpoint.get("network_alone") else "validation loss"
    result = "not validated" if loss is None else f"{of} {loss / math.log(2):.4f} {bits_unit(unit)}"
    if (accuracy := checkpoint.get("validation_accuracy")) is not None:
        result += f", {100 * accuracy:.1f} % right"
    if (counts := checkpoint.get("counts_nats_per_char")) is not None:
        result += f", counting alone {counts / math.log(2):.4f}"
        result += ", mixed" if "mixture" in checkpoint else ""
    epochs = checkpoint["epochs"]
    step = f"step {checkpoint['step']:,}" + ("" if epochs is None else f" (epoch {epochs:.2f})")
    return f"{step}: {checkpoint['characters']:,} {symbol_word(unit)}s read, {result}"


def _machine() -> Row:
    from scriven import kernels
    from scriven.inference.predictor import writing_precision
    from scriven.runtime import available_cores, has_torch

    facts = {
        "scriven": metadata.version("scriven"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": available_cores(),
    }
    used = {"kernels": kernels.level(), "kernels_because": kernels.why()}
    if has_torch():
        return facts | _torch(used)
    way = "int8, by native code" if writing_precision("auto", "cpu") else "fp32, by numpy, slowly"
    return (
        facts | {"torch": f"not installed; training needs it: {TRAIN_EXTRA}"} | used | {"writing": way, "scoring": way}
    )


def _torch(used: Row) -> Row:
    """Returns what is used on a machine with torch, among it what is `used` besides."""
    import torch

    from scriven.inference.predictor import writing_precision
    from scriven.model import choose_device, choose_precision
    from scriven.model.precision import CELLS, peak_flops, training_path
    from scriven.report.words import flops_words

    device = choose_device("auto")
    precision, writing = choose_precision("auto", device), writing_precision("auto", device.type)
    return {
        "torch": torch.__version__,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": device.type,
        "device_because": _explain_device(device),
        "precision": precision,
        "precision_because": _explain_precision(device),
        "peak": f"{flops_words(peak_flops(device.type, precision))} in {precision}, by a product of matrices",
        **used,
        **{f"training_{cell}": training_path(cell) for cell in CELLS if device.type == "cpu"},
        "writing": f"{writing}, by native code" if writing else "fp32, by torch",
        "scoring": f"{writing}, by native code" if writing == "int8" else f"{precision}, by torch",
    }


def _explain_device(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"there is a {torch.cuda.get_device_name()}"
    mps = "; there is MPS, which --device mps uses" if torch.backends.mps.is_available() else ""
    return f"torch finds no CUDA device{mps}"


def _explain_precision(device: torch.device) -> str:
    from scriven.model.precision import WORTHWHILE_SPEEDUP, measurements, median_speedup

    if device.type == "cuda":
        return "the GPU reports whether it supports bf16"
    found = measurements("lstm")
    days = [date.fromtimestamp(each.at).isoformat() for each in found]
    when = f"on {days[-1]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    how = f"{len(found)} measurement{'s' * (len(found) > 1)} {when}"
    speedup = median_speedup(found)
    if not speedup:
        return f"bf16 does not work here ({how})"
    limit = f"bf16 is chosen from {WORTHWHILE_SPEEDUP} times on"
    return f"an LSTM trains {speedup:.1f} times as fast in bf16 as in fp32 ({how}; {limit})"

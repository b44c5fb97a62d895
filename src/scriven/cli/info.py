"""`scriven info`: what a run is, or what this machine is used for."""

from __future__ import annotations

import platform
from datetime import date
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.cli.flags import Json, Switch
from scriven.cli.rows import Row, show
from scriven.errors import InputError, UsageError
from scriven.events import Loss

if TYPE_CHECKING:
    import torch

    from scriven.runs import Run


def info(
    run: Annotated[str | None, Parameter(help="folder of the run")] = None,
    /,
    *,
    machine: Switch = False,
    as_json: Json = False,
) -> None:
    """What a run is: its model, its text, its checkpoints; or, with --machine, where it would compute here, and why.

    Parameters
    ----------
    machine
        tell which device and number format are used on this machine where none is asked for
    """
    if run and machine:
        raise UsageError(f"--machine tells about this machine, not about {run}; drop one of the two")
    if not run and not machine:
        raise UsageError("name the folder of a run, or give --machine")
    row = _run(run) if run else _machine()
    if not as_json and "checkpoints" in row:
        row["checkpoints"] = [_in_words(checkpoint) for checkpoint in row["checkpoints"]]
    show([row], "json" if as_json else "words")


def _run(path: str) -> Row:
    from scriven.model.language_model import parameter_count
    from scriven.runs import open_run

    run = open_run(path)
    model, index = run.settings.model, run.index()
    return {
        "run": str(run.path),
        "model": f"{model.cell} {model.layers}x{model.width}",
        "parameters": parameter_count(model, run.vocabulary.size),
        "unit": run.vocabulary.unit,
        "symbols": run.vocabulary.size,
        **run.origin,
        "best_step": index.best,
        "last_step": index.last,
        "checkpoints": [_checkpoint(run, step) for step in run.steps()],
    }


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
    }


def _in_words(checkpoint: Row) -> str:
    if "damaged" in checkpoint:
        return f"step {checkpoint['step']:,}: {checkpoint['damaged']}"
    loss = checkpoint["validation_nats_per_char"]
    told = "not validated" if loss is None else f"validation loss {loss:.4f} nats/char"
    epochs = checkpoint["epochs"]
    step = f"step {checkpoint['step']:,}" + ("" if epochs is None else f" (epoch {epochs:.2f})")
    return f"{step}: {checkpoint['characters']:,} characters read, {told}"


def _machine() -> Row:
    import torch

    from scriven import kernels
    from scriven.inference.generate import writing_precision
    from scriven.model import choose_device, choose_precision
    from scriven.model.compute import available_cores
    from scriven.model.machine import CELLS, training_path

    device = choose_device("auto")
    precision, writing = choose_precision("auto", device), writing_precision("auto", device)
    return {
        "scriven": metadata.version("scriven"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": available_cores(),
        "device": device.type,
        "device_because": _why_device(device),
        "precision": precision,
        "precision_because": _why_precision(device),
        "kernels": kernels.level(),
        "kernels_because": kernels.why(),
        **{f"training_{cell}": training_path(cell) for cell in CELLS if device.type == "cpu"},
        "writing": f"{writing}, by native code" if writing else "fp32, by torch",
        "scoring": f"{writing}, by native code" if writing == "int8" else f"{precision}, by torch",
    }


def _why_device(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"there is a {torch.cuda.get_device_name()}"
    mps = "; there is MPS, which --device mps uses" if torch.backends.mps.is_available() else ""
    return f"torch finds no CUDA device{mps}"


def _why_precision(device: torch.device) -> str:
    from scriven.model.machine import WORTH, measurements, median_speedup

    if device.type == "cuda":
        return "the GPU says whether it computes in bf16"
    found = measurements("lstm")
    days = [date.fromtimestamp(each.at).isoformat() for each in found]
    when = f"on {days[-1]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    how = f"{len(found)} measurement{'s' * (len(found) > 1)} {when}"
    speedup = median_speedup(found)
    if not speedup:
        return f"bf16 does not work here ({how})"
    return f"an LSTM learns {speedup:.1f} times as fast in bf16 as in fp32 ({how}; from {WORTH} on bf16 is chosen)"

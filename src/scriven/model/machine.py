"""What this machine is best used for: measured once with the layers as they run here, and kept in the cache folder."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import time
from pathlib import Path
from typing import get_args

import torch

from scriven.corpus.build import cache_folder
from scriven.errors import UsageError
from scriven.kernels import library, recurrent, recurrent_fp32, scan
from scriven.model.cells import RecurrentLayer
from scriven.model.compute import available_cores, computing
from scriven.settings import Cell, ModelSettings

WIDTH, ROWS, LENGTH = 256, 32, 16  # of what is measured
TURNS = 6
WORTH = 1.15  # times faster that bf16 must be to be chosen: it is less exact, and measurements differ by a tenth
FILE = "machine.json"
CELLS: tuple[Cell, ...] = get_args(Cell)


def choose_precision(name: str, device: torch.device, cell: Cell = "lstm", native: bool = False) -> str:
    """`fp32` or `bf16` for a `training.precision` setting; `auto` measures the CPU with such a cell.

    Where there is `native` code in bf16, nothing is measured: there is for processors on which it is several times
    faster.

    Raises UsageError when bf16 is asked for and does not work.
    """
    if name == "bf16" and device.type == "cpu" and not bf16_speedup(cell):
        raise UsageError("bf16 does not work on this processor; use fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and (native or bf16_speedup(cell) > WORTH) else "fp32"


@functools.cache
def bf16_speedup(cell: Cell = "lstm") -> float:
    """How many times faster a layer learns in bf16 than in fp32 on this CPU, each on its best path; 0 where bf16 fails.

    Measured in about 0.2 s where nothing in the cache folder says so for this processor, these versions and kernels.
    """
    path, key = cache_folder() / FILE, f"{_machine()}, {cell}"
    known = _read(path)
    if key not in known:
        known[key] = _measured(cell)
        _write(path, known)
    return known[key]


def training_path(cell: Cell) -> str:
    """Which code trains layers of a cell here where nothing is asked for, and in which number format, in words."""
    able = recurrent.usable() if cell != "mingru" else scan.usable()
    precision = choose_precision("auto", torch.device("cpu"), cell, native=able and cell != "mingru")
    native = able if precision == "bf16" or cell == "mingru" else recurrent_fp32.usable()
    return f"{precision}, by {'native code' if native else 'torch'}"


def _measured(cell: Cell) -> float:
    """Both number formats in turns, each at its best, since other programs disturb a single measurement.

    oneDNN refuses bf16 on some processors, and emulates it slowly on others.
    """
    with torch.random.fork_rng(devices=[]):
        layer = RecurrentLayer(ModelSettings(cell=cell, width=WIDTH), WIDTH, WIDTH)
    x = torch.zeros(LENGTH, ROWS, WIDTH)
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(TURNS):
        for precision, measured in seconds.items():
            try:
                with computing(torch.device("cpu"), precision), torch.enable_grad():
                    measured.append(_seconds(layer, x))
            except RuntimeError:
                return 0.0
    return min(seconds["fp32"]) / min(seconds["bf16"])


def _seconds(layer: RecurrentLayer, x: torch.Tensor) -> float:
    begun = time.perf_counter()
    y, _ = layer(x, layer.zero_state(ROWS))
    torch.autograd.grad(y.float().sum(), list(layer.parameters()))
    return time.perf_counter() - begun


def _machine() -> str:
    """All that a measurement depends on, in words."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    limits = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.endswith(("_ISA", "_CAPABILITY"))]
    kernels = f"kernels {library.level()} {' '.join(sorted(library.features()))}"
    torchs = f"torch {torch.__version__} {' '.join(limits)} in {torch.get_num_threads()} threads"
    return f"{processor}, {available_cores()} cores, {torchs}, {kernels}"


def _read(path: Path) -> dict[str, float]:
    """What is known; nothing where the file is not there, or is not what `_write` writes."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found = known.items() if isinstance(known, dict) else ()
    return {key: float(value) for key, value in found if isinstance(value, int | float)}


def _write(path: Path, known: dict[str, float]) -> None:
    """Keep what is known, as a whole file or not at all; a cache that cannot be written is none."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        temporary.replace(path)

"""Chooses fp32 or bf16 by measuring how fast layers train on this machine; keeps the results in the cache folder."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch

from scriven.errors import UsageError
from scriven.kernels import native_library, recurrent, scan
from scriven.model.backends import Backend, choose_backend, torch_threads
from scriven.model.cells import RecurrentLayer
from scriven.runtime import available_cores, cache_folder
from scriven.settings import Cell, ModelSettings

WIDTH, ROWS, LENGTH = 256, 32, 64  # of the measured layer and chunk: the defaults of training
ROUNDS, FEWEST_ROUNDS, ROUNDS_SECONDS = 6, 2, 0.5
ENOUGH_MEASUREMENTS = 5  # with these, a start measures again only when the newest is old
APART_SECONDS, OLD_SECONDS = 60.0, 7 * 86_400.0
KEPT_MEASUREMENTS = 9  # the newest ones
WORTHWHILE_SPEEDUP = 1.15  # bf16 is chosen from here on: it is less exact, and measurements differ by a tenth
PRODUCT_SECONDS = 0.2  # of products, one after another; the fastest one counts, as other programs may disturb
PRODUCT_WIDTHS = {"cpu": 1024, "mps": 4096, "cuda": 8192}  # of the square matrices whose product gives the peak
FILE = "machine.json"
CELLS: tuple[Cell, ...] = get_args(Cell)


@dataclass(frozen=True)
class Measurement:
    """How long something took in each number format: a layer to train on one chunk, or a product of matrices.

    It is the best of several rounds.
    """

    at: float  # seconds since 1970
    fp32: float  # seconds
    bf16: float  # seconds; 0 if bf16 does not work

    @property
    def speedup(self) -> float:
        """How many times faster bf16 was; 0 if it does not work."""
        return self.fp32 / self.bf16 if self.bf16 else 0.0


def choose_precision(name: str, device: torch.device, cell: str = "lstm", *, native: bool = False) -> str:
    """Chooses `fp32` or `bf16` for a `training.precision` setting; `auto` measures the CPU with this cell.

    If there is `native` code in bf16, nothing is measured: it exists for processors on which it is several times
    faster. On arm64 nobody has timed it, so there it is measured like torch's.

    Raises UsageError if bf16 is asked for and does not work.
    """
    own = cell in CELLS
    if name == "bf16" and device.type == "cpu" and not bf16_speedup(cell if own else CELLS[0], again=False):
        raise UsageError("bf16 does not work on this processor; use fp32 (--precision fp32), also to resume a training")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type != "cpu" or not own:
        return "fp32"
    known = native and native_library.level() not in native_library.UNTIMED_BF16_LEVELS
    return "bf16" if known or bf16_speedup(cell) > WORTHWHILE_SPEEDUP else "fp32"


def bf16_speedup(cell: str = "lstm", *, again: bool = True) -> float:
    """How many times faster a layer trains in bf16 than in fp32 on this CPU, each on its best path; 0 if bf16 fails.

    `again` is as in `measurements`.
    """
    return median_speedup(measurements(cell, again))


def median_speedup(found: Sequence[Measurement]) -> float:
    """The median speedup of the faster half of some measurements; 0 if bf16 failed in the last one.

    Other programs may have disturbed the slower half, and they slow one number format down more than the other.
    """
    if not found[-1].bf16:
        return 0.0
    working = sorted((each for each in found if each.bf16), key=lambda each: each.fp32 + each.bf16)
    return statistics.median(each.speedup for each in working[: (len(working) + 1) // 2])


@functools.cache
def measurements(cell: str, again: bool = True) -> tuple[Measurement, ...]:
    """The measurements of a cell on this processor, with these versions and kernels: at least one, the newest last.

    Measures now, in about 0.5 s, if there are none. With `again`, also measures if there are few or the newest is old,
    but not twice within a minute. So a single start while other programs run does not decide forever.
    """
    return _remember(f"{_machine()}, {cell}", functools.partial(_measure, cell), again)


def _remember(key: str, measure: Callable[[], Measurement], again: bool = True) -> tuple[Measurement, ...]:
    """Returns the measurements under a key of the file, with a new one if it is due."""
    path = cache_folder() / FILE
    known = _read_measurements(path).get(key, [])
    if not known or (again and _is_due(known, time.time())):
        known = [*known, measure()][-KEPT_MEASUREMENTS:]
        _write(path, _read_measurements(path) | {key: known})
    return tuple(known)


@functools.cache
def peak_flops(device: str, precision: str) -> float:
    """Returns the most floating-point operations per second that were measured on a device: in a product of matrices.

    A CPU uses all cores. The measurement takes about 0.2 s, is kept, and is repeated as those of layers are; the
    fastest one counts. It is 0 if the device cannot compute in that precision.
    """
    where = torch.cuda.get_device_name() if device == "cuda" else device
    key = f"{_machine()}, product in {precision} on {where}"
    found = _remember(key, functools.partial(_measure_product, device, precision))
    measured = [each.bf16 if precision == "bf16" else each.fp32 for each in found]
    worked = [seconds for seconds in measured if seconds]  # memory may have been short once
    return 2 * PRODUCT_WIDTHS[device] ** 3 / min(worked) if worked else 0.0


def _measure_product(device: str, precision: str) -> Measurement:
    """Measures a product of square matrices in one number format; the other one is not measured, and 0."""
    width, bf16 = PRODUCT_WIDTHS[device], precision == "bf16"
    seconds, begun = list[float](), time.monotonic()
    try:
        with torch_threads(available_cores()), torch.no_grad():
            x = torch.ones(width, width, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
            while len(seconds) < FEWEST_ROUNDS or time.monotonic() - begun < PRODUCT_SECONDS:
                started = time.perf_counter()
                x @ x
                if device != "cpu":
                    getattr(torch, device).synchronize()
                seconds.append(time.perf_counter() - started)
    except RuntimeError:  # oneDNN refuses it, or memory is short
        return Measurement(time.time(), 0.0, 0.0)
    best = min(seconds)
    return Measurement(time.time(), 0.0 if bf16 else best, best if bf16 else 0.0)


def _is_due(known: Sequence[Measurement], now: float) -> bool:
    """Whether to measure again. `now` is in seconds since 1970."""
    age = now - known[-1].at
    if age < 0:  # the clock was set back
        return True
    return age > OLD_SECONDS or (len(known) < ENOUGH_MEASUREMENTS and age > APART_SECONDS)


def training_path(cell: Cell) -> str:
    """The number format and the code that train layers of a cell on this machine by default, as text."""
    layers = cell != "mingru"
    precision = choose_precision("auto", torch.device("cpu"), cell, native=layers and recurrent.usable(torch.bfloat16))
    native = recurrent.usable(torch.bfloat16 if precision == "bf16" else torch.float32) if layers else scan.usable()
    return f"{precision}, by {'native code' if native else 'torch'}"


def _measure(cell: str) -> Measurement:
    """Measures both number formats in turns on all cores, and takes the best of each, as other programs may disturb.

    On some processors oneDNN refuses bf16, on others it emulates it slowly.
    """
    with torch.random.fork_rng(devices=[]):
        layer = RecurrentLayer(ModelSettings(cell=cell, width=WIDTH), WIDTH, WIDTH)
    x, cpu = torch.zeros(LENGTH, ROWS, WIDTH), torch.device("cpu")
    backends = {name: choose_backend(layer.settings, cpu, name, learns=True) for name in ("fp32", "bf16")}
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    begun, cores = time.monotonic(), available_cores()
    with torch_threads(cores), native_library.native_threads(cores), torch.enable_grad():
        for number in range(ROUNDS):
            if number >= FEWEST_ROUNDS and time.monotonic() - begun > ROUNDS_SECONDS:
                break
            for precision, measured in seconds.items():
                try:
                    measured.append(_seconds(layer, x, backends[precision]))
                except RuntimeError:
                    return Measurement(time.time(), min(seconds["fp32"], default=0.0), 0.0)
    return Measurement(time.time(), min(seconds["fp32"]), min(seconds["bf16"]))


def _seconds(layer: RecurrentLayer, x: torch.Tensor, backend: Backend) -> float:
    begun = time.perf_counter()
    with backend.context():
        y, _ = layer(x, layer.zero_state(ROWS), backend)
        torch.autograd.grad(y.float().sum(), list(layer.parameters()))
    return time.perf_counter() - begun


def _machine() -> str:
    """Everything that a measurement depends on, as text."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    limits = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.endswith(("_ISA", "_CAPABILITY"))]
    kernels = f"kernels {native_library.level()} {' '.join(sorted(native_library.features()))}"
    versions = f"scriven {version('scriven')}, torch {torch.__version__} {' '.join(limits)}"
    return f"{processor}, {available_cores()} cores, {versions}, {kernels}"


def _read_measurements(path: Path) -> dict[str, list[Measurement]]:
    """The measurements in a file; nothing when it is missing, or `_write` did not write it."""
    try:
        known = json.loads(path.read_text("utf-8"))
        found = {key: [_measurement(each) for each in rows] for key, rows in known.items() if isinstance(rows, list)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return {}
    return {key: rows for key, rows in found.items() if rows}


def _measurement(values: dict[str, Any]) -> Measurement:
    """Makes one measurement from a file's values. Raises ValueError, TypeError or KeyError if they are not one."""
    at, fp32, bf16 = (float(values[name]) for name in ("at", "fp32", "bf16"))
    if not (math.isfinite(at) and 0 <= fp32 < math.inf and 0 <= bf16 < math.inf):
        raise ValueError(f"{values} is not a measurement")
    return Measurement(at, fp32, bf16)


def _write(path: Path, known: dict[str, list[Measurement]]) -> None:
    """Saves measurements, as a whole file or not at all. If the cache cannot be written, they are not saved."""
    values = {key: [asdict(each) for each in rows] for key, rows in known.items()}
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
        temporary.replace(path)

"""Where and in which number format to compute: chosen once, by looking at the machine, never guessed silently."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator

import torch

from scriven.allocator import keep_buffers
from scriven.errors import UsageError
from scriven.settings import Cell

ALLOCATOR_THRESHOLD_BYTES = 1 << 30


def choose_device(name: str) -> torch.device:
    """The device of a `training.device` setting; `auto` prefers CUDA, then the CPU.

    Raises UsageError when the device named is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UsageError(f"device {name} is not available on this machine; use --device auto or cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device, cell: Cell = "lstm", native: bool = False) -> str:
    """`fp32` or `bf16` for a `training.precision` setting; `auto` measures the CPU with such a cell, once a process.

    Where there is `native` code, nothing is measured: there is for processors on which bf16 is several times faster.

    Raises UsageError when bf16 is asked for and does not work.
    """
    if name == "bf16" and device.type == "cpu" and not bf16_speedup(cell):
        raise UsageError("bf16 does not work on this processor; use fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and (native or bf16_speedup(cell) > 1.3) else "fp32"


@functools.cache
def bf16_speedup(cell: Cell = "lstm") -> float:
    """How many times faster a bf16 layer of a cell is than fp32 on this CPU; 0 when bf16 does not work at all.

    oneDNN refuses bf16 on some processors, and emulates it slowly on others, so both are tried, in turns and each at
    its best, since other programs disturb a single measurement. About 0.1 s.
    """
    kind = torch.nn.Linear if cell == "mingru" else getattr(torch.nn, cell.upper())
    layer, x = kind(256, 256), torch.zeros(16, 32, 256)
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with torch.inference_mode():
        for _ in range(8):
            for precision, measured in seconds.items():
                try:
                    with computing(torch.device("cpu"), precision):
                        measured.append(_seconds(layer, x))
                except RuntimeError:
                    return 0.0
    return min(seconds["fp32"]) / min(seconds["bf16"])


def _seconds(layer: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    layer(x)
    return time.perf_counter() - start


def computing(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """The context in which a model computes: autocast to bf16, or plain fp32. Weights stay fp32 either way."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def cpu_prepared(threads: int) -> Iterator[None]:
    """While this lasts, the calling thread is set up for fast steps on `threads` cores.

    Denormal numbers are flushed (they are many times slower and mean nothing here), and glibc is told to keep large
    buffers mapped: it would otherwise give them back, and clear them again, at every step. That last one stays.
    """
    keep_buffers(ALLOCATOR_THRESHOLD_BYTES)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)

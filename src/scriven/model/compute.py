"""Where and in which number format to compute: chosen once, by looking at the machine, never guessed silently."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from scriven.allocator import keep_buffers, use_huge_pages
from scriven.errors import UsageError

ALLOCATOR_THRESHOLD_BYTES = 1 << 30


def choose_device(name: str) -> torch.device:
    """The device of a `training.device` setting; `auto` prefers CUDA, then the CPU.

    Raises UsageError when the device named is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UsageError(f"device {name} is not available on this machine; give auto or cpu")
    return torch.device(name)


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
    buffers mapped, and in huge pages: it would otherwise give them back, and clear them again, at every step. This last
    stays.
    """
    keep_buffers(ALLOCATOR_THRESHOLD_BYTES)
    use_huge_pages(ALLOCATOR_THRESHOLD_BYTES)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)

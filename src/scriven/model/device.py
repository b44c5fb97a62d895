"""Where and in which number format to compute: chosen once, by looking at the machine, never guessed silently."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from scriven import runtime
from scriven.errors import UsageError
from scriven.kernels.native_library import native_threads
from scriven.runtime import keep_buffers, use_huge_pages

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


def autocast_context(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """The context in which a model computes: autocast to bf16, or plain fp32. Weights stay fp32 either way."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def available_cores() -> int:
    """Cores that this process may use: no more than the threads that OpenMP may have."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, runtime.thread_limit())


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """While this lasts, torch splits its products over this number of threads.

    The last bits of a product depend on it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """While this lasts, torch and native code compute in the calling thread alone.

    Where the work is small, threads mostly wait for one another: on two idle cores two of them write one text 1.4 times
    as fast as one does, but 30 times as slowly where another program keeps a core busy.
    """
    with torch_threads(1), native_threads(1):
        yield


@contextlib.contextmanager
def tune_cpu(threads: int, native: int | None = None) -> Iterator[None]:
    """While this lasts, steps are fast: torch splits products over `threads` threads, native code uses `native`.

    The first number decides the last bits of what torch computes and holds however many cores there are; the second
    one, the same where it is not given, changes no bit. Raises UsageError where torch cannot get its threads.

    Denormal numbers are flushed (they are many times slower and mean nothing here), and glibc is told to keep large
    buffers mapped, and in huge pages: it would otherwise give them back, and clear them again, at every step. This last
    stays.
    """
    keep_buffers(ALLOCATOR_THRESHOLD_BYTES)
    use_huge_pages(ALLOCATOR_THRESHOLD_BYTES)
    runtime.allow_threads(threads)
    with torch_threads(threads), native_threads(threads if native is None else native):
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)

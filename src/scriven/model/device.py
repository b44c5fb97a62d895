"""The choice of the device and the number format to compute in, and the settings of threads."""

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
    """The device for a `training.device` setting; `auto` prefers CUDA, then the CPU.

    Raises UsageError if this machine does not have the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UsageError(f"device {name} is not available on this machine; give auto or cpu")
    return torch.device(name)


def available_cores() -> int:
    """The number of cores that this process may use, but no more than the threads that OpenMP allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, runtime.thread_limit())


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Makes torch divide its products among `count` threads while the context lasts.

    The last bits of a product depend on that number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Makes torch and native code compute in the calling thread alone while the context lasts.

    With little work, threads mostly wait for one another. On two idle cores, two threads generate one text 1.4 times as
    fast as one thread, but 30 times as slowly while another program keeps a core busy.
    """
    with torch_threads(1), native_threads(1):
        yield


@contextlib.contextmanager
def tune_cpu(threads: int, native: int | None = None) -> Iterator[None]:
    """Makes training steps fast while the context lasts: torch uses `threads` threads, native code `native`.

    `threads` decides the last bits of torch's results, so it is kept on any number of cores. `native` is the same by
    default; it changes no bit. Raises UsageError if torch cannot get its threads.

    Denormal numbers are flushed to zero: they are many times slower and mean nothing here. Glibc keeps large buffers
    mapped, in huge pages, even after the context. Otherwise it would return and clear them again at every step.
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

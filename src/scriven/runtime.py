"""The threads of one process: how they wait for one another, and that torch gets the number it asks for.

OpenMP reads the environment once, when torch is imported: so `import scriven` settles it before, for the command line
and for Python alike. This is why a module reads and changes the environment that is no part of the command line.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import platformdirs

from scriven.errors import UsageError


def cache_folder() -> Path:
    """Where what can be made again is kept: the environment variable SCRIVEN_CACHE, else the user's cache folder."""
    return Path(os.environ.get("SCRIVEN_CACHE") or platformdirs.user_cache_path("scriven", appauthor=False)).absolute()


# Threads that wait for one another sleep: else they keep the processor busy, and beside any other program a step takes
# 30 times as long. But they look out for so many turns first (about 0.1 ms), since to wake up at every piece of work
# costs a quarter of a step; ten times as many gain little, and cost half of the speed beside another program.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}

# oneDNN shares a product among the threads that it asked for. Where OpenMP gives it fewer, parts of the product are
# never computed, and the rest depends on how many there were: losses became NaN.
FEWER = {"OMP_DYNAMIC": "TRUE", "OMP_MAX_ACTIVE_LEVELS": "0"}  # what gives fewer
LIMIT = "OMP_THREAD_LIMIT"  # which stays: it is kept by asking for no more
NO_LIMIT = 2**31 - 1  # as OpenMP has it


def settle_environment() -> None:
    """Let threads sleep while they wait, where the environment says nothing else, and let torch get those it asks for.

    Does nothing where torch was imported already.
    """
    if "torch" in sys.modules:
        return
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    for name, value in FEWER.items():
        if os.environ.get(name, "").strip().upper() == value:
            del os.environ[name]
    if LIMIT in os.environ:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        limit = min(thread_limit(), os.cpu_count() or 1)
        os.environ["OMP_NUM_THREADS"] = str(min(limit, int(asked)) if asked.isdecimal() and int(asked) else limit)


def thread_limit() -> int:
    """The largest number of threads that OpenMP gives this process, as the environment says."""
    limit = os.environ.get(LIMIT, "").strip()
    return int(limit) if limit.isdecimal() and int(limit) else NO_LIMIT


def allow_threads(count: int) -> None:
    """Make OpenMP give the calling thread as many threads as it asks for, up to `count`, also where torch came first.

    Raises UsageError where OMP_THREAD_LIMIT is below `count`.
    """
    if count > (limit := thread_limit()):
        raise UsageError(
            f"training.threads is {count}, and {LIMIT} in the environment allows {limit}; unset it (other threads "
            f"would change the run's last bits), or give --training.threads {limit}"
        )
    library = _library()
    if library is not None:
        library.omp_set_dynamic(0)
        library.omp_set_max_active_levels(max(1, library.omp_get_max_active_levels()))


def _library() -> Any:
    """The OpenMP library that torch has loaded; None where it is not found, as on Windows."""
    try:
        library = ctypes.CDLL(None)
        assert library.omp_set_dynamic and library.omp_set_max_active_levels
    except (OSError, AttributeError, TypeError):
        return None
    return library


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
NEVER = -1
USUAL_PAD_BYTES = 128 * 1024
PROBE_BYTES = 16 << 20  # more than the heap has left, so that it grows, and less than what gets a mapping of its own


def keep_buffers(threshold_bytes: int) -> None:
    """Buffers below this size stay mapped when they are freed, however many; larger ones are given back at once.

    Left alone, glibc moves the border by itself: large buffers then lie among small ones, and the holes grow for as
    long as the process runs.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, threshold_bytes)
            mallopt(M_TRIM_THRESHOLD, NEVER)


@functools.cache  # twice would reserve twice
def use_huge_pages(reserved_bytes: int) -> None:
    """Large buffers made from now on lie in huge pages, where Linux has some: so many bytes of them at least.

    What is reserved is addresses; memory is taken when it is used. For a process that keeps its buffers. Glibc can do
    this by itself, but only where a variable of the environment says so before the process starts.
    """
    if sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.sbrk.restype, libc.malloc.restype = ctypes.c_void_p, ctypes.c_void_p
            begin = libc.sbrk(0)  # where the heap ends
            libc.mallopt(M_TOP_PAD, reserved_bytes)  # all at once: what it grows by later is another mapping
            libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(PROBE_BYTES))))
            libc.mallopt(M_TOP_PAD, USUAL_PAD_BYTES)
            begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, libc.sbrk(0)
            if end > begin:
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)

"""The threads of one process: how they wait for one another, and that torch gets the number it asks for.

OpenMP reads the environment once, when torch is imported: so `import scriven` settles it before, for the command line
and for Python alike. This is why a module reads and changes the environment that is no part of the command line.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from scriven.errors import UsageError

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

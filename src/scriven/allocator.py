"""What glibc's allocator does with large buffers; nothing elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_buffers(threshold_bytes: int) -> None:
    """Buffers below this size stay mapped when they are freed, larger ones are given back at once.

    Left alone, glibc moves the border by itself: large buffers then lie among small ones, and the holes grow for as
    long as the process runs.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, threshold_bytes)
            mallopt(M_TRIM_THRESHOLD, threshold_bytes)

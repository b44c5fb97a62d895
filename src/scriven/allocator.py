"""What glibc's allocator does with large buffers; nothing elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import sys

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

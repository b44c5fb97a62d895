"""The allocator's settings, each in a process of its own, since they cannot be taken back."""

import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import ctypes
from pathlib import Path
from scriven.runtime import keep_buffers, use_huge_pages
keep_buffers(1 << 30)
use_huge_pages(1 << 30)
use_huge_pages(1 << 30)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(900 << 20))))  # what is free after it may be given back
ctypes.memset(libc.malloc(ctypes.c_size_t(64 << 20)), 1, 64 << 20)
facts = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
reserved = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())["VmData"]
print(int(facts["AnonHugePages"].split()[0]), int(facts["Rss"].split()[0]), int(reserved.split()[0]))
"""


@pytest.mark.skipif(not PAGES.exists() or "[never]" in PAGES.read_text("utf-8"), reason="this system has no huge pages")
def test_large_buffers_lie_in_huge_pages_and_the_rest_is_only_reserved() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    huge, resident, reserved = (int(word) * 1024 for word in done.stdout.split())
    assert huge > 32 << 20
    assert resident < 200 << 20
    assert 1 << 30 < reserved < 3 << 29  # once, though asked for twice

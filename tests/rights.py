"""Reads and writes as a user without the rights of root, who may do all to every file: also where tests run as root."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

VERSION = 0x20080522  # of the structures below; see capset(2)
IGNORES_MODES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def file_modes_hold() -> Iterator[None]:
    """While this lasts, what this thread and those that it starts do with files is what the files' modes allow.

    Skips the test where the system cannot do that.
    """
    if not hasattr(os, "geteuid"):
        pytest.skip("there are no such rights here")
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root's rights can only be dropped on Linux")
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable ones, of 32 bits each; and higher ones
    system = ctypes.CDLL(None, use_errno=True)
    if system.capget(header, rights):
        pytest.skip(f"the rights cannot be read: {os.strerror(ctypes.get_errno())}")
    before = rights[0]
    rights[0] = before & ~IGNORES_MODES
    if system.capset(header, rights):
        pytest.skip(f"the rights cannot be dropped: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        rights[0] = before
        assert system.capset(header, rights) == 0

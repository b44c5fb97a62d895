"""What the build of the native libraries and their loading share: their names, and the interface that they have.

The interface is a number: hatch_build.py compiles it in, and native_library.py compares it.
Only the standard library is used: the build runs this file where nothing is installed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

DECLARATION = re.compile(r"^SCRIVEN_API[^{;]*", re.MULTILINE)
RECORD = "_native.interface"  # in an installed package, which has no sources: the number, in decimal digits
SHARED = "common.h"  # features and statuses, which Python numbers alike
ENDING = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def library_file(variant: str) -> str:
    """Returns the name of the library of a variant, as `_native_avx2.so`."""
    return f"_native_{variant}{ENDING}"


def interface_of(native: Path) -> int:
    """A number of 60 bits for the functions that the sources in a folder declare, and for what they share.

    OSError where there are no sources.
    """
    declared = [text for path in native.glob("*.cpp") for text in DECLARATION.findall(path.read_text("utf-8"))]
    told = [(native / SHARED).read_text("utf-8"), *sorted("".join(text.split()) for text in declared)]
    return int(hashlib.sha256(repr(told).encode()).hexdigest()[:15], 16)


def expected_interface(kernels: Path) -> str:
    """The number, in digits, of the interface that the library in a folder should have.

    That of the sources there; where there are none, what their build wrote down. OSError where it wrote nothing.
    """
    sources = kernels / "native"
    return str(interface_of(sources)) if sources.exists() else (kernels / RECORD).read_text("utf-8", "replace").strip()

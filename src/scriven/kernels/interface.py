"""Which interface native sources declare, as a number: hatch_build.py compiles it in, and library.py compares it.

Only the standard library is used: the build runs this file where nothing is installed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

DECLARATION = re.compile(r"^SCRIVEN_API[^{;]*", re.MULTILINE)
RECORD = "_native.interface"  # in an installed package, which has no sources: the number, in decimal digits
SHARED = "common.h"  # levels, features and statuses, which Python numbers alike


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

"""The names of the native libraries, and a number for their interface, for the build and for loading.

hatch_build.py compiles the number in, and native_library.py compares it. This module uses only the standard library, as
the build runs it before anything is installed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

DECLARATION = re.compile(r"^SCRIVEN_API[^{;]*", re.MULTILINE)
RECORD = "_native.interface"  # holds the number in decimal digits in an installed package, which has no sources
# They have what Python has too: the numbers of features and statuses, and the structs that calls pass.
SHARED = ("common.h", "calls.h")
ENDINGS = {"linux": ".so", "darwin": ".dylib", "win32": ".dll"}  # of libraries, by the system as sys.platform names it


def library_file(variant: str, system: str = sys.platform) -> str:
    """Returns the file name of a variant's library on a system, such as `_native_avx2.so`."""
    return f"_native_{variant}{ENDINGS.get(system, '.so')}"


def interface_of(native: Path) -> int:
    """A number of 60 bits for the functions that the sources in a folder declare, and for their shared headers.

    Raises OSError if there are no sources.
    """
    functions = [text for path in native.glob("*.cpp") for text in DECLARATION.findall(path.read_text("utf-8"))]
    shared = [(native / name).read_text("utf-8") for name in SHARED]
    declarations = [*shared, *sorted("".join(text.split()) for text in functions)]
    return int(hashlib.sha256(repr(declarations).encode()).hexdigest()[:15], 16)


def expected_interface(kernels: Path) -> str:
    """The number, in digits, of the interface that the library in a folder should have.

    It is made from the sources, or read from the record of the build if there are none. Raises OSError if neither is
    there.
    """
    sources = kernels / "native"
    return str(interface_of(sources)) if sources.exists() else (kernels / RECORD).read_text("utf-8", "replace").strip()

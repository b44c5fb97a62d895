"""Native CPU code, each kernel behind a Python function. A torch or numpy version is its reference and fallback."""

from scriven.kernels.native_library import level, levels, why

__all__ = ["level", "levels", "why"]

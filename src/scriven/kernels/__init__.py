"""Native CPU code behind one Python function each; the torch path beside it is the reference and the fallback."""

from scriven.kernels.native_library import level, levels, why

__all__ = ["level", "levels", "why"]

"""Numbers of bytes, as people say them."""

from __future__ import annotations

import math


def size(count: int) -> str:
    """Bytes as MB or GB (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"

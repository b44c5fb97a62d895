"""What of a folder is on the disk, and not only in the system's memory."""

from __future__ import annotations

import os
from pathlib import Path


def flush_folder(path: Path) -> None:
    """Waits until the disk has the folder's names, on systems that can be asked to. Raises OSError."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

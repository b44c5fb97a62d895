"""Measures how long a user waits: for help, for an error, for the first character of a sample.

    python benchmarks/startup.py [--times 10]

Prints medians of wall time and of processor time, each after one call that does not count. Modules are compiled, as
after an installation with pip, even if the environment says that Python writes no compiled files. A tiny model is
trained first; `import torch` and `import numpy` are there for comparison.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from common import arguments_parser, save, scriven, table

TEXT = "The quick brown fox jumps over the lazy dog, and then sits down by the river to think about it all.\n" * 200


class Took(NamedTuple):
    """Seconds of wall time, and of all processors together."""

    wall: float
    processor: float


def time_of(command: Sequence[str], exit_code: int = 0) -> Took:
    """How long a command took, which should end so."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != exit_code:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}, not {exit_code}: {result.stderr.strip()}")
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def median_of(action: Callable[[], Took], times: int) -> Took:
    """The medians, after one call that does not count."""
    found = [action() for _ in range(times + 1)][1:]
    return Took(*map(statistics.median, zip(*found, strict=True)))


def train_run(folder: Path) -> Path:
    """A small model of a small text."""
    text, run = folder / "text.txt", folder / "run"
    text.write_text(TEXT, encoding="utf-8")
    command = [scriven(), "train", str(text), "--steps", "20", "--training.workers", "1", "--quiet", "-o", str(run)]
    time_of(command)
    return run


def main() -> None:
    """Measures and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--times", type=int, default=10, help="of each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
        run = train_run(Path(folder))
        cases = {
            "scriven --help": (0.25, lambda: time_of([scriven(), "--help"])),
            "scriven train --help": (None, lambda: time_of([scriven(), "train", "--help"])),
            "an unknown flag's error": (0.25, lambda: time_of([scriven(), "train", "text.txt", "--unknown", "1"], 2)),
            "scriven sample RUN -n 1": (0.3, lambda: time_of([scriven(), "sample", str(run), "-n", "1"])),
            "scriven info RUN": (0.3, lambda: time_of([scriven(), "info", str(run)])),
            "python -c 'import numpy'": (None, lambda: time_of([sys.executable, "-c", "import numpy"])),
            "python -c 'import torch'": (None, lambda: time_of([sys.executable, "-c", "import torch"])),
        }
        results = [
            {"what": what, **median_of(action, asked.times)._asdict(), "limit": limit}
            for what, (limit, action) in cases.items()
        ]
    rows = [[each["what"], f"{each['wall']:.3f}", f"{each['processor']:.3f}", each["limit"] or "-"] for each in results]
    print(table(["command", "wall, s", "processor, s", "limit of wall, s"], rows))
    save(asked, "startup", results)


if __name__ == "__main__":
    main()

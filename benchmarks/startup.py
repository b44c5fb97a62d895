"""Measures how long a user waits: for help, for an error, for the first character of a sample.

    python benchmarks/startup.py [--times 10]

Prints medians, each after one call that does not count. A tiny model is trained first; `import torch` is there for
comparison.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import arguments_parser, median_seconds, save, scriven, table

TEXT = "The quick brown fox jumps over the lazy dog, and then sits down by the river to think about it all.\n" * 200


def to_end(command: Sequence[str], exit_code: int) -> float:
    """Seconds until a command has ended, as it should end."""
    begun = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if result.returncode != exit_code:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}, not {exit_code}: {result.stderr.strip()}")
    return seconds


def to_first_byte(command: Sequence[str]) -> float:
    """Seconds until a command has written a byte to standard output; it is then ended."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout
        first = process.stdout.read(1)
        seconds = time.perf_counter() - begun
        process.terminate()
    return seconds if first else sys.exit(f"{' '.join(command)} wrote nothing")


def train_run(folder: Path) -> Path:
    """A small model of a small text."""
    text, run = folder / "text.txt", folder / "run"
    text.write_text(TEXT, encoding="utf-8")
    command = [scriven(), "train", str(text), "--steps", "20", "--training.workers", "1", "--quiet", "-o", str(run)]
    to_end(command, 0)
    return run


def main() -> None:
    """Measures and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--times", type=int, default=10, help="of each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = train_run(Path(folder))
        cases = {
            "scriven --help": (0.25, lambda: to_end([scriven(), "--help"], 0)),
            "scriven train --help": (None, lambda: to_end([scriven(), "train", "--help"], 0)),
            "an unknown flag's error": (0.25, lambda: to_end([scriven(), "train", "text.txt", "--unknown", "1"], 2)),
            "scriven sample, first byte": (2.5, lambda: to_first_byte([scriven(), "sample", str(run), "--seed", "1"])),
            "python -c 'import torch'": (None, lambda: to_end([sys.executable, "-c", "import torch"], 0)),
        }
        results = [
            {"what": what, "seconds": median_seconds(action, asked.times), "limit": limit}
            for what, (limit, action) in cases.items()
        ]
    rows = [[result["what"], f"{result['seconds']:.3f}", result["limit"] or "-"] for result in results]
    print(table(["command", "median, s", "limit, s"], rows))
    save(asked, "startup", results)


if __name__ == "__main__":
    main()

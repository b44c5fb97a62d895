"""Measures how long `--resume` takes, from the command to the first new step, for several texts or built corpora.

    python benchmarks/resume.py tinyshakespeare.txt FOLDER-OF-A-LARGE-CORPUS [--times 3]

A model of LSTM 2x512 trains on each for a few steps; then they take turns. Prints medians, with all single times.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments_parser, save, table

STEPS = 3


def command(run: Path, steps: int, *more: str) -> list[str]:
    """What trains a run to this step."""
    shown = ["--json", "--monitor.sample-length", "0", "--steps", str(steps), "-o", str(run)]
    return [sys.executable, "-m", "scriven", "train", *more, *shown]


def first_step(run: Path, steps: int) -> float:
    """Seconds from the command that resumes a run to the line of its first new step; it is then ended."""
    begun = time.perf_counter()
    words = command(run, steps, "--resume")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        for line in process.stdout:
            if json.loads(line)["event"] == "stepped":
                seconds = time.perf_counter() - begun
                process.kill()
                return seconds
    sys.exit(f"{' '.join(words)} took no step")


def main() -> None:
    """Measures and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--times", type=int, default=3, help="of each")
    asked = parser.parse_args()
    shape = ["--model.width", "512", "--reader.batch", "64", "--reader.length", "128"]
    # An evaluation of a large validation text before the first save would be measured with nothing.
    shape += ["--training.evaluation-characters", "20000"]
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder, str(number)) for number in range(len(asked.texts))]
        for run, text in zip(runs, asked.texts, strict=True):
            subprocess.run(command(run, STEPS, str(text), *shape), stdout=subprocess.DEVNULL, check=True)
        times = [[first_step(run, 1_000_000) for run in runs] for _ in range(asked.times + 1)][1:]
    results = {str(text): list(each) for text, each in zip(asked.texts, zip(*times, strict=True), strict=True)}
    rows = [
        (text, f"{statistics.median(each):.2f}", " ".join(f"{one:.2f}" for one in each))
        for text, each in results.items()
    ]
    print(table(["text", "seconds", "each"], rows))
    save(asked, "resume", results)


if __name__ == "__main__":
    main()

"""The number of workers changes nothing: a small part of what benchmarks/exactness.py compares."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "exactness.py"


def test_one_two_and_four_workers_end_with_the_same_bits() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "--few"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 ways to train, 0 differences" in done.stdout

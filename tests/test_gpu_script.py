"""The script that checks and times Scriven on a GPU, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import WORDS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the script on a small text, in a folder."""
    (folder / "words.txt").write_text(WORDS * 100, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "words.txt", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.thorough
def test_all_checks_run_on_the_cpu_too(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "benchmark-results" / "gpu.json").read_text(encoding="utf-8"))["results"]
    assert report["losses"]["nats_apart"] == 0
    assert report["resume"]["passed"]
    (case,) = report["speed"]["cases"].values()
    assert all(each["speeds"] for each in case.values())
    assert "| resume | a training that was stopped and resumed | the same bits |" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_that_nothing_was_checked(tmp_path: Path) -> None:
    done = run_script(tmp_path)
    assert (done.returncode, done.stderr) == (2, "torch finds no CUDA device here, so nothing was checked\n")

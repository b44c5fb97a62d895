"""A training that is killed again and again loses nothing but the steps since its last checkpoint."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fork_server import PYTHON

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as the program gives itself
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_training_survives_ten_kills(tmp_path: Path) -> None:
    """At random instants, most of them near a save; then every step equals that of a training nobody disturbed."""
    words = [*PYTHON, str(PROGRAM), "--kills", "10", "--output", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False, env=ONE_THREAD)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())["results"]
    assert len(found["kills"]) == 10
    assert found["difference"] == ""
    assert found["kills"][-1]["found"] > 0

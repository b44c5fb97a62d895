"""Too little memory, at any moment: the n-th allocation fails, and the command ends with a sentence and a code."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_training import run

FOREIGN = ("SystemError", "SyntaxError")  # of what failed in the interpreter or a library, and did not say why
PROGRAM = Path(__file__).with_name("failing_allocations.py")
pytestmark = pytest.mark.skipif(
    not (hasattr(os, "fork") and importlib.util.find_spec("_testcapi")),
    reason="this Python has no module to let allocations fail (_testcapi)",
)


def test_the_nth_allocation_fails_in_a_sentence(book: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    times = "100" if request.config.getoption("--thorough") else "15"
    book.write_text(book.read_text()[:500])
    run(book, tmp_path / "run", {"budget": {"steps": 1}, "monitor": {"sample_length": 0}})
    command = [sys.executable, str(PROGRAM), times, "score run book.txt --json", "sample run --length 30"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=True)
    for words, number, code, said in json.loads(done.stdout):
        assert code in {0, 3} or (code == 1 and any(name in said for name in FOREIGN)), (words, number, said)
        assert "Traceback" not in said and len(said.splitlines()) <= 1, (words, number, said)

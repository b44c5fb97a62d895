"""Runs commands of Scriven where torch is not installed: `python tests/without_torch.py '[["sample", "RUN"]]'`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class FinderWithoutTorch(PathFinder):
    """Finds the modules that are installed, but not torch."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of a module; None for torch's."""
        return None if fullname.partition(".")[0] == "torch" else PathFinder.find_spec(fullname, path, target)


def hide_torch() -> None:
    """Makes this process one where torch is not installed."""
    assert "torch" not in sys.modules
    sys.meta_path[:] = [FinderWithoutTorch if each is PathFinder else each for each in sys.meta_path]


def run(words: list[str]) -> tuple[int, str, str]:
    """Runs one command: its exit code, and what it wrote to standard output and error."""
    from scriven.cli import main

    out, error, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), error.getvalue()


if __name__ == "__main__":
    hide_torch()
    results = [run(words) for words in json.loads(sys.argv[1])]
    assert "torch" not in sys.modules
    sys.stdout.write(json.dumps(results))

"""How threads wait is settled by `import scriven`, before torch reads it, and changes nothing that somebody settled."""

import os
import subprocess
import sys

import pytest

from scriven.errors import UsageError
from scriven.runtime import WAITING, allow_threads


def environment_after(program: str, **environment: str) -> list[str]:
    """What the environment says of each of WAITING after this program, begun in one that has only what is given."""
    code = f"import os; {program}; print(*[os.environ.get(name) for name in {list(WAITING)}])"
    begun = {name: value for name, value in os.environ.items() if name not in WAITING} | environment
    return subprocess.check_output([sys.executable, "-c", code], env=begun, text=True, timeout=60).split()


@pytest.mark.parametrize("module", ["scriven", "scriven.cli", "scriven.errors"])
def test_threads_sleep_whatever_is_imported_first(module: str) -> None:
    assert environment_after(f"import {module}") == list(WAITING.values())


def test_torch_finds_it() -> None:
    shown = environment_after(
        "import scriven, sys; assert 'torch' not in sys.modules; scriven.CharLM; assert 'torch' in sys.modules"
    )
    assert shown == list(WAITING.values())


def test_nothing_is_changed_where_torch_is_there_already() -> None:
    assert environment_after("import torch, scriven") == ["None", "None"]


def test_what_the_user_says_stays() -> None:
    assert environment_after("import scriven", OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", WAITING["GOMP_SPINCOUNT"]]


def test_torch_gets_the_threads_that_it_asks_for() -> None:
    """Where it got fewer, as these allow, oneDNN left parts of products out: the loss of bf16 was NaN."""
    names = ["OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_NUM_THREADS"]
    code = f"import os, scriven; print([os.environ.get(name) for name in {names}])"
    wrong = {"OMP_DYNAMIC": "true", "OMP_MAX_ACTIVE_LEVELS": "0", "OMP_NUM_THREADS": "3", "OMP_THREAD_LIMIT": "1"}
    shown = subprocess.check_output([sys.executable, "-c", code], env=os.environ | wrong, text=True, timeout=60)
    assert shown.strip() == str([None, None, "1"])


def test_a_limit_of_threads_below_those_of_a_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    allow_threads(1)
    with pytest.raises(UsageError, match=r"training\.threads is 2, but OMP_THREAD_LIMIT in the environment allows 1"):
        allow_threads(2)
    monkeypatch.setenv("OMP_THREAD_LIMIT", "many")  # which OpenMP passes over
    allow_threads(2)

"""Neither the number of workers nor the cores given change a bit: a part of what benchmarks/exactness.py compares."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scriven.distributed.collectives import ProcessGroup
from scriven.events import Evaluated, Stepped
from scriven.kernels import native_library
from scriven.model.backends import torch_threads
from scriven.model.precision import bf16_speedup
from scriven.settings_values import merge_settings, validate
from scriven.training import start, workload
from scriven.training.request import Request
from scriven.training.verify import use_cores
from scriven.training.warm_start import warm_started_model
from scriven.vocabulary import Vocabulary

SOURCE = Path(__file__).parents[2] / "src"
PYTHONPATH = os.pathsep.join(map(str, [SOURCE, *Path(__file__).parents[:2]]))  # of programs that import this file
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "exactness.py"
LEVELS = ("off", *native_library.levels())
# Gradients of weights are sums over 1,024 characters, which torch splits over its threads.
SETTINGS: dict[str, Any] = {
    "budget": {"steps": 2},
    "model": {"width": 64, "layers": 1, "dropout": 0.1},
    "reader": {"batch": 32, "length": 64},
    "training": {"workers": 1, "groups": 2, "threads": 2},
    "monitor": {"every_steps": 1, "sample_length": 0},
}
PRECISIONS = {"lstm": "fp32", "mingru": "bf16"}
WAYS = [*itertools.product(LEVELS, ["lstm"]), *itertools.product(sorted({LEVELS[0], LEVELS[-1]}), ["mingru"])]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings take the cores they are given; that of conftest.py does not stand in."""
    monkeypatch.setattr(workload, "measure_speed", lambda *_: 1e5)


@pytest.mark.thorough
def test_one_two_and_four_workers_end_with_the_same_bits() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "--few"], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* ways to train, 0 differences", done.stdout, re.MULTILINE)


def train_and_follow(text: Path, output: Path, cell: str, precision: str = "") -> list[Any]:
    """The fingerprints of all steps and the losses of all evaluations."""
    settings = merge_settings(
        SETTINGS, {"model": {"cell": cell}, "training": {"precision": precision or PRECISIONS[cell]}}
    )
    told: list[Any] = []
    for event in start.train(Request((str(text),), validate(settings), output)):
        if isinstance(event, Stepped):
            told.append(event.fingerprint)
        elif isinstance(event, Evaluated) and not event.final:
            told.append(event.loss.total_nats)
    return told


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no program fewer cores")
@pytest.mark.parametrize(("level", "cell"), WAYS)
def test_the_cores_given_change_no_bit(
    level: str, cell: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = native_library.find(level)
    monkeypatch.setattr(native_library, "_native", lambda: kernels)
    monkeypatch.setattr("scriven.model.precision.bf16_speedup", lambda cell, **_: 1.0)
    with use_cores(2):
        expected = train_and_follow(book, tmp_path / "two", cell)
    with use_cores(1):
        found = train_and_follow(book, tmp_path / "one", cell)
    assert len(expected) == 4 and found == expected


ONE_CORE = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])"
PROCESS = """
import sys
from pathlib import Path
import scriven
from test_exact import workload, train_and_follow
from scriven.model import precision as machine
workload.measure_speed = lambda *_: 1e5
machine.bf16_speedup = lambda *_, **__: 1.0
print(train_and_follow(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no program fewer cores")
def test_the_environment_of_openmp_changes_no_bit(book: Path, tmp_path: Path) -> None:
    """With OMP_DYNAMIC torch got fewer threads than it asked for, and every loss was NaN."""
    precision = "bf16" if bf16_speedup() else "fp32"
    environments = ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "3", "OMP_DYNAMIC": "TRUE", "MKL_DYNAMIC": "TRUE"})
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program + PROCESS, book, tmp_path / f"run-{len(program)}", "lstm", precision],
            env=os.environ | {"SCRIVEN_KERNELS": "off", "PYTHONPATH": PYTHONPATH} | more,
            stdout=subprocess.PIPE,
            text=True,
        )
        for program, more in zip((ONE_CORE, ""), environments, strict=True)
    ]
    one, all_cores = (process.communicate(timeout=100)[0] for process in started)
    assert one == all_cores and one.count(",") == 3


def test_weights_begin_the_same_whatever_the_number_of_threads() -> None:
    """Those of orthogonal matrices did not: they are a QR decomposition's."""
    settings, models = validate({"model": {"width": 96, "embedding": 8}}), []
    for count in (1, 2, 3):
        with torch_threads(count):
            models.append(warm_started_model(settings, Vocabulary.of("abc"))[0])
    for model in models[1:]:
        assert all(map(torch.equal, models[0].parameters(), model.parameters()))


@pytest.mark.parametrize(
    ("workers", "groups", "threads", "cores", "native"),
    [
        (1, 1, 2, 2, 2),
        (1, 2, 1, 2, 2),
        (2, 2, 1, 2, 1),
        (1, 1, 1, 8, 1),
        (1, 4, 2, 16, 8),
        (4, 4, 4, 2, 1),
        (1, 1, 8, 2, 2),
    ],
)
def test_native_code_takes_the_cores_there_are_and_torch_the_threads_of_the_run(
    workers: int, groups: int, threads: int, cores: int, native: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "available_cores", lambda: cores)
    values = {"training": {"groups": groups, "threads": threads}, "reader": {"batch": 8}}
    with start._tuned_cpu(validate(values), ProcessGroup(0, workers), None):
        assert (torch.get_num_threads(), native_library.threads()) == (threads, native)

"""Workers as separate processes: what each one ends up with."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scriven.training.parallel import Workers

SCRIPT = """
import os, sys
import torch
from scriven.errors import ScrivenError
from scriven.training import parallel

if "RANK" in os.environ:
    workers = parallel.join_workers()
else:
    popen = parallel.subprocess.Popen
    parallel.subprocess.Popen = lambda _, **more: popen([sys.executable, __file__], **more)
    workers = parallel.start_workers(3)
rank = workers.rank
assert workers.gather(torch.full((2, 4), float(rank))).tolist() == [[float(r)] * 4 for r in (0, 0, 1, 1, 2, 2)]
tensors = [torch.full((2, 3), float(rank)), torch.full((5,), float(rank)), torch.full((1,), float(rank))]
workers.share(tensors, [1, 0, 1])
assert [float(tensor.flatten()[-1]) for tensor in tensors] == [1.0, 0.0, 1.0]
assert workers.sum([float(rank), 0.5]) == [3.0, 1.5]
assert workers.broadcast({"a": [1, "b"]} if rank == 0 else None) == {"a": [1, "b"]}
if os.environ.get("DIE_NOW") and rank == 1:
    os._exit(9)
if os.environ.get("DIE_NOW"):
    try:
        workers.gather(torch.zeros(1, 1000))
    except ScrivenError as error:
        assert "--resume" in str(error), error
        print("noticed" if rank == 0 else "", flush=True)
workers.close()
if rank == 0:
    print("good")
"""


def run(tmp_path: Path, **environment: str) -> str:
    import os

    script = tmp_path / "workers.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_workers_agree(tmp_path: Path) -> None:
    assert "good" in run(tmp_path)


def test_the_death_of_a_worker_is_noticed(tmp_path: Path) -> None:
    assert "noticed" in run(tmp_path, DIE_NOW="1")


def test_one_worker_needs_nobody() -> None:
    workers, rows = Workers(), torch.ones(2, 3)
    assert workers.gather(rows) is rows
    assert workers.sum([1.5]) == [1.5]
    assert workers.broadcast({"a": 1}) == {"a": 1}
    tensors = [torch.ones(2)]
    workers.share(tensors, [0])
    assert tensors[0].tolist() == [1, 1]
    workers.close()


@pytest.mark.parametrize("values", [[], [0.1, 0.2]])
def test_sums_of_one_worker_are_its_own(values: list[float]) -> None:
    assert Workers().sum(values) == values

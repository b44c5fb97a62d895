"""Workers as separate processes: what each one ends up with."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scriven.training.parallel import Workers, share

SCRIPT = """
import os, sys
import torch
from scriven.errors import ScrivenError
from scriven.training import launch

if "RANK" in os.environ:
    workers = launch.join_leader()
else:
    popen = launch.subprocess.Popen
    launch.subprocess.Popen = lambda _, **more: popen([sys.executable, __file__], **more)
    workers = launch.start_workers(3)
rank = workers.rank
for count in (3, 4, 7):
    every = torch.arange(count * 8.0).view(count, 2, 4)
    own = workers.own(count)
    assert torch.equal(workers.gather(every[own.start : own.stop].clone(), count), every)
for length in (1, 2, 5, 1000):  # also fewer values than workers
    rows = torch.randn(7, length, generator=torch.Generator().manual_seed(length)) * 10.0 ** torch.arange(7)[:, None]
    a, b, c, d, e, f, g = rows
    expected = (a + (b + c)) + ((d + e) + (f + g))
    own = workers.own(7)
    own_rows = [list(row.clone().split([length - length // 3, length // 3])) for row in rows[own.start : own.stop]]
    workers.add_up(own_rows, 7)
    assert torch.equal(torch.cat(own_rows[0]), expected)
for dtype in (torch.float32, torch.bfloat16):
    tensors = [torch.full((size,), float(rank), dtype=dtype) for size in (6, 5, 1)]
    workers.share(tensors, [1, 0, 1])
    assert [float(tensor[-1]) for tensor in tensors] == [1.0, 0.0, 1.0]
assert workers.broadcast({"a": [1, "b"]} if rank == 0 else None) == {"a": [1, "b"]}
agreed = workers.gather(torch.ones(1), 3)  # which nobody gets to who has failed above
if rank == 0:
    print(f"{int(agreed.sum())} agree", flush=True)
if rank == 1:
    os._exit(9)
try:
    workers.gather(torch.zeros(1, 1000), 3)
except ScrivenError as error:
    assert "--resume" in str(error), error
    print("noticed" if rank == 0 else "", flush=True)
workers.close()
"""


def test_three_workers_agree_and_the_death_of_one_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "agree", "noticed"]


def test_one_worker_needs_nobody() -> None:
    workers, rows = Workers(), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert workers.gather(rows, 2) is rows
    workers.add_up([list(row.split(1)) for row in rows], 2)
    assert rows[0].tolist() == [4.0, 6.0]
    assert workers.broadcast({"a": 1}) == {"a": 1}
    tensors = [torch.ones(2)]
    workers.share(tensors, [0])
    assert tensors[0].tolist() == [1, 1]
    workers.close()


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 2), (7, 3), (256, 255)])
def test_everything_is_someones_and_nobody_has_much_more(count: int, size: int) -> None:
    shares = [share(count, rank, size) for rank in range(size)]
    assert [thing for part in shares for thing in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

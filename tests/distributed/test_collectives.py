"""Workers as separate processes: what each one ends up with."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import torch

from fork_server import PYTHON
from scriven.distributed.collectives import ProcessGroup, partition

SCRIPT = """
import os, sys
import torch
from scriven.errors import ScrivenError
from scriven.distributed import collectives, launch

if "RANK" in os.environ:
    workers = launch.join_spawning_leader()
else:
    collectives.COMMAND = [sys.executable, "-X", "forked", __file__]
    workers = launch.start_workers(3)
rank = workers.rank
for count in (3, 4, 7):
    every = torch.arange(count * 8.0).view(count, 2, 4)
    own = workers.owned_range(count)
    assert torch.equal(workers.all_gather(every[own.start : own.stop].clone(), count), every)
for length in (1, 2, 5, 1000):  # also fewer values than workers
    rows = torch.randn(7, length, generator=torch.Generator().manual_seed(length)) * 10.0 ** torch.arange(7)[:, None]
    a, b, c, d, e, f, g = rows
    expected = (a + (b + c)) + ((d + e) + (f + g))
    own = workers.owned_range(7)
    own_rows = [list(row.clone().split([length - length // 3, length // 3])) for row in rows[own.start : own.stop]]
    workers.tree_all_reduce(own_rows, 7)
    assert torch.equal(torch.cat(own_rows[0]), expected)
for dtype in (torch.float32, torch.bfloat16):
    tensors = [torch.full((size,), float(rank), dtype=dtype) for size in (6, 5, 1)]
    workers.broadcast_owned(tensors, [1, 0, 1])
    assert [float(tensor[-1]) for tensor in tensors] == [1.0, 0.0, 1.0]
assert workers.broadcast({"a": [1, "b"]} if rank == 0 else None) == {"a": [1, "b"]}
agreed = workers.all_gather(torch.ones(1), 3)  # which nobody gets to who has failed above
if rank == 0:
    print(f"{int(agreed.sum())} agree", flush=True)
if rank == 1:
    os._exit(9)
try:
    workers.all_gather(torch.zeros(1, 1000), 3)
except ScrivenError as error:
    assert "--resume" in str(error), error
    print("noticed" if rank == 0 else "", flush=True)
workers.close()
"""


DEAF = """
import os, sys, time
import torch
from scriven.errors import Interrupted
from scriven.distributed import collectives, launch
from scriven.signals import StopFlag

if "RANK" in os.environ:
    workers = launch.join_spawning_leader()
    if "DEAF" in os.environ:
        time.sleep(1000)  # and never answers
    workers.all_gather(torch.ones(1), 2)
    workers.close()
    os._exit(0)
collectives.COMMAND = [sys.executable, "-X", "forked", __file__]
os.environ["DEAF"] = "1"
flag = StopFlag(lambda: print("noticed", flush=True))
with flag.listening():
    workers = launch.start_workers(2, flag)
    print(workers.children[0].process.pid, flush=True)
    try:
        workers.all_gather(torch.zeros(1, 1000), 2)
    except Interrupted as error:
        workers.end()
        workers.close()
        print("left", flush=True)
        code = error.exit_code
del os.environ["DEAF"]
workers = launch.start_workers(2)
print(int(workers.all_gather(torch.ones(1), 2).sum()), "again", flush=True)
workers.close()
sys.exit(code)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")
def test_signals_are_noticed_while_another_worker_never_answers(tmp_path: Path) -> None:
    """Python's own handlers would wait until torch's C++ comes back. Afterwards, as in a notebook, others can start."""
    script = tmp_path / "deaf.py"
    script.write_text(DEAF)
    process = subprocess.Popen([*PYTHON, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as told:
        other = int(told.readline())
        time.sleep(0.5)  # it waits
        process.terminate()
        assert told.readline() == "noticed\n"
        assert process.poll() is None
        process.terminate()
        assert told.readline() == "left\n"
        assert told.readline() == "2 again\n"
        assert process.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


DYING = """
import sys
from scriven.cli import main
from scriven.distributed import collectives

collectives.COMMAND = [sys.executable, "-c", "print('one'); import no_such_module"]
main(sys.argv[1:])
"""


def test_a_worker_that_dies_at_once_ends_the_start_with_its_last_words(book: Path, tmp_path: Path) -> None:
    """It was waited for until the meeting timed out."""
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    words = ["train", str(book), "--steps=1", "--model.width=16", "--reader.batch=4", "--training.workers=2"]
    done = subprocess.run(
        [*PYTHON, str(script), *words, "-o", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "a worker could not start (worker 1: exit code 1" in done.stderr
    assert "No module named 'no_such_module'" in done.stderr
    assert "--training.workers 1" in done.stderr


def test_three_workers_agree_and_the_death_of_one_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(SCRIPT)
    command = [*PYTHON, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "agree", "noticed"]


LEFT = """
import os, sys, threading, time
import torch
import torch.distributed as dist
from scriven.distributed import collectives
from scriven.distributed.launch import ProcessInfo, join_group
from scriven.errors import LostError

collectives.PROBE_SECONDS = collectives.LOST_SECONDS = 0.0  # else it takes as long
rank = int(os.environ["OWN_RANK"])
group = join_group(ProcessInfo(rank, 2, rank, 2, store=dist.FileStore(sys.argv[1], -1)))
if rank:
    time.sleep(1)  # while the other one probes the connection
assert group.all_gather(torch.full((1,), rank + 1.0), 2).tolist() == [1.0, 2.0]
if rank:
    os._exit(9)
try:
    group.wait_for(threading.Event().wait)
except LostError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_the_end_of_a_worker_is_noticed_where_gloo_tells_nobody(tmp_path: Path) -> None:
    """As torchrun starts them: no worker is another one's parent. A send that was under way is waited for for ever."""
    command = [*PYTHON, "-c", LEFT, str(tmp_path / "store")]
    one, other = (
        subprocess.Popen(command, env=os.environ | {"OWN_RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    )
    try:
        assert "another worker of this training has ended" in one.communicate(timeout=60)[0]
        assert other.communicate(timeout=60)[0] == ""
        assert (one.returncode, other.returncode) == (0, 9)
    finally:
        one.kill()
        other.kill()


def test_one_worker_needs_nobody() -> None:
    workers, rows = ProcessGroup(), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert workers.all_gather(rows, 2) is rows
    workers.tree_all_reduce([list(row.split(1)) for row in rows], 2)
    assert rows[0].tolist() == [4.0, 6.0]
    assert workers.broadcast({"a": 1}) == {"a": 1}
    tensors = [torch.ones(2)]
    workers.broadcast_owned(tensors, [0])
    assert tensors[0].tolist() == [1, 1]
    workers.close()


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 2), (7, 3), (256, 255)])
def test_everything_is_someones_and_nobody_has_much_more(count: int, size: int) -> None:
    shares = [partition(count, rank, size) for rank in range(size)]
    assert [thing for part in shares for thing in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

"""Workers that others have launched, as processes: stopped together, and only of one kind."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from fork_server import PYTHON
from scriven.runs import open_run

SMALL = ["--model.width=16", "--reader.batch=4", "--reader.length=16", "--training.threads=1", "--training.groups=2"]
OTHER = """
import sys
from scriven.cli import main
from scriven.distributed import rendezvous as alike

own = alike.environment
alike.environment = lambda: own() | {"host": "far-away", "torch": "2.10.0"}
main(sys.argv[1:])
"""


def two(words: list[str], *, second: list[str]) -> list[subprocess.Popen[str]]:
    """The first worker of two, and the second one, which is started by `second`; as launchers without torchrun do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [*PYTHON, *start, "train", *words],
            env=os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, start in enumerate((["-m", "scriven"], second))
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """How each has ended, and what it said on standard error."""
    try:
        said = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, each) for process, each in zip(processes, said, strict=True)]


@pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")
def test_a_signal_to_any_worker_stops_all_after_a_save(book: Path, tmp_path: Path) -> None:
    """Only the first one's counted, and the others' did nothing until somebody killed them."""
    words = [str(book), "--steps=1000000", *SMALL, "--json", "-o", str(tmp_path / "run")]
    processes = two(words, second=["-m", "scriven"])
    stdout = processes[0].stdout
    assert stdout and next(line for line in stdout if '"step": 3' in line)
    processes[1].send_signal(signal.SIGTERM)
    (first, said), (second, silent) = ends(processes)
    assert (first, second) == (143, 143), said + silent
    assert "stopped and saved at step" in said
    assert silent == ""
    assert open_run(tmp_path / "run").checkpoint("last").step >= 3


def test_workers_of_another_kind_are_refused_by_name(book: Path, tmp_path: Path) -> None:
    """They took part, and the bits depended on who did what."""
    words = [str(book), "--steps=2", *SMALL, "-o", str(tmp_path / "run")]
    for code, said in ends(two(words, second=["-c", OTHER])):
        assert code == 3, said
        assert "worker 1 on far-away has torch 2.10.0; install the same versions" in said
        assert len(said.strip().splitlines()) == 1

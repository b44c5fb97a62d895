"""One process or many: torch.distributed moves gradients, updates, sums and words between the workers.

Workers on one machine are subprocesses (`python -m scriven worker`), never a fork or spawn of the user's script.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore  # torch.distributed does not export them to type checkers

from scriven.errors import ScrivenError
from scriven.training.stop import leave_where_asked

# An evaluation may take hours while the others wait; a worker that dies is noticed by its closed connection.
TIMEOUT = timedelta(days=30)
START_TIMEOUT = timedelta(minutes=5)
CLOSE_SECONDS = 10
STOP_KEY, LOOK_SECONDS = "stop", 0.2


class Workers:
    """The processes that train together, seen from one of them. With one worker nothing is ever sent."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.children: list[subprocess.Popen[bytes]] = []  # the other workers, where this process started them
        self.store: Store | None = None  # what all workers can look into at any time
        self._looked = 0.0

    def gather(self, rows: Tensor) -> Tensor:
        """Every worker's rows (M, ...), one after another in the order of ranks: (size * M, ...)."""
        if self.size == 1:
            return rows
        result = rows.new_empty((self.size, *rows.shape))
        result[self.rank] = rows
        self._exchange(result)
        return result.flatten(0, 1)

    def share(self, tensors: list[Tensor], owners: list[int]) -> None:
        """Fills in, on every worker, the tensors that other workers own. All are of one type."""
        if self.size == 1:
            return
        mine = [[tensor for tensor, owner in zip(tensors, owners, strict=True) if owner == r] for r in range(self.size)]
        longest = max(sum(tensor.numel() for tensor in part) for part in mine)
        result = tensors[0].new_empty((self.size, longest))
        for part, row in zip(mine, result, strict=True):
            for tensor, view in _packed(part, row):
                if part is mine[self.rank]:
                    view.copy_(tensor)
        self._exchange(result)
        for part, row in zip(mine, result, strict=True):
            for tensor, view in _packed(part, row):
                if part is not mine[self.rank]:
                    tensor.copy_(view)

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all workers of some numbers, in double precision, added in the order of ranks."""
        total = self.gather(torch.tensor([values], dtype=torch.float64))
        return [float(value) for value in total.sum(0)] if self.size > 1 else values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (plain data: what JSON holds) on every worker."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        self._guarded(lambda: dist.broadcast(length, 0))
        buffer = data if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        self._guarded(lambda: dist.broadcast(buffer, 0))
        return json.loads(buffer.numpy().tobytes())

    def tell_to_stop(self) -> None:
        """Asks all workers to leave what each of them does alone; from now on, for ever."""
        if self.store is not None:
            self.store.set(STOP_KEY, "")

    def told_to_stop(self) -> bool:
        """Whether a worker has asked so; looked up now and then only."""
        if self.store is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return self.store.check([STOP_KEY])

    def wait_until_ready(self, store: Store, stop: Callable[[], int]) -> None:
        """Waits until every worker that was started is about to join.

        Raises ScrivenError when one ended before that, Interrupted where `stop()` is not 0.
        """
        keys = [f"ready-{rank}" for rank in range(1, self.size)]
        while not store.check(keys):
            leave_where_asked(stop)
            if any(child.poll() is not None for child in self.children):
                raise ScrivenError(f"a worker could not start ({self._ends()}); --training.workers 1 does without")
            time.sleep(0.02)

    def end(self) -> None:
        """Ends the workers that were started, whatever they do."""
        for child in self.children:
            child.kill()

    def close(self) -> None:
        """Leaves the group; on rank 0, waits for the workers that were started, and ends those that hang."""
        if self.size > 1 and dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        for child in self.children:
            try:
                child.wait(timeout=CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _exchange(self, rows: Tensor) -> None:
        """Sends row `rank` to every other worker and receives theirs. Twice as fast as gloo's own all_gather."""
        others = [peer for peer in range(self.size) if peer != self.rank]
        operations = [dist.P2POp(dist.isend, rows[self.rank], peer) for peer in others]
        operations += [dist.P2POp(dist.irecv, rows[peer], peer) for peer in others]
        self._guarded(lambda: [work.wait() for work in dist.batch_isend_irecv(operations)])

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except RuntimeError as error:
            raise ScrivenError(
                f"another worker of this training has ended ({self._ends() or str(error).splitlines()[0]}); "
                "continue from the last checkpoint with --resume"
            ) from error

    def _ends(self) -> str:
        """How the workers that this process started have ended, as far as they have."""
        codes = []
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                codes.append(child.wait(timeout=1))
        return ", ".join("killed, perhaps for want of memory" if code == -9 else f"exit code {code}" for code in codes)


def _packed(tensors: list[Tensor], row: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each tensor with its place in `row`, one after another."""
    places, start = [], 0
    for tensor in tensors:
        places.append((tensor, row[start : start + tensor.numel()].view(tensor.shape)))
        start += tensor.numel()
    return places


def start_workers(size: int, stop: Callable[[], int] = lambda: 0) -> Workers:
    """Rank 0 of `size` workers; the others are started as subprocesses on this machine, which only they can join."""
    if size == 1:
        return Workers()
    listener = socket.create_server(("127.0.0.1", 0))  # torch's own would listen on every address
    port = listener.getsockname()[1]
    store = TCPStore(
        "127.0.0.1",
        port,
        size,
        True,
        timeout=START_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    address = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = Workers(0, size)
    try:
        for rank in range(1, size):
            workers.children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "scriven", "worker"],
                    env=os.environ | address | {"RANK": str(rank)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for the leader, which tells the others to stop
                )
            )
        workers.wait_until_ready(store, stop)
        _join(store, 0, size)
        workers.store = store
    except BaseException:
        workers.end()
        workers.close()
        raise
    return workers


def join_workers() -> Workers:
    """This process as the worker that its environment says (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(os.environ["MASTER_ADDR"], port, size, False, timeout=START_TIMEOUT)
    store.set(f"ready-{rank}", "")
    _join(store, rank, size)
    workers = Workers(rank, size)
    workers.store = store
    return workers


def _join(store: Store, rank: int, size: int) -> None:
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)

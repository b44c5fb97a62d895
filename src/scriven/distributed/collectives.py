"""One process or many: torch.distributed moves gradients, updates, sums and control values between the workers.

Workers are subprocesses that `scriven train --training.workers` starts on this machine, or processes that torchrun
starts on many machines. Sums are taken over groups, or over other parts whose number does not depend on the number of
workers, in a fixed order. So any number of workers gives the same bits. See
docs/decisions/0017-sums-in-a-fixed-order.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store  # torch.distributed does not export it to type checkers

from scriven.errors import LostError, shortage
from scriven.signals import CHECK_SECONDS, InterruptibleCaller

# The others may wait for hours while one evaluates, so waits have no short limit. The end of a worker is noticed by its
# closed connection (see `_finds_closed_connection`). A machine that is cut off no longer confirms what is sent to it,
# and the system reports that after some minutes.
TIMEOUT = timedelta(days=30)
CLOSE_SECONDS = 10
LOST_SECONDS = 2.0  # to receive what a worker sent before it ended
PROBE_SECONDS = 1.0  # between two probes of the connections to other workers, while waiting for them
PROBE_TAG = 1  # marks messages that nobody receives; all others have tag 0
STOP_KEY = "stop"
COMMAND = [sys.executable, "-m", "scriven", "worker"]
REPORT_LINES, REPORT_BYTES = 3, 2000  # of the end of a worker's error output
KILLED = -9  # the exit code of a process that was killed
T = TypeVar("T")
Pieces = list[Tensor]  # arrays of one dimension that together are a row


def partition(count: int, rank: int, size: int) -> range:
    """Returns which of `count` items worker `rank` owns: as evenly as possible, in the order of ranks."""
    return range(count * rank // size, count * (rank + 1) // size)


@dataclass(frozen=True)
class WorkerProcess:
    """A worker as a subprocess. Its error output is kept, so that the leader can report it."""

    rank: int
    process: subprocess.Popen[bytes]
    error_output: IO[bytes]

    @classmethod
    def start(cls, rank: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Starts the worker of this rank. Raises OSError."""
        error_output = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the child
        process = subprocess.Popen(
            COMMAND,
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,  # it closes when this process ends, see `launch.end_with_leader`
            stdout=subprocess.DEVNULL,
            stderr=error_output,
            process_group=0,  # Ctrl-C goes to the leader only, which asks the others to stop
        )
        return cls(rank, process, error_output)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def exit_report(self) -> str:
        """Describes how it ended, with the last lines of its error output."""
        code = self.process.poll()
        how = "killed, perhaps for lack of memory" if code == KILLED else f"exit code {code}"
        self.error_output.seek(max(0, self.error_output.seek(0, os.SEEK_END) - REPORT_BYTES))
        lines = [line.strip() for line in self.error_output.read().decode("utf-8", "replace").splitlines()]
        end = " / ".join([line for line in lines if line][-REPORT_LINES:])
        return f"worker {self.rank}: {how}" + (f": {end}" if end else "")

    def close(self, seconds: float) -> None:
        """Waits for its end for at most `seconds`, then kills it."""
        try:
            self.process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.error_output.close()


class ProcessGroup:
    """The processes that train together, seen from one of them. A single worker sends nothing."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank  # local_rank counts on this machine
        self.children: list[WorkerProcess] = []  # the other workers, if this process started them
        self.store: Store | None = None  # which all workers can read and write at any time
        self._caller, self._check = InterruptibleCaller(), _do_nothing
        self._stop_checked_at, self._stop_signal, self._probed_at = 0.0, 0, 0.0
        self._lost_at = 0.0  # when this worker noticed that another one has ended
        self._probe_error: RuntimeError | None = None  # what torch raised, if a probe noticed it

    def owned_range(self, count: int) -> range:
        """Returns which of `count` items this worker owns."""
        return partition(count, self.rank, self.size)

    def all_gather(self, rows: Tensor, count: int) -> Tensor:
        """Returns all `count` rows (count, ...), given each worker's own rows (len(owned_range(count)), ...)."""
        if self.size == 1:
            return rows
        result = rows.new_empty((count, *rows.shape[1:]))
        own = self.owned_range(count)
        result[own.start : own.stop] = rows
        shares = [partition(count, peer, self.size) for peer in range(self.size)]
        self._exchange_parts([[result[part.start : part.stop]] for part in shares])
        return result

    def tree_all_reduce(self, rows: list[Pieces], count: int) -> None:
        """Overwrites the first of a worker's own rows with the sum of all `count` rows, added as a binary tree.

        A worker owns the rows in `owned_range(count)`. Each row has P values, cut into the same pieces; the other own
        rows are overwritten too. A worker adds up its own parts of the tree. Then it adds up one slice of all workers'
        parts, and sends that slice to all others. So it receives about 2 P values for any number of workers, as a ring
        all-reduce does.
        """
        own, tree = self.owned_range(count), range(count)
        single = {range(row, row + 1): rows[row - own.start] for row in own}
        sums = {node: _sum_tree(node, single) for node in _nodes(tree, own)}
        if self.size == 1:
            return
        length = sum(piece.numel() for piece in rows[0])
        slices = [partition(length, peer, self.size) for peer in range(self.size)]
        result = [_slice_pieces(rows[0], part) for part in slices]
        parts = self._slices_of_nodes(sums, tree, slices)
        left, right = (_sum_tree(half, parts) for half in _halves(tree))
        for one, other, place in zip(left, right, result[self.rank], strict=True):
            torch.add(one, other, out=place)
        self._exchange_parts(result)

    def broadcast_owned(self, tensors: list[Tensor], owners: list[int]) -> None:
        """Fills in, on every worker, the tensors that others own: worker `owners[i]` owns tensor i."""
        if self.size == 1:
            return
        self._communicate(
            tensors[0].device,
            lambda: [dist.broadcast(each, owner, async_op=True) for each, owner in zip(tensors, owners, strict=True)],
        )

    def broadcast(self, value: Any) -> Any:
        """Returns rank 0's value, which JSON can hold, on every worker."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        self.broadcast_owned([length], [0])
        buffer = data if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        self.broadcast_owned([buffer], [0])
        return json.loads(buffer.numpy().tobytes())

    def find_stop_signal(self, own: int) -> int:
        """Returns the number of the signal that asked any worker to stop, or 0.

        `own` is the signal that this worker received, or 0; all workers learn it.
        """
        if self.store is None or self._stop_signal:
            return own or self._stop_signal
        if own:
            self.ask_to_stop(own)
        elif time.monotonic() - self._stop_checked_at >= CHECK_SECONDS:
            self._stop_checked_at = time.monotonic()
            with self._describe_failures():
                self._stop_signal = int(self.store.get(STOP_KEY)) if self.store.check([STOP_KEY]) else 0
        return own or self._stop_signal

    def ask_to_stop(self, number: int) -> None:
        """Asks all workers to stop. This cannot be taken back.

        Any thread may call it, once the group exists.
        """
        if self.store is not None:
            self._stop_signal = number
            with contextlib.suppress(RuntimeError):  # no other worker is left
                self.store.set(STOP_KEY, str(number))

    def wait_for(self, task: Callable[[], T]) -> T:
        """Returns or raises what `task()` does in another thread; this one notices signals and lost workers."""
        self._probed_at = time.monotonic()
        return self._caller.wait_for(task, self._check_others)

    @contextlib.contextmanager
    def checking(self, check: Callable[[], None]) -> Iterator[None]:
        """In this context, `check` is called now and then while waiting for other workers; it may raise."""
        self._check = check
        try:
            yield
        finally:
            self._check = _do_nothing

    def end(self) -> None:
        """Kills the workers that this process started."""
        for child in self.children:
            child.process.kill()

    def close(self) -> None:
        """Leaves the group. If this process started the workers, it waits for them, and kills those that hang."""
        if self._caller.busy:  # it waits for some of them; once they have ended it no longer does
            self._close_children()
        self._caller.close()
        if self.size > 1 and dist.is_initialized() and not self._caller.busy:  # or this would wait forever
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        self._close_children()

    def _close_children(self) -> None:
        end = time.monotonic() + CLOSE_SECONDS
        while self.children:
            self.children.pop().close(end - time.monotonic())

    def _slices_of_nodes(self, sums: dict[range, Pieces], tree: range, slices: list[range]) -> dict[range, Pieces]:
        """Returns this worker's slice of every sum that any worker has made of the tree.

        `sums` are this worker's own sums, whole.
        """
        mine, first = slices[self.rank], next(iter(sums.values()))
        sizes = [piece.numel() for piece in _slice_pieces(first, mine)]
        owners = {
            node: peer for peer in range(self.size) for node in _nodes(tree, partition(len(tree), peer, self.size))
        }
        parts = {
            node: _slice_pieces(sums[node], mine)
            if node in sums
            else list(torch.split(first[0].new_empty(len(mine)), sizes))
            for node in owners
        }
        sent = [(_slice_pieces(whole, part), peer) for peer, part in enumerate(slices) for whole in sums.values()]
        self._exchange(sent, [(parts[node], peer) for node, peer in owners.items()])
        return parts

    def _exchange_parts(self, parts: list[Pieces]) -> None:
        """Sends part `rank` to every other worker, and receives theirs from them."""
        received = [(part, peer) for peer, part in enumerate(parts)]
        self._exchange([(parts[self.rank], peer) for _, peer in received], received)

    def _exchange(self, sent: list[tuple[Pieces, int]], received: list[tuple[Pieces, int]]) -> None:
        """Sends and receives pieces, by rank, all at once. This is faster than gloo's own collectives."""
        both = ((dist.irecv, received), (dist.isend, sent))  # gloo receives without a copy if it is already waiting
        moves = [(move, piece, peer) for move, all_pieces in both for pieces, peer in all_pieces for piece in pieces]
        operations = [dist.P2POp(*move) for move in moves if move[2] != self.rank and move[1].numel()]
        if operations:
            self._communicate(operations[0].tensor.device, lambda: dist.batch_isend_irecv(operations))

    def _communicate(self, device: torch.device, start: Callable[[], Iterable[Any]]) -> None:
        """Starts the communication of arrays of a device and waits until it is done."""
        with self._describe_failures():
            works = start()
            if device.type == "cpu":
                self.wait_for(lambda: _wait(works))
            else:
                _wait(works)  # the device waits, in the stream of this thread

    def _check_others(self) -> None:
        """Raises LostError if another worker has ended, after time enough to receive what it had sent."""
        self._check()
        if not self._lost_at and (any(child.ended for child in self.children) or self._finds_closed_connection()):
            self._lost_at = time.monotonic()
        if self._lost_at and (self.store is None or time.monotonic() - self._lost_at > LOST_SECONDS):
            raise self.lost_error(self._probe_error)

    def _finds_closed_connection(self) -> bool:
        """Whether gloo has closed its connection to another worker. It is probed every PROBE_SECONDS.

        When a connection breaks while gloo sends, gloo closes it, but the wait for that send never ends. Only another
        send to the same worker raises the error.
        """
        if self.store is None or time.monotonic() - self._probed_at < PROBE_SECONDS:
            return False
        self._probed_at = time.monotonic()
        try:
            for peer in range(self.size):
                if peer != self.rank:
                    dist.isend(torch.zeros(1), peer, tag=PROBE_TAG)
        except RuntimeError as error:
            self._probe_error = error
        return self._probe_error is not None

    @contextlib.contextmanager
    def _describe_failures(self) -> Iterator[None]:
        """Raises LostError if torch cannot reach another worker."""
        try:
            yield
        except RuntimeError as error:
            if shortage(error):  # this process lacks something; the other workers may be well
                raise
            raise self.lost_error(error) from error

    def lost_error(self, error: RuntimeError | None = None) -> LostError:
        """Returns the error for the end of another worker, with what is known of it."""
        end = time.monotonic() + 1  # torch may notice it before the system reports the child's end
        while self.children and not any(child.ended for child in self.children) and time.monotonic() < end:
            time.sleep(0.02)
        why = ", ".join(child.exit_report() for child in self.children if child.ended) or (
            first_sentence(error) if error else ""
        )
        if self.store is None:
            return LostError(f"a worker could not start ({why}); --training.workers 1 does without")
        return LostError(
            f"another worker of this training has ended or cannot be reached ({why}); continue from the last "
            "checkpoint with --resume"
        )


def _do_nothing() -> None:
    """Does nothing."""


def _wait(works: Iterable[Any]) -> None:
    for work in works:
        work.wait()


def first_sentence(error: RuntimeError) -> str:
    """Returns the first sentence of an error of torch, without the place in torch's source."""
    return re.sub(r"^\[[^]]*\] *", "", str(error)).splitlines()[0].partition(". ")[0]


def _nodes(tree: range, own: range) -> list[range]:
    """Returns the largest parts of a binary tree that lie whole within `own`."""
    if own.start <= tree.start and tree.stop <= own.stop:
        return [tree]
    if own.stop <= tree.start or tree.stop <= own.start:
        return []
    return [node for half in _halves(tree) for node in _nodes(half, own)]


def _sum_tree(tree: range, known: dict[range, Pieces]) -> Pieces:
    """Returns the sum of a binary tree from its known parts. It overwrites the first part."""
    if tree in known:
        return known[tree]
    left, right = (_sum_tree(half, known) for half in _halves(tree))
    for one, other in zip(left, right, strict=True):
        one.add_(other)
    return left


def _halves(tree: range) -> tuple[range, range]:
    middle = (tree.start + tree.stop) // 2
    return range(tree.start, middle), range(middle, tree.stop)


def _slice_pieces(pieces: Pieces, part: range) -> Pieces:
    """Returns a part of the row that the pieces make up, as views of the pieces."""
    result, start = [], 0
    for piece in pieces:
        low, high = max(part.start - start, 0), min(part.stop - start, piece.numel())
        if low < high:
            result.append(piece[low:high])
        start += piece.numel()
    return result

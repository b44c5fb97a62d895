"""One process or many: torch.distributed moves gradients, updates, sums and words between the workers.

Workers are subprocesses of `scriven train --training.workers`, on this machine, or what torchrun started, on many.
What is summed is summed over groups or other parts whose number does not depend on the workers', in a fixed order:
any number of workers gives the same bits. See docs/decisions/0017-sums-in-a-fixed-order.md.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store  # torch.distributed does not export it to type checkers

from scriven.distributed.worker_process import WorkerProcess
from scriven.errors import LostError, shortage

# An evaluation may take hours while the others wait; a worker that dies is noticed by its closed connection (see
# `_finds_closed_connection`), a machine that is cut off by what it does not confirm, which the system tells after some
# minutes.
TIMEOUT = timedelta(days=30)
CLOSE_SECONDS = 10
LOST_SECONDS = 2.0  # that what a worker sent before it ended may take to be received
PROBE_SECONDS = 1.0  # between two probes of the connections to the others, while one waits for them
PROBE_TAG = 1  # of messages that nobody receives; all others have tag 0
STOP_KEY = "stop"
CALLER_NAME = "scriven-attendant"  # of the thread
LOOK_SECONDS = 0.2
THREAD_CLOSE_SECONDS = 1.0
T = TypeVar("T")
Pieces = list[Tensor]  # arrays of one dimension that make up a row


def partition(count: int, rank: int, size: int) -> range:
    """Which of `count` things are worker `rank`'s: as evenly as can be, in the order of ranks."""
    return range(count * rank // size, count * (rank + 1) // size)


@dataclass
class _Call:
    task: Callable[[], Any]
    ended: threading.Lock = field(default_factory=threading.Lock)  # held until then
    result: Any = None
    error: BaseException | None = None


def has_abandoned_calls() -> bool:
    """Whether a caller's thread of this process still runs a call that nobody waits for any more."""
    return any(thread.name == CALLER_NAME for thread in threading.enumerate())


class InterruptibleCaller:
    """Runs blocking calls in a thread, so that the main thread can handle signals.

    Python calls handlers of signals in the main thread only, and not while that waits in C or C++.
    """

    def __init__(self) -> None:
        """The first call starts the thread."""
        self._errands: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False  # also after a call that nobody waited for to its end

    def wait_for(self, task: Callable[[], T], look: Callable[[], None]) -> T:
        """Returns or raises what `task()` does. Calls `look` now and then meanwhile, which may raise to stop waiting.

        The task then continues in its thread, and no other call may start before it has ended.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=CALLER_NAME, daemon=True)
            self._thread.start()
        errand = _Call(task)
        errand.ended.acquire()
        self.busy = True
        self._errands.put(errand)
        while not errand.ended.acquire(timeout=LOOK_SECONDS):
            look()
        if errand.error:
            raise errand.error
        result: T = errand.result
        return result

    def close(self) -> None:
        """Ends the thread after its current call. Waits for that at most THREAD_CLOSE_SECONDS."""
        if self._thread:
            self._errands.put(None)
            self._thread.join(THREAD_CLOSE_SECONDS)

    def _serve(self) -> None:
        while errand := self._errands.get():
            try:
                errand.result = errand.task()
            except BaseException as error:  # raised again by who waits
                errand.error = error
            self.busy = False
            errand.ended.release()
            del errand  # and what it holds


class ProcessGroup:
    """The processes that train together, seen from one of them. With one worker nothing is ever sent."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank  # the last one: among those of this machine
        self.children: list[WorkerProcess] = []  # the other workers, where this process started them
        self.store: Store | None = None  # what all workers can look into at any time
        self._attendant, self._pause = InterruptibleCaller(), _go_on
        self._looked, self._told, self._probed = 0.0, 0, 0.0
        self._lost = 0.0  # when the end of another worker was seen
        self._failure: RuntimeError | None = None  # what torch said of it, where a probe has seen it

    def owned_range(self, count: int) -> range:
        """Which of `count` things are this worker's."""
        return partition(count, self.rank, self.size)

    def all_gather(self, rows: Tensor, count: int) -> Tensor:
        """All of `count` rows (count, ...), from every worker's own ones (len(own(count)), ...)."""
        if self.size == 1:
            return rows
        result = rows.new_empty((count, *rows.shape[1:]))
        own = self.owned_range(count)
        result[own.start : own.stop] = rows
        shares = [partition(count, peer, self.size) for peer in range(self.size)]
        self._exchange_parts([[result[part.start : part.stop]] for part in shares])
        return result

    def tree_all_reduce(self, rows: list[Pieces], count: int) -> None:
        """Makes the first of a worker's own rows (own(count)) the sum of all `count` rows, added as a binary tree.

        Rows are of P values in the same pieces; all of a worker's own ones are overwritten. A worker adds up what it
        has of the tree, then one slice of what all workers have, which it sends to all others: so it receives about
        2 P values, for any number of workers, as in a ring.
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
        """Fills in, on every worker, the tensors that other workers own."""
        if self.size == 1:
            return
        self._communicate(
            tensors[0].device,
            lambda: [dist.broadcast(each, owner, async_op=True) for each, owner in zip(tensors, owners, strict=True)],
        )

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (plain data: what JSON holds) on every worker."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        self.broadcast_owned([length], [0])
        buffer = data if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        self.broadcast_owned([buffer], [0])
        return json.loads(buffer.numpy().tobytes())

    def asked_to_stop(self, own: int) -> int:
        """Returns the number of the signal that asked any worker to stop, or 0. All workers learn this one's `own`."""
        if self.store is None or self._told:
            return own or self._told
        if own:
            self.tell_to_stop(own)
        elif time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            with self._describe_failures():
                self._told = int(self.store.get(STOP_KEY)) if self.store.check([STOP_KEY]) else 0
        return own or self._told

    def tell_to_stop(self, number: int) -> None:
        """Asks all workers to stop, from now on, for ever; in any thread, once they are together."""
        if self.store is not None:
            self._told = number
            with contextlib.suppress(RuntimeError):  # nobody is there to be told
                self.store.set(STOP_KEY, str(number))

    def wait_for(self, task: Callable[[], T]) -> T:
        """What `task()` gives or raises, in another thread: in this one signals and ends of workers are noticed."""
        self._probed = time.monotonic()
        return self._attendant.wait_for(task, self._look)

    @contextlib.contextmanager
    def pausing(self, pause: Callable[[], None]) -> Iterator[None]:
        """While this lasts, `pause` is called now and then where others are waited for; it may raise."""
        self._pause = pause
        try:
            yield
        finally:
            self._pause = _go_on

    def end(self) -> None:
        """Kills the workers that this process started."""
        for child in self.children:
            child.process.kill()

    def close(self) -> None:
        """Leaves the group; on rank 0, waits for the workers that were started, and ends those that hang."""
        if self._attendant.busy:  # with some of them, whose end lets it wait no more
            self._close_children()
        self._attendant.close()
        if self.size > 1 and dist.is_initialized() and not self._attendant.busy:  # else it would wait for ever
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        self._close_children()

    def _close_children(self) -> None:
        end = time.monotonic() + CLOSE_SECONDS
        while self.children:
            self.children.pop().close(end - time.monotonic())

    def _slices_of_nodes(self, sums: dict[range, Pieces], tree: range, slices: list[range]) -> dict[range, Pieces]:
        """This worker's slice of all sums that any worker has made of the tree, from its own whole ones."""
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
        """Part `rank` to every other worker, and theirs from them."""
        received = [(part, peer) for peer, part in enumerate(parts)]
        self._exchange([(parts[self.rank], peer) for _, peer in received], received)

    def _exchange(self, sent: list[tuple[Pieces, int]], received: list[tuple[Pieces, int]]) -> None:
        """Pieces to and from others, by rank, all at once. Faster than gloo's own collectives of the same."""
        both = ((dist.irecv, received), (dist.isend, sent))  # what is awaited is received without a copy
        moves = [(move, piece, peer) for move, all_pieces in both for pieces, peer in all_pieces for piece in pieces]
        operations = [dist.P2POp(*move) for move in moves if move[2] != self.rank and move[1].numel()]
        if operations:
            self._communicate(operations[0].tensor.device, lambda: dist.batch_isend_irecv(operations))

    def _communicate(self, device: torch.device, start: Callable[[], Iterable[Any]]) -> None:
        """Starts some communication of arrays of a device and waits until it is done."""
        with self._describe_failures():
            works = start()
            if device.type == "cpu":
                self.wait_for(lambda: _wait(works))
            else:
                _wait(works)  # the device does, in the stream of this thread

    def _look(self) -> None:
        """Raises LostError where another worker has ended, once what it sent before must have come."""
        self._pause()
        if not self._lost and (any(child.ended for child in self.children) or self._finds_closed_connection()):
            self._lost = time.monotonic()
        if self._lost and (self.store is None or time.monotonic() - self._lost > LOST_SECONDS):
            raise self.lost_error(self._failure)

    def _finds_closed_connection(self) -> bool:
        """Whether gloo has closed its connection to another worker, which it is asked every PROBE_SECONDS.

        When a connection breaks while gloo sends, gloo closes it, but the wait for that send never ends. Only another
        send to the same worker raises the error.
        """
        if self.store is None or time.monotonic() - self._probed < PROBE_SECONDS:
            return False
        self._probed = time.monotonic()
        try:
            for peer in range(self.size):
                if peer != self.rank:
                    dist.isend(torch.zeros(1), peer, tag=PROBE_TAG)
        except RuntimeError as error:
            self._failure = error
        return self._failure is not None

    @contextlib.contextmanager
    def _describe_failures(self) -> Iterator[None]:
        """Raises LostError where torch cannot reach another worker."""
        try:
            yield
        except RuntimeError as error:
            if shortage(error):  # here, whatever the others do
                raise
            raise self.lost_error(error) from error

    def lost_error(self, error: RuntimeError | None = None) -> LostError:
        """What is said of the end of another worker, where torch said so or it was seen."""
        end = time.monotonic() + 1  # which torch may have noticed before the system tells
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


def _go_on() -> None:
    """Does nothing: the default of `pausing`."""


def _wait(works: Iterable[Any]) -> None:
    for work in works:
        work.wait()


def first_sentence(error: RuntimeError) -> str:
    """The first sentence of what torch says, without the place in its source."""
    return re.sub(r"^\[[^]]*\] *", "", str(error)).splitlines()[0].partition(". ")[0]


def _nodes(tree: range, own: range) -> list[range]:
    """The largest parts of a binary tree over things that are all among one's own."""
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
    """The pieces, seen as one row, from one place to another."""
    result, start = [], 0
    for piece in pieces:
        low, high = max(part.start - start, 0), min(part.stop - start, piece.numel())
        if low < high:
            result.append(piece[low:high])
        start += piece.numel()
    return result

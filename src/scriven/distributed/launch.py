"""Starts workers as subprocesses on this machine, or joins those that torchrun has started on any number of machines.

Subprocesses are `python -m scriven worker`, never a fork or spawn of the user's script. Torchrun describes
a process's place in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...), as torch's other launchers do.
Rendezvous, restarts and collectives are torch's. If a worker dies, the others notice it in collectives.py, and end.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed does not export them to mypy
from torch.distributed.rendezvous import rendezvous

from scriven.distributed.collectives import TIMEOUT, ProcessGroup, WorkerProcess, first_sentence
from scriven.errors import ScrivenError, UsageError, shortage
from scriven.runtime import imports_for_workers
from scriven.settings import REGISTERED_CELLS, REGISTERED_OPTIMIZERS
from scriven.signals import raise_if_stopped

MEET_TIMEOUT = timedelta(minutes=5)  # to reach the first worker, which itself waits for the others without limit
ORPHAN_SECONDS = 2  # for a worker whose leader has ended to end by itself, with its own error
LOCAL = "127.0.0.1"
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
PORT_IN_USE = re.compile("EADDRINUSE|address already in use", re.IGNORECASE)
GET_ADDRESS = 0x8915  # SIOCGIFADDR of netdevice(7)


@dataclass(frozen=True)
class ProcessInfo:
    """The place of a process among those that were started to train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1
    restarts: int = 0  # how often all workers were restarted before
    store: Store | None = None  # through which they find each other, see `connect_store`

    @property
    def machines(self) -> int:
        """The number of machines, if all run the same number of processes."""
        return -(-self.size // self.local_size)


def torchrun_process() -> ProcessInfo | None:
    """Returns this process's place if torchrun or another launcher of torch has started it, else None.

    Raises UsageError when the environment names no valid place.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    rank, size = _read_number("RANK"), _read_number("WORLD_SIZE", least=1)
    if rank >= size or not 0 < _read_number("MASTER_PORT") < 1 << 16:
        raise UsageError(
            f"RANK {rank} of WORLD_SIZE {size} at MASTER_PORT {os.environ['MASTER_PORT']} is not a valid place; let "
            "torchrun set these variables, or unset them"
        )
    local = _read_number("LOCAL_RANK", rank), _read_number("LOCAL_WORLD_SIZE", size, least=1)
    return ProcessInfo(rank, size, *local, _read_number("TORCHELASTIC_RESTART_COUNT", 0))


def _read_number(name: str, default: int | None = None, *, least: int = 0) -> int:
    """Returns the number that a launcher has put into the environment."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise UsageError(f"{name} in the environment is {text!r}, not a number of at least {least}; unset it")
    return int(text)


def connect_store(place: ProcessInfo | None, stop: Callable[[], int] = lambda: 0) -> Store | None:
    """Connects to the store where workers that torchrun has started find each other; a single worker has None.

    The others wait for the first worker to connect, so it does that before anything else. Raises ScrivenError if the
    store cannot be reached, Interrupted if `stop()` is not 0 before that.
    """
    if place is None or place.size == 1:
        return None
    meet = partial(rendezvous, "env://", timeout=MEET_TIMEOUT)
    with contextlib.closing(ProcessGroup(place.rank, place.size)) as workers:
        store: Store = _wait_for_store(workers, lambda: next(meet())[0], stop)
    store.set_timeout(TIMEOUT)
    return store


def join_group(place: ProcessInfo, stop: Callable[[], int] = lambda: 0) -> ProcessGroup:
    """Joins the workers that meet in the store of this place; waits for all of them, without a time limit.

    Raises ScrivenError if one of them is lost, Interrupted if `stop()` is not 0 before that.
    """
    workers = ProcessGroup(place.rank, place.size, place.local_rank)
    if place.store is not None:
        workers.store = _wait_for_store(workers, partial(_join_store, place, place.store), stop)
    return workers


def join_spawning_leader(stop: Callable[[], int] = lambda: 0) -> ProcessGroup:
    """Joins the workers that `start_workers` has started, as one of them. Raises as `join_group` does."""
    place = torchrun_process()
    if place is None:
        raise UsageError("scriven worker is started by scriven train, with a job to do; start that instead")
    threading.Thread(target=end_with_leader, name="scriven-leader", daemon=True).start()
    workers = ProcessGroup(place.rank, place.size, place.local_rank)
    workers.store = _wait_for_store(workers, partial(_join_store_at, place, int(os.environ["MASTER_PORT"])), stop)
    return workers


def end_with_leader() -> None:
    """Waits until the process that started this one has ended, for any reason, then ends this one too.

    gloo mostly notices a closed connection. But it was seen to wait forever for what a killed leader had not sent.
    """
    while os.read(0, 1):
        pass
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


def start_workers(size: int, stop: Callable[[], int] = lambda: 0) -> ProcessGroup:
    """Starts `size - 1` workers as subprocesses on this machine and returns the group, with this process as rank 0.

    Nothing else can join the group. Raises ScrivenError if a worker ends before all have joined, Interrupted if
    `stop()` is not 0 before that.
    """
    if size == 1:
        return ProcessGroup()
    listener = socket.create_server((LOCAL, 0))  # torch's own listener would accept every address
    port = listener.getsockname()[1]
    store = TCPStore(
        LOCAL, port, size, True, timeout=TIMEOUT, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    address = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": LOCAL, "MASTER_PORT": str(port)}
    address |= imports_for_workers([REGISTERED_CELLS, REGISTERED_OPTIMIZERS])
    workers = ProcessGroup(0, size)
    try:
        for rank in range(1, size):
            workers.children.append(WorkerProcess.start(rank, address))
        workers.store = _wait_for_store(
            workers, lambda: _init_process_group(LOOPBACK.get(sys.platform), store, 0, size), stop
        )
    except BaseException:
        workers.end()
        workers.close()
        raise
    return workers


def use_device(name: str, local_rank: int) -> None:
    """Makes the CUDA device with this worker's number the one that `cuda` means.

    Raises UsageError when there are fewer devices than workers on this machine.
    """
    if name == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"worker {local_rank} of this machine has no device: there are {torch.cuda.device_count()}; start as "
                "many workers as devices"
            )
        torch.cuda.set_device(local_rank)


def _wait_for_store(workers: ProcessGroup, task: Callable[[], Store], stop: Callable[[], int]) -> Store:
    """Returns the store that `task()` gives once this worker has joined. Raises as `join_group` does."""
    try:
        with workers.checking(partial(raise_if_stopped, stop)):
            return workers.wait_for(task)
    except RuntimeError as error:
        if shortage(error):
            raise
        address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        if workers.children:
            raise workers.lost_error(error) from error
        if PORT_IN_USE.search(str(error)):
            raise ScrivenError(
                f"port {port} of {address} is in use by another program; give torchrun another one, with "
                "--rdzv-endpoint or --master-port"
            ) from error
        raise ScrivenError(
            f"process {workers.rank} of {workers.size} cannot join the others at {address}:{port} "
            f"({first_sentence(error)}); "
            "check that the first one runs and that this machine can reach it there, then start all of them again"
        ) from error


def _join_store(place: ProcessInfo, store: Store) -> Store:
    """Joins the workers that meet in a store, in a part of it that is theirs alone."""
    interface = LOOPBACK.get(sys.platform) if place.machines == 1 else _find_interface()
    return _init_process_group(
        interface, PrefixStore(_agree_on_name(store, place.rank, place.size), store), place.rank, place.size
    )


def _join_store_at(place: ProcessInfo, port: int) -> Store:
    """Joins the workers that meet in the store at a port of this machine."""
    store = TCPStore(LOCAL, port, place.size, False, timeout=TIMEOUT)
    return _init_process_group(LOOPBACK.get(sys.platform), store, place.rank, place.size)


def _agree_on_name(store: Store, rank: int, size: int) -> str:
    """Returns a name that only the workers of this start know.

    Torch's agent keeps one store over all its restarts, and the addresses of ended workers stay in it. Without the
    name, the new workers would take those addresses for each other's, and wait forever.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"here-{rank}", name)  # a name of its own, so that it gets no answer that is meant for another
        agreed = store.get(f"answer-{name}").decode()
        store.set(f"heard-{agreed}-{rank}", "")
        return agreed
    missing = set(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"here-{other}"]):
                store.set(f"answer-{store.get(f'here-{other}').decode()}", name)
        missing = {other for other in missing if not store.check([f"heard-{name}-{other}"])}
        time.sleep(0.02)
    return name


def _init_process_group(interface: str | None, store: Store, rank: int, size: int) -> Store:
    """Joins the group of all workers over a network interface, by default gloo's choice; returns the store."""
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=size)
    return store


def _find_interface() -> str | None:
    """Returns the network interface that leads to the first worker, unless it is unknown or the loopback."""
    if sys.platform != "linux":
        return None
    import fcntl  # noqa: PLC0415 - only Unix has it

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))  # sends nothing
        except OSError:
            return None
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                address = socket.inet_ntoa(fcntl.ioctl(probe, GET_ADDRESS, request)[20:24])
            except OSError:
                continue  # it has no address
            if address == own and not own.startswith("127."):
                return name
    return None

"""Whether all workers compute by the same means: else the bits depended on which of them does what."""

from __future__ import annotations

import json
import socket
from importlib.metadata import version

import torch

from scriven.errors import InputError
from scriven.kernels.native_library import LEVELS, VARIABLE, level
from scriven.training.parallel import Workers

Means = dict[str, str]
MEANS_BYTES = 512  # at the most, as JSON
HOST_LENGTH = 64
NAMED = 3  # workers, of those that differ


def own_means() -> Means:
    """What decides which bits this process computes, and its machine's name."""
    versions = {"scriven": version("scriven"), "torch": torch.__version__}
    torchs = torch.backends.cpu.get_cpu_capability()
    host = socket.gethostname()[:HOST_LENGTH]
    return {"host": host, **versions, "kernels": level(), "instructions for torch": torchs}


def check_alike(workers: Workers) -> None:
    """Raises InputError on every worker where one computes by other means than the first one."""
    if workers.size == 1:
        return
    own = json.dumps(own_means()).encode().ljust(MEANS_BYTES)
    found = workers.gather(torch.frombuffer(bytearray(own), dtype=torch.uint8)[None], workers.size)
    if complaint := difference([json.loads(row.numpy().tobytes()) for row in found]):
        raise InputError(complaint)


def difference(found: list[Means]) -> str:
    """What is to be said of workers, by rank, of which some have other means than the first one; else nothing."""
    first = found[0]
    parts = [name for name in first if name != "host" and any(each[name] != first[name] for each in found)]
    others = [rank for rank, each in enumerate(found) if any(each[name] != first[name] for name in parts)]
    if not others:
        return ""
    told = [_told(rank, found[rank], parts) for rank in (0, *others[:NAMED])]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"the workers would not compute the same bits: {'; '.join(told)}{more}; {_way(found, parts)}"


def _told(rank: int, means: Means, parts: list[str]) -> str:
    return f"worker {rank} on {means['host']} has " + ", ".join(f"{part} {means[part]}" for part in parts)


def _way(found: list[Means], parts: list[str]) -> str:
    """The way out: versions first, then the level of kernels that all have."""
    if {"scriven", "torch"} & {*parts}:
        return "install the same versions on all machines"
    if "kernels" in parts:
        common = min((each["kernels"] for each in found), key=("off", *LEVELS).index)
        return f"set {VARIABLE}={common} on all machines"
    return "set ATEN_CPU_CAPABILITY to the lower of them on all machines, or use machines of one kind"

"""Brings workers together for a job. They compare their environments, and all stop when one is asked to stop."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from scriven.corpus.build import Progress, open_or_build
from scriven.corpus.store import Corpus, is_corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.distributed.launch import ProcessInfo, join_group, join_spawning_leader, start_workers, use_device
from scriven.errors import InputError, Interrupted
from scriven.kernels.native_library import LEVELS, VARIABLE, level
from scriven.runs.journal import ReplayLog
from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.signals import StopFlag, raise_if_stopped

Environment = dict[str, str]
ENVIRONMENT_BYTES = 512  # of its JSON, at most
HOST_LENGTH = 64
MAX_NAMED = 3  # of the workers that differ from the first


@dataclass(frozen=True)
class WorkerJob:
    """Everything that a worker needs to train."""

    settings: Settings  # all resolved, device and precision too
    corpus: str  # its folder
    resume: str = ""  # folder of the checkpoint to resume from
    best: int = 0  # step of the best checkpoint at that time
    initial: str = ""  # run folder, or reference of a start, whose weights to start from
    embedding: str = ""  # file or run folder whose embeddings to start from
    until: int = 0  # step to stop after, as if a signal came then; 0 for none
    replay: ReplayLog | None = None  # of the run to replay, if any: it decides then, not the clock
    readable_seconds: float = 0.0  # from the command until what is written is readable, usually; 0 if unknown
    peak_flops: float = 0.0  # per second, of all machines; see `Started`
    used_seconds: float = 0.0  # wall time that this command had used when the job was made
    made_at: float = field(default_factory=time.monotonic)

    def to_json(self) -> dict[str, Any]:
        """Returns the job as plain values, settings too."""
        return vars(self) | {"settings": self.settings.model_dump(), "replay": self.replay and vars(self.replay)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WorkerJob:
        """Returns the job that `to_json` described. Its clock starts now; only rank 0's clock matters."""
        made = {"settings": validate(values["settings"]), "made_at": time.monotonic()}
        return cls(**values | made | {"replay": values["replay"] and ReplayLog(**values["replay"])})

    def seconds(self) -> float:
        """Returns the wall time since the command began."""
        return self.used_seconds + time.monotonic() - self.made_at

    @property
    def timed(self) -> bool:
        """Whether the budget is a time."""
        return self.settings.budget.minutes > 0


def environment() -> Environment:
    """Returns the versions and kernels that decide this process's bits, and its machine's name."""
    versions = {"scriven": version("scriven"), "torch": torch.__version__}
    torchs = torch.backends.cpu.get_cpu_capability()
    host = socket.gethostname()[:HOST_LENGTH]
    return {"host": host, **versions, "kernels": level(), "instructions for torch": torchs}


def check_same_environment(workers: ProcessGroup) -> None:
    """Raises InputError on every worker if one has other versions or kernels than the first one."""
    if workers.size == 1:
        return
    own = json.dumps(environment()).encode().ljust(ENVIRONMENT_BYTES)
    found = workers.all_gather(torch.frombuffer(bytearray(own), dtype=torch.uint8)[None], workers.size)
    if complaint := describe_difference([json.loads(row.numpy().tobytes()) for row in found]):
        raise InputError(complaint)


def describe_difference(found: list[Environment]) -> str:
    """Returns a sentence on how the environments of workers, by rank, differ from the first one's, or ""."""
    first = found[0]
    parts = [name for name in first if name != "host" and any(each[name] != first[name] for each in found)]
    others = [rank for rank, each in enumerate(found) if any(each[name] != first[name] for name in parts)]
    if not others:
        return ""
    described = [_describe_environment(rank, found[rank], parts) for rank in (0, *others[:MAX_NAMED])]
    more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
    return f"the workers would not compute the same bits: {'; '.join(described)}{more}; {_suggest_fix(found, parts)}"


def _describe_environment(rank: int, values: Environment, parts: list[str]) -> str:
    return f"worker {rank} on {values['host']} has " + ", ".join(f"{part} {values[part]}" for part in parts)


def _suggest_fix(found: list[Environment], parts: list[str]) -> str:
    """Returns how to make the environments equal: versions first, then the highest level of kernels that all have."""
    if {"scriven", "torch"} & {*parts}:
        return "install the same versions on all machines"
    if "kernels" in parts:
        common = min((each["kernels"] for each in found), key=("off", *LEVELS).index)
        return f"set {VARIABLE}={common} on all machines"
    return "set ATEN_CPU_CAPABILITY to the lowest of them on all machines, or use machines of one kind"


Stop = Callable[[], int]  # returns the number of a signal that asks to stop, or 0


@contextlib.contextmanager
def as_leader(job: WorkerJob, place: ProcessInfo | None, stop: Stop) -> Iterator[tuple[ProcessGroup, Stop]]:
    """Yields the workers of a job, led by this process, and a `stop` that notices a signal to any of them.

    On an error, it ends the other workers. Raises Interrupted if one is asked to stop before they begin, InputError if
    their environments or texts differ.
    """
    workers = join_group(place, stop) if place else start_workers(job.settings.training.workers, stop)
    try:
        stop_of_all = _share_stop(workers, stop)
        with workers.checking(partial(raise_if_stopped, stop_of_all)):
            check_same_environment(workers)
            workers.broadcast(job.to_json())
            _open_own_corpus(job, workers, (), stop_of_all)
        yield workers, stop_of_all
    except BaseException:
        workers.end()  # they have nothing to save
        raise
    finally:
        workers.close()


@contextlib.contextmanager
def as_worker(
    texts: tuple[str, ...], place: ProcessInfo | None, stop: Stop
) -> Iterator[tuple[WorkerJob, ProcessGroup, Stop]]:
    """Yields rank 0's job as this worker's, the workers, and a `stop` that notices a signal to any of them.

    Raises as `as_leader` does.
    """
    with contextlib.closing(join_group(place, stop) if place else join_spawning_leader(stop)) as workers:
        stop_of_all = _share_stop(workers, stop)
        with workers.checking(partial(raise_if_stopped, stop_of_all)):
            check_same_environment(workers)
            job = WorkerJob.from_json(workers.broadcast(None))
            job = _open_own_corpus(job, workers, texts, stop_of_all)
        yield job, workers, stop_of_all


def _share_stop(workers: ProcessGroup, stop: Stop) -> Stop:
    """Returns a `stop` that notices a signal to any worker, given this worker's own."""
    if isinstance(stop, StopFlag):  # it notices signals even while this process waits
        stop.add_callback(workers.ask_to_stop)
        stop.last = workers.end
    return lambda: workers.find_stop_signal(stop())


def interruptible_progress(progress: Progress | None, stop: Stop) -> Progress:
    """Returns a `progress` that also stops the work that reports to it, once there is a signal to stop."""

    def _report(done: int, total: int | None) -> None:
        if number := stop():
            raise Interrupted("stopped while the text was read; nothing was trained yet, so just start again", number)
        if progress:
            progress(done, total)

    return _report


def _open_own_corpus(job: WorkerJob, workers: ProcessGroup, texts: tuple[str, ...], stop: Stop) -> WorkerJob:
    """Returns the job with this worker's corpus: the same folder as rank 0's, or one built from the texts here.

    The first worker of every machine builds it, and the others wait for that. Raises InputError if the text differs.
    """
    use_device(job.settings.training.device, workers.local_rank)
    everyone = torch.zeros(workers.size, 1)
    for turn in (0, 1):
        if (workers.local_rank > 0) == turn:
            corpus = _find_corpus(job, texts, stop)
        workers.all_gather(everyone[:1], workers.size)  # nobody continues before all are here
    if corpus.text_hash != workers.broadcast(corpus.text_hash):
        raise InputError(
            f"worker {workers.rank} has another text in {corpus.name} than the first worker; give both the same text, "
            "or a corpus on a disk that all machines can see"
        )
    return replace(job, corpus=corpus.name)


def _find_corpus(job: WorkerJob, texts: tuple[str, ...], stop: Stop) -> Corpus:
    if not texts or is_corpus([job.corpus]):
        return Corpus.open(job.corpus)
    return open_or_build(texts, job.settings.corpus, interruptible_progress(None, stop))

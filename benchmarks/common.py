"""Shared by the benchmarks: facts about the machine, medians and tables, step times, the memory of a command.

It imports only the standard library, so that peers can be measured by an interpreter of their own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

WARMUP_STEPS = 10
FLAGS = r"avx2|avx512f|avx512_bf16|amx_\w+|asimddp|bf16"  # of a processor, that kernels use; the last two are of arm64
SAMPLE_SECONDS = 0.02  # between two looks at a command's memory
MB = 1_000_000

os.environ.setdefault("SCRIVEN_FROM", "none")  # what is measured begins from random weights, unless --from is given


# --- words


def arguments_parser(text: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring; it knows --output, where all benchmarks put their results."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"), help="folder for the JSON result")
    return parser


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save(arguments: argparse.Namespace, name: str, results: Any) -> None:
    """Writes NAME.json into the folder of --output: the results, what was asked for, and on which machine."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{name}.json"
    content = {"benchmark": name, "arguments": vars(arguments), "machine": machine(), "results": results}
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nWritten to {path}")


# --- the machine


def machine() -> dict[str, Any]:
    """The processor, what it can do, the versions and the commit that were measured, and how busy it was."""
    path = Path("/proc/cpuinfo")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        **processor(path.read_text() if path.exists() else ""),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions("scriven", "torch", "numpy"),
        "commit": commit(),
    }


def processor(described: str) -> dict[str, Any]:
    """The name of a processor, its kind, and which FLAGS it has, by what Linux says of it: of x86-64 or of arm64."""
    labels = ("model name", "flags|Features", "vendor_id|CPU implementer", "cpu family|CPU variant", "model|CPU part")
    name, flags, *kind = [re.search(rf"^(?:{each})\s*: (.*)", described, re.MULTILINE) for each in labels]
    maker, family, model = (each[1] if each else "unknown" for each in kind)
    return {
        "processor": name[1] if name else platform.processor(),
        "kind": f"{maker} family {family} model {model}" if all(kind) else platform.machine(),
        "flags": sorted(set(re.findall(rf"\b(?:{FLAGS})\b", flags[1] if flags else ""))),
    }


def versions(*packages: str) -> dict[str, str]:
    """The version of each package that this interpreter has."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this checkout, with "+" where source files differ from it; empty outside of one."""
    folder = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")
    except FileNotFoundError:
        return ""


def scriven() -> str:
    """The command `scriven` of this interpreter, as its user calls it."""
    found = shutil.which("scriven", path=str(Path(sys.executable).parent))
    return found or sys.exit("there is no scriven beside this Python; install it there first: pip install -e .")


# --- time


class StepClock:
    """When training steps ended, and whether enough of them were seen."""

    def __init__(self, seconds: float) -> None:
        """`seconds` are measured after the first WARMUP_STEPS steps."""
        self._wanted = seconds
        self._ends: list[float] = []

    def enough(self, now: float) -> bool:
        """Takes note that a step ended at `now`; True when it was the last one needed."""
        self._ends.append(now)
        measured = self._ends[WARMUP_STEPS:]
        return len(measured) > 1 and now - measured[0] >= self._wanted

    def step_seconds(self) -> list[float]:
        """How long each step after the warm-up took."""
        measured = self._ends[WARMUP_STEPS:]
        return [after - before for before, after in itertools.pairwise(measured)]


# --- memory


@dataclass(frozen=True)
class Measured:
    """How a command ended."""

    seconds: float
    exit_code: int  # below 0: the signal that ended it
    peak_bytes: int  # of RssAnon, summed over its processes
    peak_resident_bytes: int  # VmHWM, the most that each process had, summed over them


def watched(
    command: Sequence[str],
    *,
    limit_bytes: float = float("inf"),
    prepare: Callable[[], None] | None = None,
    variables: dict[str, str] | None = None,
) -> Measured:
    """Runs a command and samples its anonymous memory; Linux only.

    It is killed, with all its processes, when their sum passes `limit_bytes`. `prepare` is called in the new process
    before the command; `variables` are added to its environment.
    """
    begun, peak, resident = time.perf_counter(), 0, dict[int, int]()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # its number then finds all processes of the command
        preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
        env=os.environ | (variables or {}),
    )
    try:
        while process.poll() is None:
            found = memory_of_session(process.pid)
            used = sum(each.anonymous_bytes for each in found.values())
            peak = max(peak, used)
            for number, each in found.items():
                resident[number] = max(resident.get(number, 0), each.peak_resident_bytes)
            if used > limit_bytes:
                break
            time.sleep(SAMPLE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Measured(
        exit_code=process.wait(),
        seconds=time.perf_counter() - begun,
        peak_bytes=peak,
        peak_resident_bytes=sum(resident.values()),
    )


@dataclass(frozen=True)
class ProcessMemory:
    """What a process has of its own now, and the most that it has had, libraries and all."""

    anonymous_bytes: int  # RssAnon
    peak_resident_bytes: int  # VmHWM


def memory_of_session(session: int) -> dict[int, ProcessMemory]:
    """The memory of each process of a session, by its number."""
    result = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                status = (folder / "status").read_text()
                result[int(folder.name)] = ProcessMemory(
                    _status_bytes(status, "RssAnon"), _status_bytes(status, "VmHWM")
                )
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return result


def _status_bytes(status: str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0

"""Measures how fast text becomes a corpus, and how much memory that takes.

    python benchmarks/encode.py FILE... [--times 3] [--repeat 1]

Each file is built into a new folder in a process of its own, with native kernels and without, one after the other. It
prints medians in MB of UTF-8 per second, of wall-clock time and of the process's own time on one core: for the step
from bytes in memory to ids, and for the whole build. It also prints the peak of that process's anonymous memory,
sampled every millisecond, minus that of a bare interpreter. `--repeat` reads the file that many times, to make large
corpora from small files.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

KERNELS = {"native": "", "numpy": "off"}  # SCRIVEN_KERNELS for each
TIMES = ("step", "step_own", "build", "build_own")


def memory(name: str) -> float:
    """One line of the process's status, in MB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def step(name: str) -> dict[str, float]:
    """Bytes -> ids, without reading them from a disk and without writing ids to one."""
    from scriven.corpus.decoding import PIECE_BYTES
    from scriven.corpus.inputs import SLICE_CHARACTERS
    from scriven.corpus.shards import Draft
    from scriven.vocabulary import code_points

    data = Path(name).read_bytes()
    with Path(os.devnull).open("w+b") as file:
        draft, held = Draft(file, Path(os.devnull)), b""
        start, own = time.perf_counter(), time.process_time()
        for place in range(0, len(data), PIECE_BYTES):
            piece = held + data[place : place + PIECE_BYTES]
            text, used = codecs.utf_8_decode(piece)
            held = piece[used:]
            for begin in range(0, len(text), SLICE_CHARACTERS):
                draft.append(code_points(text[begin : begin + SLICE_CHARACTERS]))
        return {"step": time.perf_counter() - start, "step_own": time.process_time() - own, "size": len(data)}


def whole(name: str, repeat: int) -> dict[str, float]:
    """The build of a corpus from a file on the disk."""
    from scriven.corpus import Corpus
    from scriven.corpus.build import build
    from scriven.settings import CorpusSettings

    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        start, own = time.perf_counter(), time.thread_time()  # the one that builds, not the one that watches
        path = build([name] * repeat, CorpusSettings(), Path(folder) / "corpus")
        seconds = {"build": time.perf_counter() - start, "build_own": time.thread_time() - own}
        done.set()
        watcher.join()
        counts = Corpus.open(path).counts
    return {**seconds, "bytes": counts.bytes, "peak": memory("VmHWM"), "anonymous": peak}


def measure(name: str, repeat: int) -> dict[str, float]:
    """Builds once, then makes the step alone, in this process."""
    return {**whole(name, repeat), **step(name)}


def child(*words: str, kernels: str = "") -> dict[str, float]:
    """What a process of its own measured."""
    result = subprocess.run(
        [sys.executable, __file__, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "SCRIVEN_KERNELS": kernels},
    )
    values: dict[str, float] = json.loads(result.stdout)
    return values


def main() -> None:
    """Measures each file in processes of their own, and prints a line about it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measured = measure(arguments.files[0], arguments.repeat) if arguments.files else {}
        print(json.dumps({"peak": memory("VmHWM"), "anonymous": memory("RssAnon"), **measured}))
        return
    bare = child("--child")
    print("| file | MB | kernels | bytes to ids, MB/s (own) | whole build, MB/s (own) | peak MB (anonymous) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for file in arguments.files:
        words = "--child", file, "--repeat", str(arguments.repeat)
        rounds = [
            {name: child(*words, kernels=value) for name, value in KERNELS.items()} for _ in range(arguments.times)
        ]
        for name in KERNELS:
            print(row(file, name, [each[name] for each in rounds], bare))


def row(file: str, kernels: str, runs: list[dict[str, float]], bare: dict[str, float]) -> str:
    """One line of the table."""
    sizes = {name: runs[0]["size" if name.startswith("step") else "bytes"] for name in TIMES}
    speeds = {name: sizes[name] / 1e6 / statistics.median(run[name] for run in runs) for name in TIMES}
    step, step_own, build, build_own = (f"{speeds[name]:.0f}" for name in TIMES)
    peak, anonymous = (max(run[name] for run in runs) - bare[name] for name in ("peak", "anonymous"))
    return (
        f"| {Path(file).name} | {runs[0]['bytes'] / 1e6:.1f} | {kernels} | {step} ({step_own}) | {build} ({build_own}) "
        f"| {peak:.0f} ({anonymous:.0f}) |"
    )


if __name__ == "__main__":
    main()

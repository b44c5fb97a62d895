"""How fast text becomes a corpus, and in how much memory.

    python benchmarks/encode.py FILE... [--times 3] [--repeat 1]

Each file is built into a new folder in a process of its own. Prints the median seconds of the build, characters a
second, and the peak of that process's memory less that of a bare interpreter; anonymous memory is sampled every
millisecond. `--repeat` reads the file that often over, to make large corpora from small files.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def memory(name: str) -> float:
    """One line of the process's status, in MB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure(name: str, repeat: int) -> dict[str, float]:
    """Builds once, in this process."""
    from scriven.corpus import Corpus, build
    from scriven.settings import CorpusSettings

    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = build([name] * repeat, CorpusSettings(), Path(folder) / "corpus")
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        counts = Corpus.open(path).counts
    return {
        "seconds": seconds,
        "characters": counts.characters,
        "bytes": counts.bytes,
        "peak": memory("VmHWM"),
        "anonymous": peak,
    }


def child(*words: str) -> dict[str, float]:
    """What a process of its own measured."""
    result = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
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
    for file in arguments.files:
        runs = [child("--child", file, "--repeat", str(arguments.repeat)) for _ in range(arguments.times)]
        seconds = statistics.median(run["seconds"] for run in runs)
        peak, anonymous = (max(run[name] for run in runs) - bare[name] for name in ("peak", "anonymous"))
        print(
            f"{Path(file).name}: {runs[0]['characters']:,.0f} characters, {runs[0]['bytes']:,.0f} bytes; "
            f"{seconds:.2f} s, {runs[0]['characters'] / seconds:,.0f} characters/s; peak memory {peak:.0f} MB "
            f"(anonymous {anonymous:.0f} MB) above the interpreter's {bare['peak']:.0f} MB"
        )


if __name__ == "__main__":
    main()

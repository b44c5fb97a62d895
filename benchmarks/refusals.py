"""Opens run folders made to do harm: is each refused, how long does that take, and how much memory?

    python benchmarks/refusals.py

Each folder of tests/hostile.py, and a small run with each file cut short at every KB, is checked as by `scriven doctor`
and then opened as by `scriven sample`, in a process forked from one that has imported torch. Memory is the growth of
that process's peak. The exit code is 1 if one was not refused. Linux only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no other threads
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from common import MB, arguments_parser, save, table

from hostile import HOSTILE, copy_run, good_run, truncate, truncations
from scriven.errors import InputError
from scriven.runs.doctor import examine
from scriven.trained_model import load

SHOWN = 5


def looked_at(run: Path) -> dict[str, Any]:
    """What comes of a folder: what the doctor finds bad, whether it opens, seconds and bytes of each."""
    before, begun = peak(), time.perf_counter()
    bad = [finding.text for finding in examine(run) if finding.state == "bad"]
    between = time.perf_counter()
    try:
        load(run)
        opened = "opened"
    except InputError as error:
        opened = str(error)
    seconds = max(between - begun, time.perf_counter() - between)
    return {"bad": bad, "opened": opened, "seconds": seconds, "bytes": peak() - before}


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_fork(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `look` gives in a process of its own; what ended it, where it gave nothing."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ours)
            os.write(theirs, json.dumps(look()).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else {"bad": [], "opened": "ended by a mistake", "seconds": 0.0, "bytes": 0}


def main() -> None:
    """Looks at all of them, and prints the worst."""
    arguments = arguments_parser(__doc__).parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        good = good_run(Path(place) / "good").path
        load(good)  # what the first use of torch takes is not counted
        cases = HOSTILE | {f"{name} cut to {size} bytes": truncate(name, size) for name, size in truncations(good)}
        for number, (name, harm) in enumerate(cases.items()):
            run = copy_run(good, Path(place) / str(number) / "run")
            harm(run)
            results[name] = in_a_fork(lambda run=run: looked_at(run))
    wrong = [name for name, found in results.items() if not found["bad"]]
    by_time = sorted(results, key=lambda name: -results[name]["seconds"])[:SHOWN]
    by_memory = sorted(results, key=lambda name: -results[name]["bytes"])[:SHOWN]
    print(f"{len(results) - len(wrong)} of {len(results)} folders are refused\n")
    print(table(["slowest", "s"], [[name, f"{results[name]['seconds']:.3f}"] for name in by_time]), "\n")
    print(table(["most memory", "MB"], [[name, f"{results[name]['bytes'] / MB:.0f}"] for name in by_memory]))
    for name in wrong:
        print(f"\nnot refused: {name} ({results[name]['opened']})")
    save(arguments, "refusals", results)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

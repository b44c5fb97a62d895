"""Looks for inputs that break a reader of files from elsewhere: fuzzing that follows which code the inputs reach.

    python benchmarks/fuzz.py --seconds 60
    python benchmarks/fuzz.py --runs 2000 text docx

Each reader of tests/fuzz_targets.py gets the inputs in tests/fuzz_inputs, and then changed ones from atheris, which
keeps those that reach new code. An input is a finding if it raises an error that is not Scriven's, contradicts itself,
or takes over ten seconds or 3 GB. It is written to `--output`, and the search in that reader ends. A search that does
not end is stopped, and named. The exit code is 1 if there is any of these. `--keep` adds inputs that reach new code to
those kept. `--runs` with the same seed does the same each time.

It needs the package atheris (the extra "fuzz"), which exists for Linux on x86-64.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no other threads
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from common import arguments_parser, save, table

INPUTS = Path(__file__).parents[1] / "tests" / "fuzz_inputs"
MEMORY = Path("/dev/shm")  # where files are in memory: each input is written to one
LONGEST_INPUT = 8192  # bytes
LONGEST_SECONDS = 10
MOST_MEMORY_MB = 3000
# After its statistics a search runs the destructors of all libraries, and no other thread may run Python. One of Arrow
# waits there for a thread that may wait for Python, for ever: a search that has its statistics is done, and is ended.
EXIT_SECONDS = 0.3
LAST_STATISTIC = "stat::peak_rss_mb"
RUNS_SECONDS = 600  # for a search of a number of runs, then it is ended
KEPT = 12  # inputs that `--keep` adds for one reader at most, the smallest ones
KEPT_BYTES = 1000  # and of each
INSTRUMENTED = ["scriven", "fuzz_targets", "tomllib", "zipfile", "csv", "codecs"]


@dataclass
class Search:
    """The search in one reader: the process that does it, its folder, its log, and when it began."""

    name: str
    process: int
    folder: Path
    begun: float


def instrumented_targets() -> dict[str, Any]:
    """The readers, in code that tells which of its branches are taken."""
    try:
        import atheris
    except ImportError:
        sys.exit("this needs atheris, which there is for Linux on x86-64; install it with: pip install 'scriven[fuzz]'")
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=INSTRUMENTED):  # it names each
        import fuzz_targets
    return dict(fuzz_targets.TARGETS)


def started(name: str, target: Any, folder: Path, limits: list[str]) -> Search:
    """A search that has begun, in a process forked from this one, which has imported everything."""
    work, found = folder / "work", folder / "found"
    for each in (work, found):
        each.mkdir(parents=True)
    process = os.fork()
    if not process:
        try:
            _search(name, target, folder, limits)
        finally:
            os._exit(1)  # nothing of this process' parent ends here
    return Search(name, process, folder, time.perf_counter())


def _search(name: str, target: Any, folder: Path, limits: list[str]) -> None:
    """Does the search, and ends this process."""
    import atheris

    import fuzz_targets

    with (folder / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    warnings.simplefilter("error")  # people would see a warning, but none that is for programmers
    warnings.simplefilter("ignore", DeprecationWarning)
    for number, data in enumerate(fuzz_targets.deep_inputs(name)):
        (folder / "found" / f"deep-{number}").write_bytes(data)
    arguments = [
        *("fuzz", f"-artifact_prefix={folder}/finding-", f"-max_len={LONGEST_INPUT}", f"-timeout={LONGEST_SECONDS}"),
        *(f"-rss_limit_mb={MOST_MEMORY_MB}", "-print_final_stats=1", *limits),
        *(str(folder / "found"), str(INPUTS / name)),
    ]

    def read(data: bytes) -> None:
        try:
            target(data, folder / "work")
        except BaseException:
            (folder / f"finding-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise

    atheris.Setup(arguments, read)
    atheris.Fuzz()  # which ends the process


def ended_search(running: dict[int, Search], longest_seconds: float) -> tuple[Search, int]:
    """The first of the searches to end, and its status: -SIGKILL where it was ended after so long."""
    counted: dict[int, float] = {}  # since when a search has had its statistics
    while True:
        for search in running.values():
            process, status = os.waitpid(search.process, os.WNOHANG)
            if process:
                return search, os.waitstatus_to_exitcode(status)
            now = time.perf_counter()
            if LAST_STATISTIC in _log(search):
                counted.setdefault(search.process, now)
            done = now - counted.get(search.process, now) > EXIT_SECONDS
            if done or now - search.begun > longest_seconds:
                os.kill(search.process, signal.SIGKILL)
                _, status = os.waitpid(search.process, 0)
                return search, 0 if done else os.waitstatus_to_exitcode(status)
        time.sleep(0.02)


def _log(search: Search) -> str:
    path = search.folder / "log"
    return path.read_text(errors="replace") if path.exists() else ""


def outcome(search: Search, status: int, output: Path) -> dict[str, Any]:
    """What a search came to; its findings are copied to `output`."""
    log = _log(search)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log) or [(0, 0, 0)]
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", log)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", log)
    steps = re.findall(r"^#(\d+)\s", log, re.M)
    findings = []
    for path in sorted(search.folder.glob("finding-*")):
        if path.name.startswith("finding-slow"):
            continue
        kept = output / f"{search.name}-{path.name.removeprefix('finding-')}"
        shutil.copyfile(path, kept)
        findings.append(str(kept))
    if findings or status:
        print(f"--- {search.name}\n{log[-3000:]}", file=sys.stderr)
    return {
        "target": search.name,
        "executions": int(executed[1]) if executed else int(steps[-1]) if steps else 0,
        "edges": int(covered[-1][0]),
        "features": int(covered[-1][1]),
        "inputs": int(covered[-1][2]),
        "seconds": round(time.perf_counter() - search.begun, 1),
        "peak_mb": int(peak[1]) if peak else 0,
        "findings": findings,
        "status": status,
    }


def keep(search: Search) -> None:
    """Adds the smallest of the inputs that were found to those that are kept."""
    folder = INPUTS / search.name
    folder.mkdir(parents=True, exist_ok=True)
    found = [path for path in (search.folder / "found").iterdir() if not path.name.startswith("deep-")]
    small = [path for path in found if path.stat().st_size <= KEPT_BYTES]
    for path in sorted(small, key=lambda path: (path.stat().st_size, path.name))[:KEPT]:
        shutil.copyfile(path, folder / path.name[:12])


def all_searched(targets: dict[str, Any], options: Any, scratch: Path) -> list[dict[str, Any]]:
    """What the searches in all these readers came to, some at a time."""
    limits = [f"-seed={options.seed}"]
    limits.append(f"-max_total_time={options.seconds}" if options.seconds else f"-runs={options.runs}")
    longest_seconds = 2 * options.seconds + RUNS_SECONDS
    waiting, running, found = list(targets.items()), dict[int, Search](), list[dict[str, Any]]()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name, target = waiting.pop(0)
            search = started(name, target, scratch / name, limits)
            running[search.process] = search
        search, status = ended_search(running, longest_seconds)
        del running[search.process]
        found.append(outcome(search, status, options.output))
        if options.keep:
            keep(search)
    return found


def main() -> int:
    """Searches, and prints what was found."""
    parser = arguments_parser(__doc__)
    parser.add_argument("targets", nargs="*", help="readers to search in; all where none is named")
    parser.add_argument("--seconds", type=int, default=0, help="for each reader, instead of a number of runs")
    parser.add_argument("--runs", type=int, default=2000, help="inputs given to each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="readers searched in at once")
    parser.add_argument("--keep", action="store_true", help="add small inputs that reach new code to those kept")
    options = parser.parse_args()
    targets = instrumented_targets()
    chosen = {name: targets[name] for name in options.targets or targets}
    options.output.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None)  # which no fork removes at its end
    try:
        found = all_searched(chosen, options, Path(scratch))
    finally:
        shutil.rmtree(scratch)
    found.sort(key=lambda each: list(targets).index(each["target"]))
    columns = ("target", "executions", "edges", "inputs", "seconds", "peak_mb")
    rows = [[*(str(each[name]) for name in columns), str(len(each["findings"]))] for each in found]
    print(table([*columns, "findings"], rows))
    save(options, "fuzz", found)
    return int(any(each["findings"] or each["status"] for each in found))


if __name__ == "__main__":
    sys.exit(main())

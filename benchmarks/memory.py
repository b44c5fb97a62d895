"""Measures the memory of building a corpus, training on it and counting it, for a text and huge ones, under a limit.

    python benchmarks/memory.py TEXT --scratch FOLDER [--gigabytes 8] [--workers 1 2] [--times 3] [--network-only]

TEXT (also .xz) is written into a temporary folder in --scratch, once as it is, and once for each of --gigabytes,
repeated until it has that size. In each repetition a twentieth of the letters, chosen anew, change places, so the
number of different n-grams grows with the text. `scriven corpus build` builds all texts into corpora there,
`scriven train` trains on them for --steps or --minutes, and `scriven train --model.kind counts` counts them, which
takes an hour for 8 GB; --network-only leaves it out. It also trains on the small text without a built corpus, as a
user's first command does.

What counts is anonymous memory (RssAnon), summed over a command's processes and sampled every 20 ms. Beside it stands
the sum of its processes' VmHWM: the most that each had, libraries and all, pages that they share counted twice. Pages
of the corpus are in the system's cache. 1 MB is 10^6 bytes. Linux only.

The limit (--limit, in GB) is that of a control group if this user may make one: memory.max (version 2) or
memory.limit_in_bytes (version 1). Otherwise RLIMIT_DATA gives each process its share, and the command is killed when
the sum exceeds the limit. Either way a command that needs more fails, and so does this program.
"""

from __future__ import annotations

import functools
import itertools
import lzma
import os
import resource
import shutil
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import MB, arguments_parser, save, scriven, table, watched

GB = 1000 * MB
CGROUPS = Path("/sys/fs/cgroup")
MOVED = 0.05  # of the letters of a repeated text
EVALUATED_CHARACTERS = 100_000  # the same in all trainings, so that each has evaluated too


@dataclass(frozen=True)
class Limit:
    """How much all processes of a command may have together, and how that is kept."""

    bytes: int
    group: Path | None  # control group, where one could be made

    @property
    def means(self) -> str:
        """In words."""
        return "of a control group" if self.group else "RLIMIT_DATA a process, and a watch on the sum"

    def enter(self, processes: int) -> None:
        """Called in a new process: it and those that it starts are limited from here on."""
        if self.group:
            (self.group / "cgroup.procs").write_text("0")
        else:
            share = self.bytes // processes
            resource.setrlimit(resource.RLIMIT_DATA, (share, share))


def control_group(limit_bytes: int) -> Path | None:
    """A new control group with this limit and no swap, of whichever version there is; None where none can be had."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        try:
            if "memory" in controllers.split(","):
                return _new_group(CGROUPS / "memory" / own[1:], {"memory.limit_in_bytes": limit_bytes})
            parent = CGROUPS / own[1:].rpartition("/")[0]  # beside its own: a group with processes has no others in it
            if not controllers and "memory" in (parent / "cgroup.subtree_control").read_text().split():
                return _new_group(parent, {"memory.max": limit_bytes, "memory.swap.max": 0})
        except OSError:
            continue
    return None


def _new_group(parent: Path, values: dict[str, int]) -> Path:
    group = parent / f"scriven-benchmark-{os.getpid()}"
    group.mkdir()
    for name, value in values.items():
        (group / name).write_text(str(value))
    return group


def write_text(source: Path, target: Path, size: int) -> None:
    """The source's bytes, then repeated with letters moved until there are `size` of them at least."""
    text = lzma.decompress(source.read_bytes()) if source.suffix == ".xz" else source.read_bytes()
    with target.open("wb") as file:
        file.write(text)
        while file.tell() < size:
            file.write(moved_letters(text, seed=file.tell()))


def moved_letters(text: bytes, seed: int) -> bytes:
    """The text with a share of its ASCII letters in each other's places."""
    symbols, generator = np.frombuffer(text, np.uint8).copy(), np.random.default_rng(seed)
    letters = np.flatnonzero((symbols | 32 >= ord("a")) & (symbols | 32 <= ord("z")))
    places = letters[generator.random(letters.size) < MOVED]
    symbols[places] = symbols[generator.permutation(places)]
    return symbols.tobytes()


def train_command(text: Path, workers: int, asked: Namespace, run: Path) -> list[str]:
    """The same training of any text; in a time, one that chooses everything else itself."""
    command = [scriven(), "train", str(text), "--quiet", "-o", str(run), "--training.workers", str(workers)]
    if asked.minutes:
        return [*command, "--minutes", str(asked.minutes)]
    command += ["--steps", str(asked.steps), "--model.width", str(asked.width), "--model.dropout", "0"]
    command += ["--reader.batch", "64", "--training.evaluations", "2"]
    return [*command, "--training.evaluation-characters", str(EVALUATED_CHARACTERS)]


def count_command(text: Path, run: Path) -> list[str]:
    """Counts all of a text, and measures the counts on some of it."""
    command = [scriven(), "train", str(text), "--model.kind", "counts", "--quiet", "-o", str(run)]
    return [*command, "--training.evaluation-characters", str(EVALUATED_CHARACTERS)]


def measure_all(asked: Namespace, folder: Path, limit: Limit) -> list[dict[str, Any]]:
    """What each command took, in order."""
    results = []

    def measure(what: str, text: Path, workers: int, command: list[str], cache: str = "cache") -> None:
        prepare: Callable[[], None] = functools.partial(limit.enter, workers)
        variables = {"SCRIVEN_CACHE": str(folder / cache)}
        measured = watched(command, limit_bytes=limit.bytes, prepare=prepare, variables=variables)
        result = {"what": what, "text_bytes": text.stat().st_size, "workers": workers, **asdict(measured)}
        print(result, file=sys.stderr)
        results.append(result)

    for name, gigabytes in (("small", 0), *((f"large-{each:g}", each) for each in asked.gigabytes)):
        text = folder / f"{name}.txt"
        write_text(asked.text, text, int(gigabytes * GB))
        measure("build", text, 1, [scriven(), "corpus", "build", str(text)])
        for workers, number in itertools.product(asked.workers, range(asked.times)):
            run = folder / f"{name}-{workers}-{number}"
            measure("train", text, workers, train_command(text, workers, asked, run))
        if not asked.network_only:
            measure("count", text, 1, count_command(text, folder / f"{name}-counts"))
    small = folder / "small.txt"
    for workers, number in itertools.product(asked.workers, range(asked.times)):
        new = f"first-{workers}-{number}"
        measure(
            "build and train", small, workers, train_command(small, workers, asked, folder / new), cache=new + "-cache"
        )
    return results


Key = tuple[str, int, int]  # command, workers, bytes of the text


def by_command(results: list[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """The results of each command, which was run several times."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["what"], result["workers"], result["text_bytes"]), []).append(result)
    return dict(sorted(groups.items()))


def shown(groups: dict[Key, list[dict[str, Any]]]) -> list[list[object]]:
    """A row a command, with the ratio of its median peak to that of the smaller text."""
    rows: list[list[object]] = []
    smaller: dict[tuple[str, int], float] = {}
    for (what, workers, size), results in groups.items():
        peaks = [result["peak_bytes"] for result in results]
        median = statistics.median(peaks)
        ratio = median / smaller.setdefault((what, workers), median)
        seconds = statistics.median(result["seconds"] for result in results)
        codes = sorted({result["exit_code"] for result in results})
        words = [f"{size / MB:,.0f}", f"{median / MB:,.0f}", f"{max(peaks) / MB:,.0f}", f"{ratio:.3f}"]
        words.append(f"{max(result['peak_resident_bytes'] for result in results) / MB:,.0f}")
        rows.append([what, workers, *words, f"{seconds:.1f}", ", ".join(map(str, codes))])
    return rows


def main() -> None:
    """Measures and prints; ends with 1 when a command failed under the limit."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path, help="UTF-8 text of about 17 MB; .xz is unpacked")
    parser.add_argument("--scratch", type=Path, required=True, help="folder with room for twice all texts")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[8.0], help="sizes of the large texts")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--times", type=int, default=3, help="of each training")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=0, help="of a training, instead of --steps")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--network-only", action="store_true", help="leave out models of counts alone")
    parser.add_argument("--limit", type=float, default=1.5, help="gigabytes for all processes of a command together")
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(asked.scratch).free, 2.2 * sum(asked.gigabytes) * GB
    if free < needed:
        sys.exit(f"{asked.scratch} has {free / GB:.1f} GB free; name a --scratch with {needed / GB:.1f} GB")
    limit_bytes = int(asked.limit * GB)
    limit = Limit(limit_bytes, control_group(limit_bytes))
    try:
        with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
            results = measure_all(asked, Path(folder), limit)
    finally:
        if limit.group:
            limit.group.rmdir()
    header = [
        "command",
        "workers",
        "text, MB",
        "peak, MB (median)",
        "highest",
        "to the smallest text",
        "VmHWM, MB",
        "s",
        "exit codes",
    ]
    print(table(header, shown(by_command(results))))
    failed = any(result["exit_code"] for result in results)
    print(f"Limit of {asked.limit:g} GB ({limit.means}): {'NOT kept' if failed else 'kept by all'}")
    save(asked, "memory", {"limit": limit.means, "commands": results})
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

"""Checks that workers and cores change nothing: 1 to 6 workers, one core or all, and resumed, give the same bits.

Trains tiny models of every cell with every reader, optimizer and number format, and some with relu, norms, one-hot
input, dropout of weights, and members: in one process; in 2, 3 and 4 that are started as torchrun starts them, and
share 4 groups; saved by one and resumed by two, and the other way round. The fingerprint and the loss of every step,
all validation losses, weights, optimizer, recurrent state and averages are compared with those of the one process. The
one process has all cores of this program, and so have 3 and more. 2 have one core, and so has a training that one of
them resumes. In the `long` case torch splits sums over many characters over two threads. In the cases of 3 and of 6
groups, which are no power of two, up to as many workers share them, evenly or not. Where native code computes,
`training.threads` 2 and 3 must change nothing either: one process trains with each, 2 with 3 and 4 with 2, with as many
threads of native code, even on fewer cores.

Prints what differs; the exit code is 1 if anything does. With --few, it does a small part, for tests. With --levels, it
does all of it with the kernels of every level that the processor has, and with torch alone. Processes are forked from
one that has imported everything; Linux and macOS only.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no other threads

from common import arguments_parser

from scriven.distributed.launch import LOCAL, TCPStore, torchrun_process
from scriven.kernels import native_library
from scriven.loss import Loss
from scriven.runtime import available_cores
from scriven.settings_values import merge_settings, validate
from scriven.training import start, workload
from scriven.training.request import Request
from scriven.training.verify import Trail, compare_trails, follow, last_arrays, use_cores

# Torch imports it in the first backward pass, and it takes half a second, in every process that is forked.
import_module("torch.fx.experimental.symbolic_shapes")
workload.measure_speed = lambda *_: 1e5  # nothing is fitted to it, and it takes longer than all else in a start

STEPS, CUT = 12, 5
CELLS, OPTIMIZERS = ("lstm", "gru", "rnn", "mingru"), ("muon", "adamw")
READERS: dict[str, dict[str, Any]] = {
    "stream": {},
    "documents": {"corpus": {"documents": "lines"}},
    "windows": {"reader": {"kind": "windows"}},
}
LONG = {"reader": {"batch": 64, "length": 64}, "model": {"width": 32, "layers": 1}, "training": {"threads": 2}}
SMALL: dict[str, Any] = {
    "budget": {"steps": STEPS},
    "model": {"width": 24, "dropout": 0.1},
    "reader": {"batch": 8, "length": 12},
    "training": {"groups": 4, "threads": 1, "averaging": "nonmonotonic", "patience": 1},
    "monitor": {"every_steps": 2, "sample_length": 0},
}
UNEVEN_GROUPS = (6, 3)
RELU: dict[str, Any] = {"activation": "tanh,relu", "initial_scale": 0.3}  # less of it, as it has no limit
FEATURES: dict[str, dict[str, Any]] = {
    "relu, layer norms": RELU | {"norm": "layer", "residual": True},
    "relu, a gru, members": RELU | {"cell": "gru", "members": 2, "norm": "rms"},
    "one-hot": {"input": "onehot", "input_dropout": 0.2, "weight_drop": 0.3},
    "dropout": {"embedding_dropout": 0.2, "input_dropout": 0.2, "variational": True, "weight_drop": 0.3},
}
THREADS = {1: (2, 3), 2: (3,), 4: (2,)}  # that so many workers train with besides
WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"
Job = dict[str, Any]


def works_in_bf16() -> bool:
    """Whether torch has an LSTM in bf16 for this processor.

    Another process tries it: its threads would not be there in the processes that are forked from this one, which
    would wait for them without end.
    """
    program = "from scriven.model.precision import bf16_speedup; print(bf16_speedup())"
    return float(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout) > 0


def ways(few: bool) -> dict[str, dict[str, Any]]:
    """Settings by name: everything with everything; with `few`, everything at least once."""
    fast = "bf16" if works_in_bf16() else "fp32"
    names = list(itertools.product(READERS, CELLS, OPTIMIZERS, dict.fromkeys(("fp32", fast))))
    if few:
        names = [("stream", "lstm", "muon", fast), ("documents", "gru", "adamw", "fp32")]
        names += [("windows", "mingru", "muon", "fp32"), ("stream", "rnn", "adamw", fast)]
    found = {
        " ".join(name): merge_settings(
            merge_settings(SMALL, READERS[name[0]]),
            {"model": {"cell": name[1]}, "training": {"optimizer": name[2], "precision": name[3]}},
        )
        for name in names
    }
    for name, values in list(FEATURES.items())[: 1 if few else None]:
        given = {"model": values, "training": {"optimizer": "adamw", "precision": "fp32"}}
        found[name] = merge_settings(SMALL, given)
    uneven: dict[str, Any] = {"reader": {"batch": 12}, "training": {"optimizer": "muon", "precision": "fp32"}}
    for count in UNEVEN_GROUPS[: 1 if few else None]:
        found[f"{count} groups"] = merge_settings(merge_settings(SMALL, uneven), {"training": {"groups": count}})
    return found | {"long": merge_settings(merge_settings(SMALL, LONG), {"training": {"precision": "fp32"}})}


def work(jobs: list[Job]) -> None:
    """Does the jobs as one of several workers, or alone; the first one writes what every job has left."""
    place = torchrun_process()
    for job in jobs:
        if place and place.rank:
            start.work((job["text"],), place)
            continue
        trail = Trail()
        resume = "last" if job["resumed"] else None
        settings = {"budget": {"steps": STEPS}} if resume else job["settings"]
        alone = {} if place else {"training": {"workers": 1}}
        texts = () if resume else (job["text"],)
        request = Request(texts, validate(merge_settings(settings, alone)), Path(job["output"]), resume)
        follow(replace(request, until=job["until"]), trail)
        steps = {step: [mark, vars(loss), *more] for step, (mark, loss, *more) in trail.steps.items()}
        evaluations = [[*key, nats] for key, nats in trail.evaluations.items()]
        Path(job["trail"]).write_text(json.dumps([steps, evaluations]))


def told(*trails: Path, output: Path) -> Trail:
    """What one run has left, in one part or several."""
    trail = Trail()
    for path in trails:
        steps, evaluations = json.loads(path.read_text())
        for step, (mark, loss, *more) in steps.items():
            trail.steps[int(step)] = (mark, Loss(**loss), *more)
        trail.evaluations |= {(step, protocol): nats for step, protocol, nats in evaluations}
    trail.arrays = last_arrays(output)
    return trail


def done_by(workers: int, jobs: list[Job], threads: int = 0) -> None:
    """Has the jobs done by so many processes, two of them on one core; each with so many `threads` of native code.

    For 0 threads they take those that they choose. This one keeps the store where they meet, as torchrun's agent does.
    """
    listener = socket.create_server((LOCAL, 0))
    port = listener.getsockname()[1]
    told = {"WORLD_SIZE": workers, "MASTER_ADDR": LOCAL, "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    cores = 1 if workers == 2 else None
    places: list[dict[str, Any]] = [told | {"RANK": rank} if workers > 1 else {} for rank in range(workers)]
    children = [forked(jobs, place, cores, threads * workers) for place in places]
    store = TCPStore(LOCAL, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    del store
    if any(codes):
        sys.exit(f"of {workers} workers, these ended with other codes than 0: {codes}")


def forked(jobs: list[Job], told: dict[str, Any], cores: int | None, shared: int) -> int:
    """The number of a process that does the jobs on so many cores, told of its place by the environment.

    Unless `shared` is 0, it takes that for the cores that the workers share.
    """
    if child := os.fork():
        return child
    os.environ |= {name: str(value) for name, value in told.items()}
    if shared:
        vars(start)["available_cores"] = lambda: shared
    code = 1
    try:
        with use_cores(cores or available_cores()):
            work(jobs)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Runs everything and tells."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--few", action="store_true", help="only a part, in well under a minute")
    parser.add_argument("--levels", action="store_true", help="by the kernels of every level, and by torch alone")
    arguments = parser.parse_args()
    begun, chosen = time.monotonic(), ways(arguments.few)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(WORDS * 60)
        os.environ["SCRIVEN_CACHE"] = str(folder / "cache")
        wrong = 0
        for level in levels() if arguments.levels else [os.environ.get(native_library.VARIABLE, "")]:
            os.environ[native_library.VARIABLE] = level  # read by every process that is forked
            (folder / (level or "own")).mkdir()
            found = check(chosen, folder / (level or "own"), counts=(2, 4) if arguments.few else (2, 3, 4, 6))
            print(f"{level or 'this level'}: {found} differences")
            wrong += found
    print(f"{len(chosen)} ways to train, {wrong} differences, {time.monotonic() - begun:.0f} s")
    sys.exit(1 if wrong else 0)


def levels() -> list[str]:
    """All levels of kernels that run here, and `off`; without asking for this process's own, which forks would keep."""
    return list(dict.fromkeys(native_library.find(level).level for level in ("off", *native_library.LEVELS)))


def check(chosen: dict[str, dict[str, Any]], folder: Path, counts: tuple[int, ...]) -> int:
    """The number of differences from what one process does, all of them printed."""

    def may_share(way: str, workers: int) -> bool:
        return workers <= chosen[way]["training"]["groups"]

    def job(way: str, kind: str, workers: int, until: int = 0, resumed: bool = False, threads: int = 0) -> Job:
        output = folder / f"{way} {kind}"
        return {
            "settings": merge_settings(chosen[way], {"training": {"threads": threads}} if threads else {}),
            "text": str(folder.parent / "text.txt"),
            "output": str(output),
            "until": until,
            "resumed": resumed,
            "trail": f"{output}.{workers}{'-resumed' * resumed}.json",
        }

    def jobs(workers: int) -> list[Job]:
        whole = [job(way, f"by {workers}", workers) for way in chosen if may_share(way, workers)]
        return whole + [job(way, f"saved by {workers}", workers, until=CUT) for way in chosen if workers < 3]

    for workers in (1, *counts):
        done_by(workers, jobs(workers))
    pairs = [(n, count) for n in (1, *counts) for count in THREADS.get(n, ())]
    if os.environ[native_library.VARIABLE] == "off":  # torch's results depend on them
        pairs = []
    for workers, count in pairs:
        shared = [way for way in chosen if may_share(way, workers)]
        done_by(
            workers, [job(way, f"by {workers} with {count} threads", workers, threads=count) for way in shared], count
        )
    for workers, other in ((1, 2), (2, 1)):
        done_by(other, [job(way, f"saved by {workers}", other, resumed=True) for way in chosen])
    wrong = 0
    for way in chosen:
        expected = told(folder / f"{way} by 1.1.json", output=folder / f"{way} by 1")
        found = {f"by {n}": [f"by {n}.{n}"] for n in counts if may_share(way, n)}
        found |= {f"saved by {n}": [f"saved by {n}.{n}", f"saved by {n}.{m}-resumed"] for n, m in ((1, 2), (2, 1))}
        found |= {
            f"by {n} with {count} threads": [f"by {n} with {count} threads.{n}"]
            for n, count in pairs
            if may_share(way, n)
        }
        for kind, parts in found.items():
            trail = told(*(folder / f"{way} {part}.json" for part in parts), output=folder / f"{way} {kind}")
            differences = compare_trails(expected, trail).differences
            wrong += len(differences)
            for difference in differences:
                print(f"{way}, {kind}: {difference}")
    return wrong


if __name__ == "__main__":
    main()

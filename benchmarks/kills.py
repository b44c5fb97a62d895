"""Kills a training (-9) at random instants, again and again: what is lost, and does it continue to the same bits?

    python benchmarks/kills.py [--kills 200] [--seed 1] [--every 3]

A tiny model trains on a small text and saves every few steps, so that most instants are close to a save or in one. Each
process is killed at a random instant, at first while it starts, and the next one resumes. After every kill the newest
checkpoint must be undamaged, without falling back to an older one, and no older than the last save that was reported.
At the end the losses of all steps are compared with those of an undisturbed training. The exit code is 1 if anything
was lost. Processes are forked from one that has imported everything; Linux and macOS only.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no other threads

from common import arguments_parser, save, table

from scriven.errors import InputError
from scriven.events import Saved, Started, Stepped
from scriven.report import consume
from scriven.report.files import DETAIL, FilesReport
from scriven.runs import open_run
from scriven.runs.folder import has_checkpoints
from scriven.runs.journal import METRICS_FILE, read_lines
from scriven.runs.recovery import recover
from scriven.settings_values import validate
from scriven.training import workload
from scriven.training.start import Request, train

# Torch imports it in the first backward pass, and it takes half a second, in every process that is forked.
import_module("torch.fx.experimental.symbolic_shapes")
workload.measure_speed = lambda *_: 1e5  # nothing is fitted to it, and it takes longer than all else in a start

WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"
FIRST_SECONDS = 60.0  # at most, until a process has done the steps after which it is killed
START_SECONDS = 0.2  # within which kills are spread after a fork
TRAINING_STEPS, STEP_SECONDS = 20, 0.03  # after so many steps at most, and within these seconds after the last of them
START_SHARE = 0.2  # of kills are within the start


@dataclass(frozen=True)
class Killed:
    """One kill: when, at which step the training was, the last save that it told of, and what was found after it."""

    seconds: float  # after the fork
    step: int  # last one told; 0 in the start
    saved: int  # last save told of, by any process so far
    found: int  # step of the newest checkpoint; 0 where nothing was saved yet
    wrong: str = ""  # what was lost or damaged


def settings(arguments: Namespace) -> dict[str, Any]:
    """A tiny model that saves all the time."""
    return {
        "budget": {"steps": 1_000_000},
        "model": {"width": 8, "layers": 1},
        "reader": {"batch": 2, "length": 8},
        "training": {"workers": 1, "groups": 1, "threads": 1, "device": "cpu", "precision": "fp32"},
        "monitor": {"every_steps": arguments.every, "sample_length": 0, "keep": "2"},
    }


def forked(folder: Path, arguments: Namespace, last_step: int = 0) -> tuple[int, int]:
    """A process that trains, up to a step where one is given: its number, and a pipe on which it tells of events."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        return child, ours
    code = 1
    try:
        resume = "last" if has_checkpoints(folder / "run") else None
        asked = {} if resume else settings(arguments)
        request = Request((str(folder / "text.txt"),), validate(asked), folder / "run", resume)
        steps = [0]
        for event in consume(train(request, lambda: signal.SIGTERM * (0 < last_step <= steps[0])), [FilesReport()]):
            if isinstance(event, Stepped):
                steps[0] = event.step + 1  # the one whose end is asked for next
            if isinstance(event, Started | Stepped | Saved):
                os.write(theirs, f"{type(event).__name__} {event.step}\n".encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def lines(pipe: int, seconds: float, until: str = "", times: int = 1) -> list[str]:
    """What comes from a pipe within a time, or until so many lines begin so."""
    end, text = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
        if not (piece := os.read(pipe, 65536)):
            break
        text += piece
        if until and sum(line.startswith(until) for line in text.decode().splitlines()) >= times:
            break
    return text.decode().splitlines()


def killed(folder: Path, arguments: Namespace, random_: random.Random, saved: int) -> Killed:
    """Starts a process, kills it at a random instant, and looks at what is left."""
    begun = time.monotonic()
    child, pipe = forked(folder, arguments)
    if random_.random() < START_SHARE:
        told = lines(pipe, random_.uniform(0, START_SECONDS))
    else:
        told = lines(pipe, FIRST_SECONDS, until="Stepped", times=random_.randint(1, TRAINING_STEPS))
        told += lines(pipe, random_.uniform(0, STEP_SECONDS))
    seconds = time.monotonic() - begun
    os.kill(child, signal.SIGKILL)
    told += lines(pipe, FIRST_SECONDS)
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    pairs = [line.split() for line in told if line.count(" ") == 1]
    step = max((int(number) for name, number in pairs if name == "Stepped"), default=0)
    saved = max([saved, *(int(number) for name, number in pairs if name == "Saved")])
    found, wrong = left_by(folder / "run", saved)
    if not os.WIFSIGNALED(status):
        wrong = wrong or "the training ended by itself"
    return Killed(seconds, step, saved, found, wrong)


def left_by(run: Path, saved: int) -> tuple[int, str]:
    """The step of the newest checkpoint (0 where there is none), and what is wrong with what a kill left."""
    if not saved and not (run / "checkpoints").exists():
        return 0, ""
    try:
        recovered = recover(open_run(run))
        recovered.checkpoint.training()
    except InputError as error:
        return 0, str(error) if saved else ""
    step = recovered.checkpoint.step
    lost = f"step {saved} was saved, and {step} is the newest" if step < saved else ""
    return step, " ".join(recovered.notes) or lost


def fingerprints(run: Path) -> dict[int, str]:
    """The fingerprint of every step that has a line of its own."""
    records = (record for record in read_lines(run / METRICS_FILE) if record["event"] == "stepped")
    return {record["step"]: record["fingerprint"] for record in records if record["step"] <= DETAIL}


def compared(folder: Path, other: Path, arguments: Namespace, last: int) -> str:
    """What is different in a training that was not disturbed; empty where nothing is."""
    child, pipe = forked(other, arguments, last)
    while lines(pipe, FIRST_SECONDS):
        pass
    os.close(pipe)
    os.waitpid(child, 0)
    mine, theirs = fingerprints(folder / "run"), fingerprints(other / "run")
    steps = range(1, min(last, DETAIL) + 1)
    missing = [step for step in steps if step not in mine or step not in theirs]
    if missing:
        return f"{len(missing)} of {len(steps)} steps have no line, the first is {missing[0]}"
    different = [step for step in steps if mine[step] != theirs[step]]
    return f"{len(different)} of {len(steps)} steps differ, from step {different[0]} on" if different else ""


def main() -> None:
    """Kills, looks, compares, and prints what survived."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many times the training is killed")
    parser.add_argument("--seed", type=int, default=1, help="decides the instants, as far as the machine's pace allows")
    parser.add_argument("--every", type=int, default=3, help="steps from one save to the next")
    arguments = parser.parse_args()
    random_ = random.Random(arguments.seed)
    place = Path(tempfile.mkdtemp(prefix="scriven-kills-"))
    os.environ["SCRIVEN_CACHE"] = str(place / "cache")
    try:
        for name in ("killed", "whole"):
            (place / name).mkdir()
            (place / name / "text.txt").write_text(WORDS * 20, encoding="utf-8")
        results: list[Killed] = []
        for _ in range(arguments.kills):
            results.append(killed(place / "killed", arguments, random_, results[-1].saved if results else 0))
        last = results[-1].found
        difference = compared(place / "killed", place / "whole", arguments, last) if last else "nothing was ever saved"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    wrong = [each for each in results if each.wrong]
    rows = [
        ["kills", len(results)],
        ["survived", len(results) - len(wrong)],
        ["of them within the start", sum(not each.step for each in results)],
        ["steps reached", last],
        [
            "most steps done again after a kill",
            max((max(0, each.step - each.found) for each in results if each.found), default=0),
        ],
        ["against an undisturbed training", difference or f"the same bits, all {min(last, DETAIL)} steps"],
    ]
    print(table(["what", "result"], rows))
    for each in wrong:
        print(f"\nwrong after a kill at step {each.step}: {each.wrong}")
    save(arguments, "kills", {"kills": [vars(each) for each in results], "difference": difference})
    sys.exit(1 if wrong or difference else 0)


if __name__ == "__main__":
    main()

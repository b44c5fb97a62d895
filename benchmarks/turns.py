"""Contestants that take turns: each is a process of its own, stopped while the others run.

All are started once, so no start counts, and rounds can be short and many. A contestant prints a line of JSON for each
piece of work, as `scriven train --json` does for each step: {"event": "stepped", "characters": done so far, "seconds":
of any clock}. Other lines with an "event" are facts about it, such as versions. POSIX only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from common import WARMUP_STEPS

WARMUP_SECONDS = 5.0  # after which fewer steps are enough, but FEWEST_STEPS
FEWEST_STEPS = 3  # of a turn: the first one was interrupted and does not count
START_SECONDS = 300.0  # that a contestant may take to its first step


class Failed(Exception):
    """A contestant ended, or never began; the message is the end of what it said."""


class Process:
    """One process of a contestant, with all that it starts; it runs only between `resume` and `pause`."""

    def __init__(self, command: Sequence[str], variables: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | variables,
            start_new_session=True,  # its number then is that of the whole group
        )
        assert self._process.stdout
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        self.facts: dict[str, Any] = {}
        self.steps: list[tuple[int, float]] = []  # of this turn: characters and seconds so far

    def resume(self) -> None:
        """Go on; the steps seen from now on are those of a new turn."""
        self.steps = []
        os.killpg(self._process.pid, signal.SIGCONT)

    def pause(self) -> None:
        """Stop, and read what was said until then."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.listen(0)

    def listen(self, seconds: float) -> None:
        """Read what it says, waiting so long for something at most; raises Failed where it has ended."""
        while select.select([self._pipe], [], [], seconds)[0]:
            told = os.read(self._pipe, 1 << 16)
            if not told:
                raise Failed(self._last_words())
            *lines, self._rest = (self._rest + told).split(b"\n")
            for line in lines:
                self._take(line)
            seconds = 0

    def end(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def speed(self) -> float:
        """Characters a second in this turn."""
        (first, begun), (last, ended) = self.steps[1], self.steps[-1]
        return (last - first) / (ended - begun)

    def step_seconds(self) -> float:
        """The median step of this turn."""
        return statistics.median(after[1] - before[1] for before, after in pairwise(self.steps[1:]))

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"{"):
            return  # what a library prints
        told = json.loads(line)
        if told["event"] == "stepped":
            self.steps.append((told["characters"], told["seconds"]))
        else:
            self.facts |= told

    def _last_words(self) -> str:
        self.end()
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-400:] or f"exit code {self._process.returncode}"


class Contestant:
    """One or several equal processes, whose speeds are added up."""

    def __init__(
        self, name: str, command: Sequence[str], variables: dict[str, str] | None = None, copies: int = 1
    ) -> None:
        self.name, self._command, self._variables, self._copies = name, command, variables or {}, copies
        self._processes: list[Process] = []
        self.speeds: list[float] = []
        self.step_seconds: list[float] = []
        self.failure = ""

    def start(self) -> None:
        """Start and warm up; a failure is kept, and no turn is taken afterwards."""
        with self._failing():
            self._processes = [Process(self._command, self._variables) for _ in range(self._copies)]
            self._wait(START_SECONDS, 1)
            self._wait(WARMUP_SECONDS, WARMUP_STEPS)
            self._wait(START_SECONDS, FEWEST_STEPS)
            self._pause()

    def turn(self, seconds: float) -> None:
        """Run for so long, and note the speed."""
        if self.failure:
            return
        with self._failing():
            for process in self._processes:
                process.resume()
            self._wait(seconds, sys.maxsize)
            self._wait(START_SECONDS, FEWEST_STEPS)
            self._pause()
            self.speeds.append(sum(process.speed() for process in self._processes))
            self.step_seconds.append(max(process.step_seconds() for process in self._processes))

    def end(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.end()

    def result(self) -> dict[str, Any]:
        """What it reached in its turns, or why it did not."""
        facts = self._processes[0].facts if self._processes else {}
        kept = {name: facts[name] for name in ("precision", "versions", "nats_per_char") if name in facts}
        return {"speeds": self.speeds, "step_seconds": self.step_seconds, "failure": self.failure, **kept}

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (Failed, OSError) as error:
            self.failure = str(error) or type(error).__name__
            print(f"{self.name} failed: {self.failure.splitlines()[-1]}", file=sys.stderr)
            self.end()

    def _wait(self, seconds: float, steps: int) -> None:
        """Listen until all processes have made so many steps, for so long at most."""
        end = time.perf_counter() + seconds
        while min(len(process.steps) for process in self._processes) < steps:
            left = end - time.perf_counter()
            if left <= 0:
                return
            for process in self._processes:
                process.listen(min(left, 0.05))

    def _pause(self) -> None:
        for process in self._processes:
            process.pause()
        if min(len(process.steps) for process in self._processes) < FEWEST_STEPS:
            raise Failed(f"no {FEWEST_STEPS} steps in {START_SECONDS:.0f} s")


def compete(contestants: Sequence[Contestant], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """The results by name: all are started one after another, then take turns of so many seconds, round after round."""
    try:
        for contestant in contestants:
            contestant.start()
        for _ in range(rounds):
            for contestant in contestants:
                contestant.turn(seconds)
    finally:
        for contestant in contestants:
            contestant.end()
    for contestant in contestants:
        speed = f"{statistics.median(contestant.speeds):,.0f}" if contestant.speeds else "-"
        print(f"  {contestant.name}: {speed}", file=sys.stderr)
    return {contestant.name: contestant.result() for contestant in contestants}

"""A worker that this process has started as a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

COMMAND = [sys.executable, "-m", "scriven", "worker"]
LINES_TOLD, BYTES_TOLD = 3, 2000  # of what it said at the end
KILLED = -9


@dataclass(frozen=True)
class WorkerProcess:
    """A worker as a subprocess. Its error output is kept, so that the leader can report it."""

    rank: int
    process: subprocess.Popen[bytes]
    words: IO[bytes]

    @classmethod
    def start(cls, rank: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Starts the worker of this rank. Raises OSError."""
        words = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the child
        process = subprocess.Popen(
            COMMAND,
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,  # never written to: it ends with this process, see `launch.join_leader`
            stdout=subprocess.DEVNULL,
            stderr=words,
            process_group=0,  # Ctrl-C is for the leader, which tells the others to stop
        )
        return cls(rank, process, words)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def exit_report(self) -> str:
        """Describes how it ended, with the last lines of its error output."""
        code = self.process.poll()
        how = "killed, perhaps for want of memory" if code == KILLED else f"exit code {code}"
        self.words.seek(max(0, self.words.seek(0, os.SEEK_END) - BYTES_TOLD))
        lines = [line.strip() for line in self.words.read().decode("utf-8", "replace").splitlines()]
        said = " / ".join([line for line in lines if line][-LINES_TOLD:])
        return f"worker {self.rank}: {how}" + (f": {said}" if said else "")

    def close(self, seconds: float) -> None:
        """Waits for its end for at most `seconds`, then kills it."""
        try:
            self.process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.words.close()

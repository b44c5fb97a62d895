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
REPORT_LINES, REPORT_BYTES = 3, 2000  # of the end of its error output
KILLED = -9


@dataclass(frozen=True)
class WorkerProcess:
    """A worker as a subprocess. Its error output is kept, so that the leader can report it."""

    rank: int
    process: subprocess.Popen[bytes]
    error_output: IO[bytes]

    @classmethod
    def start(cls, rank: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Starts the worker of this rank. Raises OSError."""
        error_output = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the child
        process = subprocess.Popen(
            COMMAND,
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,  # it closes when this process ends, see `launch.end_with_leader`
            stdout=subprocess.DEVNULL,
            stderr=error_output,
            process_group=0,  # Ctrl-C goes to the leader only, which asks the others to stop
        )
        return cls(rank, process, error_output)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def exit_report(self) -> str:
        """Describes how it ended, with the last lines of its error output."""
        code = self.process.poll()
        how = "killed, perhaps for lack of memory" if code == KILLED else f"exit code {code}"
        self.error_output.seek(max(0, self.error_output.seek(0, os.SEEK_END) - REPORT_BYTES))
        lines = [line.strip() for line in self.error_output.read().decode("utf-8", "replace").splitlines()]
        end = " / ".join([line for line in lines if line][-REPORT_LINES:])
        return f"worker {self.rank}: {how}" + (f": {end}" if end else "")

    def close(self, seconds: float) -> None:
        """Waits for its end for at most `seconds`, then kills it."""
        try:
            self.process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.error_output.close()

"""Opens the page during a training: `scriven serve` in a process of its own, from the first checkpoint on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from scriven.cli.common import check_can_serve, note

if TYPE_CHECKING:
    from scriven.events import Event
    from scriven.report import Report

END_SECONDS = 10.0  # that the server gets to end


class PageReport:
    """Opens the page of a run once it has a checkpoint. `process` serves it, until somebody ends it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._run = ""

    def handle(self, event: Event) -> None:
        """Starts the server after the first checkpoint. A resumed run has one already."""
        from scriven.events import Saved, Started

        if isinstance(event, Started):
            self._run = event.run
        if self.process is None and (isinstance(event, Saved) or (isinstance(event, Started) and event.step)):
            # On the CPU, since one page needs no more, and a GPU is for the training.
            words = [sys.executable, "-m", "scriven", "serve", self._run, "--open", "--port", "0", "--device", "cpu"]
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            threading.Thread(target=_pass_on, args=(self.process,), daemon=True).start()

    def close(self) -> None:
        """Does nothing: the page stays after the training."""


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Shows what the server says: its address, that no browser could be opened, or an error."""
    assert process.stderr
    for line in process.stderr:
        sys.stderr.write(line)


@contextmanager
def watching(wanted: bool) -> Iterator[Sequence[Report]]:
    """Yields the reports that open the page, if it is wanted. On a terminal the page then stays until Ctrl-C.

    Raises UsageError if what serving needs is not installed.
    """
    if not wanted:
        yield []
        return
    check_can_serve()
    report = PageReport()
    try:
        yield [report]
        if report.process and report.process.poll() is None and sys.stderr.isatty():
            note("the page stays open; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):  # the training is done
                report.process.wait()
    finally:
        if report.process:
            report.process.terminate()
            try:
                report.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                report.process.kill()

"""Reports that write into the folder of a run: its events as lines of JSON, and a picture of its losses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TextIO

from scriven.events import Event, Finished, RolledBack, Sampled, Skipped, Started, Stepped
from scriven.report import as_dict
from scriven.report.metrics import read_metrics
from scriven.report.plot import plot_losses
from scriven.runs.folder import PLOT_FILE
from scriven.runs.journal import METRICS_FILE, PROGRESS_FILE, SAMPLES_FILE, ProgressLog, read_lines
from scriven.safe_files import ensure_regular, replace_file

# Up to this step each step has a line; later a line covers step // DETAIL steps, so that 1,000,000 steps take about
# DETAIL * (1 + ln(1,000,000 / DETAIL)) = 20,000 lines, equally dense at any scale of the picture.
DETAIL = 3000
NO_UTF8 = "backslashreplace"  # writes a lone surrogate (half a character) as JSON does


class FilesReport:
    """Appends every event to the run folder that `Started` names.

    Samples are in `samples.jsonl`, all other events in `metrics.jsonl`. A line that covers several steps has the sum of
    their losses, and other values from the last of them. `progress.jsonl` has a line for every step, so that a run can
    be replayed (`scriven.runs.journal`). A run that is resumed or rolled back drops the lines of steps that are
    repeated, so that the files are one history. Raises OSError if the folder cannot be written.
    """

    def __init__(self) -> None:
        self._run = Path()
        self._metrics: TextIO | None = None
        self._samples: TextIO | None = None
        self._progress: ProgressLog | None = None
        self._pending: Stepped | None = None
        self._steps = 0  # covered by `_pending`

    def handle(self, event: Event) -> None:
        """Writes the event's line. Late in a long run, several steps share one line."""
        if isinstance(event, Started):
            self._run = Path(event.run)
            self._open(self._run, event.step)
        if isinstance(event, RolledBack):
            self._open(self._run, event.step)
        if self._progress and isinstance(event, Stepped | Skipped):
            self._progress.write(event.step, event.schedule if isinstance(event, Stepped) else event.progress)
        if isinstance(event, Stepped):
            self._gather(event)
        elif isinstance(event, Sampled):
            _append(self._samples, event)
        else:
            self._flush()
            _append(self._metrics, event)

    def close(self) -> None:
        """Writes the pending steps, and closes the files."""
        self._flush()
        for file in (self._metrics, self._samples, self._progress):
            if file:
                file.close()
        self._metrics = self._samples = self._progress = None

    def _open(self, run: Path, step: int) -> None:
        self.close()
        self._metrics = _rewind(run / METRICS_FILE, step)
        self._samples = _rewind(run / SAMPLES_FILE, step)
        self._progress = ProgressLog(run / PROGRESS_FILE, step)

    def _gather(self, event: Stepped) -> None:
        before = self._pending
        self._pending = dataclasses.replace(event, loss=before.loss + event.loss) if before else event
        self._steps += 1
        if self._steps >= event.step // DETAIL:
            self._flush()

    def _flush(self) -> None:
        """Writes the pending steps. Every other event does so first, so no line has steps on both sides of one."""
        if self._pending:
            _append(self._metrics, self._pending)
        self._pending, self._steps = None, 0


def _append(file: TextIO | None, event: Event) -> None:
    if file:
        file.write(_line(as_dict(event)))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _rewind(path: Path, step: int) -> TextIO:
    """Opens the file at its end, after dropping the lines of steps after `step`, which will be repeated.

    Each line reaches the system at once, so that a killed process loses none.
    """
    kept = "".join(_line(record) for record in read_lines(ensure_regular(path)) if _holds(record, step))
    replace_file(path, kept.encode("utf-8", NO_UTF8))
    return path.open("a", buffering=1, encoding="utf-8", errors=NO_UTF8, newline="\n")


def _holds(record: dict[str, Any], step: int) -> bool:
    again = record.get("event") == "started" or step == 0  # the run that starts now writes it again
    return bool(record["step"] < step or (record["step"] == step and not again))


# --- loss.svg


class PlotReport:
    """Draws `loss.svg` when the run has finished. It must come after the report that writes `metrics.jsonl`."""

    def __init__(self) -> None:
        self._run = ""

    def handle(self, event: Event) -> None:
        """Draws the picture after the last event."""
        if isinstance(event, Started):
            self._run = event.run if event.parameters else ""  # counts alone have no steps
        elif isinstance(event, Finished) and self._run:
            run = Path(self._run)
            plot_losses([read_metrics(run)]).save(run / PLOT_FILE)

    def close(self) -> None:
        """Does nothing."""

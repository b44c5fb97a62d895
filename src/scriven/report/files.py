"""Reports that write into the folder of a run: its events as lines of JSON, and a picture of its losses."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float64s
from scriven.errors import InputError
from scriven.events import Event, Finished, RolledBack, Sampled, Skipped, Started, Stepped
from scriven.report import as_dict
from scriven.runs.folder import PLOT_FILE
from scriven.runs.journal import METRICS_FILE, PROGRESS_FILE, SAMPLES_FILE, ProgressLog, read_lines
from scriven.safe_files import ensure_regular, replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to this step each step has a line; later a line covers step // DETAIL steps, so that 1,000,000 steps take about
# DETAIL * (1 + ln(1,000,000 / DETAIL)) = 20,000 lines, equally dense at any scale of the picture.
DETAIL = 3000
NATS_PER_BIT = math.log(2)
SMOOTHED = 0.02  # share of the run that one point of the smoothed line sums over
TRAINING, VALIDATION, BEST = "#4477aa", "#cc6633", "#117733"
Scaling = Callable[[npt.ArrayLike], npt.ArrayLike]
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


# --- loss.png


class PlotReport:
    """Draws `loss.png` when the run has finished. It must come after the report that writes `metrics.jsonl`.

    Raises InputError if matplotlib is not installed.
    """

    def __init__(self) -> None:
        self._run = ""

    def handle(self, event: Event) -> None:
        """Draws the picture after the last event."""
        if isinstance(event, Started):
            self._run = event.run if event.parameters else ""  # counts alone have no steps
        elif isinstance(event, Finished) and self._run:
            draw(Path(self._run))

    def close(self) -> None:
        """Does nothing."""


def draw(run: Path) -> Path:
    """Draws the losses of a run into its `loss.png`, and returns the path.

    Raises InputError if matplotlib is not installed or there is nothing to draw, OSError if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is an extra
    except ImportError:
        raise InputError(f"{PLOT_FILE} needs matplotlib: pip install 'scriven[plot]'") from None
    course = LossCurve.read(run / METRICS_FILE)
    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_losses(axes, course)
    _draw_scales(axes, course)
    figure.suptitle(course.title, fontsize=12)
    path = run / PLOT_FILE
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    replace_file(ensure_regular(path), drawn.getvalue())
    return path


@dataclass
class LossCurve:
    """The losses in `metrics.jsonl`, one entry per line."""

    title: str = ""
    training_characters: int = 0
    steps: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)  # read since the start of the run
    nats: list[float] = field(default_factory=list)  # sums over `counts` characters
    counts: list[int] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)  # step -> nats/char

    @classmethod
    def read(cls, path: Path) -> LossCurve:
        """Reads the file. Raises InputError if it has no steps."""
        course = cls()
        for record in read_lines(path):
            course._take(record)
        if not course.steps:
            raise InputError(f"{path} holds no training steps to draw: train the run first")
        return course

    def _take(self, record: dict[str, Any]) -> None:
        if record["event"] == "started":
            self.title = f"{Path(record['run']).name}: {record['name']}, {record['parameters']:,} parameters"
            self.training_characters = record["training_characters"]
        elif record["event"] == "stepped":
            self.steps.append(record["step"])
            self.characters.append(record["characters"])
            self.nats.append(_number_or_nan(record["loss"]["nats"]))
            self.counts.append(record["loss"]["characters"])
        elif record["event"] == "evaluated" and not record["final"]:
            self.validation[record["step"]] = _number_or_nan(record["nats_per_char"])

    @property
    def raw(self) -> Float64s:
        """The training loss of each line, in nats/char."""
        return np.array(self.nats) / np.maximum(self.counts, 1)

    def smooth(self) -> Float64s:
        """Returns the training loss over the lines around each line, in nats/char: a sum divided by a sum."""
        half = int(len(self.nats) * SMOOTHED / 2)
        at = np.arange(len(self.nats))
        low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(at))
        nats, counts = (np.concatenate([[0], np.cumsum(each)]) for each in (self.nats, self.counts))
        means: Float64s = (nats[high] - nats[low]) / np.maximum(counts[high] - counts[low], 1)
        return means

    def validation_points(self) -> tuple[Float64s, Float64s]:
        """Returns the characters read at each evaluation, and its nats/char."""
        steps = sorted(self.validation)
        return np.interp(steps, [0, *self.steps], [0, *self.characters]), np.array([self.validation[s] for s in steps])


def _number_or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _draw_losses(axes: Axes, course: LossCurve) -> None:
    axes.plot(course.characters, course.raw / NATS_PER_BIT, color=TRAINING, alpha=0.25, linewidth=0.7)
    axes.plot(course.characters, course.smooth() / NATS_PER_BIT, color=TRAINING, linewidth=1.8, label="training")
    at, nats = course.validation_points()
    loss = nats / NATS_PER_BIT
    if not np.isfinite(loss).any():
        return
    axes.plot(at, loss, color=VALIDATION, marker="o", markersize=4, linewidth=1.2, label="validation")
    best = int(np.nanargmin(loss))
    label = f"best: {loss[best]:.4f} bits/char"
    axes.plot(at[best], loss[best], "*", color=BEST, markersize=13, clip_on=False, zorder=9, label=label)


def _draw_scales(axes: Axes, course: LossCurve) -> None:
    axes.set_xlim(0, course.characters[-1])
    axes.set_ylim(*_shown_range(course))
    axes.set_xlabel("characters read")
    axes.set_ylabel("bits per character")
    axes.secondary_yaxis("right", functions=_unit_functions(1 / NATS_PER_BIT)).set_ylabel("nats per character")
    if course.training_characters:
        axes.secondary_xaxis("top", functions=_unit_functions(course.training_characters)).set_xlabel("epochs")
    axes.xaxis.set_major_formatter(lambda value, _: _shorten_count(value))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_alpha(0.3)
    axes.legend(frameon=False)


def _unit_functions(
    unit: float,
) -> tuple[Callable[[npt.ArrayLike], npt.ArrayLike], Callable[[npt.ArrayLike], npt.ArrayLike]]:
    """Returns functions from one axis to the opposite one, which counts in `unit`s, and back."""
    return lambda values: np.divide(values, unit), lambda values: np.multiply(values, unit)


def _shown_range(course: LossCurve) -> tuple[float, float]:
    """Returns the range of losses to show, in bits per character. The first steps would flatten all later ones."""
    _, validation = course.validation_points()
    smoothed = course.smooth()
    worth = np.concatenate([smoothed[len(smoothed) // 20 :], validation])
    low, high = np.nanmin(worth, initial=math.inf), np.nanmax(worth, initial=-math.inf)
    margin = 0.08 * (high - low) or 0.1
    return (low - margin) / NATS_PER_BIT, (high + margin) / NATS_PER_BIT


def _shorten_count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"

"""Draws the losses of runs as SVG, with axes in bits per character.

In a notebook, text and background have the colours of the page. A file has colours for a light and for a dark screen.
The colours of curves differ enough on both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float64s
from scriven.errors import InputError, UsageError
from scriven.report import visible
from scriven.report.metrics import COUNTED, Metrics
from scriven.report.words import NETWORK_ALONE
from scriven.safe_files import ensure_regular, replace_file
from scriven.settings import bits_unit, symbol_word

By = Literal["characters", "epochs", "minutes", "steps"]
ACROSS: dict[str, tuple[str, float, str]] = {  # a column of the metrics, its unit, and the name of the axis
    "characters": ("characters", 1.0, "characters read"),
    "epochs": ("epochs", 1.0, "passes over the training text"),
    "minutes": ("seconds", 60.0, "minutes of training"),
    "steps": ("step", 1.0, "steps"),
}
WIDTH, HEIGHT = 760, 400  # pixels of the picture
LEFT, RIGHT, BOTTOM = 52, 20, 48  # margins around the curves
HEADER, LEGEND_LINE = 76, 20  # the margin above them: without a legend, and for each of its lines
LETTER, GAP, SWATCH = 6.6, 22, 24  # width of a letter, and around an entry of the legend
SMOOTHED = 0.02  # share of the run that one point of the smoothed line sums over
POINTS = 300  # of a line at most
DOTS = 60  # evaluations up to which each has a dot
UNSHOWN = 20  # the first 1/20 of the training losses may lie above the picture: they would flatten all later ones
TRAINING, VALIDATION = "#4a8fd4", "#d9742f"
COLOURS = (TRAINING, VALIDATION, "#2e9e6b", "#a878c8", "#d6576b", "#2aa3a3", "#b8912b", "#8a8a8a")  # of several runs
STYLE = (
    "<style>:root{color:#24221e;background:#fffefb}"
    "@media(prefers-color-scheme:dark){:root{color:#e9e4d9;background:#1e1d1a}}</style>"
)


@dataclass(frozen=True)
class Plot:
    """A picture as SVG, which a notebook shows. `summary` says in words what it shows."""

    svg: str
    summary: str

    def __repr__(self) -> str:
        """What it shows, and how to see it outside of a notebook."""
        return f"Plot({self.summary}; save('loss.svg') writes it to a file)"

    def _repr_html_(self) -> str:
        """The picture, in a notebook."""
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Writes the picture to a file, and returns its path.

        Raises OSError; UsageError if its name does not end in .svg; InputError if it is no plain file.
        """
        if Path(path).suffix.lower() != ".svg":
            raise UsageError(f"{path}: the picture is SVG; give a name that ends in .svg")
        end = self.svg.index(">") + 1  # of the first tag
        file = ensure_regular(Path(path))
        replace_file(file, f"{self.svg[:end]}{STYLE}{self.svg[end:]}\n".encode())
        return file


@dataclass(frozen=True)
class Curve:
    """The losses of a run, in bits per character, at places on the x axis. Values that were not measured are nan."""

    metrics: Metrics
    x: Float64s  # (rows,)
    training: Float64s  # (rows,) as measured
    smooth: Float64s  # (rows,) over the rows around each
    validation: Float64s  # (rows,)

    @classmethod
    def of(cls, metrics: Metrics, by: str) -> Curve:
        """Makes the curve of a run. Raises InputError if it has no steps."""
        if not metrics.rows:
            raise InputError(f"the run {metrics.name} has no training steps to draw; train it first")
        column, unit, _ = ACROSS[by]
        training = _floats(metrics["training_bits_per_char"])
        counts = np.nan_to_num(_floats(metrics[COUNTED]))
        x = np.nan_to_num(_floats(metrics[column])) / unit
        return cls(metrics, x, training, smooth(training, counts), _floats(metrics["validation_bits_per_char"]))

    @property
    def best(self) -> int | None:
        """The row of the lowest validation loss."""
        return int(np.nanargmin(self.validation)) if np.isfinite(self.validation).any() else None

    @property
    def best_words(self) -> str:
        """The lowest validation loss, with its unit."""
        alone = f" of the {NETWORK_ALONE}" * self.metrics.network_alone
        return (
            "not validated"
            if self.best is None
            else f"best{alone}: {self.validation[self.best]:.4f} {bits_unit(self.metrics.unit)}"
        )


def _floats(values: Sequence[float | None]) -> Float64s:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def smooth(means: Float64s, counts: Float64s) -> Float64s:
    """Returns the mean over the rows around each row: a sum divided by a sum. `means` (rows,) are over `counts`."""
    half = int(len(means) * SMOOTHED / 2)
    at = np.arange(len(means))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(at))
    counts = np.where(np.isfinite(means), counts, 0)
    sums, totals = (np.concatenate([[0], np.cumsum(each)]) for each in (np.nan_to_num(means) * counts, counts))
    found = totals[high] - totals[low]
    return np.where(found > 0, (sums[high] - sums[low]) / np.maximum(found, 1), math.nan)


class Scale:
    """Places values between two bounds on an axis of pixels."""

    def __init__(self, bounds: tuple[float, float], pixels: tuple[float, float]) -> None:
        self.low, self.high = bounds
        self._begin, self._end = pixels

    def __call__(self, values: npt.ArrayLike) -> Float64s:
        """Returns the pixels of values."""
        share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return np.asarray(self._begin + share * (self._end - self._begin))

    def ticks(self, count: int) -> list[float]:
        """Returns about `count` round values."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def plot_losses(runs: Sequence[Metrics], by: By = "characters") -> Plot:
    """Draws the losses of runs over each other; `by` is what the x axis counts.

    One run has its training and its validation loss. Several have a colour each: a thin line is the training loss, a
    thick one the validation loss. Raises InputError if a run has no steps.
    """
    curves = [Curve.of(metrics, by) for metrics in runs]
    entries = _legend(curves)
    top = HEADER + LEGEND_LINE * max(entry.line for entry in entries)
    x = Scale((0, max(float(curve.x.max()) for curve in curves) or 1), (LEFT, WIDTH - RIGHT))
    y = Scale(_shown_range(curves), (HEIGHT - BOTTOM, top))
    summary = "losses of " + "; ".join(f"{curve.metrics.name}: {curve.best_words}" for curve in curves)
    svg = _picture(visible(summary))
    _draw_header(svg, curves, entries)
    symbols = {symbol_word(each.metrics.unit) for each in curves}
    _draw_axes(svg, x, y, name=_name_axis(curves, by), symbol=" or ".join(sorted(symbols)))
    inside = SubElement(
        svg, "svg", {"x": "0", "y": str(top), "width": str(WIDTH), "height": str(HEIGHT - BOTTOM - top)}
    )
    inside.set("viewBox", f"0 {top} {WIDTH} {HEIGHT - BOTTOM - top}")  # what lies outside of it is not shown
    for curve, colours in zip(curves, _colours(curves), strict=True):
        _draw_curve(inside, curve, x, y, colours, alone=len(curves) == 1)
    return Plot(tostring(svg, encoding="unicode"), visible(summary))


def _picture(summary: str) -> Element:
    return Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "width": str(WIDTH),
            "role": "img",
            "aria-label": summary,
            "style": "max-width: 100%; height: auto",
            "font-family": "Inter, 'Segoe UI', system-ui, 'Helvetica Neue', Arial, sans-serif",
            "font-size": "12",
            "fill": "currentColor",
        },
    )


def _colours(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """Returns the colours of each run: of its training and of its validation loss."""
    if len(curves) == 1:
        return [(TRAINING, VALIDATION)]
    return [(COLOURS[number % len(COLOURS)],) * 2 for number in range(len(curves))]


def _shown_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Returns the range of losses to show, in bits per character."""
    worth = [part for curve in curves for part in (curve.smooth[len(curve.smooth) // UNSHOWN :], curve.validation)]
    values = np.concatenate(worth)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.1
    return float(low - margin), float(high + margin)


# --- the header: what is shown, and a legend


@dataclass(frozen=True)
class Entry:
    """An entry of the legend, with its place."""

    words: str
    colour: str
    x: float
    line: int


def _legend(curves: Sequence[Curve]) -> list[Entry]:
    """Returns the entries of the legend, in as many lines as they need."""
    (first, *others), colours = curves, _colours(curves)
    words = ["training", f"validation, {first.best_words}"]
    if others:
        words = [f"{visible(curve.metrics.name)}, {curve.best_words}" for curve in curves]
    x, line, entries = 0.0, 0, list[Entry]()
    for text, colour in zip(words, colours[0] if not others else [each[0] for each in colours], strict=True):
        width = SWATCH + LETTER * len(text)
        if x and LEFT + x + width > WIDTH - RIGHT:
            x, line = 0.0, line + 1
        entries.append(Entry(text, colour, LEFT + x, line))
        x += width + GAP
    return entries


def _draw_header(svg: Element, curves: Sequence[Curve], entries: Sequence[Entry]) -> None:
    one = curves[0].metrics if len(curves) == 1 else None
    title = _text(svg, LEFT, 20, visible(one.name if one else f"{len(curves)} runs"), size=15, weight="600")
    SubElement(title, "tspan", {"dx": "10", "font-size": "12", "font-weight": "400", "fill-opacity": "0.7"}).text = (
        visible(one.model) if one else "thin: training, thick: validation"
    )
    for entry in entries:
        y = 42 + LEGEND_LINE * entry.line
        ends = {"x1": f"{entry.x:.0f}", "x2": f"{entry.x + 16:.0f}", "y1": str(y - 4), "y2": str(y - 4)}
        SubElement(svg, "line", {**ends, "stroke": entry.colour, "stroke-width": "3", "stroke-linecap": "round"})
        _text(svg, entry.x + SWATCH, y, entry.words)


# --- axes


def _name_axis(curves: Sequence[Curve], by: str) -> str:
    epoch = curves[0].metrics.epoch if len(curves) == 1 and by == "characters" else 0
    return ACROSS[by][2] + (f" (the training text has {epoch:,})" if epoch else "")


def _draw_axes(svg: Element, x: Scale, y: Scale, *, name: str, symbol: str) -> None:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in y.ticks(8):
        at = float(y(value))
        _line(svg, (LEFT, at), (right, at), opacity=0.12)
        _text(svg, LEFT - 8, at + 4, f"{value:g}", anchor="end", opacity=0.7)
    _line(svg, (LEFT, bottom), (right, bottom), opacity=0.4)
    for value in x.ticks(8):
        at = float(x(value))
        _line(svg, (at, bottom), (at, bottom + 4), opacity=0.4)
        _text(svg, at, bottom + 18, shorten_count(value), anchor="middle", opacity=0.7)
    _text(svg, LEFT, float(y(y.high)) - 8, f"bits per {symbol}", opacity=0.7)
    _text(svg, (LEFT + right) / 2, HEIGHT - 8, name, anchor="middle", opacity=0.7)


def shorten_count(value: float) -> str:
    """Returns a number in few letters, such as 1.5 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


# --- curves


def _draw_curve(svg: Element, curve: Curve, x: Scale, y: Scale, colours: tuple[str, str], *, alone: bool) -> None:
    """Draws the training and the validation loss of a run, in these colours."""
    training, validation = colours
    if alone:
        _polyline(svg, _extremes(curve), x, y, colour=training, width=0.8, opacity=0.35)
    kept = np.unique(np.linspace(0, len(curve.x) - 1, POINTS).round().astype(int))
    width, opacity = (2.0, 1.0) if alone else (1.2, 0.6)
    _polyline(svg, (curve.x[kept], curve.smooth[kept]), x, y, colour=training, width=width, opacity=opacity)
    rows = np.flatnonzero(np.isfinite(curve.validation))
    _polyline(svg, (curve.x[rows], curve.validation[rows]), x, y, colour=validation, width=2.0)
    for row in rows if len(rows) <= DOTS else rows[rows == curve.best]:
        best = int(row) == curve.best
        dot = {"cx": f"{x(curve.x[row]):.1f}", "cy": f"{y(curve.validation[row]):.1f}", "r": "4.5" if best else "2.6"}
        circle = SubElement(svg, "circle", {**dot, "fill": validation})
        where = f"step {curve.metrics['step'][row]:,}: {curve.validation[row]:.4f} {bits_unit(curve.metrics.unit)}"
        SubElement(circle, "title").text = f"{visible(curve.metrics.name)}, {where}" + ", the best" * best


def _extremes(curve: Curve) -> tuple[Float64s, Float64s]:
    """Returns the lowest and the highest of the measured losses, in turns, of at most POINTS pieces of the run."""
    pieces = np.array_split(np.arange(len(curve.x)), min(POINTS, len(curve.x)))
    ends: list[Callable[[Float64s], float]] = [np.nanmin, np.nanmax]
    kept = [piece for piece in pieces if np.isfinite(curve.training[piece]).any()]
    x = np.repeat([curve.x[piece].mean() for piece in kept], len(ends))
    return x, np.array([end(curve.training[piece]) for piece in kept for end in ends])


def _polyline(
    svg: Element,
    points: tuple[Float64s, Float64s],
    x: Scale,
    y: Scale,
    *,
    colour: str,
    width: float,
    opacity: float = 1.0,
) -> None:
    """Draws a line through points (x, y); those that are not finite are left out."""
    known = np.isfinite(points[1])
    places = zip(x(points[0][known]), y(points[1][known]), strict=True)
    SubElement(
        svg,
        "polyline",
        {
            "points": " ".join(f"{across:.1f},{down:.1f}" for across, down in places),
            "fill": "none",
            "stroke": colour,
            "stroke-width": f"{width:g}",
            "stroke-opacity": f"{opacity:g}",
            "stroke-linejoin": "round",
        },
    )


def _line(svg: Element, begin: tuple[float, float], end: tuple[float, float], *, opacity: float) -> None:
    ends = {name: f"{value:.1f}" for name, value in zip(("x1", "y1", "x2", "y2"), (*begin, *end), strict=True)}
    SubElement(svg, "line", {**ends, "stroke": "currentColor", "stroke-opacity": f"{opacity:g}"})


def _text(
    svg: Element,
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "400",
    opacity: float = 1.0,
) -> Element:
    style = {"font-size": str(size), "font-weight": weight, "fill-opacity": f"{opacity:g}", "text-anchor": anchor}
    text = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **style})
    text.text = words
    return text

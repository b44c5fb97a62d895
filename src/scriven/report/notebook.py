"""HTML for notebooks: a scored text in colours, a run, and the progress of a training as one display that changes."""

from __future__ import annotations

import html
import importlib
import io
import math
import sys
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

from scriven.arrays import Float64s, Ids
from scriven.events import Event, Finished, Saved, Started, Stepped
from scriven.report import visible
from scriven.report.metrics import read_metrics
from scriven.report.plot import plot_losses
from scriven.report.terminal import LIVE_SECONDS, TerminalReport
from scriven.report.words import percent
from scriven.runs.journal import SAMPLES_FILE, read_lines
from scriven.vocabulary import Vocabulary

LEVELS = (2, 3.5, 5, 7, 10)  # bits at which the next darker colour begins, as on the page
SHADE = 0.16  # opacity that each level adds
SHOWN_SYMBOLS = 20_000  # of a text; more would make a notebook slow
PRE = '<pre style="white-space: pre-wrap; margin: 0.3em 0">'


def score_html(summary: str, vocabulary: Vocabulary, ids: Ids, nats: Float64s) -> str:
    """Returns a text in colours: the darker a character, the more it surprised. `ids`, `nats` (T,) have boundaries."""
    levels = ((text, sum(bits >= bound for bound in LEVELS)) for text, bits in _characters(vocabulary, ids, nats))
    spans = (_span("".join(text for text, _ in group), level) for level, group in groupby(levels, lambda each: each[1]))
    more = "" if len(ids) <= SHOWN_SYMBOLS else f"<p>... and {len(ids) - SHOWN_SYMBOLS:,} symbols more</p>"
    return f"<div>{html.escape(summary)}{PRE}{''.join(spans)}</pre>{more}</div>"


def _characters(vocabulary: Vocabulary, ids: Ids, nats: Float64s) -> Iterator[tuple[str, float]]:
    """Returns the characters of a text, each with its bits. Those of the bytes of one character are added."""
    decoder, bits = vocabulary.decoder(), 0.0
    for symbol, cost in islice(zip(ids, nats, strict=True), SHOWN_SYMBOLS):
        bits += float(cost) / math.log(2)
        if text := decoder.feed(symbol[None]):
            yield text, bits
            bits = 0.0


def _span(text: str, level: int) -> str:
    shown = html.escape(visible(text))
    return f'<span style="background: rgba(204, 102, 51, {SHADE * level:.2f})">{shown}</span>' if level else shown


def run_html(summary: str, run: Path) -> str:
    """Returns a run: its end in words, the picture of its losses and its last sample, as far as they exist."""
    parts = [html.escape(summary), _picture(run)]
    samples = list(read_lines(run / SAMPLES_FILE))
    if samples:
        parts.append(f"{PRE}<b>{_text(samples[-1]['prompt'])}</b>{_text(samples[-1]['text'])}</pre>")
    return f"<div>{''.join(parts)}</div>"


def _picture(run: Path) -> str:
    """Returns the picture of a run's losses as HTML; "" if it has none yet."""
    metrics = read_metrics(run)
    return f"<div>{plot_losses([metrics]).svg}</div>" if metrics.rows else ""


def _text(text: str) -> str:
    return html.escape(visible(text))


class NotebookReport(TerminalReport):
    """The lines of `TerminalReport`, in a notebook: one display that changes, with a bar, the step and the losses."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        super().__init__(self._text)
        self._run, self._progress, self._status, self._losses = Path(), 0.0, "", ""
        display = importlib.import_module("IPython.display")
        self._html = display.HTML
        self._display = display.display(self._html(""), display_id=True)

    def handle(self, event: Event) -> None:
        """Shows the event, if it changes the display."""
        before = self._status
        super().handle(event)
        self._progress = getattr(event, "progress", self._progress)
        if isinstance(event, Started):
            self._run = Path(event.run)
        if isinstance(event, Saved | Finished):  # the log then has the losses of the evaluation before
            self._losses = _picture(self._run)
        if self._status != before or not isinstance(event, Stepped):
            self._display.update(self._html(self._render()))

    def _step(self, event: Stepped) -> None:
        if event.seconds - self._shown >= LIVE_SECONDS:
            self._shown = event.seconds
            facts = [percent(event.progress), f"step {event.step:,}", *filter(None, self._facts())]
            self._status = "  ".join(facts)

    def _render(self) -> str:
        bar = f'<progress max="1" value="{self._progress:.4f}" style="width: 30em"></progress>'
        text = f"{PRE}{html.escape(self._text.getvalue())}</pre>"
        return f"<div>{bar} {html.escape(self._status)}{self._losses}{text}</div>"


def in_notebook() -> bool:
    """Whether this program runs in a notebook, whose displays can change."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"

"""Shows a run to a person, with a live bar on a terminal and plain lines elsewhere; or to a program, as JSON."""

from __future__ import annotations

import io
import math
import os
import shlex
import sys
from collections import deque
from datetime import timedelta
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scriven import strict_json
from scriven.events import Compared, Evaluated, Event, Finished, RolledBack, Sampled, Skipped, Started, Stepped
from scriven.loss import Loss
from scriven.report import as_dict, visible
from scriven.report.words import (
    NETWORK_ALONE,
    describe_passes,
    duration,
    final_words,
    introduction,
    means,
    next_commands,
    number,
    percent,
    protocol_words,
    speed_words,
    technical_words,
)
from scriven.sampling_settings import SamplingSettings
from scriven.settings import bits_unit, symbol_word

SAMPLE_LINES = 6
DEFAULT_TEMPERATURE = SamplingSettings().temperature  # samples at this one do not show it
PLAIN_WIDTH = 100  # columns, if no terminal says how wide it is
PLAIN_SECONDS = 10.0  # at least, between two lines about steps
LIVE_SECONDS = 0.25  # at least, between two drawings of the bar
RECENT_SECONDS = 10.0  # over which the speed is measured


class JsonReport:
    """One JSON object per event and line, in ASCII, on `stream` (standard output by default).

    Raises OSError when the stream is closed or full.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def handle(self, event: Event) -> None:
        """Prints the event at once."""
        print(strict_json.write(as_dict(event)), file=self._stream, flush=True)

    def close(self) -> None:
        """Does nothing: the stream is not this report's own."""


class TerminalReport:
    """Shows a run to a person on `stream` (standard error by default).

    On a terminal a bar moves below the lines. Anywhere else (a pipe, a notebook) there are only plain lines, without
    control characters. With `quiet` nothing is shown; with `verbose` everything that was chosen and measured, and how.
    Text of the model is escaped, so that it cannot control the terminal.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False, verbose: bool = False) -> None:
        stream = stream or sys.stderr or io.StringIO()  # a program without a console has no standard error
        self._quiet, self._verbose = quiet, verbose
        live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._console = Console(
            file=stream,
            force_terminal=live,
            force_interactive=live,
            force_jupyter=False,  # its live display would need a widget library
            width=None if live else PLAIN_WIDTH,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._started: Started | None = None
        self._pace = Throughput()
        self._evaluated: list[Evaluated] = []
        self._compared: list[Compared] = []
        self._place = (0, "", "")  # step, prompt and continuation of the last sample
        self._shown = -math.inf  # seconds of the last Stepped that was shown
        self._epochs = 0.0  # passes over the text

    def handle(self, event: Event) -> None:
        """Shows the event if it is worth showing now."""
        if self._quiet:
            return
        self._pace.note(event)
        match event:
            case Started():
                self._start(event)
            case Stepped():
                self._step(event)
            case Skipped():
                self._say(f"step {event.step:,} skipped: its loss or its gradient was not finite", style="yellow")
            case RolledBack():
                rate = f"{event.learning_rate_factor:g} times the learning rate"
                self._say(f"rolled back to step {event.step:,}, with {rate}: {event.reason}", style="yellow")
            case Evaluated():
                self._evaluate(event)
            case Compared():
                self._compare(event)
            case Sampled():
                self._sample(event)
            case Finished():
                self._finish(event)

    def close(self) -> None:
        """Removes the bar."""
        self._live.stop()

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(visible(text), style=style), soft_wrap=True)

    def _start(self, event: Started) -> None:
        self._started = event
        for line in introduction(event) + (technical_words(event) if self._verbose else []):
            self._say(line)
        for note in event.notes:
            if self._verbose or note not in event.details:
                self._say(f"note: {note}", style="yellow")
        if self._console.is_terminal:
            self._live.start()

    def _step(self, event: Stepped) -> None:
        self._epochs = event.epochs
        interval = LIVE_SECONDS if self._live.is_started else PLAIN_SECONDS
        if event.seconds - self._shown < interval:
            return
        self._shown = event.seconds
        if self._live.is_started:
            self._live.update(self._bar(event), refresh=True)
        else:
            self._say("  ".join([percent(event.progress), f"step {event.step:,}", *filter(None, self._facts())]))

    def _facts(self) -> list[str]:
        """Returns loss, speed and time left; "" for each that is not known yet."""
        return [
            f"loss {means(self._pace.loss, unit=self._unit)}",
            speed_words(self._pace.speed, self._started) if math.isfinite(self._pace.speed) else "",
            f"{timedelta(seconds=round(self._pace.left))} left" if math.isfinite(self._pace.left) else "",
        ]

    def _bar(self, event: Stepped) -> Group:
        loss, speed, left = self._facts()
        bar = ProgressBar(total=1.0, completed=event.progress, complete_style="cyan", finished_style="cyan")
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        top.add_row(bar, percent(event.progress), left)
        lines: list[Table | Text] = [top, Text(", ".join(filter(None, [loss, speed])))]
        lines.append(Text(f"step {event.step:,}, learning rate {event.learning_rate:.3g}", style="dim"))
        if self._evaluated:
            lines.append(self._validation(self._evaluated[-1]))
        return Group(*lines)

    @property
    def _unit(self) -> str:
        """What the model reads at each step."""
        return self._started.unit if self._started else "character"

    @property
    def _validation_name(self) -> str:
        """The name of the losses of evaluations, which are of the network alone if its text is counted too."""
        return f"validation, {NETWORK_ALONE}:" if self._started and self._started.counts else "validation"

    def _validation(self, last: Evaluated) -> Text:
        words = f"{self._validation_name} {means(last.loss, whole=True, unit=self._unit)} at step {last.step:,}"
        best = next((each for each in reversed(self._evaluated) if each.best), last)
        if best is last:
            return Text(words, style="green")
        return Text(f"{words}; best {number(best.loss.bits_per_char)} at step {best.step:,}")

    def _evaluate(self, event: Evaluated) -> None:
        self._evaluated.append(event)
        if event.final:
            return
        best = ("  best so far" if self._is_lowest(event.loss) else "  kept") if event.best else ""
        how = f" ({event.protocol}, {event.loss.characters:,} {symbol_word(self._unit)}s)" if self._verbose else ""
        self._say(
            f"{percent(event.progress)}  step {event.step:,}  {self._validation_name} "
            f"{means(event.loss, whole=True, unit=self._unit)}{how}{best}",
            style="bold" if event.best else "",
        )

    def _compare(self, event: Compared) -> None:
        self._compared.append(event)
        if self._verbose and not event.final:
            words = protocol_words(event, self._unit)
            self._say(f"counting alone: {means(event.loss, whole=True, unit=self._unit)} ({words})")

    def _is_lowest(self, loss: Loss) -> bool:
        """Whether no earlier loss is lower."""
        others = (each.loss for each in self._evaluated if not each.final and each.loss.characters)
        return all(loss.total_nats / loss.characters <= other.total_nats / other.characters for other in others)

    def _sample(self, event: Sampled) -> None:
        place = event.step, event.prompt, event.went_on
        if event.went_on and place != self._place:
            self._say("  the text itself:", style="dim")
            self._passage(event.prompt, event.went_on)
            self._say("  the model:", style="dim")
        self._place = place
        if event.temperature != DEFAULT_TEMPERATURE:
            self._say(f"  temperature {event.temperature:g}:", style="dim")
        self._passage(event.prompt, event.text)

    def _passage(self, given: str, after: str) -> None:
        """Shows a prompt and its continuation. On a terminal with colours, the first is bold and the other dim."""
        whole = (given + after).expandtabs(4)
        begin = len(whole) - len(whole.lstrip("\n"))
        end = max(begin, len(given.expandtabs(4)))
        styles = ("", "") if self._console.no_color else ("bold", "dim")
        text = Text.assemble((visible(whole[begin:end]), styles[0]), (visible(whole[end:]), styles[1]))
        text.rstrip()
        lines = text.wrap(self._console, self._console.width - 4)[:SAMPLE_LINES]
        for line in lines:
            line.rstrip()
        self._console.print(Text("\n").join(Text("    ").append(line) for line in lines), soft_wrap=True)

    def _finish(self, event: Finished) -> None:
        self.close()
        done = "Stopped" if event.reason == "interrupted" else "Done"
        steps = f"{event.step:,} steps and " if self._started is None or self._started.parameters else ""
        took = f"{done} after {steps}{duration(event.seconds)}."
        self._say(" ".join(filter(None, [took, describe_passes(self._epochs)])), style="bold")
        for line in self._results(event):
            self._say(line)
        for note in event.notes:
            self._say(f"note: {note}", style="yellow")
        if event.advice:
            self._say(event.advice)
        if self._started:
            self._say("Next:")
            for command in next_commands(self._started.run, event):
                self._say(f"  {command}", style="cyan")

    def _unmeasured(self) -> str:
        """Says that the mixture of network and counts, which the model is, was not measured, and how to do so."""
        run = shlex.quote(self._started.run) if self._started else "RUN"
        return f"Both mixed are better than each; there was no time to measure that: scriven evaluate {run}"

    def _baseline(self) -> str:
        """Returns the loss of the counts alone, by the first protocol, after a semicolon; "" if there are none."""
        losses = (each.loss for each in self._compared if each.model == "counts" and each.loss.characters)
        first = next(losses, None)
        return f"; counting alone: {number(first.bits_per_char)} {bits_unit(self._unit)}" if first else ""

    def _results(self, event: Finished) -> list[str]:
        """Says how good the kept model is, in one line unless `verbose`."""
        if not event.best.characters:
            return ["There was no validation; the last model is kept."]
        alone = f" ({NETWORK_ALONE})" * event.network_alone
        if not self._verbose:
            loss = means(event.best, whole=True, unit=self._unit)
            line = f"On text that it has not seen{alone}: {loss}{self._baseline()}."
            return [line, *([self._unmeasured()] if event.network_alone else [])]
        events: list[Evaluated | Compared] = [*self._evaluated, *self._compared]
        finals: dict[str, list[Evaluated | Compared]] = {}
        for each in events:
            if each.final:
                finals.setdefault(each.protocol, []).append(each)
        kept = [each.loss for each in self._evaluated if each.step == event.best_step and not each.final]
        lowest = self._is_lowest(kept[-1] if kept else event.best)
        what = "Best validation loss" if lowest else "Validation loss of the kept model"
        head = [f"{what}{alone}, at step {event.best_step:,}:"]
        if lines := [line for events in finals.values() for line in final_words(events, self._unit)]:
            return head + lines
        protocols = [protocol_words(each, self._unit) for each in self._evaluated[-1:]]
        return [
            " ".join([*head, means(event.best, whole=True, unit=self._unit), *(f"({words})" for words in protocols)])
        ]


class Throughput:
    """Measures recent speed, recent loss and time left, by the times in the events."""

    def __init__(self) -> None:
        self._expected = math.nan
        self._first: Stepped | None = None
        self._recent: deque[Stepped] = deque()
        self._speed = math.nan

    def note(self, event: Event) -> None:
        """Notes an event. It runs at every step, so it is cheap."""
        if isinstance(event, Started):
            self._expected = event.expected_seconds
        elif isinstance(event, Stepped):
            self._first = self._first or event
            self._recent.append(event)
            while event.seconds - self._recent[0].seconds > RECENT_SECONDS and len(self._recent) > 2:
                self._recent.popleft()
        elif self._recent:
            self._speed = self.speed
            self._recent.clear()  # the next step comes late because of this event, not because it is slow

    @property
    def loss(self) -> Loss:
        """Returns the loss of the recent steps together; a single step is mostly noise."""
        return sum((each.loss for each in self._recent), Loss(0.0, 0))

    @property
    def speed(self) -> float:
        """Returns the characters per second over the recent steps, without evaluations; nan while unknown."""
        if len(self._recent) < 2 or self._recent[-1].seconds <= self._recent[0].seconds:
            return self._speed
        first, last = self._recent[0], self._recent[-1]
        return (last.characters - first.characters) / (last.seconds - first.seconds)

    @property
    def left(self) -> float:
        """Returns the seconds left, with evaluations; nan while unknown."""
        if not (self._first and self._recent):
            return self._expected
        first, last = self._first, self._recent[-1]
        share = last.progress - first.progress
        whole = (last.seconds - first.seconds) / share if share else self._expected
        rest = (1 - last.progress) * whole
        return max(rest, 0.0)  # in this order nan stays nan

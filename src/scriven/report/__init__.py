"""Turns events into text, lines of JSON and pictures.

A report is any object with `handle(event)` and `close()`. `consume` passes the events of a run through any number of
them.
"""

from __future__ import annotations

import contextlib
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from scriven.errors import Interrupted, ScrivenError, Stop
from scriven.events import Compared, Evaluated, Event, event_name
from scriven.loss import Loss
from scriven.settings import symbol_word

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories that show nothing, or command the terminal
JOINERS = "\u200c\u200d"  # two of these that are harmless: they shape Persian, Indic scripts and emoji


class Report(Protocol):
    """Anything that follows a run by its events."""

    def handle(self, event: Event) -> None:
        """Handles one event; events come in order of time. It may raise `Stop` to end the training."""

    def close(self) -> None:
        """Closes files and restores the terminal. It is called once, even if training ended in an error."""


def consume(
    events: Iterable[Event], reports: Sequence[Report], ask_to_stop: Callable[[], None] = lambda: None
) -> Iterator[Event]:
    """Yields every event after every report has handled it.

    If a report raises `Stop`, `ask_to_stop` is called, and the report follows the run to its end. Any other error of a
    report never stops the run: it is shown once on standard error, and the report gets no more events. Errors of
    `events` itself pass through, after the reports are closed.
    """
    alive = list(reports)
    try:
        for event in events:
            alive = [report for report in alive if _works(report, partial(report.handle, event), ask_to_stop)]
            yield event
    finally:
        for report in alive:
            _works(report, report.close, ask_to_stop)


def _works(report: Report, task: Callable[[], None], ask_to_stop: Callable[[], None]) -> bool:
    try:
        task()
    except Interrupted:  # not an error of the report, but a signal
        raise
    except Stop:
        ask_to_stop()
    except Exception as error:  # no error of a report may stop the training
        with contextlib.suppress(Exception):
            report.close()
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no standard error
            sys.stderr.write(f"note: {visible(_describe(report, error))}\n")
        return False
    return True


def _describe(report: Report, error: Exception) -> str:
    if isinstance(error, ScrivenError):
        return str(error)
    if isinstance(error, OSError):
        where = error.filename or type(report).__name__
        return f"{where} cannot be written to ({error.strerror or error}); training continues without it"
    return f"{type(report).__name__} stopped, training continues: {type(error).__name__}: {error}"


def as_dict(event: Event) -> dict[str, Any]:
    """Returns an event as plain values for JSON: its name under "event", its fields, and the means of its loss.

    The loss stays a sum ("loss": nats, characters, bytes). "nats_per_char", "bits_per_char" and, if bytes were counted,
    "bits_per_byte" are formed from it; for an evaluation of documents "nats_per_document" too. Numbers that JSON cannot
    write (nan, infinities) become None.
    """
    values: dict[str, Any] = {"event": event_name(event)}
    for name, value in vars(event).items():
        values[name] = _sums(value) if isinstance(value, Loss) else value
        if isinstance(value, Loss):
            values |= {"nats_per_char": value.nats_per_char, "bits_per_char": value.bits_per_char}
            values |= {"bits_per_byte": value.bits_per_byte} if value.bytes else {}
            values |= {"accuracy": value.accuracy} if value.judged else {}
            whole = value.ends and isinstance(event, Evaluated | Compared)  # a step may have only parts of documents
            values |= {"nats_per_document": value.nats_per_document} if whole else {}
    finite: dict[str, Any] = _finite(values)
    return finite


def _sums(loss: Loss) -> dict[str, Any]:
    """Returns a loss's sums; those of documents' ends and of right predictions only if there are any."""
    unused = (set() if loss.ends else {"ends", "end_nats"}) | (set() if loss.judged else {"right", "judged"})
    return {name: value for name, value in vars(loss).items() if name not in unused}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe_choices(nats_per_char: float, unit: str = "character") -> str:
    """Returns what a loss means: the number of equally likely characters, or tokens, to guess among."""
    symbols = f"{symbol_word(unit)}s"
    if not nats_per_char < math.log(sys.maxunicode + 1):
        return f"worse than guessing among all {'characters of Unicode' if symbols == 'characters' else symbols}"
    count = math.exp(nats_per_char)
    return f"like guessing among {count:.1f} {symbols}" if count < 10 else f"like guessing among {count:,.0f} {symbols}"


def visible(text: str) -> str:
    """Returns text that is safe to print: control, format and unassigned characters, except line ends, are escaped."""
    return "".join(c if _safe(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _safe(character: str) -> bool:
    return character in "\n" + JOINERS or unicodedata.category(character) not in HIDDEN

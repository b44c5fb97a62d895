"""Puts what happens in a training into words for a person."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from scriven.errors import describe_steps, format_bytes
from scriven.events import Compared, Evaluated, Finished, Started
from scriven.loss import Loss
from scriven.report import describe_choices
from scriven.settings import bits_unit, symbol_word

NETWORK_ALONE = "network alone"  # says that a loss is without the counts of the model
LEAST_READ = 0.005  # of the text, to be worth a word
SHORT_DOCUMENT = 200  # characters, on average: people want several at once


def introduction(event: Started) -> list[str]:
    """Says in a line which model learns from how much, and how long it will take."""
    validation = f" ({event.validation_characters:,} more for validation)" if event.validation_characters else ""
    size = f"{event.training_characters:,} {symbol_word(event.unit)}s{validation}"
    text = f"on {size}"
    if not event.parameters:
        return [f"Counting {size}, into {event.run}."]
    if event.step:
        done = percent(event.progress).strip()
        return [f"Resuming {event.run} from step {event.step:,}, {done} done: {event.name}, {text}{_time_left(event)}."]
    start = f", from {event.start}" if event.start else ""
    return [
        f"Training {event.name} ({event.parameters:,} parameters) {text}{_time_left(event)}{start}, into {event.run}."
    ]


def _time_left(event: Started) -> str:
    return f", for about {duration(event.expected_seconds)}" if math.isfinite(event.expected_seconds) else ""


def technical_words(event: Started) -> list[str]:
    """Says what computes, and how much."""
    if not event.parameters:
        return []
    workers = "1 worker" if event.workers == 1 else f"{event.workers} workers"
    epoch = f", {describe_steps(event.epoch_steps)} an epoch" if event.epoch_steps else ""
    memory = f"; {format_bytes(event.expected_bytes)} of memory" if event.expected_bytes else ""
    return [
        f"{event.device}, {event.precision}, {workers}, {event.characters_per_step:,} "
        f"{symbol_word(event.unit)}s a step{epoch}{memory}."
    ]


def speed_words(speed: float, started: Started | None) -> str:
    """Says how fast a training reads, in characters and operations per second, and what share of the peak that is.

    More than all of it means that other programs disturbed the measurement of the peak, so no share is said.
    """
    words = f"{speed:,.0f} {symbol_word(started.unit if started else '')}s/s"
    if started and (flops := speed * started.flops_per_character):
        words += f", {flops_words(flops)}"
        words += f" ({100 * flops / started.peak_flops:.0f} % of peak)" if flops <= started.peak_flops else ""
    return words


def flops_words(flops: float) -> str:
    """Returns floating-point operations per second in GFLOP/s or TFLOP/s (powers of ten)."""
    return f"{flops / 1e12:.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.1f} GFLOP/s"


def describe_passes(epochs: float) -> str:
    """Says how much of the text was read, or how often; "" if that is unknown or next to nothing."""
    if epochs < LEAST_READ:
        return ""
    if epochs < 1:
        return f"It has read {100 * epochs:.0f} % of your text."
    return f"It has read your text {epochs:.1f} times."


def next_commands(run: str, event: Finished) -> list[str]:
    """Returns commands to paste after training."""
    folder = shlex.quote(run)
    resume = [f"scriven train --resume -o {folder}"] if event.reason == "interrupted" else []
    loss = event.best
    more = " --count 20" if loss.ends and loss.characters < SHORT_DOCUMENT * loss.ends else ""
    return [
        *resume,
        f"scriven sample {folder}{more}",
        f"scriven score {folder} FILE",
        f"scriven serve {folder} --open",
    ]


def final_words(events: Sequence[Evaluated | Compared], unit: str = "character") -> list[str]:
    """Returns lines on the final losses by a protocol: of the model as it is used, then of its parts.

    There are none if only the counts were measured, and they are not the model.
    """
    by_model = {each.model if isinstance(each, Compared) else "network": each for each in events}
    used = next((model for model in ("mixture", "network") if model in by_model), None)
    if used is None:
        return []
    names = {"network": f"the {NETWORK_ALONE}", "counts": "counting alone"}
    parts = [
        f"{name}: {number(by_model[model].loss.bits_per_char)}" for model, name in names.items() if model in by_model
    ]
    if used == "network":
        parts = parts[1:]
    whole = f"  {means(by_model[used].loss, whole=True, unit=unit)} ({protocol_words(by_model[used], unit)})"
    return [whole, f"    {', '.join(parts)}"] if parts else [whole]


def protocol_words(event: Evaluated | Compared, unit: str = "character") -> str:
    """Says how the validation text was read, and how much of it."""
    symbol = symbol_word(unit)
    name, *rest = event.protocol.split(" ", 1)
    kind, _, length = name.partition("-")
    how = {
        "stream": "read once in order, remembering all before",
        "window": f"in windows of {length} {symbol}s, remembering nothing between them",
        "last": f"each {symbol} after the {length} before it, remembering nothing else",
        "documents": "each document alone",
    }
    return "; ".join([f"{name}: {how[kind]}", *rest, f"{event.loss.characters:,} {symbol}s"])


def means(loss: Loss, *, whole: bool = False, unit: str = "character") -> str:
    """Returns a loss in bits per character, or token, and per end of a document if any was counted.

    If `whole`, it has the bits per document too, and says what the loss means. If it was counted, it has the accuracy:
    how often the model's most likely character was the right one.
    """
    parts = []
    if loss.characters:
        parts.append(f"{number(loss.bits_per_char)} {bits_unit(unit)}")
    if loss.characters and whole:
        parts.append(describe_choices(loss.nats_per_char, unit))
    if loss.ends:
        parts.append(f"{number(loss.end_nats / loss.ends / math.log(2))} bits/end")
    if loss.ends and whole:
        parts.append(f"{number(loss.nats_per_document / math.log(2))} bits/document")
    if loss.judged:
        parts.append(f"{100 * loss.accuracy:.1f} % right")
    return ", ".join(parts) or "not known"


def number(value: float) -> str:
    """Returns a loss with four decimals, or in words if it is not finite."""
    return f"{value:.4f}" if math.isfinite(value) else "not a finite number"


def percent(progress: float) -> str:
    """Returns a fraction as whole percent, four columns wide; 100 % only when all is done."""
    return f"{math.floor(100 * progress):3d} %"


def duration(seconds: float) -> str:
    """Returns seconds in the one or two units that a person would name."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"

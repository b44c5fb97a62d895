"""`scriven runs`: lists the runs in a folder; and how a summary of a run is written for people."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence, Set
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scriven.cli.common import Json, Row, note, put_json, visible_line
from scriven.errors import InputError
from scriven.settings import bits_unit, symbol_word

if TYPE_CHECKING:
    from scriven.runs import Run
    from scriven.runs.summary import Summary

BARS = "▁▂▃▄▅▆▇█"
BARS_SHOWN = 40  # of a sparkline at most
SAMPLE_LINES, SAMPLE_WIDTH = 4, 100  # of a sample
TEXTS_SHOWN = 3
HEADS = ("run", "trained", "text", "symbols", "model", "bits/symbol", "minutes")
NUMBERS = {HEADS.index(name) for name in ("symbols", "bits/symbol", "minutes")}


def runs(
    folder: Annotated[Path, Parameter(help="folder with runs")] = Path("runs"),
    /,
    *,
    as_json: Json = False,
) -> None:
    """List the runs in a folder, the newest first: when each was trained, its text, model, loss and minutes.

    The loss is measured on validation text, in bits per character or token, with the model as it is used. With a *, it
    is that of the network alone, as its mixture with the counts was not measured (yet). Minutes with a + are those
    until the last evaluation of a training that has not come to its end.
    """
    from scriven.runs.summary import list_runs

    found = list_runs(folder)
    if not found and not as_json:
        note(f"there are no runs in {folder}; scriven train book.txt --minutes 5 makes one")
        return
    table, units = [], set[str]()
    for path in found:
        try:
            row = _facts(path)
        except InputError as error:
            row = {"run": str(path), "damaged": str(error)}
        if as_json:
            put_json(row)
        table.append(_cells(path, row))
        units |= {row["unit"]} if "unit" in row else set()
    if not as_json:
        _put_table([choose_heads(units), *table])
        _explain_marks({cell[-1:] for cells in table if len(cells) == len(HEADS) for cell in cells[-2:]})


def _explain_marks(marks: Set[str]) -> None:
    """Prints a note on each mark that stands behind losses or minutes."""
    if "*" in marks:
        note("* is the loss of the network alone; scriven evaluate RUN measures it mixed with the counts")
    if "+" in marks:
        note("+ means that the training is still running, or was stopped")


def choose_heads(units: Set[str]) -> Sequence[str]:
    """Returns the heads of a list of runs that read these units; where some are tokens, all of them are symbols."""
    if len({symbol_word(unit) for unit in units}) > 1:
        return HEADS
    unit = min(units, default="character")
    named = {"symbols": f"{symbol_word(unit)}s", "bits/symbol": bits_unit(unit)}
    return [named.get(head, head) for head in HEADS]


def _facts(path: Path) -> Row:
    """Returns what is listed of a run, for JSON. Raises InputError if it is damaged."""
    from scriven.runs import open_run
    from scriven.runs.summary import summarize

    run = open_run(path)
    summary = summarize(run)
    return {
        "run": str(path),
        "trained": summary.trained and datetime.fromtimestamp(summary.trained).astimezone().isoformat("T", "seconds"),
        "texts": list(run.origin.get("texts", [])),
        "characters": summary.training_characters + summary.validation_characters,
        "unit": run.vocabulary.unit,
        "model": run.settings.model.name,
        "parameters": summary.parameters,
        **loss_facts(summary),
        "minutes": None if summary.seconds is None else summary.seconds / 60,
        "ended": summary.reason or None,
    }


def loss_facts(summary: Summary) -> Row:
    """Returns the loss of the kept model, for JSON, and whether it is of the network alone."""
    loss = summary.loss
    return {
        "bits_per_char": loss.bits_per_char if loss else None,
        "nats_per_char": loss.nats_per_char if loss else None,
        "network_alone": summary.network_alone,
    }


def _cells(path: Path, row: Row) -> Sequence[str]:
    """Returns the cells of a run's line."""
    if "damaged" in row:
        return (path.name, row["damaged"])
    minutes, bits = row["minutes"], row["bits_per_char"]
    return (
        path.name,
        (row["trained"] or "")[:16].replace("T", " "),
        name_texts(row["texts"]),
        f"{row['characters']:,}",
        row["model"],
        f"{bits:.3f}{'*' if row['network_alone'] else ''}" if bits is not None else "",
        f"{minutes:,.1f}{'' if row['ended'] else '+'}" if minutes is not None else "",
    )


def _put_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows with columns as wide as their longest cell; a row with fewer cells ends with a sentence."""
    shown = [[visible_line(cell) for cell in row] for row in rows]
    whole = [row for row in shown if len(row) == len(HEADS)]
    widths = [max(len(row[column]) for row in whole) for column in range(len(HEADS))]
    for row in shown:
        right = NUMBERS if len(row) > 2 else set()
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        sys.stdout.write("  ".join(cells if len(row) > 2 else [cells[0], row[1]]).rstrip() + "\n")


# --- a summary in words


def summary_words(run: Run, summary: Summary) -> dict[str, Any]:
    """Returns what a person asks about a run, by name; a list has several lines."""
    from scriven.corpus.inputs import amount
    from scriven.report import describe_choices
    from scriven.report.words import NETWORK_ALONE, duration

    unit = run.vocabulary.unit
    size = f": {summary.training_characters:,} {symbol_word(unit)}s" if summary.training_characters else ""
    size += f", and {summary.validation_characters:,} for validation" if summary.validation_characters else ""
    words: dict[str, Any] = {"text": name_texts(run.origin.get("texts", [])) + size}
    size = f", {summary.parameters:,} parameters" if summary.parameters else ""
    words["model"] = f"{run.settings.model.name}{size}" + (", mixed with counts of the text" if summary.mixed else "")
    if loss := summary.loss:
        right = (
            f"; its likeliest {symbol_word(unit)} is right {100 * loss.accuracy:.0f} % of the time"
            if loss.judged
            else ""
        )
        alone = f" ({NETWORK_ALONE})" * summary.network_alone
        words["loss"] = (
            f"{loss.bits_per_char:.3f} {bits_unit(unit)}, {describe_choices(loss.nats_per_char, unit)}{right}{alone}"
        )
    if len(summary.losses) > 1:
        first, last = (value / math.log(2) for value in (summary.losses[0], summary.losses[-1]))
        alone = f", of the {NETWORK_ALONE}" * summary.counted
        words["losses"] = f"{draw_sparkline(summary.losses)}  from {first:.3f} to {last:.3f}{alone}"
    if summary.trained:
        ended = {"budget": "", "interrupted": ", then stopped", "": ", without an end so far"}.get(summary.reason, "")
        took = f", {duration(summary.seconds)}{ended}" if summary.seconds else ""
        words["trained"] = f"{datetime.fromtimestamp(summary.trained):%Y-%m-%d %H:%M}{took}"
    if summary.damaged:
        words["log"] = f"{amount(summary.damaged, 'line', 'lines')} damaged, so more may be missing here"
    if lines := [line.strip() for line in summary.sample.splitlines() if line.strip()]:
        words["sample"] = [line[:SAMPLE_WIDTH] for line in lines[:SAMPLE_LINES]]
    return words


def name_texts(texts: Sequence[str]) -> str:
    """Returns the names of a run's texts, without their folders."""
    names = [Path(text).name or text for text in texts]
    more = f" and {len(names) - TEXTS_SHOWN:,} more" if len(names) > TEXTS_SHOWN else ""
    return ", ".join(names[:TEXTS_SHOWN]) + more


def draw_sparkline(values: Sequence[float]) -> str:
    """Returns bars for the finite values, from the lowest to the highest; of many, those at even distances."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) > BARS_SHOWN:
        values = [values[round(place * (len(values) - 1) / (BARS_SHOWN - 1))] for place in range(BARS_SHOWN)]
    if not values:
        return ""
    low, span = min(values), max(values) / 2 - min(values) / 2  # halves, which no number overflows
    shares = [(value / 2 - low / 2) / span if span else 0.0 for value in values]
    return "".join(BARS[round((len(BARS) - 1) * share)] for share in shares)

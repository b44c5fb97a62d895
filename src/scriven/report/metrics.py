"""The losses of a run as a table, which pandas and polars take: a list of values for each column.

Files of a run may come from strangers. A value of another type counts as not measured.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scriven.runs.journal import METRICS_FILE, number_in, read_lines

OF_STEPS = {  # columns, and what the log calls them
    "step": "step",
    "epochs": "epochs",
    "characters": "characters",
    "seconds": "seconds",
    "learning_rate": "learning_rate",
    "gradient_norm": "gradient_norm",
    "training_bits_per_char": "bits_per_char",
}
OF_EVALUATIONS = {"validation_bits_per_char": "bits_per_char", "validation_accuracy": "accuracy"}
COUNTED = "counted_characters"
ROWS_SHOWN = 4  # at the beginning and at the end of a table


class Metrics(dict[str, list[Any]]):
    """The losses of a run: columns by name, with one value per row. None stands where nothing was measured.

    A row is a training step; late in a long run, it covers several steps. `step`, `epochs`, `characters` and `seconds`
    count from the start of the run. `training_bits_per_char` is a mean over `counted_characters`.
    `validation_bits_per_char` and `validation_accuracy` have values in the rows of evaluations. If `network_alone`, the
    run counts its text too, and all losses are those of the network without these counts.

    `name` and `model` describe the run. `epoch` is the number of its training characters. `unit` is what its model
    reads at each step; if that is the token, "characters" are tokens here.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__({column: [] for column in (*OF_STEPS, COUNTED, *OF_EVALUATIONS)})
        self.name, self.model, self.epoch, self.network_alone = name, "", 0, False
        self.unit = "character"

    def __repr__(self) -> str:
        """The number of rows, and the columns."""
        alone = ", of the network alone" * self.network_alone
        return f"Metrics({self.name!r}, {self.rows:,} rows of {', '.join(self)}{alone})"

    def _repr_html_(self) -> str:
        """The first and the last rows, for a notebook."""
        shown = [number for number in range(self.rows) if not ROWS_SHOWN <= number < self.rows - ROWS_SHOWN]
        head = "".join(f"<th>{column}</th>" for column in self)
        lines = [_line(column[number] for column in self.values()) for number in shown]
        if len(shown) < self.rows:
            lines.insert(
                ROWS_SHOWN, f'<tr><td colspan="{len(self)}">... {self.rows - len(shown):,} rows more</td></tr>'
            )
        return f"<table><tr>{head}</tr>{''.join(lines)}</table>"

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self["step"])

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record of the log, if it has a loss that belongs in the table."""
        event = record.get("event")
        if event == "started":
            self.model = f"{record.get('name')}, {number_in(record, 'parameters') or 0:,} parameters"
            self.epoch = int(number_in(record, "training_characters") or 0)
            self.network_alone = record.get("counts") is True
            self.unit = str(record.get("unit", "character"))
        elif event == "stepped":
            loss = record.get("loss")
            counted = number_in(loss, "characters") if isinstance(loss, dict) else None
            self._append(_values(record, OF_STEPS) | {COUNTED: counted})
        elif event == "evaluated" and not record.get("final"):
            if not self.rows:  # it was before the first step
                self._append(dict.fromkeys(["step", "epochs", "characters"], 0))
            for column, value in _values(record, OF_EVALUATIONS).items():
                self[column][-1] = value

    def _append(self, row: dict[str, Any]) -> None:
        for column, values in self.items():
            values.append(row.get(column))


def read_metrics(run: Path) -> Metrics:
    """Returns the losses of the run in a folder. They have no rows if nothing was trained.

    Raises InputError if they cannot be read.
    """
    metrics = Metrics(run.name)
    for record in read_lines(run / METRICS_FILE):
        metrics.add(record)
    return metrics


def _values(record: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    return {column: number_in(record, name) for column, name in columns.items()}


def _line(values: Iterator[Any]) -> str:
    cells = ("" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" for value in values)
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"

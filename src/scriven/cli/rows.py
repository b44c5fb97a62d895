"""Results as rows of names and values, on standard output: as words, as lines of JSON, or as TSV."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Literal

Row = dict[str, Any]
Form = Literal["words", "json", "tsv"]


def show(rows: Iterable[Row], form: Form) -> int:
    """Print the rows as they come; how many there were."""
    encode = json.JSONEncoder(allow_nan=False).encode  # made once: it costs as much as a row
    count = 0
    for count, row in enumerate(rows, 1):
        if form == "tsv":
            head = "\t".join(row) + "\n" if count == 1 else ""
            sys.stdout.write(head + "\t".join(map(_cell, row.values())) + "\n")
        else:
            sys.stdout.write(encode(row) + "\n" if form == "json" else _words(row))
    return count


def _cell(value: Any) -> str:
    """A value in a table: numbers with six decimals, and what would break a row or a terminal escaped."""
    if isinstance(value, str):
        return value if value.isprintable() and value != "\\" else value.encode("unicode_escape").decode("ascii")
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _words(row: Row) -> str:
    """One value a line, after its name; of a list one item a line."""
    lines = []
    for name, value in row.items():
        for item in value if isinstance(value, list) else [value]:
            shown = f"{item:,.4f}" if isinstance(item, float) else f"{item:,}" if isinstance(item, int) else str(item)
            lines.append(f"{name.replace('_per_', '/').replace('_', ' '):18}{shown}\n")
    return "".join(lines)

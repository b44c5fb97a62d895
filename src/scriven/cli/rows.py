"""What a command tells: results as rows on standard output (words, lines of JSON, or TSV), notes on standard error.

File names, texts and settings may be anybody's. Nothing in them that is shown to a person commands the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Literal

from scriven import strict_json

Row = dict[str, Any]
Form = Literal["words", "json", "tsv"]


class Verbatim(str):
    """Text that a table prints as it is: it needs no escapes, or is made of them."""

    __slots__ = ()


def show(rows: Iterable[Row], form: Form) -> int:
    """Prints the rows as they come, and returns how many there were."""
    count = 0
    for count, row in enumerate(rows, 1):
        if form == "tsv":
            head = "\t".join(row) + "\n" if count == 1 else ""
            sys.stdout.write(head + "\t".join(map(_cell, row.values())) + "\n")
        elif form == "json":
            put_json(row)
        else:
            sys.stdout.write(("\n" if count > 1 else "") + _words(row))
    return count


def put_json(row: Row) -> None:
    """Prints a row as a line of JSON."""
    sys.stdout.write(strict_json.write(row) + "\n")


def put_path(path: object) -> None:
    """Prints a path: as it is for a program, visibly on a terminal."""
    sys.stdout.write((visible_line(path) if sys.stdout.isatty() else str(path)) + "\n")


def note(text: str) -> None:
    """Says on standard error what a person should know."""
    sys.stderr.write(f"note: {visible_line(text)}\n")


def visible_line(value: object) -> str:
    """A value as one line of text that is safe to print."""
    from scriven.report import visible

    return visible(str(value)).replace("\n", "\\n")


def _cell(value: Any) -> str:
    r"""A value in a table: numbers with six decimals, nothing for None.

    In text a backslash is written as `\\`, and what would break a row or a terminal as `\t`, `\n`, `\x1b`, `\u200b`.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if isinstance(value, Verbatim):
            return value
        return value if value.isprintable() and "\\" not in value else "".join(map(_escaped, value))
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _escaped(character: str) -> str:
    plain = character.isprintable() and character != "\\"
    return character if plain else character.encode("unicode_escape").decode("ascii")


def _words(row: Row) -> str:
    """One value a line, after its name; of a list one item a line."""
    lines = []
    for name, value in row.items():
        for item in value if isinstance(value, list) else [value]:
            shown = f"{item:,.4f}" if isinstance(item, float) else f"{item:,}" if isinstance(item, int) else item
            lines.append(f"{visible_line(name.replace('_per_', '/').replace('_', ' ')):18}{visible_line(shown)}\n")
    return "".join(lines)

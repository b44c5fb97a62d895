"""Notices texts that have structure (tables, JSON, HTML, mail) but are read as plain text, and finds values in rows."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator

from scriven.corpus.sources import DELIMITED_TABLES, LINE_TABLES, RECORD_TABLES, TextSource

NAMES_SHOWN = 8


class Bad(str):
    """The reason why a row has no value, in place of the value."""


def values_at(row: object, column: str) -> Iterator[object]:
    """The values of a row in a column; a `Bad` if it has none.

    If no field has the column's name, the name is a path: `a.b` is the field b of the object in a, or of each object in
    the list in a.
    """
    if isinstance(row, dict):
        if column in row:
            yield join_text(row[column])
            return
        for field, rest in split_path(column):
            if field in row:
                inner = row[field]
                for each in inner if isinstance(inner, list) else [inner]:
                    yield from values_at(each, rest)
                return
        names = [name for field, value in row.items() for name in column_names(field, value)]
        yield missing_column(column, names)
    else:
        yield Bad(f"has no column {column!r}, but {abbreviate(row)}")


def split_path(column: str) -> Iterator[tuple[str, str]]:
    """Splits a path into a field and the rest at each of its dots, as a field's name may have dots in it."""
    parts = column.split(".")
    for place in range(1, len(parts)):
        yield ".".join(parts[:place]), ".".join(parts[place:])


def missing_column(column: str, names: list[str]) -> Bad:
    """The reason that a row has no such column; `names` are the columns that it has."""
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return Bad(f"has no column {column!r}, but {', '.join(names[:NAMES_SHOWN]) or 'nothing'}{more}")


def column_names(field: str, value: object) -> list[str]:
    """The columns of a field: the paths into its object, or into the first object of its list; else its own name."""
    first = value[0] if isinstance(value, list) and value else value
    return [f"{field}.{name}" for name in first] if isinstance(first, dict) and first else [field]


def join_text(value: object) -> object:
    """Joins a text that comes as a list; returns any other value as it is.

    Notebooks have lists of lines, each with its line feed but for the last. Telegram has lists of texts and of objects
    with a text.
    """
    if not isinstance(value, list):
        return value
    texts = [part.get("text") if isinstance(part, dict) else part for part in value]
    whole = [text for text in texts if isinstance(text, str)]
    is_text = any(isinstance(part, dict) for part in value) or all(text.endswith("\n") for text in whole[:-1])
    return "".join(whole) if is_text and len(whole) == len(value) else value


def abbreviate(value: object) -> str:
    """A value as it is shown in a message, at most 40 characters."""
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


SAMPLE_CHARACTERS = 1 << 13  # looked at, at the beginning of a text
_HTML = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype html|<html)", re.I | re.S)
_MAIL = re.compile(
    r"From \S+.*\n(?:[A-Za-z-]+:.*\n|[ \t].*\n)*?(From|Subject|Date|Received|Return-Path|Message-ID):", re.I
)
_LISTS = re.compile(r'"(\w+)"\s*:\s*\[\s*\{')
_FIELD = re.compile(r'"(text|content|body|message)"\s*:')


def note_structure(pieces: Iterable[str], source: TextSource, report: Callable[[str], None]) -> Iterator[str]:
    """Passes the pieces of a source on. Calls `report` once with the note on its structure, which may be empty."""
    begun, is_reported = "", False
    for piece in pieces:
        if not is_reported:
            begun += piece[:SAMPLE_CHARACTERS]
            is_reported = len(begun) >= SAMPLE_CHARACTERS
            if is_reported:
                report(structure_note(source, begun))
        yield piece
    if not is_reported:
        report(structure_note(source, begun))


def structure_note(source: TextSource, begun: str) -> str:
    """A note on the structure of a text with this beginning, and the flag that reads it; empty if it has none."""
    suffix, text = source.suffixes[0], begun.lstrip()
    if suffix in DELIMITED_TABLES:
        return _note(source, f"is a {suffix[1:].upper()} table", _column(_header(text, suffix)))
    if suffix == ".ipynb" or ('"cell_type"' in text and text.startswith("{")):
        return _note(source, "is a notebook", _column(["cells.source"], _rename(source, RECORD_TABLES, ".ipynb")))
    if text.startswith(("{", "[")):
        return _json_note(source, text)
    if _HTML.match(text):
        return _note(source, "is HTML", "convert it to text, as with pandoc -t plain")
    if _MAIL.match(text):
        return _note(
            source, "is a mailbox (mbox)", "write the bodies of its messages to files, as with Python's mailbox"
        )
    return ""


def _json_note(source: TextSource, text: str) -> str:
    """The note on a text that begins like JSON; empty if it only begins with a bracket."""
    row, end = _value(text)
    is_list = text.startswith("[") and text[1:].lstrip().startswith("{")
    if isinstance(row, dict) and (source.suffixes[0] in LINE_TABLES or text[end:].lstrip().startswith("{")):
        names = [name for field, value in row.items() for name in column_names(field, value)]
        return _note(source, "is JSON lines", _column(names, _rename(source, (*LINE_TABLES, *RECORD_TABLES), ".jsonl")))
    if row is None and is_list:
        row, _ = _value(text[1:].lstrip())
    elif isinstance(row, list) and row:
        row = row[0]
    rename = _rename(source, RECORD_TABLES, ".json")
    if isinstance(row, dict) and row:
        names = [name for field, value in row.items() for name in column_names(field, value)]
        return _note(source, "is JSON", _column(names, rename))
    if (listed := _LISTS.search(text)) and (field := _FIELD.search(text, listed.end())):
        return _note(source, "is JSON", _column([f"{listed[1]}.{field[1]}"], rename))
    return _note(source, "is JSON", _column([], rename)) if source.suffixes[0] in RECORD_TABLES else ""


def _value(text: str) -> tuple[object, int]:
    """The JSON value that a text begins with, and the place of its end; None and 0 if it is cut off or not JSON."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0


def _header(text: str, suffix: str) -> list[str]:
    """The names of a table's columns."""
    line = text.splitlines()[0] if text else ""
    try:
        rows = [next(csv.reader([line], delimiter=each), []) for each in ("\t" if suffix == ".tsv" else ",;\t|")]
    except csv.Error:
        return []
    return max(rows, key=len)


def _rename(source: TextSource, suffixes: tuple[str, ...], suffix: str) -> str:
    """The beginning of an advice: to rename the file first, if its suffix is not one of `suffixes`."""
    return "" if source.path is None or source.suffixes[0] in suffixes else f"rename it to something{suffix}, and "


def _column(names: list[str], first: str = "") -> str:
    """The advice to read a column; it names the column if there is only one."""
    if len(names) == 1:
        return f"{first}--corpus.column {names[0]} reads the text in it"
    which = f": {', '.join(names[:NAMES_SHOWN])}{', ...' if len(names) > NAMES_SHOWN else ''}" if names else ""
    return f"{first}--corpus.column NAME reads one column of it{which}"


def _note(source: TextSource, what: str, way_out: str) -> str:
    return f"{source.name} {what}, but is read as plain text, markup included; {way_out}"

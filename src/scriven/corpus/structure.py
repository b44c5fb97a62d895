"""What a text is that is read as it is though there is structure in it, as its beginning shows; and what to do."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator

from scriven.corpus.sources import DELIMITED_TABLES, LINE_TABLES, RECORD_TABLES, TextSource

LONGEST = 1 << 26  # characters of a row: a file without ends of rows is not read into memory whole
NAMES_SHOWN = 8


class Bad(str):
    """What is wrong with a row that has no value."""


def values_at(row: object, column: str) -> Iterator[object]:
    """The values of a row in a column, `Bad` where there is none.

    A column that no field is named as is a path: `a.b` is the field b of a's object, or of each object in a's list.
    """
    if isinstance(row, dict):
        if column in row:
            yield join_text(row[column])
            return
        for field, rest in paths(column):
            if field in row:
                inner = row[field]
                for each in inner if isinstance(inner, list) else [inner]:
                    yield from values_at(each, rest)
                return
        names = [name for field, value in row.items() for name in paths_in(field, value)]
        yield no_column(column, names)
    else:
        yield Bad(f"has no column {column!r}, but {short(row)}")


def paths(column: str) -> Iterator[tuple[str, str]]:
    """A path as a field and the rest of the path, in all ways: a field's name may have dots in it."""
    parts = column.split(".")
    for place in range(1, len(parts)):
        yield ".".join(parts[:place]), ".".join(parts[place:])


def no_column(column: str, names: list[str]) -> Bad:
    """What is wrong with a row that has no such column, but others."""
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return Bad(f"has no column {column!r}, but {', '.join(names[:NAMES_SHOWN]) or 'nothing'}{more}")


def paths_in(field: str, value: object) -> list[str]:
    """The columns that a field is or has: those of its object, or of the first object in its list."""
    first = value[0] if isinstance(value, list) and value else value
    return [f"{field}.{name}" for name in first] if isinstance(first, dict) and first else [field]


def join_text(value: object) -> object:
    """A text that comes as a list, as one text; any other value as it is.

    Notebooks have lists of lines, each but the last with its line feed; Telegram has lists of texts and of objects that
    have one.
    """
    if not isinstance(value, list):
        return value
    texts = [part.get("text") if isinstance(part, dict) else part for part in value]
    whole = [text for text in texts if isinstance(text, str)]
    is_text = any(isinstance(part, dict) for part in value) or all(text.endswith("\n") for text in whole[:-1])
    return "".join(whole) if is_text and len(whole) == len(value) else value


def short(value: object) -> str:
    """A value as it is shown in a sentence."""
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


LOOKED_AT = 1 << 13  # characters at the beginning of a text
_HTML = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype html|<html)", re.I | re.S)
_MAIL = re.compile(
    r"From \S+.*\n(?:[A-Za-z-]+:.*\n|[ \t].*\n)*?(From|Subject|Date|Received|Return-Path|Message-ID):", re.I
)
_LISTS = re.compile(r'"(\w+)"\s*:\s*\[\s*\{')
_FIELD = re.compile(r'"(text|content|body|message)"\s*:')


def note_structure(pieces: Iterable[str], source: TextSource, tell: Callable[[str], None]) -> Iterator[str]:
    """The pieces of a source; `tell` is told, once its beginning has passed, what structure it has, if any."""
    begun, is_told = "", False
    for piece in pieces:
        if not is_told:
            begun += piece[:LOOKED_AT]
            is_told = len(begun) >= LOOKED_AT
            if is_told:
                tell(structure_note(source, begun))
        yield piece
    if not is_told:
        tell(structure_note(source, begun))


def structure_note(source: TextSource, begun: str) -> str:
    """A sentence on the structure of a text that begins so, with the flag that reads what is in it; or nothing."""
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
    """The note on what begins as JSON does; none where it is only a text that begins with a bracket."""
    row, end = _value(text)
    is_list = text.startswith("[") and text[1:].lstrip().startswith("{")
    if isinstance(row, dict) and (source.suffixes[0] in LINE_TABLES or text[end:].lstrip().startswith("{")):
        names = [name for field, value in row.items() for name in paths_in(field, value)]
        return _note(source, "is JSON lines", _column(names, _rename(source, (*LINE_TABLES, *RECORD_TABLES), ".jsonl")))
    if row is None and is_list:
        row, _ = _value(text[1:].lstrip())
    elif isinstance(row, list) and row:
        row = row[0]
    rename = _rename(source, RECORD_TABLES, ".json")
    if isinstance(row, dict) and row:
        names = [name for field, value in row.items() for name in paths_in(field, value)]
        return _note(source, "is JSON", _column(names, rename))
    if (listed := _LISTS.search(text)) and (field := _FIELD.search(text, listed.end())):
        return _note(source, "is JSON", _column([f"{listed[1]}.{field[1]}"], rename))
    return _note(source, "is JSON", _column([], rename)) if source.suffixes[0] in RECORD_TABLES else ""


def _value(text: str) -> tuple[object, int]:
    """The JSON value that a text begins with, and where it ends; none where it is cut or is no JSON."""
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
    """What to do first, so that a column can be read."""
    return "" if source.path is None or source.suffixes[0] in suffixes else f"name it something{suffix}, and "


def _column(names: list[str], first: str = "") -> str:
    """The flag that reads a column; the only name there is, or else a choice."""
    if len(names) == 1:
        return f"{first}--corpus.column {names[0]} reads the text in it"
    which = f": {', '.join(names[:NAMES_SHOWN])}{', ...' if len(names) > NAMES_SHOWN else ''}" if names else ""
    return f"{first}--corpus.column NAME reads one column of it{which}"


def _note(source: TextSource, what: str, way_out: str) -> str:
    return f"{source.name} {what}, and is read as it is, with all that is not text; {way_out}"

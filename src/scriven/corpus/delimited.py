"""CSV and TSV files as rows, in bounded memory: the first row names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import suppress

from scriven.corpus import row_values
from scriven.corpus.line_ends import lines_of
from scriven.corpus.row_values import Bad, no_column
from scriven.errors import InputError

LONGEST_FIELD = 1 << 24  # characters: a quote that is not closed does not take the memory for all that follows
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}


def delimited_rows(pieces: Iterable[str], name: str, suffix: str, column: str) -> Iterator[tuple[int, object]]:
    """Line and value of each row of a CSV or TSV file, by its suffix; a value is `Bad` where a row is not as the first.

    What is between two columns in a .csv is the first of , ; tab | that makes the first row have the column.
    Raises InputError where it has no such column, or its quotes are not closed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))  # of the process, and so never lowered
    lines = lines_of(pieces, row_values.LONGEST, name, "CSV")
    first = next((line for line in lines if line.strip()), "")
    delimiter, names = _header(first, name, suffix, column)
    place, columns = names.index(column), len(names)
    for number, fields in _records(lines, name, delimiter):
        if not fields:
            continue
        is_whole = len(fields) == columns
        yield number, fields[place] if is_whole else Bad(f"has {len(fields)} columns, and the first row {columns}")


def _header(line: str, name: str, suffix: str, column: str) -> tuple[str, list[str]]:
    """What is between columns, and their names."""
    found = list[list[str]]()
    for delimiter in DELIMITERS[suffix]:
        with suppress(csv.Error):  # as quotes of another way to delimit are
            names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
            found.append([field.strip() for field in names])
            if column in found[-1]:
                if found[-1].count(column) > 1:
                    raise InputError(f"{name} has the column {column!r} twice; rename one")
                return delimiter, found[-1]
    others = max(found, key=len, default=[])
    raise InputError(
        f"{name} {no_column(column, others)}; name one of these with --corpus.column (the first row has them)"
    )


def _records(lines: Iterable[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins at, and its fields; the first line was the header."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 2
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = {"unexpected end of data": "a quote is opened and never closed"}.get(str(error), str(error))
            if "field limit" in why:
                why = f"a field has over {LONGEST_FIELD:,} characters; is a quote opened and never closed?"
            raise InputError(
                f"{name}, in the row at line {number:,}: {why}; mend it (a quote within quotes is written twice)"
            ) from None
        yield number, fields

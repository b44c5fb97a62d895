"""Prints tables whose columns come in parts: with tabs, as CSV, as JSON lines or as Parquet; sorted if wanted."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from scriven.cli.common import put_json
from scriven.errors import InputError, UsageError, close_names, did_you_mean

Columns = dict[str, list[Any]]
TableForm = Literal["tsv", "csv", "json", "parquet"]
ALL = "all"
HELD = 1 << 14  # rows of a table that are held at most, besides the best ones, before they are sorted


class Verbatim(str):
    """Text that a table prints unchanged, since it is escaped already."""

    __slots__ = ()


def choose_columns(
    asked: str, known: Sequence[str], usual: Sequence[str], further: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the names of the columns in a list with commas; the usual ones for an empty list, the known ones for all.

    The `further` ones are there if they are named. Raises UsageError for another name, or one that is given twice.
    """
    if asked in {"", ALL}:
        return tuple(known if asked else usual)
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        check_column("--columns", name, (*known, *further))
    if len(set(names)) < len(names):
        raise UsageError(f"--columns {asked} names a column twice; name each once")
    return tuple(names)


def check_column(flag: str, name: str, known: Sequence[str]) -> None:
    """Raises UsageError unless a table can have a column of this name."""
    if name not in known:
        meant = did_you_mean(close_names(name, known))
        raise UsageError(f"{flag} {name}: there is no such column here; columns are {', '.join(known)}{meant}")


def sort_tables(tables: Iterable[Columns], column: str, top: int | None) -> Iterator[Columns]:
    """Yields the rows sorted by a column: numbers from the largest down, texts by their characters.

    A minus sign before the column's name turns the order around. Rows without a number come last. With `top`, only the
    first rows are kept, so that memory is constant.
    """
    name, upwards = column.removeprefix("-"), column.startswith("-")
    held: Columns = {}
    for table in tables:
        for key, values in table.items():
            held.setdefault(key, []).extend(values)
        if top is not None and len(held[name]) > top + HELD:
            held = _sort_rows(held, name, top, upwards=upwards)
    if held:
        yield _sort_rows(held, name, top, upwards=upwards)


def _sort_rows(table: Columns, name: str, top: int | None, *, upwards: bool) -> Columns:
    column = table[name]
    is_text = any(isinstance(value, str) for value in column)
    rows = [row for row, value in enumerate(column) if value is not None]
    rows.sort(key=column.__getitem__, reverse=upwards if is_text else not upwards)
    rows += [row for row, value in enumerate(column) if value is None]
    return {key: [values[row] for row in rows[:top]] for key, values in table.items()}


def keep_above(tables: Iterable[Columns], column: str, least: float) -> Iterator[Columns]:
    """Yields the rows whose number in a column is above `least`, in tables that are not empty."""
    for table in tables:
        rows = [row for row, value in enumerate(table[column]) if value is not None and value > least]
        if rows:
            yield {name: [values[row] for row in rows] for name, values in table.items()}


def gather_tables(tables: Iterable[Columns], rows: int = 1024) -> Iterator[Columns]:
    """Yields the same rows in tables of at least `rows` rows; only the last may have fewer."""
    held: Columns = {}
    for table in tables:
        for name, values in table.items():
            held.setdefault(name, []).extend(values)
        if len(next(iter(held.values()))) >= rows:
            yield held
            held = {}
    if held:
        yield held


def keep_columns(tables: Iterable[Columns], names: Sequence[str]) -> Iterator[Columns]:
    """Yields tables with only these columns, in this order."""
    return ({name: table[name] for name in names} for table in tables)


def write_tables(tables: Iterable[Columns], form: TableForm, *, flush: bool = False) -> None:
    """Prints the rows of tables that have the same columns. With `flush`, each table is seen before the next is made.

    Raises InputError for Parquet if pyarrow is not installed, UsageError if a terminal would get it.
    """
    write = _WRITERS[form]
    for number, table in enumerate(write(tables)):
        if flush or not number:
            sys.stdout.flush()
        del table


def _write_tsv(tables: Iterable[Columns]) -> Iterator[None]:
    for number, table in enumerate(tables):
        head = "" if number else "\t".join(table) + "\n"
        forms, columns = zip(*map(_format_column, table.values()), strict=True)
        row = "\t".join(forms) + "\n"
        sys.stdout.write(head + "".join(map(row.__mod__, zip(*columns, strict=True))))
        yield


def _format_column(column: list[Any]) -> tuple[str, Iterable[Any]]:
    """Returns how the cells of a column are formatted, and what is: of columns of one kind, the values themselves."""
    kinds = set(map(type, column))
    if kinds == {float}:
        return "%.6f", column
    if kinds == {int}:
        return "%d", column
    is_plain = kinds == {str} and _is_plain("".join(column))
    return "%s", column if is_plain else map(cell, column)


def _write_csv(tables: Iterable[Columns]) -> Iterator[None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, table in enumerate(tables):
        if not number:
            writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
        yield


def _write_json(tables: Iterable[Columns]) -> Iterator[None]:
    for table in tables:
        for row in zip(*table.values(), strict=True):
            put_json(dict(zip(table, row, strict=True)))
        yield


def _write_parquet(tables: Iterable[Columns]) -> Iterator[None]:
    import pyarrow
    from pyarrow import parquet

    writer = None
    for table in tables:
        shown = {name: [_whole(value) for value in column] for name, column in table.items()}
        made = pyarrow.table(shown, schema=writer.schema if writer else None)
        if writer is None:
            made = made.cast(pyarrow.schema([each.with_type(_value_type(each.type)) for each in made.schema]))
            writer = parquet.ParquetWriter(sys.stdout.buffer, made.schema)
        writer.write_table(made)
        yield
    if writer is not None:
        writer.close()


def _value_type(kind: Any) -> Any:
    """Returns the type of a Parquet column, found in its first rows: one without a value yet has means."""
    import pyarrow

    return pyarrow.float64() if pyarrow.types.is_null(kind) else kind


def _whole(value: Any) -> Any:
    """Returns a value for Parquet, whose texts are UTF-8: a lone surrogate becomes U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


def check_parquet() -> None:
    """Raises InputError if pyarrow is not installed, UsageError if a terminal would get the file."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError("pyarrow is not installed; to write Parquet, pip install 'scriven[data]'") from None
    if sys.stdout.isatty():
        raise UsageError("--parquet writes a binary file to standard output; send it to a file, as in > words.parquet")


_WRITERS: dict[TableForm, Callable[[Iterable[Columns]], Iterator[None]]] = {
    "tsv": _write_tsv,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}


def cell(value: Any) -> str:
    r"""Returns a value as a cell of a table with tabs: numbers with six decimals, an empty cell for None.

    In text a backslash becomes `\\`. Characters that would break a row or a terminal become `\t`, `\x1b`, `\u200b`.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if isinstance(value, Verbatim):
            return value
        return value if _is_plain(value) else "".join(map(_escape, value))
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _is_plain(text: str) -> bool:
    """Whether a cell shows all characters of a text unchanged."""
    return text.isprintable() and "\\" not in text


def _escape(character: str) -> str:
    return character if _is_plain(character) else character.encode("unicode_escape").decode("ascii")

"""Reads the column `corpus.column` of JSON, CSV, TSV, Parquet and Arrow files as texts, in bounded memory.

The rows of a JSON file are a list of objects. The path in `corpus.column` leads to it: `text` is a field of the objects
in the outermost list, `messages.text` of those in the list `messages` of the outermost object. A file may have several
JSON values, one after another, and any size: one row is in memory at a time.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

from scriven.corpus.decoding import PIECE_BYTES, ReadCounts, decode_source, lines_of, prepare
from scriven.corpus.filesystem import EXTRA, explain_errors, open_file
from scriven.corpus.sources import BINARY_TABLES, DELIMITED_TABLES, RECORD_TABLES, TextSource
from scriven.corpus.structure import Bad, abbreviate, column_names, join_text, missing_column, split_path, values_at
from scriven.errors import InputError
from scriven.settings import CorpusSettings

LONGEST_ROW = 1 << 26  # characters of a row; a file without line ends must not be read into memory as a whole
LONGEST_FIELD = 1 << 24  # characters, so that a quote that is never closed does not take the rest of the file
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}


def delimited_rows(pieces: Iterable[str], name: str, suffix: str, column: str) -> Iterator[tuple[int, object]]:
    """The line and value of each row of a CSV or TSV file. The value is a `Bad` if a row has more or fewer columns.

    The delimiter of a .csv is the first of , ; tab | with which the first row has the column.
    Raises InputError if there is no such column, or a quote is not closed.
    """
    lines = lines_of(pieces, LONGEST_ROW, name, "CSV")
    first = next((line for line in lines if line.strip()), "")
    delimiter, names = _header(first, name, suffix, column)
    place, columns = names.index(column), len(names)
    for number, fields in read_records_of_lines(lines, name, delimiter, first=2):
        if not fields:
            continue
        is_whole = len(fields) == columns
        yield number, fields[place] if is_whole else Bad(f"has {len(fields)} columns, and the first row {columns}")


def _header(line: str, name: str, suffix: str, column: str) -> tuple[str, list[str]]:
    """The delimiter between columns, and the names of the columns."""
    found = list[list[str]]()
    for delimiter in DELIMITERS[suffix]:
        with suppress(csv.Error):  # quotes can be wrong with one delimiter and right with another
            names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
            found.append([field.strip() for field in names])
            if column in found[-1]:
                if found[-1].count(column) > 1:
                    raise InputError(f"{name} has the column {column!r} twice; rename one")
                return delimiter, found[-1]
    others = max(found, key=len, default=[])
    raise InputError(
        f"{name} {missing_column(column, others)}; choose one of these with --corpus.column (they are in the first row)"
    )


def read_records_of_lines(
    lines: Iterable[str], name: str, delimiter: str, *, first: int
) -> Iterator[tuple[int, list[str]]]:
    """Yields the line at which each row of CSV begins, and its fields. The number of the first line is `first`.

    Raises InputError, with the line, for a quote that is not closed, and for a field that is too long.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))  # holds for the process, so it is never lowered
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + first
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = {"unexpected end of data": "a quote is opened and never closed"}.get(str(error), str(error))
            if "field limit" in why:
                why = f"a field has over {LONGEST_FIELD:,} characters; is a quote opened and never closed?"
            raise InputError(
                f"{name}, in the row at line {number:,}: {why}; correct it (a quote within quotes is written twice)"
            ) from None
        yield number, fields


ROWS_AT_ONCE = 1 << 10  # of a binary table
_LONE = "half a character (a lone surrogate) in the column"


def is_read_as_table(source: TextSource, settings: CorpusSettings) -> bool:
    """Whether a source is read as rows. With a column, standard input is read as JSON lines.

    Raises InputError if no column is set for a table that is not a text file.
    """
    if not settings.column and source.is_table and source.suffixes[0] in BINARY_TABLES:
        raise InputError(f"{source.name} is a table; name the column with the text: --corpus.column NAME")
    return bool(settings.column) and (source.is_table or source.path is None)


def read_rows(
    source: TextSource, settings: CorpusSettings, tally: ReadCounts, size: int = PIECE_BYTES
) -> Iterator[list[str]]:
    """The prepared texts of a table's rows, in groups of about `size` characters.

    A row is bad if it is not JSON, has no text in the column, or has a lone surrogate there. Bad rows are left out, and
    counted in `tally`, if `settings.bad_rows` is "skip". Otherwise they raise InputError, as do a damaged file and a
    missing column.
    """
    group: list[str] = []
    length = 0
    for number, value in _values_of(source, settings, tally, size):
        text = _check_value(value, settings, tally)
        if text is None:
            _bad(source, number, value, settings, tally)
            continue
        group.append(prepare(text, settings, tally))
        length += len(text) + 1
        if length >= size:
            yield group
            group, length = [], 0
    yield group


def _values_of(
    source: TextSource, settings: CorpusSettings, tally: ReadCounts, size: int
) -> Iterator[tuple[int, object]]:
    """The number and value of each row of a table; in a text file it is the line number."""
    suffix, name = source.suffixes[0], source.name
    if suffix in BINARY_TABLES:
        return _binary(source, settings, tally)
    pieces = decode_source(source, settings, tally, size)
    if suffix in RECORD_TABLES:
        return read_records(pieces, name, settings.column)
    if suffix in DELIMITED_TABLES:
        return delimited_rows(pieces, name, suffix, settings.column)
    return _json_lines(lines_of(pieces, LONGEST_ROW, name, "JSON lines"), settings.column)


def _check_value(value: object, settings: CorpusSettings, tally: ReadCounts) -> str | None:
    """The text of a row; None when it is bad."""
    if not isinstance(value, str) or isinstance(value, Bad):
        return None
    if settings.invalid == "bytes" or value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        if settings.invalid == "strict":
            return None
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        tally.invalid += sum("\ud800" <= character <= "\udfff" for character in value)
        return whole
    return value


def _bad(source: TextSource, number: int, value: object, settings: CorpusSettings, tally: ReadCounts) -> None:
    tally.bad_rows += 1
    if settings.bad_rows == "skip":
        return
    unit = {**dict.fromkeys(BINARY_TABLES, "row"), **dict.fromkeys(RECORD_TABLES, "record")}.get(
        source.suffixes[0], "line"
    )
    if isinstance(value, Bad):
        why = str(value)
    else:
        why = f"has {_LONE if isinstance(value, str) else 'no text but ' + abbreviate(value) + ' in the column'}"
        why += f" {settings.column!r}"
    raise InputError(
        f"{source.name}, {unit} {number:,}: it {why}; correct it, choose another --corpus.column, or leave such rows "
        "out with --corpus.bad-rows skip"
    )


def _json_lines(lines: Iterator[str], column: str) -> Iterator[tuple[int, object]]:
    """The line number and value of each row of JSON lines, counted from the span's start. Skips empty lines."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, Bad(f"is not JSON ({abbreviate(line.rstrip())})")
        else:
            yield from ((number, value) for value in values_at(row, column))


def _binary(source: TextSource, settings: CorpusSettings, tally: ReadCounts) -> Iterator[tuple[int, object]]:
    """The number and value of each row of a Parquet or Arrow file, read a few rows at a time."""
    _check_pyarrow(source)
    begun, number = tally.position, 0
    assert source.path is not None  # standard input has no suffix
    remote = isinstance(source.path, str)
    with explain_errors(source.name, Exception, remote=remote), open_file(source.path) as file:
        batches = _parquet if source.suffixes[0] == ".parquet" else _arrow
        for values, share in batches(source, file, settings.column):
            for value in values:
                number += 1
                yield number, value
            tally.position = begun + int(share * (source.stamp[0] if source.stamp else 0))
    tally.position = begun + (source.stamp[0] if source.stamp else 0)


def _parquet(source: TextSource, file: IO[bytes], column: str) -> Iterator[tuple[list[Any], float]]:
    """The values of some rows at a time, and the share of all rows that has been read."""
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 (optional)

    table = ParquetFile(file)
    _check_column(source, table.schema_arrow.names, column)
    done = 0
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=[column]):
        done += batch.num_rows
        yield _values(batch.column(0)), done / table.metadata.num_rows


def _arrow(source: TextSource, file: IO[bytes], column: str) -> Iterator[tuple[list[Any], float]]:
    """The same for an Arrow file, in the streaming format (as `datasets` writes it) or the file format (Feather)."""
    from pyarrow import ipc  # noqa: PLC0415 (optional)

    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    reader = ipc.open_file(file) if is_file else ipc.open_stream(file)
    _check_column(source, reader.schema.names, column)
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
    for batch in batches:
        share = file.tell() / source.stamp[0] if source.stamp else 0.0
        texts = batch.column(column)
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield _values(texts.slice(start, ROWS_AT_ONCE)), min(share, 1.0)


def _values(texts: Any) -> list[Any]:
    """The values of a column, checked first: pyarrow trusts an Arrow file's offsets otherwise."""
    texts.validate(full=True)
    return list(texts.to_pylist())


def _check_column(source: TextSource, names: list[str], column: str) -> None:
    if column not in names:
        raise InputError(f"{source.name} has no column {column!r}; choose one with --corpus.column: {', '.join(names)}")


def _check_pyarrow(source: TextSource) -> None:
    try:
        import pyarrow  # noqa: F401, PLC0415 (optional)
    except ImportError:
        raise InputError(f"to read {source.name}, install what it needs with: {EXTRA}") from None


# --- JSON

_SPACE = " \t\n\r"
_NUMBER = 3  # characters that may still continue a number that seemed to have ended: those of e+1
_LITERAL = 16  # characters: longer than any word or escape that may be cut at the end of a piece


def read_records(pieces: Iterable[str], name: str, column: str) -> Iterator[tuple[int, object]]:
    """The number and value of each record of a JSON file. The value is a `Bad` if the record has no such column.

    Raises InputError if the file is not JSON, or a record is too long.
    """
    text, number = _JsonText(pieces, name), 0
    while text.peek():
        for value in _path_values(text, column):
            number += 1
            yield number, value


def _path_values(text: _JsonText, column: str) -> Iterator[object]:
    """The values at a path of the next JSON value. Lists and objects on the path are never in memory as a whole."""
    if text.peek() == "[":
        yield from _list_values(text, column)
    elif text.peek() == "{":
        yield from _object_values(text, column)
    else:
        yield Bad(f"has no column {column!r}, but {abbreviate(text.value())}")


def _list_values(text: _JsonText, column: str) -> Iterator[object]:
    text.take("[")
    is_more = text.peek() != "]"
    while is_more:
        yield from values_at(text.value(), column)
        is_more = text.has_more("]")
    text.take("]")


def _object_values(text: _JsonText, column: str) -> Iterator[object]:
    names, is_found, by_field = list[str](), False, dict(split_path(column))
    text.take("{")
    is_more = text.peek() != "}"
    while is_more:
        field = text.name()
        text.take(":")
        if field == column:
            is_found = True
            yield join_text(text.value())
        elif field in by_field:
            is_found = True
            yield from _path_values(text, by_field[field])
        else:
            names += column_names(field, text.value())
        is_more = text.has_more("}")
    text.take("}")
    if not is_found:
        yield missing_column(column, names)


class _JsonText:
    """A parser's place in a text that comes in pieces."""

    def __init__(self, pieces: Iterable[str], name: str) -> None:
        self._pieces, self._name = iter(pieces), name
        self._held, self._at, self._before = "", 0, 0  # text in memory, the place in it, characters before it
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Moves past a character that must come next."""
        if self.peek() != character:
            raise self._json_error(f"{character!r} is missing", self._at)
        self._at += 1

    def has_more(self, end: str) -> bool:
        """Whether another member comes before the end of a list or an object. Moves past the comma before it.

        Raises InputError for a comma without a member after it.
        """
        if self.peek() == end:
            return False
        self.take(",")
        if self.peek() == end:
            raise self._json_error(f"nothing is between ',' and {end!r}", self._at)
        return True

    def name(self) -> str:
        """Parses the name of a field."""
        if self.peek() != '"':
            raise self._json_error("a name in quotes is missing", self._at)
        return str(self.value())

    def value(self) -> object:
        """Parses the next value."""
        if not self.peek():
            raise self._json_error("it ends too soon", self._at)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except RecursionError:
                raise self._json_error("it is nested too deeply", self._at) from None
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos + _LITERAL > len(self._held)
                place = error.pos - self._at  # reading more drops the text before self._at
                if not (is_cut and self._more()):
                    raise self._json_error(error.msg, self._at + place) from None
            except ValueError:  # Python refuses only numbers of too many digits
                raise self._json_error("a number is too long", self._at) from None
            else:
                length = end - self._at
                if end + _NUMBER <= len(self._held) or not self._more():
                    self._at += length
                    return value

    def _more(self) -> bool:
        """Reads more text, doubling what is in memory, so that a long value is parsed few times. False at the end."""
        self._before, self._held, self._at = self._before + self._at, self._held[self._at :], 0
        if len(self._held) > LONGEST_ROW:
            raise InputError(
                f"{self._name}: at character {self._before:,} a value begins that has over {LONGEST_ROW:,} "
                "characters; name a list in it with --corpus.column LIST.FIELD, or convert the file to JSON lines, as "
                "with jq -c"
            )
        parts, wanted = [self._held], max(1, len(self._held))
        while wanted > 0 and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            wanted -= len(piece)
        self._held = "".join(parts)
        return len(self._held) > len(parts[0])

    def _json_error(self, why: str, place: int) -> InputError:
        return InputError(f"{self._name} is not JSON at character {self._before + place:,}: {why}; correct the file")

"""Reads the rows of JSON files of any size, one row in memory at a time.

The rows are a list of objects. The path in `corpus.column` leads to it: `text` is a field of the objects in the
outermost list, `messages.text` of those in the list `messages` of the outermost object. A file may have several JSON
values, one after another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from scriven.corpus import structure
from scriven.corpus.structure import Bad, abbreviate, column_names, join_text, no_column, split_path, values_at
from scriven.errors import InputError

_SPACE = " \t\n\r"
_NUMBER = 3  # characters that may still continue a number that seemed to have ended: those of e+1
_LITERAL = 16  # characters: longer than any word or escape that may be cut at the end of a piece


def read_records(pieces: Iterable[str], name: str, column: str) -> Iterator[tuple[int, object]]:
    """The number and value of each record of a JSON file. The value is a `Bad` if the record has no such column.

    Raises InputError if the file is not JSON, or a record is too long.
    """
    text, number = _JsonText(pieces, name), 0
    while text.peek():
        for value in _values(text, column):
            number += 1
            yield number, value


def _values(text: _JsonText, column: str) -> Iterator[object]:
    """The values at a path of the next JSON value. Lists and objects on the path are never in memory as a whole."""
    if text.peek() == "[":
        yield from _list(text, column)
    elif text.peek() == "{":
        yield from _object(text, column)
    else:
        yield Bad(f"has no column {column!r}, but {abbreviate(text.value())}")


def _list(text: _JsonText, column: str) -> Iterator[object]:
    text.take("[")
    is_more = text.peek() != "]"
    while is_more:
        yield from values_at(text.value(), column)
        is_more = text.has_more("]")
    text.take("]")


def _object(text: _JsonText, column: str) -> Iterator[object]:
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
            yield from _values(text, by_field[field])
        else:
            names += column_names(field, text.value())
        is_more = text.has_more("}")
    text.take("}")
    if not is_found:
        yield no_column(column, names)


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
            raise self._no_json(f"{character!r} is missing", self._at)
        self._at += 1

    def has_more(self, end: str) -> bool:
        """Whether another member comes before the end of a list or an object. Moves past the comma before it.

        Raises InputError for a comma without a member after it.
        """
        if self.peek() == end:
            return False
        self.take(",")
        if self.peek() == end:
            raise self._no_json(f"nothing is between ',' and {end!r}", self._at)
        return True

    def name(self) -> str:
        """Parses the name of a field."""
        if self.peek() != '"':
            raise self._no_json("a name in quotes is missing", self._at)
        return str(self.value())

    def value(self) -> object:
        """Parses the next value."""
        if not self.peek():
            raise self._no_json("it ends too soon", self._at)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except RecursionError:
                raise self._no_json("it is nested too deeply", self._at) from None
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos + _LITERAL > len(self._held)
                place = error.pos - self._at  # reading more drops the text before self._at
                if not (is_cut and self._more()):
                    raise self._no_json(error.msg, self._at + place) from None
            except ValueError:  # Python refuses only numbers of too many digits
                raise self._no_json("a number is too long", self._at) from None
            else:
                length = end - self._at
                if end + _NUMBER <= len(self._held) or not self._more():
                    self._at += length
                    return value

    def _more(self) -> bool:
        """Reads more text, doubling what is in memory, so that a long value is parsed few times. False at the end."""
        self._before, self._held, self._at = self._before + self._at, self._held[self._at :], 0
        if len(self._held) > structure.LONGEST_ROW:
            raise InputError(
                f"{self._name}: at character {self._before:,} a value begins that has over {structure.LONGEST_ROW:,} "
                "characters; name a list in it with --corpus.column LIST.FIELD, or convert the file to JSON lines, as "
                "with jq -c"
            )
        parts, wanted = [self._held], max(1, len(self._held))
        while wanted > 0 and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            wanted -= len(piece)
        self._held = "".join(parts)
        return len(self._held) > len(parts[0])

    def _no_json(self, why: str, place: int) -> InputError:
        return InputError(f"{self._name} is not JSON at character {self._before + place:,}: {why}; correct the file")

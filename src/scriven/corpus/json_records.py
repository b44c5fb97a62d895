"""JSON files of any size as rows, one in memory at a time: a list of objects, or an object that has such a list.

The list is found by the path in `corpus.column`: `text` is a field of the objects in a list, `messages.text` of those
in the list that the outermost object has as `messages`. Several values, one after another, are several rows each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from scriven.corpus import structure
from scriven.corpus.structure import Bad, join_text, no_column, paths, paths_in, short, values_at
from scriven.errors import InputError

_SPACE = " \t\n\r"
_NUMBER = 3  # characters after which a number does not go on that seemed to end: those of e+1
_LITERAL = 16  # characters: longer than any word or escape that the end of a piece may cut


def records(pieces: Iterable[str], name: str, column: str) -> Iterator[tuple[int, object]]:
    """Number and value of each record of a JSON file; a value is `Bad` where it has no such column.

    Raises InputError where it is not JSON, or a record is too long.
    """
    text, number = _JsonText(pieces, name), 0
    while text.peek():
        for value in _values(text, column):
            number += 1
            yield number, value


def _values(text: _JsonText, column: str) -> Iterator[object]:
    """The values at a path of the JSON value that comes next; only what is not on the path is in memory whole."""
    if text.peek() == "[":
        yield from _list(text, column)
    elif text.peek() == "{":
        yield from _object(text, column)
    else:
        yield Bad(f"has no column {column!r}, but {short(text.value())}")


def _list(text: _JsonText, column: str) -> Iterator[object]:
    text.take("[")
    is_more = text.peek() != "]"
    while is_more:
        yield from values_at(text.value(), column)
        is_more = text.goes_on("]")
    text.take("]")


def _object(text: _JsonText, column: str) -> Iterator[object]:
    names, is_found, ways = list[str](), False, dict(paths(column))
    text.take("{")
    is_more = text.peek() != "}"
    while is_more:
        field = text.name()
        text.take(":")
        if field == column:
            is_found = True
            yield join_text(text.value())
        elif field in ways:
            is_found = True
            yield from _values(text, ways[field])
        else:
            names += paths_in(field, text.value())
        is_more = text.goes_on("}")
    text.take("}")
    if not is_found:
        yield no_column(column, names)


class _JsonText:
    """A text in pieces that is taken from its beginning on."""

    def __init__(self, pieces: Iterable[str], name: str) -> None:
        self._pieces, self._name = iter(pieces), name
        self._held, self._at, self._before = "", 0, 0  # what is there, how much of it was taken, what was before it
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
        """Takes a character that must come next."""
        if self.peek() != character:
            raise self._no_json(f"{character!r} is missing", self._at)
        self._at += 1

    def goes_on(self, end: str) -> bool:
        """Whether another member comes before the end of a list or an object; takes the comma before it.

        Raises InputError for a comma that nothing follows.
        """
        if self.peek() == end:
            return False
        self.take(",")
        if self.peek() == end:
            raise self._no_json(f"nothing stands between ',' and {end!r}", self._at)
        return True

    def name(self) -> str:
        """Takes the name of a field."""
        if self.peek() != '"':
            raise self._no_json("a name in quotes is missing", self._at)
        return str(self.value())

    def value(self) -> object:
        """Takes the next value."""
        if not self.peek():
            raise self._no_json("it ends too soon", self._at)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except RecursionError:
                raise self._no_json("it is nested too deeply", self._at) from None
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos + _LITERAL > len(self._held)
                place = error.pos - self._at  # what is held before is dropped when more is read
                if not (is_cut and self._more()):
                    raise self._no_json(error.msg, self._at + place) from None
            except ValueError:  # which other numbers do not raise
                raise self._no_json("a number is too long", self._at) from None
            else:
                length = end - self._at
                if end + _NUMBER <= len(self._held) or not self._more():
                    self._at += length
                    return value

    def _more(self) -> bool:
        """Reads on, twice as much as is held, so that a long value is not looked at too often; false at the end."""
        self._before, self._held, self._at = self._before + self._at, self._held[self._at :], 0
        if len(self._held) > structure.LONGEST:
            raise InputError(
                f"{self._name}: at character {self._before:,} a value begins that has over {structure.LONGEST:,} "
                "characters; name the list in it with --corpus.column LIST.FIELD, or convert it to JSON lines, as with "
                "jq -c"
            )
        parts, wanted = [self._held], max(1, len(self._held))
        while wanted > 0 and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            wanted -= len(piece)
        self._held = "".join(parts)
        return len(self._held) > len(parts[0])

    def _no_json(self, why: str, place: int) -> InputError:
        return InputError(f"{self._name} is not JSON at character {self._before + place:,}: {why}; mend it")

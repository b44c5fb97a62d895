"""What rows of JSON have in a column: values at a path of names, such as `messages.text`, or what is wrong there."""

from __future__ import annotations

from collections.abc import Iterator

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
            yield joined(row[column])
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


def joined(value: object) -> object:
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

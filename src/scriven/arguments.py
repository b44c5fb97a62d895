"""Checks the arguments of programs: a sentence names a value of another type, not an error from deep inside."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from scriven.errors import InputError, UsageError
from scriven.suggestions import close_names, did_you_mean, join_names

PARAMETERS = {"from": "initial", "resume": "resume='last'", "checkpoint": "which"}  # by their flags
COMMANDS_IN_TEXT = re.compile(r"scriven [a-z]")
EPOCH = re.compile(r"epoch:(\d{1,9})", re.ASCII)  # names the checkpoint of an epoch
FLAGS_IN_TEXT = re.compile(r"(?<![\w-])(?:--(?!import )([a-z][a-z-]*(?:\.[a-z-]+)?)(?: (\d[\d.]*\d|\d))?|-o\b)")


def check_text(name: str, value: object) -> str:
    """Returns the text. Raises UsageError when it is none: bytes, a path, several texts, None."""
    if isinstance(value, str):
        return value
    if value is None:
        way = f"give a str, such as {name}=''"
    elif isinstance(value, bytes | bytearray):
        way = "give a str, as data.decode('utf-8') makes of bytes"
    elif isinstance(value, os.PathLike):
        way = f"give the text that is in it, as Path({str(value)!r}).read_text('utf-8')"
    elif isinstance(value, Iterable):
        way = "give one text, a str, and call it again for each of the others"
    else:
        way = "give a str"
    raise UsageError(f"{name} is {_kind(value)}, and not text; {way}")


def check_texts(name: str, values: object) -> list[str]:
    """Returns several texts as a list. Raises UsageError when they are no list of texts, or one of them is no text."""
    if isinstance(values, Iterable) and not isinstance(values, bytes | bytearray | Mapping) and _can_be_read(values):
        return [check_text(f"a text of {name}", value) for value in values]
    return [check_text(name, values)]


def check_pieces(name: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yields the pieces of one text. Raises UsageError at one that is no text."""
    if isinstance(pieces, str) or not _can_be_read(pieces):
        raise UsageError(f"{name} is {_kind(pieces)}; give an iterable of texts, such as a list of one")
    return (check_text(f"a piece of {name}", piece) for piece in pieces)


def check_stops(stop: object) -> Sequence[str]:
    """Returns the stop strings. Raises UsageError when one is empty, or they are no list of strings."""
    if isinstance(stop, Collection) and not isinstance(stop, str | bytes | Mapping) and _can_be_read(stop):
        strings = list(stop)
        if all(map(_is_filled, strings)):
            return strings
    raise UsageError(f"stop {stop!r}: give a list of strings, none of them empty")


def _can_be_read(values: object) -> bool:
    """Whether values can be taken one by one: an array of no dimensions is an Iterable and has none."""
    try:
        iter(values)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and value != ""


def check_switch(name: str, value: object) -> bool:
    """Returns a truth value, also one of another library. Raises UsageError for any other value."""
    if isinstance(value, bool) or type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    raise UsageError(f"{name} {value!r}: give True or False")


def check_whole(name: str, value: object, least: int, what: str) -> int:
    """Returns a whole number. Raises UsageError when it is none, or below `least`; `what` names the values to give."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} {value!r}: give a whole number") from None
    if isinstance(value, bool) or number < least:
        raise UsageError(f"{name} {value}: give {what}")
    return number


def check_path(name: str, value: object) -> Path | None:
    """Returns the path, None for None. Raises UsageError for any other value, and for an empty path."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and path:
            return Path(path)
        if path == "":
            raise UsageError(f"{name} is empty, and must name a path; leave it out")
    if isinstance(value, bytes | os.PathLike):
        raise UsageError(f"{name} is a path of bytes; give a str or a Path, as os.fsdecode makes of it")
    other = f", such as the run's own, {name}=run.path" if hasattr(value, "path") else ""
    raise UsageError(f"{name} is {_kind(value)}; give a path, a str or a Path{other}")


def check_choice(name: str, value: object, choices: Sequence[str], besides: str = "") -> None:
    """Raises UsageError when a value is none of `choices`; `besides` names other values that are allowed."""
    if isinstance(value, str) and value in choices:
        return
    close = [repr(each) for each in close_names(value, choices)] if isinstance(value, str) else []
    given = join_names([*map(repr, choices), *filter(None, [besides])])
    raise UsageError(f"{name} {value!r}: give {given}{did_you_mean(close)}")


def check_step(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises UsageError when a value is neither one of `choices`, nor a step, nor an epoch."""
    if epoch_of(value) is None and (not isinstance(value, int) or isinstance(value, bool)):
        check_choice(name, value, choices, "the number of a step, or of an epoch as 'epoch:17'")


def epoch_of(value: object) -> int | None:
    """The number in the name of an epoch, such as epoch:17; None for any other value."""
    named = EPOCH.fullmatch(value) if isinstance(value, str) else None
    return int(named[1]) if named else None


@contextmanager
def python_words() -> Iterator[None]:
    """Errors that are raised in this context name parameters of functions, not flags."""
    try:
        yield
    except (UsageError, InputError) as error:
        error.args = (in_python(str(error)), *error.args[1:])
        raise


def in_python(sentence: str) -> str:
    """Returns a sentence with parameters and settings in place of flags; commands are left alone."""
    return sentence if COMMANDS_IN_TEXT.search(sentence) else FLAGS_IN_TEXT.sub(_parameter, sentence)


def _parameter(flag: re.Match[str]) -> str:
    if flag[1] is None:
        return "output"
    name = PARAMETERS.get(flag[1], flag[1].replace("-", "_"))
    separator = " " if "." in name else "="
    return f"{name}{separator}{flag[2]}" if flag[2] else name


def _kind(value: object) -> str:
    """A value's type, as a sentence has it."""
    if value is None:
        return "None"
    name = type(value).__name__
    return name if name == "bytes" else f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"

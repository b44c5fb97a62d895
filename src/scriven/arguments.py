"""Checks the arguments of functions, so that an error names the wrong value in one sentence."""

from __future__ import annotations

import functools
import operator
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from scriven.errors import InputError, UsageError, close_names, did_you_mean, join_names

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")
PARAMETERS = {"from": "initial", "resume": "resume='last'", "checkpoint": "which"}  # of functions, by flag
COMMANDS_IN_TEXT = re.compile(r"scriven [a-z]")
ExportFormat = Literal["torch", "onnx", "transformers", "safetensors", "html"]
ExportNumbers = Literal["fp32", "int8"]  # number formats of an ONNX file
RnnActivation = Literal["tanh", "relu"]
ImportedUnit = Literal["character", "byte"]
GUESS_SAMPLES = 10_000  # texts that are written to estimate guess numbers, unless a number is given
PROOFREAD_GAIN = 15.0  # bits that a suggestion gains at least, unless a number is given
EPOCH = re.compile(r"epoch:(\d{1,9})", re.ASCII)  # names the checkpoint of an epoch
FLAGS_IN_TEXT = re.compile(r"(?<![\w-])(?:--(?!import )([a-z][a-z-]*(?:\.[a-z-]+)?)(?: (\d[\d.]*\d|\d))?|-o\b)")


def check_text(name: str, value: object) -> str:
    """Returns the text. Raises UsageError if it is not one: bytes, a path, several texts, None."""
    if isinstance(value, str):
        return value
    if value is None:
        way = f"give a str, such as {name}=''"
    elif isinstance(value, bytes | bytearray):
        way = "give a str, such as data.decode('utf-8')"
    elif isinstance(value, os.PathLike):
        way = f"give its text, such as Path({str(value)!r}).read_text('utf-8')"
    elif isinstance(value, Iterable):
        way = "give one text, a str, and call it again for the others"
    else:
        way = "give a str"
    raise UsageError(f"{name} is {_kind(value)}, not text; {way}")


def check_texts(name: str, values: object) -> list[str]:
    """Returns several texts as a list. Raises UsageError if they are not a list of texts."""
    if isinstance(values, Iterable) and not isinstance(values, bytes | bytearray | Mapping) and _can_be_read(values):
        return [check_text(f"a text of {name}", value) for value in values]
    return [check_text(name, values)]


def check_pieces(name: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yields the pieces of one text. Raises UsageError at a piece that is not text."""
    if isinstance(pieces, str) or not _can_be_read(pieces):
        raise UsageError(f"{name} is {_kind(pieces)}; give an iterable of texts, such as [text]")
    return (check_text(f"a piece of {name}", piece) for piece in pieces)


def check_stops(stop: object) -> Sequence[str]:
    """Returns the stop strings. Raises UsageError unless they are a list of strings, none of them empty."""
    if isinstance(stop, Collection) and not isinstance(stop, str | bytes | Mapping) and _can_be_read(stop):
        strings = list(stop)
        if all(map(_is_filled, strings)):
            return strings
    raise UsageError(f"stop {stop!r}: give a list of strings, none of them empty")


def _can_be_read(values: object) -> bool:
    """Whether values can be taken one by one. An array without dimensions is an Iterable, but cannot."""
    try:
        iter(values)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and value != ""


def check_switch(name: str, value: object) -> bool:
    """Returns a truth value, even one of another library. Raises UsageError for any other value."""
    if isinstance(value, bool) or type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    raise UsageError(f"{name} {value!r}: give True or False")


def check_whole(name: str, value: object, least: int, what: str) -> int:
    """Returns a whole number. Raises UsageError if it is not one, or below `least`; `what` describes valid values."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} {value!r}: give a whole number") from None
    if isinstance(value, bool) or number < least:
        raise UsageError(f"{name} {value}: give {what}")
    return number


def first_seed(seed: int | None) -> int:
    """Returns the seed, or a random one for None. Raises UsageError if it is negative."""
    return secrets.randbits(32) if seed is None else check_whole("seed", seed, 0, "0 or a positive number")


def check_path(name: str, value: object) -> Path | None:
    """Returns the path, or None for None. Raises UsageError for any other value, and for an empty path."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and "\0" in path:
            raise UsageError(f"{name} {path!r} has a zero character, which no path can have; leave it out")
        if isinstance(path, str) and path:
            return Path(path)
        if path == "":
            raise UsageError(f"{name} is empty, but must name a path; leave it out")
    if isinstance(value, bytes | os.PathLike):
        raise UsageError(f"{name} is a path of bytes; give a str or a Path, such as os.fsdecode({name})")
    other = f", such as the run's own, {name}=run.path" if hasattr(value, "path") else ""
    raise UsageError(f"{name} is {_kind(value)}; give a path, a str or a Path{other}")


def check_choice(name: str, value: object, choices: Sequence[str], besides: str = "") -> None:
    """Raises UsageError if a value is not one of `choices`; `besides` describes other values that are allowed."""
    if isinstance(value, str) and value in choices:
        return
    close = [repr(each) for each in close_names(value, choices)] if isinstance(value, str) else []
    given = join_names([*map(repr, choices), *filter(None, [besides])])
    raise UsageError(f"{name} {value!r}: give {given}{did_you_mean(close)}")


def check_step(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises UsageError if a value is neither one of `choices`, nor a step, nor an epoch."""
    if epoch_of(value) is None and (not isinstance(value, int) or isinstance(value, bool)):
        check_choice(name, value, choices, "the number of a step, or of an epoch as 'epoch:17'")


def epoch_of(value: object) -> int | None:
    """Returns the number in the name of an epoch, such as epoch:17; None for any other value."""
    named = EPOCH.fullmatch(value) if isinstance(value, str) else None
    return int(named[1]) if named else None


@contextmanager
def python_words() -> Iterator[None]:
    """In this context, errors name parameters of functions instead of flags."""
    try:
        yield
    except (UsageError, InputError) as error:
        error.args = (in_python(str(error)), *error.args[1:])
        raise


def speak_python(function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """Returns the function with errors that name parameters of functions, not flags."""

    @functools.wraps(function)
    def _call(*values: Inputs.args, **named: Inputs.kwargs) -> Result:
        with python_words():
            return function(*values, **named)

    return _call


def in_python(sentence: str) -> str:
    """Returns a sentence with parameters and settings instead of flags. Commands stay as they are."""
    return sentence if COMMANDS_IN_TEXT.search(sentence) else FLAGS_IN_TEXT.sub(_parameter, sentence)


def _parameter(flag: re.Match[str]) -> str:
    if flag[1] is None:
        return "output"
    name = PARAMETERS.get(flag[1], flag[1].replace("-", "_"))
    separator = " " if "." in name else "="
    return f"{name}{separator}{flag[2]}" if flag[2] else name


def _kind(value: object) -> str:
    """Describes a value's type, as in `a list`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return name if name == "bytes" else f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"

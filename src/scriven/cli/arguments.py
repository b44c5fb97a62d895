"""The words of a command line before they are parsed: values that begin with a dash, options without a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from scriven.arguments import epoch_of
from scriven.errors import UsageError

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

END = "--"  # after it there are no options


def split_at_end(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words among which options are, and the rest: from `--` on."""
    end = words.index(END) if END in words else len(words)
    return list(words[:end]), list(words[end:])


def with_resume_value(words: Sequence[str]) -> list[str]:
    """The words; `--resume` may stand alone: its value is then `last`."""
    options, rest = split_at_end(words)
    return [
        "--resume=last" if word == "--resume" and not _goes_on_from(after) else word
        for word, after in pairwise([*options, ""])
    ] + rest


def _goes_on_from(word: str) -> bool:
    """Whether a word after `--resume` is its value."""
    return word in {"last", "auto"} or word.isdecimal() or epoch_of(word) is not None


def join_values(app: App, words: Sequence[str]) -> list[str]:
    """The words, where `--option -value` becomes `--option=-value`: what begins with a dash is a value there too.

    Raises UsageError where what follows an option that needs a value is another option of the command.
    """
    options, rest = split_at_end(words)
    if not any(word.startswith("-") and after.startswith("-") for word, after in pairwise(options)):
        return [*options, *rest]
    return [*_joined(collection_of(app, words), options), *rest]


def collection_of(app: App, words: Sequence[str]) -> ArgumentCollection:
    """The arguments of the command that the words name."""
    _, apps, _ = app.parse_commands(words)
    return apps[-1].assemble_argument_collection()


def _joined(arguments: ArgumentCollection, words: Sequence[str]) -> Iterator[str]:
    coming = iter(words)
    for word in coming:
        if not (word.startswith("-") and takes_value(arguments, word)):
            yield word
            continue
        value = next(coming, None)
        if value is None:
            yield word
        elif not value.startswith("-"):
            yield from (word, value)
        else:
            name = value.partition("=")[0]
            if is_option(arguments, name):
                way = f"; write {word}={value} if that is the value" if takes_text(arguments, word) else ""
                raise UsageError(f"{word} needs a value, and {name} is an option of its own{way}")
            yield f"{word}={value}"


def is_option(arguments: ArgumentCollection, word: str) -> bool:
    """Whether a word is the name of an option, or asks for help."""
    return word in {"--help", "-h", "--traceback"} or _value_needed(arguments, word) is not None


def takes_value(arguments: ArgumentCollection, word: str) -> bool:
    """Whether a word is the name of an option that a value follows."""
    return bool(_value_needed(arguments, word))


def takes_text(arguments: ArgumentCollection, word: str) -> bool:
    """Whether any text may be the value of this option."""
    argument, _, _ = arguments.match(word)
    return bool({str, Path, list[str], tuple[str, ...]} & {argument.hint, *get_args(argument.hint)})


def _value_needed(arguments: ArgumentCollection, word: str) -> bool | None:
    """Whether an option of that name needs a value; None where there is no such option."""
    from cyclopts import UNSET

    try:
        argument, _, implied = arguments.match(word)
    except ValueError:
        return None
    return implied is UNSET and not argument.parameter.count

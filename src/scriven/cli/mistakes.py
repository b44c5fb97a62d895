"""Explains mistakes on the command line, in one sentence each, and suggests the likely intention."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin

from scriven.arguments import epoch_of
from scriven.cli.help import ALL, HELP, HELP_FLAGS
from scriven.errors import UsageError, close_dotted, close_names, close_paths, did_you_mean, join_names

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection
if TYPE_CHECKING:
    from cyclopts import App, CycloptsError
    from cyclopts.argument import Argument, ArgumentCollection
    from pydantic import ValidationError


END = "--"  # no options come after it
IMPORT = "--import"


def split_at_end(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the words at `--`; no options come after it."""
    end = words.index(END) if END in words else len(words)
    return list(words[:end]), list(words[end:])


def split_imports(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the words before `--` into the command's own, and the modules of `--import` flags, wherever they are."""
    words, modules, coming = list[str](), list[str](), iter(options)
    for word in coming:
        name, given, value = word.partition("=")
        if name == IMPORT:
            modules.append(value if given else next(coming, ""))
        else:
            words.append(word)
    if not all(all(part.isidentifier() for part in module.split(".")) for module in modules):
        raise UsageError(f"{IMPORT} needs the name of a Python module, such as mycells or lab.cells; give one after it")
    return words, modules


def with_resume_value(words: Sequence[str]) -> list[str]:
    """Returns the words, where `--resume` without a value gets the value `last`."""
    options, rest = split_at_end(words)
    return [
        "--resume=last" if word == "--resume" and not _resumes(after) else word
        for word, after in pairwise([*options, ""])
    ] + rest


def _resumes(word: str) -> bool:
    """Whether a word after `--resume` is its value."""
    return word in {"last", "auto"} or word.isdecimal() or epoch_of(word) is not None


def join_values(app: App, words: Sequence[str]) -> list[str]:
    """Returns the words, with `--option -value` joined to `--option=-value`, so that a value may start with a dash.

    Raises UsageError when another option of the command follows an option that needs a value.
    """
    options, rest = split_at_end(words)
    if not any(word.startswith("-") and after.startswith("-") for word, after in pairwise(options)):
        return [*options, *rest]
    return [*_join(collection_of(app, words), options), *rest]


def collection_of(app: App, words: Sequence[str]) -> ArgumentCollection:
    """Returns the arguments of the command that the words name."""
    _, apps, _ = app.parse_commands(words)
    return apps[-1].assemble_argument_collection()


def _join(arguments: ArgumentCollection, words: Sequence[str]) -> Iterator[str]:
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
                way = f"; write {word}={value} if you mean it as a value" if takes_text(arguments, word) else ""
                raise UsageError(f"{word} needs a value, but {name} is another option{way}")
            yield f"{word}={value}"


def is_option(arguments: ArgumentCollection, word: str) -> bool:
    """Whether a word is the name of an option, or asks for help."""
    return word in {*HELP_FLAGS, "--traceback"} or _value_needed(arguments, word) is not None


def takes_value(arguments: ArgumentCollection, word: str) -> bool:
    """Whether a word is the name of an option that needs a value."""
    return bool(_value_needed(arguments, word))


def takes_text(arguments: ArgumentCollection, word: str) -> bool:
    """Whether the value of this option may be any text."""
    argument, _, _ = arguments.match(word)
    return bool({str, Path, list[str], tuple[str, ...]} & {argument.hint, *get_args(argument.hint)})


def _value_needed(arguments: ArgumentCollection, word: str) -> bool | None:
    """Whether an option of this name needs a value; None for an unknown option."""
    from cyclopts import UNSET

    try:
        argument, _, implied = arguments.match(word)
    except ValueError:
        return None
    return implied is UNSET and not argument.parameter.count


SUGGESTED = 3  # names that an error suggests

# Names that other programs have for our options and commands, without dashes.
OPTIONS_ELSEWHERE = {
    "batch-size": "--reader.batch",
    "block-size": "--reader.length",
    "gpu": "--device",
    "hidden-size": "--model.width",
    "iterations": "--steps",
    "lr": "--training.learning-rate",
    "max-length": "--length",
    "max-tokens": "--length",
    "num-layers": "--model.layers",
    "out-dir": "--output",
    "out": "--output",
    "primetext": "--prompt",
    "rnn-size": "--model.width",
    "seq-len": "--reader.length",
    "seq-length": "--reader.length",
    "separator": "--corpus.separator",
    "start": "--prompt",
    "text": "--prompt",
    "units": "--model.width",
    "val": "--corpus.validation",
}
COMMANDS_ELSEWHERE = {
    "check": "doctor",
    "complete": "sample",
    "continue": "train --resume",
    "fit": "train",
    "generate": "sample",
    "learn": "train",
    "list": "runs",
    "recipes": "recipe list",
    "resume": "train --resume",
    "run": "train",
    "test": "evaluate",
    "verify": "verify-resume",
    "version": "--version",
    "write": "sample",
}
NUMBERS: dict[object, str] = {int: "a whole number", float: "a number"}


class UnknownOption(UsageError):
    """A word that starts with a dash and is neither an option nor a file."""


def explain_usage(error: CycloptsError | UnknownOption, app: App, words: Sequence[str]) -> str:
    """Explains in one sentence what is wrong with the words of a command line."""
    from pydantic import ValidationError

    cause = error.__cause__ or error.__context__
    if isinstance(error, UnknownOption):
        return _unknown_option(str(error), app, words)
    if isinstance(cause, ValidationError):
        return _refused_setting(cause, error)
    return _refused_word(error, app, words)


def _refused_setting(cause: ValidationError, error: CycloptsError) -> str:
    from scriven.settings_values import describe_errors

    argument = error.argument
    prefix = argument.name.lstrip("-") if argument is not None and argument.name.startswith("--") else ""
    return describe_errors(cause, prefix if prefix != "*" else "", flags=True)


def _refused_word(error: CycloptsError, app: App, words: Sequence[str]) -> str:
    import cyclopts

    told = " ".join(str(error).split())
    match error:
        case cyclopts.UnknownOptionError(token=token):
            told = _unknown_option(token.keyword or token.value, app, words)
        case cyclopts.UnknownCommandError():
            told = _unknown_command(app, words)
        case cyclopts.MissingArgumentError(argument=argument) if argument is not None:
            told = _missing(argument, error.keyword, app, words)
        case cyclopts.UnusedCliTokensError(unused_tokens=unused):
            told = _describe_unused(unused or [], app, words)
        case cyclopts.RepeatArgumentError(token=token):
            told = f"{token.keyword} is given twice; give it once"
        case cyclopts.CoercionError(token=token, argument=argument) if token is not None and argument is not None:
            told = _refused_value(token.keyword or argument.name, token.value, argument.hint)
    return told


def _refused_value(name: str, value: str, kind: object) -> str:
    """Explains why an option refuses a value, by the type of its parameter."""
    if kind is bool:
        return f"{name} takes no value; drop {value}"
    if get_origin(kind) in {list, tuple} and get_args(kind):  # one of several
        kind = get_args(kind)[0]
    kinds = [each for each in get_args(kind) if each is not type(None)] if _is_union(kind) else [kind]
    words = [word for each in kinds if get_origin(each) is Literal for word in get_args(each)]
    words += [NUMBERS[each] for each in kinds if each in NUMBERS]
    close = did_you_mean(close_names(value, words)) if words else ""
    return f"{name} {value}: give {join_names(words)}{close}" if words else f"{name} cannot be {value}"


def _is_union(kind: object) -> bool:
    return get_origin(kind) in {Union, UnionType}


def command_of(app: App, words: Sequence[str]) -> str:
    """Returns the command that the words name, as people type it."""
    return " ".join(["scriven", *app.parse_commands(words)[0]])


def _unknown_option(word: str, app: App, words: Sequence[str]) -> str:
    if word in split_at_end(words)[1]:
        return f"there is no file {word}{did_you_mean(close_paths(word))}"
    if now := _renamed_option(word):
        return f"{word.partition('=')[0]} is now called {now}"
    close = close_options(word, collection_of(app, words))
    ending = did_you_mean(close) or f"; {command_of(app, words)} {ALL} lists them all"
    return f"there is no option {word.partition('=')[0]}{ending}"


def _renamed_option(word: str) -> str | None:
    """Returns today's name of a flag whose setting was renamed."""
    from scriven.settings_values import RENAMED

    now = RENAMED.get(word.lstrip("-").partition("=")[0].replace("-", "_"))
    return now and f"--{now.replace('_', '-')}"


def close_options(word: str, arguments: ArgumentCollection) -> list[str]:
    """Returns the options that an unknown one may have meant, by similar names or by the last part of their names."""
    bare = word.lstrip("-").partition("=")[0].replace("_", "-").lower()
    names = [name for argument in arguments if argument.parse for name in argument.names if name.startswith("--")]
    known = OPTIONS_ELSEWHERE.get(bare)
    if known in names:
        return [known]
    by_bare = {name.lstrip("-"): name for name in [*names, HELP, IMPORT]}
    return [by_bare[each] for each in close_dotted(bare, by_bare, SUGGESTED)]


def _unknown_command(app: App, words: Sequence[str]) -> str:
    named, apps, (word, *_) = app.parse_commands(words)
    where = " ".join(["scriven", *named])
    commands = sorted(name for name in apps[-1] if not name.startswith("-") and apps[-1][name].show)
    if word.startswith("-"):
        return f"give a command before {word}; commands are {', '.join(commands)}"
    if not named and Path(word).exists():
        command = "sample" if (Path(word) / "settings.toml").exists() else "train"
        budget = " --minutes 5" if command == "train" else ""
        return f"there is no command {word}; did you mean {where} {command} {shlex.quote(word)}{budget}?"
    elsewhere = [] if named or word not in COMMANDS_ELSEWHERE else [COMMANDS_ELSEWHERE[word]]
    close = [f"{where} {name}" for name in elsewhere or close_names(word, commands)]
    return f"there is no command {word}{did_you_mean(close) or '; commands are ' + ', '.join(commands)}"


def _missing(argument: Argument, keyword: str | None, app: App, words: Sequence[str]) -> str:
    if keyword is not None or argument.name.startswith("-"):
        name = keyword or argument.name
        return f"{name} needs a value; give one after it"
    command, what = command_of(app, words), argument.parameter.help
    return f"{command} needs {argument.name}" + (f", the {what}" if what else f"; see {command} --help")


def _describe_unused(unused: Iterable[str], app: App, words: Sequence[str]) -> str:
    """Explains that a command does not take these words."""
    arguments = collection_of(app, words)
    takes = [argument.name for argument in arguments if argument.field_info.is_positional]
    rest = " ".join(unused)
    prompt = f"; to continue a text, give --prompt {shlex.quote(rest)}" if "--prompt" in _names(arguments) else ""
    return f"{command_of(app, words)} takes only {' and '.join(takes) or 'options'}, not {rest}{prompt}"


def _names(arguments: ArgumentCollection) -> set[str]:
    return {name for argument in arguments for name in argument.names}

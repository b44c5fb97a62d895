"""Flags that several commands have, with their help, defined once."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from scriven import strict_json
from scriven.arguments import epoch_of
from scriven.cli.mistakes import UnknownOption
from scriven.errors import UsageError
from scriven.settings import CorpusSettings

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def _whole(kind: object, tokens: Sequence[Token]) -> int:
    """The number that a value is; 10.5 is none, which cyclopts would round."""
    return int(tokens[0].value)


def _which(kind: object, tokens: Sequence[Token]) -> str | int:
    """The name of a checkpoint, its epoch as epoch:17, or its step."""
    value = tokens[0].value
    return value if value in {"best", "last"} or epoch_of(value) is not None else int(value)


def resumed_from(kind: object, tokens: Sequence[Token]) -> str | int:
    """What --resume goes on from: last, auto, an epoch as epoch:17, or a step."""
    value = tokens[0].value
    return value if value in {"last", "auto"} or epoch_of(value) is not None else int(value)


Whole = Annotated[int, Parameter(converter=_whole)]
Switch = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON, one object a line")]
RunFolder = Annotated[str, Parameter(help="folder of the run")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="where to compute")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    Parameter(help="number format of matrix products; auto is bf16 where the processor is fast at it"),
]
ReadingPrecision = Annotated[
    Literal["auto", "fp32", "bf16", "int8"],
    Parameter(
        help="number format of matrix products; auto is int8 where native code reads (on the CPU): several times as "
        "fast as the others, within 0.001 nats a character of fp32; elsewhere it is bf16 or fp32, whichever is faster"
    ),
]
Invalid = Annotated[
    Literal["strict", "replace", "bytes"] | None,
    Parameter(
        name="--corpus.invalid",
        help="what to do with bytes that are not of the encoding; as the run's corpus did where not given",
    ),
]
Encoding = Annotated[
    str | None, Parameter(name="--corpus.encoding", help="encoding of the text, such as cp1252; UTF-8 where not given")
]
Normalize = Annotated[
    Literal["none", "nfc"] | None,
    Parameter(name="--corpus.normalize", help="Unicode normalisation; as the run's corpus had where not given"),
]
Which = Annotated[
    Literal["best", "last"] | int | str,
    Parameter(
        name="--checkpoint",
        converter=_which,
        help="weights to use: the best ones, the last ones, those of this step, or of this epoch, as epoch:17",
    ),
]
Text = Annotated[str, Parameter(allow_leading_hyphen=True)]  # for - alone; see `check_named`


def path_given(kind: type[Path], tokens: Sequence[Token]) -> Path:
    """The path that a flag names. Raises UsageError when it is empty, which would mean the current folder."""
    token = tokens[0]
    if not token.value:
        raise UsageError(f"{token.keyword} is empty, as a variable is that was not set; name a path, or drop the flag")
    return kind(token.value)


FilePath = Annotated[Path | None, Parameter(converter=path_given)]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], converter=path_given)]


def check_named(texts: Sequence[str]) -> Sequence[str]:
    """The texts as they are.

    Raises UnknownOption when one is a flag that does not exist.
    """
    for text in texts:
        if text.startswith("-") and text != "-" and not Path(text).exists():
            raise UnknownOption(text)
    return texts


def unescape(flag: str, text: str) -> str:
    r"""The value of a flag, with the characters that `\n`, `\t`, `\r` and `\\` in it stand for.

    Raises UsageError at another backslash.
    """

    def _character(escape: re.Match[str]) -> str:
        if escape[1] not in ESCAPES:
            raise UsageError(
                rf"{flag} {text}: \n, \t, \r and \\ stand for characters, not {escape[0]}; write \\ for a backslash"
            )
        return ESCAPES[escape[1]]

    return re.sub(r"\\(.?)", _character, text, flags=re.DOTALL)


def unescape_separator(corpus: CorpusSettings) -> CorpusSettings:
    """Settings that flags gave, with the separator that its escapes stand for.

    Raises UsageError as `unescape` does.
    """
    if not corpus.separator:
        return corpus
    return corpus.model_copy(update={"separator": unescape("--corpus.separator", corpus.separator)})


Row = dict[str, Any]
Form = Literal["words", "json", "tsv"]


class Verbatim(str):
    """Text that a table prints as it is: it needs no escapes, or is made of them."""

    __slots__ = ()


def show(rows: Iterable[Row], form: Form) -> int:
    """Prints the rows as they come, and returns how many there were."""
    count = 0
    for count, row in enumerate(rows, 1):
        if form == "tsv":
            head = "\t".join(row) + "\n" if count == 1 else ""
            sys.stdout.write(head + "\t".join(map(_cell, row.values())) + "\n")
        elif form == "json":
            put_json(row)
        else:
            sys.stdout.write(("\n" if count > 1 else "") + _words(row))
    return count


def put_json(row: Row) -> None:
    """Prints a row as a line of JSON."""
    sys.stdout.write(strict_json.write(row) + "\n")


def put_path(path: object) -> None:
    """Prints a path: as it is for a program, visibly on a terminal."""
    sys.stdout.write((visible_line(path) if sys.stdout.isatty() else str(path)) + "\n")


def note(text: str) -> None:
    """Says on standard error what a person should know."""
    sys.stderr.write(f"note: {visible_line(text)}\n")


def visible_line(value: object) -> str:
    """A value as one line of text that is safe to print."""
    from scriven.report import visible

    return visible(str(value)).replace("\n", "\\n")


def _cell(value: Any) -> str:
    r"""A value in a table: numbers with six decimals, nothing for None.

    In text a backslash is written as `\\`, and what would break a row or a terminal as `\t`, `\n`, `\x1b`, `\u200b`.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if isinstance(value, Verbatim):
            return value
        return value if value.isprintable() and "\\" not in value else "".join(map(_escape, value))
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _escape(character: str) -> str:
    plain = character.isprintable() and character != "\\"
    return character if plain else character.encode("unicode_escape").decode("ascii")


def _words(row: Row) -> str:
    """One value a line, after its name; of a list one item a line."""
    lines = []
    for name, value in row.items():
        for item in value if isinstance(value, list) else [value]:
            shown = f"{item:,.4f}" if isinstance(item, float) else f"{item:,}" if isinstance(item, int) else item
            lines.append(f"{visible_line(name.replace('_per_', '/').replace('_', ' ')):18}{visible_line(shown)}\n")
    return "".join(lines)

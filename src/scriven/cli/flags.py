"""Flags that several commands have, with their help, defined once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

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
Text = Annotated[str, Parameter(allow_leading_hyphen=True)]  # for - alone; see `named`


def path_given(kind: type[Path], tokens: Sequence[Token]) -> Path:
    """The path that a flag names. Raises UsageError when it is empty, which would mean the current folder."""
    token = tokens[0]
    if not token.value:
        raise UsageError(f"{token.keyword} is empty, as a variable is that was not set; name a path, or drop the flag")
    return kind(token.value)


FilePath = Annotated[Path | None, Parameter(converter=path_given)]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], converter=path_given)]


def named(texts: Sequence[str]) -> Sequence[str]:
    """The texts as they are.

    Raises UnknownOption when one is a flag that does not exist.
    """
    for text in texts:
        if text.startswith("-") and text != "-" and not Path(text).exists():
            raise UnknownOption(text)
    return texts


def unescaped(flag: str, text: str) -> str:
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


def separated(corpus: CorpusSettings) -> CorpusSettings:
    """Settings that flags gave, with the separator that its escapes stand for.

    Raises UsageError as `unescaped` does.
    """
    if not corpus.separator:
        return corpus
    return corpus.model_copy(update={"separator": unescaped("--corpus.separator", corpus.separator)})

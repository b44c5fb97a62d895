"""`scriven proofread`: names places of a text where another spelling is far likelier to a model."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.arguments import PROOFREAD_GAIN
from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Mixing,
    ReadingPrecision,
    RunFolder,
    Text,
    Which,
    check_named,
    check_size,
    note,
    note_slowness,
    put_json,
    reading_settings,
    visible_line,
)
from scriven.errors import UsageError

if TYPE_CHECKING:
    from scriven.corpus.sources import TextSource
    from scriven.trained_model import Model

Files = Annotated[Text, Parameter(help="texts to read: files, folders, - for standard input")]
Gain = Annotated[
    float,
    Parameter(
        help="how much likelier a suggestion makes the text, at least, in bits: 10 bits are 2 to the power of 10, or "
        "1,024 times as likely. A larger number gives fewer suggestions, of which more are right"
    ),
]


def proofread(
    run: RunFolder,
    /,
    *files: Files,
    gain: Gain = PROOFREAD_GAIN,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
    counts: Mixing = "auto",
) -> None:
    """Name places of a text where a model finds another spelling far likelier than what is there.

    The model should know the kind of text, best from other texts of the same author. At each place it tries all texts
    that differ in one character replaced, deleted or inserted, or in two exchanged, and measures how much likelier the
    text with what follows becomes.

    Prints FILE:LINE:COLUMN: what is found -> what is likelier (bits gained), the form that editors jump to places by.
    Lines and columns are those of the file as it is, columns counted in characters, and the suggestion is as the model
    reads text. A model of another kind of text, or one that is hardly trained, finds fault with what is right.
    """
    from scriven.corpus.sources import find
    from scriven.inference.proofreading import check_can_proofread
    from scriven.trained_model import load

    if not files:
        raise UsageError("scriven proofread needs a text to read; name files, or - for standard input")
    if not (math.isfinite(gain) and gain > 0):
        raise UsageError(f"--gain {gain}: give a number of bits above 0")
    sources = find(check_named(files)).sources
    model = load(run, which=checkpoint, device=device, precision=precision, counts=counts)
    check_can_proofread(model.predictor)
    note_slowness(model)
    choices = {"invalid": invalid, "encoding": encoding}
    total = sum(_show(model, source, choices, gain, as_json=as_json) for source in sources)
    note(f"{total:,} suggestion{'s' * (total != 1)}" + ("" if total else "; a smaller --gain finds more"))


def _show(model: Model, source: TextSource, choices: dict[str, str | None], gain: float, *, as_json: bool) -> int:
    """Prints the suggestions for one text, and returns their number."""
    from scriven.corpus.decoding import ReadCounts, decode_source

    check_size(source, "proofread")
    text = "".join(decode_source(source, reading_settings(model, choices), ReadCounts()))
    count = 0
    for found in model.proofread(text, gain=gain):
        count += 1
        if as_json:
            put_json({"file": source.name, **vars(found)})
        else:
            words = " -> ".join(map(visible_line, (found.found, found.suggestion)))
            sys.stdout.write(f"{visible_line(source.name)}:{found.line}:{found.column}: {words} ({found.gain:.1f})\n")
        sys.stdout.flush()
    return count

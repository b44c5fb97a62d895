"""`scriven score`: how surprising a text is to a trained model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scriven.cli.flags import Device, Invalid, Json, Precision, RunFolder, Text, Which
from scriven.cli.rows import Form, Row, show
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.inference.score import Scored
    from scriven.vocabulary import Vocabulary


def score(
    run: RunFolder,
    file: Text,
    /,
    *,
    by: Literal["total", "line", "character"] = "total",
    as_json: Json = False,
    as_tsv: Annotated[bool, Parameter(name="--tsv", negative="")] = False,
    invalid: Invalid = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """How surprising a text is to a trained model, read once from its beginning; of any length.

    Every character counts once. One that the model has never seen costs what <unk> costs and a choice among all
    characters that it does not know. The first character is foretold as if it followed a line end. Where the model's
    unit is the byte, bytes are counted as characters.

    Parameters
    ----------
    file
        text to score, or - for standard input; .gz, .xz, .bz2 and .zst are decompressed
    by
        what a row is about: the whole text, each line (its line end included), or each character. Lines are read as
        they stand in the text, each after all those before it, so that they sum up to the total
    as_tsv
        rows separated by tabs, below their names; rows of lines and characters are so anyway
    """
    if as_json and as_tsv:
        raise UsageError("--json and --tsv are two forms of the same rows; drop one")
    from scriven.corpus.sources import find, read
    from scriven.session import load

    sources = find([file]).sources
    model = load(run, which=checkpoint, device=device, precision=precision)
    corpus = model.settings.corpus.model_copy(update={"invalid": invalid} if invalid else {})
    rows = {"total": _total, "line": _lines, "character": _characters}[by]
    form: Form = "json" if as_json else "tsv" if as_tsv or by != "total" else "words"
    if not show(rows(model.vocabulary, model.surprisals(read(sources, corpus))), form):
        raise InputError(f"{file} is empty; there is nothing to score")


def _total(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Iterator[Row]:
    from scriven.inference.score import summed

    total = summed(vocabulary, pieces)
    if total.loss.characters:
        yield total.values()


def _lines(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Iterator[Row]:
    from scriven.inference.score import lines

    for number, line in enumerate(lines(vocabulary, pieces), 1):
        yield {"line": number, **line.values()}


def _characters(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Iterator[Row]:
    """One row a character; of a model of bytes each byte, as a number in hexadecimal where it is not ASCII."""
    position = 0
    for piece in pieces:
        unseen = vocabulary.unseen(piece.ids).tolist()
        for symbol, nats, new in zip(piece.ids.tolist(), piece.nats.tolist(), unseen, strict=True):
            position += 1
            shown = f"\\x{symbol:02x}" if vocabulary.unit == "byte" and symbol > 127 else vocabulary.decode([symbol])
            yield {
                "position": position,
                "character": shown,
                "unseen": int(new),
                "nats": nats,
                "bits": nats / math.log(2),
            }

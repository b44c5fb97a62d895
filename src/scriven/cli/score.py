"""`scriven score`: how surprising a text is to a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scriven.cli.flags import Device, Encoding, Invalid, Json, Normalize, ReadingPrecision, RunFolder, Text, Which
from scriven.cli.rows import Form, Row, Verbatim, note, show
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.inference.score import Scored
    from scriven.vocabulary import Vocabulary

Unit = Literal["line", "document"]  # what a row of --by line is about


def score(
    run: RunFolder,
    file: Text,
    /,
    *,
    by: Literal["total", "line", "character"] = "total",
    as_json: Json = False,
    as_tsv: Annotated[bool, Parameter(name="--tsv", negative="")] = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
) -> None:
    """How surprising a text is to a trained model, read once from its beginning; of any length.

    Every character counts once. One that the model has never seen costs what <unk> costs and a choice among all
    characters that it does not know. The first character is foretold as if it followed a line end. Where the model's
    unit is the byte, bytes are counted as characters.

    A model of documents (lines, files, pieces between separators) reads each alone, from its start. What their ends
    cost is shown beside: exp(-total_nats) is the probability of a whole document. Empty ones are left out.

    Parameters
    ----------
    file
        text to score, or - for standard input; .gz, .xz, .bz2 and .zst are decompressed
    by
        what a row is about: the whole text, each line (its line end included), or each character. Lines are read as
        they stand in the text, each after all those before it, so that they sum up to the total. For a model of
        documents, line is each document
    as_tsv
        rows separated by tabs, below their names; rows of lines and characters are so anyway
    """
    if as_json and as_tsv:
        raise UsageError("--json and --tsv are two forms of the same rows; drop one")
    from scriven.cli.texts import read_file
    from scriven.inference.score import checked, foretold
    from scriven.session import load

    model = load(run, which=checkpoint, device=device, precision=precision)
    unit: Unit = "line" if model.settings.corpus.documents in {"none", "lines"} else "document"
    forms: dict[str, Callable[[Vocabulary, Iterable[Scored]], Iterator[Row]]] = {
        "total": partial(_total, precision=model.predictor.reading),
        "line": partial(_lines, unit=unit),
        "character": partial(_characters, unit=unit),
    }
    form: Form = "json" if as_json else "tsv" if as_tsv or by != "total" else "words"
    chunks, tally = read_file(model, file, invalid=invalid, encoding=encoding, normalize=normalize)
    pieces = checked(foretold(model.predictor, chunks))
    if not show(forms[by](model.vocabulary, pieces), form):
        raise InputError(f"{file} is empty; there is nothing to score")
    if tally.empty:
        were = "s were" if tally.empty > 1 else " was"
        note(f"{tally.empty:,} empty {unit}{were} left out, and not numbered")


def _total(vocabulary: Vocabulary, pieces: Iterable[Scored], precision: str) -> Iterator[Row]:
    from scriven.inference.score import summed

    total = summed(vocabulary, pieces)
    if total.loss.characters:
        yield {**total.values(), "precision": precision}


def _lines(vocabulary: Vocabulary, pieces: Iterable[Scored], unit: Unit) -> Iterator[Row]:
    from scriven.inference.score import lines

    numbers = count(1)
    for some in lines(vocabulary, pieces):
        columns = some.values()
        names = (unit, *columns)
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(names, (next(numbers), *row), strict=True))


def _characters(vocabulary: Vocabulary, pieces: Iterable[Scored], unit: Unit) -> Iterator[Row]:
    """One row a character, and one for the end of each document, whose position is that after its last character.

    Of a model of bytes each byte, as a number in hexadecimal where it is not ASCII.
    """
    number, position = 1, 0
    for piece in pieces:
        unseen = vocabulary.unseen(piece.ids).tolist()
        for symbol, nats, new in zip(piece.ids.tolist(), piece.nats.tolist(), unseen, strict=True):
            position += 1
            end = symbol == vocabulary.boundary
            place = {"position": position} if vocabulary.boundary is None else {unit: number, "position": position}
            shown = {"character": _shown(vocabulary, symbol)} | (
                {} if vocabulary.boundary is None else {"end": int(end)}
            )
            yield {**place, **shown, "unseen": int(new), "nats": nats, "bits": nats / math.log(2)}
            number, position = (number + 1, 0) if end else (number, position)


def _shown(vocabulary: Vocabulary, symbol: int) -> str:
    if symbol == vocabulary.boundary:
        return ""
    if vocabulary.unit == "byte":
        return Verbatim(f"\\x{symbol:02x}") if symbol > 127 else chr(symbol)
    character = vocabulary.decode([symbol])
    return Verbatim(f"\\x{ord(character) - 0xDC00:02x}") if "\udc80" <= character <= "\udcff" else character

"""`scriven score`: how surprising a text is to a trained model."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Normalize,
    ReadingPrecision,
    Row,
    RunFolder,
    Text,
    Verbatim,
    Which,
    check_named,
    note,
    show,
)
from scriven.errors import InputError, UsageError
from scriven.events import Loss

if TYPE_CHECKING:
    from scriven.corpus.decoding import ReadCounts as Counts
    from scriven.corpus.sources import TextSource
    from scriven.inference.surprisal import Scored
    from scriven.session import Model
    from scriven.vocabulary import Vocabulary

SHOWN = 5  # names of empty files in an error
By = Literal["total", "line", "character"]
Unit = Literal["line", "document"]  # what a row of --by line is about


def score(
    run: RunFolder,
    /,
    *files: Text,
    by: By = "total",
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
    characters that it does not know. The first character is predicted as if it followed a line end. Where the model's
    unit is the byte, bytes are counted as characters.

    A model of documents (lines, files, pieces between separators) reads each alone, from its start. What their ends
    cost is shown beside: exp(-total_nats) is the probability of a whole document. Empty ones are not read.

    Of several files each is read from its own beginning, and its rows have its name.

    Parameters
    ----------
    files
        texts to score: files (also .gz, .xz, .bz2, .zst), folders, - for standard input
    by
        what a row is about: the whole text, each line (its line end included), or each character. There is a row for
        every line of the file, empty ones too, with its number in the file and its text. Lines are read as they stand
        in the text, each after all those before it, so that they sum up to the total. For a model of documents, line
        is each document
    as_tsv
        rows separated by tabs, below a row of their names; rows of lines and characters are so anyway. To put the rows
        of lines beside a file, drop that first row: paste FILE <(scriven score RUN FILE --by line | tail -n +2)
    """
    if as_json and as_tsv:
        raise UsageError("--json and --tsv are two forms of the same rows; drop one")
    if not files:
        raise UsageError("scriven score needs a file, the text to score; - is standard input")
    from scriven.corpus.sources import find
    from scriven.session import load

    sources = find(check_named(files)).sources
    model = load(run, which=checkpoint, device=device, precision=precision)
    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    empty: list[str] = []

    def _rows() -> Iterator[Row]:
        for source in sources:
            name = {"file": source.name} if len(sources) > 1 or as_json else {}
            row = None
            for row in _rows_of(model, source, by, choices, source.name if len(sources) > 1 else ""):
                yield {**name, **row}
            if row is None:
                empty.append(source.name)

    show(_rows(), "json" if as_json else "tsv" if as_tsv or by != "total" else "words")
    if empty:
        are = "is" if len(empty) == 1 else "are"
        raise InputError(f"{', '.join(empty[:SHOWN])} {are} empty; there is nothing to score")


def _rows_of(model: Model, source: TextSource, by: By, choices: dict[str, str | None], name: str) -> Iterator[Row]:
    """The rows about one text; after the last one notes on it, which begin with a name where one is given."""
    from scriven.cli.texts import read_sources
    from scriven.corpus.decoding import ReadCounts as Counts
    from scriven.inference.surprisal import check_scored, surprisals_of_text

    counts = Counts(empty_places=deque())
    pieces = check_scored(surprisals_of_text(model.predictor, read_sources(model, [source], counts, choices, name)))
    unit: Unit = "line" if model.settings.corpus.documents in {"none", "lines"} else "document"
    if by == "line":
        yield from _lines(model.vocabulary, pieces, unit, _DocumentNumbers(counts))
    elif by == "character":
        yield from _characters(model.vocabulary, pieces, unit, _DocumentNumbers(counts))
    else:
        yield from _total(model.vocabulary, pieces, model.predictor.reading)
    if counts.empty:
        were, have = ("s were", "their rows are") if counts.empty > 1 else (" was", "its row is")
        told = f"{counts.empty:,} empty {unit}{were} not read" + (f"; {have} without surprisal" if by == "line" else "")
        note(f"{name}: {told}" if name else told)


class _DocumentNumbers:
    """The numbers of documents as they stand in a file, from 1 on, where the empty ones are left out and counted."""

    def __init__(self, counts: Counts) -> None:
        self._empty = deque[int]() if counts.empty_places is None else counts.empty_places
        self.next = 1

    def pass_empty(self) -> Iterator[int]:
        """The numbers of the empty documents that come next."""
        while self._empty and self._empty[0] == self.next - 1:
            self._empty.popleft()
            yield self.next
            self.next += 1

    def take(self) -> int:
        """The number of the next document, which is not empty."""
        self.next += 1
        return self.next - 1


def _total(vocabulary: Vocabulary, pieces: Iterable[Scored], precision: str) -> Iterator[Row]:
    from scriven.inference.surprisal import sum_pieces

    total = sum_pieces(vocabulary, pieces)
    if total.loss.characters:
        yield {**total.values(), "precision": precision}


def _lines(vocabulary: Vocabulary, pieces: Iterable[Scored], unit: Unit, numbers: _DocumentNumbers) -> Iterator[Row]:
    from scriven.inference.lines import SHOWN as LONGEST
    from scriven.inference.lines import lines
    from scriven.inference.surprisal import SurprisalSum

    one = SurprisalSum(Loss(1.0, 1, 1, int(vocabulary.boundary is not None))).values()
    nothing = {name: None if "_per_" in name else 0 * value for name, value in one.items()}
    long = 0
    for some in lines(vocabulary, pieces):
        columns = some.sums.values()
        for text, *values in zip(some.texts, *columns.values(), strict=True):
            yield from ({unit: number, **nothing, "text": ""} for number in numbers.pass_empty())
            yield {unit: numbers.take(), **dict(zip(columns, values, strict=True)), "text": text}
            long += len(text) >= LONGEST
    yield from ({unit: number, **nothing, "text": ""} for number in numbers.pass_empty())
    if long:
        note(f"the text of {long:,} {unit}{'s' if long > 1 else ''} is shown up to its {LONGEST:,} first characters")


def _characters(
    vocabulary: Vocabulary, pieces: Iterable[Scored], unit: Unit, numbers: _DocumentNumbers
) -> Iterator[Row]:
    """One row a character, and one for the end of each document, whose position is that after its last character.

    Of a model of bytes each byte, as a number in hexadecimal where it is not ASCII.
    """
    number = position = 0
    for piece in pieces:
        unseen = vocabulary.unseen(piece.ids).tolist()
        for symbol, nats, new in zip(piece.ids.tolist(), piece.nats.tolist(), unseen, strict=True):
            if not position:
                number = [*numbers.pass_empty(), numbers.take()][-1]
            position += 1
            end = symbol == vocabulary.boundary
            place = {"position": position} if vocabulary.boundary is None else {unit: number, "position": position}
            shown = {"character": _show_symbol(vocabulary, symbol)} | (
                {} if vocabulary.boundary is None else {"end": int(end)}
            )
            yield {**place, **shown, "unseen": int(new), "nats": nats, "bits": nats / math.log(2)}
            position = 0 if end else position


def _show_symbol(vocabulary: Vocabulary, symbol: int) -> str:
    if symbol == vocabulary.boundary:
        return ""
    if vocabulary.unit == "byte":
        return Verbatim(f"\\x{symbol:02x}") if symbol > 127 else chr(symbol)
    character = vocabulary.decode([symbol])
    return Verbatim(f"\\x{ord(character) - 0xDC00:02x}") if "\udc80" <= character <= "\udcff" else character

"""`scriven score`: measures how surprising a text is to a trained model."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    Encoding,
    Form,
    Invalid,
    Json,
    Mixing,
    Normalize,
    ReadingPrecision,
    Row,
    RunFolder,
    Switch,
    Text,
    Verbatim,
    Which,
    check_named,
    in_bits,
    note,
    note_slowness,
    read_sources,
    show,
)
from scriven.errors import InputError, UsageError
from scriven.loss import Loss

if TYPE_CHECKING:
    from scriven.arrays import Ids
    from scriven.corpus.decoding import ReadCounts as Counts
    from scriven.corpus.sources import TextSource
    from scriven.inference.surprisal import Scored
    from scriven.session import Model
    from scriven.vocabulary import Vocabulary

SHOWN = 5  # empty files that an error names
By = Literal["total", "line", "character"]
Unit = Literal["line", "document"]  # what one row of --by line stands for


Files = Annotated[
    Text, Parameter(help="texts to score: files (also .gz, .xz, .bz2, .zst), folders, - for standard input")
]
Rows = Annotated[
    By,
    Parameter(
        help="one row for the whole text, for each line (with its line end), or for each character. Lines are read in "
        "order, each after all lines before it, so that they add up to the total. Every line gets a row with its "
        "number and its text, also an empty one. For a model of documents, line means document"
    ),
]
Tsv = Annotated[
    bool,
    Parameter(
        name="--tsv",
        negative="",
        help="print a table with tabs between columns, and a first row of names; lines and characters are always shown "
        "so. To paste lines and scores together, drop the first row: paste FILE <(scriven score RUN FILE --by line | "
        "tail -n +2)",
    ),
]
Adapt = Annotated[
    Switch,
    Parameter(
        help="let a copy of the model learn from the text while it reads: from each piece after it was scored. If the "
        "model is mixed with counts, these learn, too; they first read the training text. --counts none leaves them "
        "out. Each file begins with the trained weights. These scores depend on the order of the text, and cannot be "
        "compared with others; every row says `adaptive`. The run does not change"
    ),
]
AdaptDocuments = Annotated[
    Switch,
    Parameter(help="like --adapt with the network alone, but each document begins with the trained weights, too"),
]


def score(
    run: RunFolder,
    /,
    *files: Files,
    by: Rows = "total",
    as_json: Json = False,
    as_tsv: Tsv = False,
    adapt: Adapt = False,
    adapt_documents: AdaptDocuments = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
    counts: Mixing = "auto",
) -> None:
    """Measure how surprising a text of any length is to a trained model, which reads it once from the start.

    Every character counts once. The first character is predicted as if it followed a line end. A character that the
    model has never seen costs as much as <unk>, plus a guess among all unknown characters. For a model of bytes, each
    byte counts as a character.

    A model of documents (lines, files or pieces between separators) reads each document alone. The cost of its end is
    shown separately; in tables and JSON, exp(-total_nats) is the probability of a whole document. Empty documents are
    skipped.

    If you give several files, each is read from its own start, and each row has the name of its file.
    """
    if as_json and as_tsv:
        raise UsageError("--json and --tsv exclude each other; drop one")
    if not files:
        raise UsageError("scriven score needs a file with the text to score; - is standard input")
    from scriven.corpus.sources import find
    from scriven.inference.protocols import ADAPTIVE, ADAPTIVE_DOCUMENTS
    from scriven.session import load

    sources = find(check_named(files)).sources
    model = load(run, which=checkpoint, device=device, precision=precision, counts=counts)
    note_slowness(model)
    way = ADAPTIVE_DOCUMENTS if adapt_documents else ADAPTIVE if adapt else ""
    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    form: Form = "json" if as_json else "tsv" if as_tsv or by != "total" else "words"
    empty: list[str] = []
    show(_rows_of_all(model, sources, by, choices, form=form, way=way, empty=empty), form)
    if empty:
        are = "is" if len(empty) == 1 else "are"
        raise InputError(f"{', '.join(empty[:SHOWN])} {are} empty, so there is nothing to score")


def _rows_of_all(
    model: Model,
    sources: Sequence[TextSource],
    by: By,
    choices: dict[str, str | None],
    *,
    form: Form,
    way: str,
    empty: list[str],
) -> Iterator[Row]:
    """Yields the rows of the texts, each with the name of its text if there are several.

    Adds the names of texts without rows to `empty`.
    """
    from scriven.inference.protocols import text_reader

    read = text_reader(way, model.predictor)
    for source in sources:
        name = {"file": source.name} if len(sources) > 1 or form == "json" else {}
        row, shown = None, source.name if len(sources) > 1 else ""
        for row in _rows_of(model, source, by, choices, name=shown, form=form, way=way, read=read):
            yield {**name, **({"protocol": way} if way else {}), **row}
        if row is None:
            empty.append(source.name)


def _rows_of(
    model: Model,
    source: TextSource,
    by: By,
    choices: dict[str, str | None],
    *,
    name: str,
    form: Form,
    way: str,
    read: Callable[[Iterable[Ids]], Iterator[Scored]],
) -> Iterator[Row]:
    """Yields the rows of one text, then prints notes on it, which start with `name` if that is given.

    `way` is the adaptive protocol, or empty; `read` reads a text by it.
    """
    from scriven.corpus.decoding import ReadCounts as Counts
    from scriven.inference.protocols import reading_precision
    from scriven.inference.surprisal import check_scored

    counts = Counts(empty_places=deque())
    pieces = check_scored(read(read_sources(model, [source], counts, choices, name)))
    unit: Unit = "line" if model.settings.corpus.documents in {"none", "lines"} else "document"
    if by == "line":
        yield from _lines(model.vocabulary, pieces, unit, _DocumentNumbers(counts))
    elif by == "character":
        yield from _characters(model.vocabulary, pieces, unit, _DocumentNumbers(counts))
    else:
        yield from _total(model.vocabulary, pieces, reading_precision(way, model.predictor), form)
    if counts.empty:
        were, have = ("s were", "their rows have") if counts.empty > 1 else (" was", "its row has")
        text = f"{counts.empty:,} empty {unit}{were} skipped" + (f"; {have} no surprisal" if by == "line" else "")
        note(f"{name}: {text}" if name else text)


class _DocumentNumbers:
    """Numbers the documents of a file from 1; empty ones, which are skipped, count too."""

    def __init__(self, counts: Counts) -> None:
        self._empty = deque[int]() if counts.empty_places is None else counts.empty_places
        self.next = 1

    def pass_empty(self) -> Iterator[int]:
        """Yields the numbers of the empty documents before the next one with text."""
        while self._empty and self._empty[0] == self.next - 1:
            self._empty.popleft()
            yield self.next
            self.next += 1

    def take(self) -> int:
        """Returns the number of the next document with text."""
        self.next += 1
        return self.next - 1


def _total(vocabulary: Vocabulary, pieces: Iterable[Scored], precision: str, form: Form) -> Iterator[Row]:
    from scriven.inference.surprisal import sum_pieces

    total = sum_pieces(vocabulary, pieces)
    if total.loss.characters:
        yield {**(in_bits(total) if form == "words" else total.values()), "precision": precision}


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
        note(f"of {long:,} {unit}{'s' if long > 1 else ''} only the first {LONGEST:,} characters are shown")


def _characters(
    vocabulary: Vocabulary, pieces: Iterable[Scored], unit: Unit, numbers: _DocumentNumbers
) -> Iterator[Row]:
    """Yields one row per character, and one for the end of each document, at the position after its last character.

    For a model of bytes it is one row per byte; bytes that are not ASCII are shown in hexadecimal.
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

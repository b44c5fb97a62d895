"""`scriven score`: measures how surprising a text is to a trained model, as a whole or by its words or lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Mixing,
    Normalize,
    ReadingPrecision,
    Row,
    RunFolder,
    Switch,
    Text,
    Which,
    Whole,
    check_named,
    in_bits,
    note,
    note_slowness,
    read_sources,
    show,
)
from scriven.cli.tables import (
    Columns,
    TableForm,
    Verbatim,
    check_column,
    check_parquet,
    choose_columns,
    keep_columns,
    sort_tables,
    write_tables,
)
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.corpus.sources import TextSource
    from scriven.inference.boundaries import Rule
    from scriven.inference.surprisal import Scored, SurprisalSum
    from scriven.inference.unit_tables import TextPlaces
    from scriven.session import Model
    from scriven.vocabulary import Vocabulary

SHOWN = 5  # empty files that an error names
By = Literal["total", "document", "line", "word", "character"]


Files = Annotated[
    Text, Parameter(help="texts to score: files (also .gz, .xz, .bz2, .zst), folders, - for standard input")
]
Rows = Annotated[
    By,
    Parameter(
        help="one row for the whole text, or for each document, line (with its line end), word or character. Text is "
        "read in order, each row after all that is before it, so that rows add up to the total. Every line gets a row "
        "with its number and its text, also an empty one. For a model of documents, line means document, and other "
        "models read each file as one"
    ),
]
Spaces = Annotated[
    Literal["after", "before"],
    Parameter(
        help="which white space belongs to a word. With the space after it, a word is known to have ended, and the "
        "probabilities of all words that may come next add up to 1"
    ),
]
Punctuation = Annotated[
    Literal["with", "apart"],
    Parameter(
        help="whether punctuation and symbols belong to the word that they touch, or have rows of their own. An "
        "apostrophe, hyphen, full stop, comma, colon, middle dot or underscore between two letters or digits stays in "
        "the word"
    ),
]
Separator = Annotated[
    str,
    Parameter(
        help="a character, such as |, that you put between words, for scripts without spaces. The model does not read "
        "it. Words then end there and at line ends"
    ),
]
ColumnNames = Annotated[
    str,
    Parameter(
        help="columns to print, with commas between their names, or all. nats and bits are sums over characters, end_ "
        "those over ends of documents, total_ both; perplexity is that of a character"
    ),
]
Sort = Annotated[
    str,
    Parameter(
        help="column to sort by: the largest number first, texts by alphabet. A minus sign, as in --sort=-bits, turns "
        "the order around. All rows are held in memory, unless --top is given"
    ),
]
Top = Annotated[
    Whole | None,
    Parameter(help="print only the first N rows of --sort; unless that is given, the most surprising ones"),
]
Tsv = Annotated[
    bool,
    Parameter(
        name="--tsv",
        negative="",
        help="print a table with tabs between columns, and a first row of names; rows other than that of the total are "
        "always shown so. To paste lines and scores together, drop the first row: paste FILE <(scriven score RUN FILE "
        "--by line | tail -n +2)",
    ),
]
Csv = Annotated[bool, Parameter(name="--csv", negative="", help="print CSV, with all digits, as R and pandas read it")]
Parquet = Annotated[
    bool, Parameter(name="--parquet", negative="", help="write Parquet to standard output; needs pyarrow")
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
    spaces: Spaces = "after",
    punctuation: Punctuation = "with",
    separator: Separator = "",
    columns: ColumnNames = "",
    sort: Sort = "",
    top: Top = None,
    as_json: Json = False,
    as_tsv: Tsv = False,
    as_csv: Csv = False,
    as_parquet: Parquet = False,
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

    The surprisal of a word is the sum over its characters, with the white space after it, or before it, as you choose.
    Marks and other parts of what is read as one character are never cut off.

    If you give several files, each is read from its own start, and each row has the name of its file.
    """
    forms: dict[TableForm, bool] = {"json": as_json, "tsv": as_tsv, "csv": as_csv, "parquet": as_parquet}
    layout = _make_layout(forms, by, columns, sort, top)
    _check_words(by, spaces, punctuation, separator)
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
    options = {"spaces": spaces, "punctuation": punctuation, "separator": separator} if by == "word" else {}
    scoring, empty = _Scoring(model, by, options, choices, way), list[str]()
    if layout.form:
        names, sort = _choose(scoring, layout, several=len(sources) > 1)
        tables = scoring.tables(sources, (*names, sort.removeprefix("-")) if sort else names, empty)
        write_tables(keep_columns(sort_tables(tables, sort, layout.top) if sort else tables, names), layout.form)
    else:
        show(scoring.totals(sources, empty), "words")
    if empty:
        are = "is" if len(empty) == 1 else "are"
        raise InputError(f"{', '.join(empty[:SHOWN])} {are} empty, so there is nothing to score")


@dataclass(frozen=True)
class _TableLayout:
    """How rows are printed: the form of the table, its columns, their order. Without a form, it is words."""

    form: TableForm | Literal[""]
    columns: str
    sort: str
    top: int | None


def _make_layout(forms: dict[TableForm, bool], by: By, columns: str, sort: str, top: int | None) -> _TableLayout:
    """Returns how rows are printed. Raises UsageError for choices that contradict each other."""
    given: list[TableForm] = [form for form, chosen in forms.items() if chosen]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other; drop one")
    if "parquet" in given:
        check_parquet()
    if top is not None and top < 1:
        raise UsageError(f"--top {top}: give 1 or more rows")
    if by == "total" and (sort or top):
        raise UsageError("--sort and --top need rows to choose from; add --by word, or another unit")
    return _TableLayout(given[0] if given else "tsv" if by != "total" or columns else "", columns, sort, top)


def _check_words(by: By, spaces: str, punctuation: str, separator: str) -> None:
    """Raises UsageError for choices about words that do not go with the others."""
    chosen = (spaces, punctuation) != ("after", "with")
    if by != "word" and (chosen or separator):
        raise UsageError("--spaces, --punctuation and --separator say what a word is; add --by word")
    if separator and chosen:
        raise UsageError("with --separator, words end at your separators alone; drop --spaces and --punctuation")


def _choose(scoring: _Scoring, layout: _TableLayout, *, several: bool) -> tuple[tuple[str, ...], str]:
    """Returns the names of the columns to print, and the one to sort by, or an empty string."""
    usual, known = scoring.columns()
    first = (["file"] if several or layout.form == "json" else []) + (["protocol"] if scoring.way else [])
    names = choose_columns(layout.columns, known, (*first, *usual))
    sort = layout.sort or (scoring.surprise if layout.top else "")
    if sort:
        check_column("--sort", sort.removeprefix("-"), known)
    return names, sort


class _Text(NamedTuple):
    """A text that is read: its name, its surprisals, the rule that ends its units, and the numbers of its lines."""

    name: str
    pieces: Iterator[Scored]
    rule: Rule
    places: TextPlaces


@dataclass(frozen=True)
class _Scoring:
    """Makes rows of texts by a model. `way` is the adaptive protocol, or empty."""

    model: Model
    by: By
    options: dict[str, Any]
    choices: dict[str, str | None]
    way: str

    @property
    def unit(self) -> Literal["line", "document"]:
        """The parts of a text that rows are numbered by: lines, or documents."""
        from scriven.inference.unit_tables import row_unit

        return row_unit(self.model.settings.corpus.documents, self.by)

    @property
    def surprise(self) -> str:
        """The column that says how surprising a row is."""
        if self.by in {"line", "document"}:
            return "bits_per_char"
        return "bits" if self.by == "character" or self.model.vocabulary.boundary is None else "total_bits"

    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the names of the usual columns, and of all."""
        from scriven.inference.unit_tables import total_columns, unit_columns

        first, vocabulary = ("file", "protocol") if self.way else ("file",), self.model.vocabulary
        if self.by == "total":
            usual, known = total_columns(vocabulary)
            return (*usual, "precision"), (*first, *known, "precision")
        usual, known = unit_columns(self.by, vocabulary, self.unit)
        return usual, (*first, *known)

    def totals(self, sources: Sequence[TextSource], empty: list[str]) -> Iterator[Row]:
        """Yields what people are shown of each text. Adds the names of texts without characters to `empty`."""
        for text in self._read(sources):
            total = self._sum(text)
            if total.loss.characters:
                named = {"file": text.name} if len(sources) > 1 else {}
                protocol = {"protocol": self.way} if self.way else {}
                yield {**named, **protocol, **in_bits(total), "precision": self._precision}
            else:
                empty.append(text.name)

    def tables(self, sources: Sequence[TextSource], names: Sequence[str], empty: list[str]) -> Iterator[Columns]:
        """Yields the columns of these names, of all texts in parts. Adds the names of texts without rows to `empty`."""
        always = self.columns()[0][0]  # a column that has as many values as there are rows
        own = [name for name in dict.fromkeys([always, *names]) if name not in {"file", "protocol"}]
        for text in self._read(sources):
            table = None
            for table in self._tables_of(text, own):
                rows = len(table[always])
                constant = {"file": [text.name] * rows, "protocol": [self.way] * rows}
                yield {name: (constant | table)[name] for name in names}
            if table is None:
                empty.append(text.name)

    def _tables_of(self, text: _Text, names: Sequence[str]) -> Iterator[Columns]:
        """Yields the columns of one text."""
        from scriven.inference.unit_tables import character_tables, unit_tables

        vocabulary = self.model.vocabulary
        if self.by == "total":
            total = self._sum(text)
            if total.loss.characters:
                values = {**total.measures(), "precision": self._precision}
                yield {name: [values[name]] for name in names}
        elif self.by == "character":
            show = partial(_show_symbol, vocabulary)
            yield from character_tables(vocabulary, text.pieces, places=text.places, names=names, show=show)
        else:
            yield from unit_tables(vocabulary, text.pieces, text.rule, places=text.places, names=names)

    def _sum(self, text: _Text) -> SurprisalSum:
        from scriven.inference.surprisal import sum_pieces

        return sum_pieces(self.model.vocabulary, text.pieces)

    @property
    def _precision(self) -> str:
        from scriven.inference.protocols import reading_precision

        return reading_precision(self.way, self.model.predictor)

    def _read(self, sources: Sequence[TextSource]) -> Iterator[_Text]:
        """Yields the texts, and prints notes on each after it was read."""
        from scriven.corpus.decoding import ReadCounts as Counts
        from scriven.inference.boundaries import SeparatorRule, make_rule
        from scriven.inference.protocols import text_reader
        from scriven.inference.surprisal import check_scored
        from scriven.inference.unit_tables import TextPlaces

        read = text_reader(self.way, self.model.predictor)
        for source in sources:
            shown = source.name if len(sources) > 1 else ""
            places = TextPlaces(self.unit, deque())
            empty = None if self.by == "total" else places.empty  # which nothing would take
            counts, rule = Counts(empty_places=empty), make_rule(self.model.vocabulary, self.by, **self.options)
            chunks = read_sources(self.model, [source], counts, self.choices, shown)
            if isinstance(rule, SeparatorRule):
                chunks = rule.remove_from(chunks)
            yield _Text(source.name, check_scored(read(chunks)), rule, places)
            self._note(counts.empty, places.long, f"{shown}: " if shown else "")

    def _note(self, empty: int, long: int, about: str) -> None:
        """Prints notes on documents that were skipped, and on rows that show a part of their text."""
        if long:
            from scriven.inference.units import SHOWN as LONGEST

            note(f"{about}of {long:,} {self.unit}{'s' * (long > 1)} only the first {LONGEST:,} characters are shown")
        if empty:
            were, have = ("s were", "their rows have") if empty > 1 else (" was", "its row has")
            rows = f"; {have} no surprisal" if self.by in {"line", "document"} else ""
            note(f"{about}{empty:,} empty {self.unit}{were} skipped{rows}")


def _show_symbol(vocabulary: Vocabulary, symbol: int) -> str:
    if symbol == vocabulary.boundary:
        return ""
    if vocabulary.unit == "byte":
        return Verbatim(f"\\x{symbol:02x}") if symbol > 127 else chr(symbol)
    character = vocabulary.decode([symbol])
    return Verbatim(f"\\x{ord(character) - 0xDC00:02x}") if "\udc80" <= character <= "\udcff" else character

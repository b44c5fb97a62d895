"""`scriven score`: measures how surprising a text is to a trained model, as a whole or by its words or lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Mixing,
    Normalize,
    ReadingPrecision,
    RunFolder,
    Switch,
    Text,
    Which,
    Whole,
    check_named,
    note,
    show,
)
from scriven.cli.scoring import By, ModelRows, Scoring
from scriven.cli.tables import (
    Columns,
    TableForm,
    check_column,
    check_parquet,
    choose_columns,
    gather_tables,
    keep_above,
    keep_columns,
    sort_tables,
    write_tables,
)
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.corpus.sources import TextSource

SHOWN = 5  # empty files that an error names


Files = Annotated[
    Text, Parameter(help="texts to score: files (also .gz, .xz, .bz2, .zst), folders, - for standard input")
]
Rows = Annotated[
    By,
    Parameter(
        help="one row for the whole text, or for each document, line (with its line end), word or character. Text is "
        "read in order, each row after all that is before it, so that rows add up to the total. Every line gets a row "
        "with its number and its text, also an empty one. For a model of documents, line means document, and other "
        "models read each file as one. region: a row for each region of the texts in the table given with --regions"
    ),
]
Above = Annotated[
    str,
    Parameter(
        help="print only rows above this quantile of the rows of the run's validation text, such as 0.99: those that "
        "are less expected than 99 of 100 of the usual ones. What counts is all bits of a row, or the column that you "
        "name, as in bits_per_char:0.99. From standard input, each row is printed before the next is read"
    ),
]
Follow = Annotated[
    str,
    Parameter(
        help="read a file from its start, and what is added to it, until Ctrl-C, and print each row at once. If the "
        "file is replaced or cut, as by programs that rotate logs, it is read from its start again"
    ),
]
Regions = Annotated[
    str,
    Parameter(
        help="CSV with the columns item, condition, region and text, and any others, for --by region. Rows of one item "
        "and condition, one below the other, are the regions of one text. They are printed with columns appended"
    ),
]
Join = Annotated[
    str,
    Parameter(
        help="what stands between two regions that have no white space there already: a space unless given, nothing "
        "for scripts without spaces (--join=). It belongs to the region before it, or after it: see --spaces"
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
        "those over ends of documents, total_ both; perplexity is that of a character. These take longer, and are "
        "printed if you name them: entropy, in bits, of the character that comes next where the row begins; and "
        "counts_ before a name, as in counts_bits, for what the counts of the training text alone expect"
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
Against = Annotated[
    str,
    Parameter(
        help="another run, to compare each row with: its columns begin with against_, and log_ratio is log2 of the "
        "ratio of the row's probabilities by RUN and by the other, so that it is above 0 if RUN expected the row more"
    ),
]
Checkpoints = Annotated[
    Literal["all"] | None,
    Parameter(help="all: rows of every checkpoint that the run has kept (see --keep), with a column for its step"),
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
    above: Above = "",
    follow: Follow = "",
    regions: Regions = "",
    join: Join = " ",
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
    against: Against = "",
    checkpoints: Checkpoints = None,
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

    If you give several files, each is read from its own start, and each row has the name of its file. The texts of a
    table of regions are each read from the start, too.
    """
    forms: dict[TableForm, bool] = {"json": as_json, "tsv": as_tsv, "csv": as_csv, "parquet": as_parquet}
    several_models = bool(against or checkpoints)
    layout = _make_layout(forms, by, columns, sort, top, several_models=several_models)
    _check_words(by, spaces, punctuation, separator)
    _check_regions(by, regions, files, join, adapts=adapt or adapt_documents)
    column_above, share = _parse_above(above, by)
    _check_live(by, follow, files, layout, several_models=several_models, adapts=adapt or adapt_documents)
    if not (files or regions or follow):
        raise UsageError("scriven score needs a file with the text to score; - is standard input")
    from scriven.corpus.sources import find
    from scriven.inference.protocols import ADAPTIVE, ADAPTIVE_DOCUMENTS

    sources = find(check_named([follow or regions] if follow or regions else files)).sources
    live = _open_live(follow, sources, above=bool(above))
    if several_models and any(source.path is None for source in sources):
        raise UsageError(
            f"{'--against' if against else '--checkpoints'} reads the text several times, and standard input can be "
            "read only once; save it to a file, and name that"
        )
    way = ADAPTIVE_DOCUMENTS if adapt_documents else ADAPTIVE if adapt else ""
    options = {"spaces": spaces, "punctuation": punctuation, "separator": separator} if by == "word" else {}
    loading = {"device": device, "precision": precision, "counts": counts}
    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    open_rows = partial(ModelRows.open, by=by, loading=loading, options=options, choices=choices, way=way, live=live)
    scorings, empty = _open_scorings(run, against, checkpoint, checkpoints or "", open_rows), list[str]()
    first = next(scorings)
    if regions:
        names, sort, rows = _regions_of(chain([first], scorings), layout, sources, join, spaces)
    elif layout.form:
        names, sort = _choose(first, layout, several=len(sources) > 1)
        column = column_above or first.own.total_bits
        more = [*([sort.removeprefix("-")] if sort else []), *([column] if above else [])]
        asked = tuple(dict.fromkeys((*names, *more)))
        _check_live_columns(asked, is_live=live is not None)
        rows = (table for each in chain([first], scorings) for table in each.tables(sources, asked, empty))
        if above:
            rows = keep_above(rows, column, _find_least(first, column, share))
    if layout.form:
        rows = keep_columns(sort_tables(rows, sort, layout.top) if sort else rows, names)
        write_tables(rows, layout.form, flush=live is not None)
    else:
        show(first.totals(sources, empty), "words")
    if empty := list(dict.fromkeys(empty)):
        are = "is" if len(empty) == 1 else "are"
        raise InputError(f"{', '.join(empty[:SHOWN])} {are} empty, so there is nothing to score")


def _open_scorings(
    run: str, against: str, checkpoint: Any, checkpoints: str, open_rows: Callable[[str, Any], ModelRows]
) -> Iterator[Scoring]:
    """Yields what makes the rows of each checkpoint: of one, or of all that the run has kept."""
    from scriven.runs.folder import open_run

    other = open_rows(against, "best") if against else None
    if not checkpoints:
        yield Scoring(open_rows(run, checkpoint), other)
        return
    if checkpoint != "best":
        raise UsageError("--checkpoint names one checkpoint, and --checkpoints all; drop one of them")
    steps = open_run(run).steps()
    if not steps:
        raise InputError(f"{run} has no checkpoint; nothing was saved before it ended")
    for step in steps:
        yield Scoring(open_rows(run, step), other, {"step": step})


@dataclass(frozen=True)
class _TableLayout:
    """How rows are printed: the form of the table, its columns, their order. Without a form, it is words."""

    form: TableForm | Literal[""]
    columns: str
    sort: str
    top: int | None


def _make_layout(
    forms: dict[TableForm, bool], by: By, columns: str, sort: str, top: int | None, *, several_models: bool
) -> _TableLayout:
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
    needs_table = by != "total" or columns or several_models
    return _TableLayout(given[0] if given else "tsv" if needs_table else "", columns, sort, top)


def _check_regions(by: By, regions: str, files: Sequence[str], join: str, *, adapts: bool) -> None:
    """Raises UsageError for choices about regions that do not go with the others."""
    if (by == "region") != bool(regions):
        raise UsageError("--by region and --regions items.csv need each other; give both, or neither")
    if by != "region" and join != " ":
        raise UsageError("--join says what stands between regions; add --by region --regions items.csv")
    if regions and files:
        raise UsageError(f"the texts of --by region are those in {regions}; drop {files[0]}")
    if regions and adapts:
        raise UsageError("--by region reads each text anew, so nothing is learned from them; drop --adapt")


def _regions_of(
    scorings: Iterator[Scoring], layout: _TableLayout, sources: Sequence[TextSource], join: str, spaces: Any
) -> tuple[tuple[str, ...], str, Iterator[Columns]]:
    """Returns the columns to print, the one to sort by, and the rows of a table of regions."""
    from scriven.cli.common import reading_settings
    from scriven.inference.regions import read_regions

    if len(sources) != 1:
        raise UsageError(f"--regions is {len(sources)} files; name one table")
    first = next(scorings)
    settings = reading_settings(first.own.model, first.own.choices)
    table = read_regions(sources[0], settings)
    names, sort = _choose(first, layout, several=False, given=table.columns)

    def read_all() -> Iterator[Columns]:
        for scoring in chain([first], scorings):
            again = read_regions(sources[0], settings)
            asked = tuple(dict.fromkeys((*names, sort.removeprefix("-")))) if sort else names
            yield from scoring.region_tables(again, asked, join=join, spaces=spaces)

    return names, sort, gather_tables(read_all())


def _parse_above(above: str, by: By) -> tuple[str, float]:
    """Returns the column of --above, empty for the usual one, and the quantile. Raises UsageError for another value."""
    column, _, share = above.rpartition(":")
    try:
        value = float(share or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1 or (above and by in {"total", "region", "character"}):
        raise UsageError(
            f"--above {above}: give a quantile from 0 to below 1, such as 0.99, or a column with it, such as "
            "bits_per_char:0.99; and --by line, document or word"
        )
    return column, value


def _check_live(
    by: By, follow: str, files: Sequence[str], layout: _TableLayout, *, several_models: bool, adapts: bool
) -> None:
    """Raises UsageError for choices that do not go with a text that is read while it is written."""
    if not follow:
        return
    if files:
        raise UsageError(f"--follow reads {follow} alone; drop {files[0]}")
    if by in {"total", "document", "region"}:
        raise UsageError(f"--follow {follow} has no end, so there is no row --by {by}; add --by line, or another unit")
    if layout.sort or layout.top or layout.form == "parquet" or several_models or adapts:
        raise UsageError(
            "--follow prints rows as they come; drop --sort, --top, --parquet, --adapt, --against and --checkpoints"
        )


def _check_live_columns(names: Sequence[str], *, is_live: bool) -> None:
    """Raises UsageError for columns that need text after a row."""
    if is_live and any("entropy" in name for name in names):
        raise UsageError("there is no entropy of a text that is read while it is written; leave the column out")


def _open_live(follow: str, sources: Sequence[TextSource], *, above: bool) -> Iterator[bytes] | None:
    """Returns the bytes of a text that is read while it is written, or None for one that is complete."""
    from scriven.corpus.live import follow_file, read_standard_input

    if follow:
        if len(sources) != 1 or not isinstance(sources[0].path, Path):
            raise UsageError(f"--follow {follow}: name one file on this machine")
        return follow_file(sources[0].path, note)
    return read_standard_input() if above and [source.path for source in sources] == [None] else None


def _find_least(scoring: Scoring, column: str, share: float) -> float:
    """Returns what a row must be above, and prints a note."""
    check_column("--above", column, scoring.own.columns()[1])
    least, rows = scoring.own.quantile(column, share)
    usual = f"the {share:g} quantile of {rows:,} rows of the run's validation text"
    note(f"rows with more than {least:.4f} {column} are printed: {usual}")
    return least


def _check_words(by: By, spaces: str, punctuation: str, separator: str) -> None:
    """Raises UsageError for choices about words that do not go with the others."""
    chosen = (spaces, punctuation) != ("after", "with")
    if by == "region" and punctuation == "with" and not separator:
        return
    if by != "word" and (chosen or separator):
        raise UsageError("--spaces, --punctuation and --separator say what a word is; add --by word")
    if separator and chosen:
        raise UsageError("with --separator, words end at your separators alone; drop --spaces and --punctuation")


def _choose(
    scoring: Scoring, layout: _TableLayout, *, several: bool, given: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], str]:
    """Returns the names of the columns to print, and the one to sort by, or an empty string.

    The columns `given` by a table of regions come first. Raises InputError if they have the names of others.
    """
    usual, known, further = scoring.columns()
    if both := next((name for name in given if name in {*known, *further}), ""):
        raise InputError(f"the table of regions has a column {both} already, which would be appended; rename its own")
    is_named = "file" in known and (several or layout.form == "json")
    first = [*given, *(["file"] if is_named else []), *scoring.first]
    known = (*given, *known)
    names = choose_columns(layout.columns, known, (*first, *usual), further)
    sort = layout.sort or (scoring.surprise if layout.top else "")
    if sort:
        check_column("--sort", sort.removeprefix("-"), (*known, *further))
    return names, sort

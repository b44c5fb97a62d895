"""Rows of scored texts for `scriven score`: those of one model, with columns of others next to its own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import tee
from typing import TYPE_CHECKING, Any, Literal

from scriven.cli.common import Row, in_bits, note, note_slowness, read_sources, reading_settings
from scriven.cli.tables import Columns, Verbatim
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.arrays import Ids
    from scriven.corpus.decoding import ReadCounts
    from scriven.corpus.sources import TextSource
    from scriven.inference.boundaries import Spaces, UnitRule
    from scriven.inference.regions import Region, RegionTable
    from scriven.inference.surprisal import Scored, SurprisalSum
    from scriven.inference.unit_tables import TextPlaces
    from scriven.trained_model import Model
    from scriven.vocabulary import Vocabulary

By = Literal["total", "document", "line", "word", "character", "region"]
COUNTS, AGAINST = "counts_", "against_"  # begin the names of columns of the counts alone, and of another model
RATIO, ENTROPY = "log_ratio", "entropy"
# Columns of what a model expects; all others are of the text.
EXPECTED = (
    *("nats", "bits", "end_nats", "end_bits", "total_nats", "total_bits"),
    *("nats_per_char", "bits_per_char", "bits_per_byte", "perplexity", ENTROPY),
)


VALIDATION_CHARACTERS = 1 << 22  # that --above reads at most
REGION_COLUMNS = ("characters", "unseen", "ends", "end_bits", "nats", "bits", ENTROPY)


@dataclass(frozen=True)
class ModelRows:
    """Makes rows of texts by one model. `way` is the adaptive protocol, or empty."""

    model: Model
    by: By
    options: dict[str, Any] = field(default_factory=dict)  # about words
    choices: dict[str, str | None] = field(default_factory=dict)  # how texts are read
    way: str = ""
    live: Iterable[bytes] | None = None  # read instead of the source, as it comes

    @classmethod
    def open(cls, name: str, which: Any = "best", *, by: By, loading: Mapping[str, Any], **more: Any) -> ModelRows:
        """Opens the model of a run, as `loading` says, and prints a note if it is slow here."""
        from scriven.trained_model import load

        model = load(name, which=which, **loading)
        note_slowness(model)
        return cls(model, by, **more)

    @property
    def unit(self) -> Literal["line", "document"]:
        """The parts of a text that rows are numbered by: lines, or documents."""
        from scriven.inference.unit_tables import row_unit

        return row_unit(self.model.settings.corpus.documents, self.by)

    @property
    def total(self) -> str:
        """The column with all nats of a row."""
        return "nats" if self.by == "character" or self.model.vocabulary.boundary is None else "total_nats"

    @property
    def total_bits(self) -> str:
        """The column with all bits of a row."""
        return self.total.replace("nats", "bits")

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that say which row of a text this is."""
        if self.by in {"total", "region"}:
            return ()
        if self.by == "character":
            return ("position",) if self.model.vocabulary.boundary is None else (self.unit, "position")
        return (self.unit, "word") if self.by == "word" else (self.unit,)

    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the names of the usual columns, and of all but the entropy."""
        from scriven.inference.unit_tables import total_columns, unit_columns

        if self.by == "total":
            usual, known = total_columns(self.model.vocabulary)
            return (*usual, "precision"), (*known, "precision")
        if self.by == "region":
            known = (*total_columns(self.model.vocabulary)[1], ENTROPY)
            return tuple(name for name in REGION_COLUMNS if name in known), known
        return unit_columns(self.by, self.model.vocabulary, self.unit)

    def chunks(self, source: TextSource, tally: ReadCounts, about: str) -> Iterator[Ids]:
        """Yields the ids of a source, and prints notes after it was read."""
        return read_sources(self.model, [source], tally, self.choices, about, self.live)

    def rows(self, chunks: Iterable[Ids], places: TextPlaces, names: Sequence[str]) -> Iterator[Columns]:
        """Yields the columns of these names, of one text in parts."""
        from scriven.inference.unit_tables import character_tables, unit_tables

        pieces, rule = self._read(chunks, with_entropy=ENTROPY in names)
        vocabulary = self.model.vocabulary
        if self.by == "total":
            total = self._sum(pieces)
            if total.loss.characters:
                values = {**total.measures(), "precision": self._precision}
                yield {name: [values[name]] for name in names}
        elif self.by == "character":
            show = partial(_show_symbol, vocabulary)
            yield from character_tables(vocabulary, pieces, places=places, names=names, show=show)
        else:
            yield from unit_tables(vocabulary, pieces, rule, places=places, names=names)

    def region_rows(
        self, regions: list[Region], names: Sequence[str], *, table: RegionTable, join: str, spaces: Spaces
    ) -> Columns:
        """Returns the columns of these names, with a row for each region of one text."""
        from scriven.inference.regions import encode_regions, score_regions

        settings = reading_settings(self.model, self.choices)
        text = encode_regions(regions, self.model.vocabulary, settings, name=table.name, join=join, spaces=spaces)
        return score_regions(self.model.predictor, text, names)

    def words(self, chunks: Iterable[Ids]) -> Row | None:
        """Returns the row that people are shown of one text, or None for a text without a character."""
        total = self._sum(self._read(chunks, with_entropy=False)[0])
        return (
            {**in_bits(total, self.model.vocabulary.unit), "precision": self._precision}
            if total.loss.characters
            else None
        )

    def _read(self, chunks: Iterable[Ids], *, with_entropy: bool) -> tuple[Iterator[Scored], UnitRule]:
        """Returns the surprisals of one text, and the rule that ends its units."""
        from scriven.inference.boundaries import SeparatorRule, make_rule
        from scriven.inference.protocols import text_reader
        from scriven.inference.surprisal import check_scored, surprisals_of_text
        from scriven.inference.units import surprisals_of_units

        rule = make_rule(self.model.vocabulary, self.by, **self.options)
        if isinstance(rule, SeparatorRule):
            chunks = rule.remove_from(chunks)
        if with_entropy:
            return check_scored(surprisals_of_units(self.model.predictor, chunks, rule)), rule
        if self.live is not None:
            return check_scored(surprisals_of_text(self.model.predictor, chunks, live=True)), rule
        return check_scored(text_reader(self.way, self.model.predictor)(chunks)), rule

    def _sum(self, pieces: Iterator[Scored]) -> SurprisalSum:
        from scriven.inference.surprisal import sum_pieces

        return sum_pieces(self.model.vocabulary, pieces)

    def quantile(self, column: str, share: float) -> tuple[float, int]:
        """Returns a quantile of a column over rows of the run's validation text, and their number.

        The first `VALIDATION_CHARACTERS` are read. Raises InputError if there is no validation text, or no such row.
        """
        import numpy as np

        from scriven.cli.evaluate import corpus_of
        from scriven.inference.chunks import chunks_of, count_beginning_in, documents_of
        from scriven.inference.unit_tables import TextPlaces

        text, boundary = corpus_of(self.model.run).validation, self.model.vocabulary.boundary
        most = min(text.characters, VALIDATION_CHARACTERS)
        if boundary is None:
            chunks = chunks_of(text, 0, most)
        else:
            chunks = documents_of(text, boundary, 0, count_beginning_in(text, most))
        rows = replace(self, live=None).rows(chunks, TextPlaces(self.unit), [column])
        values = [value for table in rows for value in table[column] if value is not None]
        if not values:
            raise InputError(
                f"{self.model.run} was trained without validation text, so --above has no {self.by}s to take a "
                "quantile of; leave it out, and choose rows by --top"
            )
        return float(np.quantile(values, share)), len(values)

    @property
    def _precision(self) -> str:
        from scriven.inference.protocols import reading_precision

        return reading_precision(self.way, self.model.predictor)


@dataclass(frozen=True)
class Scoring:
    """Makes rows of texts by a model, with columns of its counts alone and of another model, after `constant` ones."""

    own: ModelRows
    against: ModelRows | None = None
    constant: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError if rows by the two models cannot be compared."""
        if self.against is not None:
            _check_comparable(self.own, self.against)

    @property
    def first(self) -> dict[str, Any]:
        """The columns that have one value, besides the name of the file."""
        return self.constant | ({"protocol": self.own.way} if self.own.way else {})

    @property
    def surprise(self) -> str:
        """The column that says how surprising a row is."""
        return "bits_per_char" if self.own.by in {"line", "document"} else self.own.total_bits

    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Returns the names of the usual columns, of all, and of more that take further reading."""
        usual, known = self.own.columns()
        entropy = () if self.own.by == "total" or self.own.way or ENTROPY in known else (ENTROPY,)
        expected = [name for name in EXPECTED if name in {*known, *entropy}]
        further = (*entropy, *(COUNTS + name for name in expected))
        if self.against is not None:
            theirs = [name for name in EXPECTED if name in self.against.columns()[1]]
            usual = (*usual, AGAINST + self.against.total_bits, RATIO)
            known = (*known, *(AGAINST + name for name in theirs), RATIO)
            further = (*further, *(AGAINST + name for name in entropy))
        file = () if self.own.by == "region" else ("file",)
        return usual, (*file, *self.first, *known), further

    def totals(self, sources: Sequence[TextSource], empty: list[str]) -> Iterator[Row]:
        """Yields what people are shown of each text. Adds the names of texts without characters to `empty`."""
        from scriven.corpus.decoding import ReadCounts

        for source in sources:
            tally, about = ReadCounts(), source.name if len(sources) > 1 else ""
            row = self.own.words(self.own.chunks(source, tally, about))
            if row is None:
                empty.append(source.name)
            else:
                yield {**({"file": source.name} if about else {}), **self.first, **row}
            self._note(tally.empty, 0, about)

    def tables(self, sources: Sequence[TextSource], names: Sequence[str], empty: list[str]) -> Iterator[Columns]:
        """Yields the columns of these names, of all texts in parts. Adds the names of texts without rows to `empty`."""
        for source in sources:
            given, table = {"file": source.name, **self.first}, None
            for table in self._tables_of(source, names, source.name if len(sources) > 1 else ""):
                rows = len(next(iter(table.values())))
                yield {name: [given[name]] * rows if name in given else table[name] for name in names}
            if table is None:
                empty.append(source.name)

    def _tables_of(self, source: TextSource, names: Sequence[str], about: str) -> Iterator[Columns]:
        """Yields the columns of one text, with those of the other models."""
        from scriven.corpus.decoding import ReadCounts
        from scriven.inference.unit_tables import TextPlaces

        own, counts, against = self._share_out(names)
        places, same = TextPlaces(self.own.unit), TextPlaces(self.own.unit)
        queues = [places.empty, *([same.empty] if counts else [])]
        tally = ReadCounts(empty_places=None if self.own.by == "total" else _Copies(queues))
        chunks: Iterator[Ids] = self.own.chunks(source, tally, about)
        others = dict[str, Iterator[Columns]]()
        if counts:
            chunks, copied = tee(chunks)
            others[COUNTS] = self._counts.rows(copied, same, counts)
        if against and self.against is not None:
            theirs = TextPlaces(self.own.unit)
            read = self.against.chunks(source, ReadCounts(empty_places=theirs.empty), f"{self.against.model.run}: ")
            others[AGAINST] = self.against.rows(read, theirs, against)
        for table in join_rows(self.own.rows(chunks, places, own), others, self.own.numbers):
            yield self._with_ratio(table) if RATIO in names else table
        self._note(tally.empty, places.long, about)

    def region_tables(
        self, table: RegionTable, names: Sequence[str], *, join: str, spaces: Spaces
    ) -> Iterator[Columns]:
        """Yields the columns of a table of regions, and those of these names, for one text after another."""
        shared = self._share_out([name for name in names if name not in table.columns])
        readers = (("", self.own), (COUNTS, self._counts if shared[1] else None), (AGAINST, self.against))
        for regions in table.texts:
            rows = {name: [region.values[name] for region in regions] for name in table.columns}
            for (begin, reader), some in zip(readers, shared, strict=True):
                if some and reader is not None:
                    found = reader.region_rows(regions, some, table=table, join=join, spaces=spaces)
                    rows |= {begin + name: values for name, values in found.items()}
            rows |= {name: [value] * len(regions) for name, value in self.first.items()}
            yield self._with_ratio(rows) if RATIO in names else rows

    def _share_out(self, names: Sequence[str]) -> tuple[list[str], ...]:
        """Returns the names of the columns to ask of this model, of the counts, and of the other model."""
        wanted = [name for name in names if name not in {"file", RATIO, *self.first}]
        of = {
            begin: [name.removeprefix(begin) for name in wanted if name.startswith(begin)]
            for begin in (COUNTS, AGAINST)
        }
        own = [name for name in wanted if not name.startswith((COUNTS, AGAINST))]
        if RATIO in names and self.against is not None:
            own, of[AGAINST] = [*own, self.own.total], [*of[AGAINST], self.against.total]
        always = [*self.own.numbers, self.own.columns()[0][0]]  # columns that have as many values as there are rows
        each = ([*always, *own], *([*self.own.numbers, *some] if some else [] for some in of.values()))
        return tuple(list(dict.fromkeys(some)) for some in each)

    def _with_ratio(self, table: Columns) -> Columns:
        """Adds the column of log2 of the ratio of the probabilities by this model and by the other."""
        assert self.against is not None  # or there would be no such column
        pairs = zip(table[AGAINST + self.against.total], table[self.own.total], strict=True)
        return table | {RATIO: [(theirs - ours) / math.log(2) for theirs, ours in pairs]}

    @cached_property
    def _counts(self) -> ModelRows:
        return replace(self.own, model=counts_alone(self.own.model), way="")

    def _note(self, empty: int, long: int, about: str) -> None:
        """Prints notes on documents that were skipped, and on rows that show a part of their text."""
        about, unit = f"{about}: " if about else "", self.own.unit
        if long:
            from scriven.inference.units import SHOWN

            note(f"{about}of {long:,} {unit}{'s' * (long > 1)} only the first {SHOWN:,} characters are shown")
        if empty:
            were, have = ("s were", "their rows have") if empty > 1 else (" was", "its row has")
            rows = f"; {have} no surprisal" if self.own.by in {"line", "document"} else ""
            note(f"{about}{empty:,} empty {unit}{were} skipped{rows}")


def _check_comparable(own: ModelRows, other: ModelRows) -> None:
    """Raises UsageError if rows by two models cannot stand next to one another."""
    ours, theirs = own.model.vocabulary.unit, other.model.vocabulary.unit
    if own.by == "character" and ours != theirs:
        raise UsageError(f"{own.model.run} reads {ours}s, and {other.model.run} {theirs}s; compare them --by word")
    if own.numbers != other.numbers:
        raise UsageError(
            f"{own.model.run} numbers rows by {own.numbers[0]}, and {other.model.run} by {other.numbers[0]}, since "
            "their texts were divided in other ways; leave out --by to compare whole texts"
        )


def counts_alone(model: Model) -> Model:
    """Returns a model of the counts of a run's training text alone. Raises InputError if the run has none."""
    from scriven.runs.folder import open_run
    from scriven.trained_model import Model

    predictor = model.predictor
    if predictor.is_counts_alone:
        return model
    table = predictor.counts.table if predictor.counts is not None else open_run(model.run).counts()
    if table is None:
        raise InputError(
            f"{model.run} has no counts of its training text that can be read here, so there are no columns counts_*; "
            "leave them out, or train with --model.counts auto"
        )
    return Model(predictor.counts_alone(table), model.settings, model.step, model.run)


class _Copies(deque[int]):
    """Gives all that is added to other queues."""

    def __init__(self, queues: Sequence[deque[int]]) -> None:
        super().__init__()
        self._queues = queues

    def extend(self, values: Iterable[int]) -> None:
        """Adds the values to each queue."""
        each = list(values)
        for queue in self._queues:
            queue.extend(each)


def join_rows(
    own: Iterator[Columns], others: Mapping[str, Iterator[Columns]], numbers: Sequence[str]
) -> Iterator[Columns]:
    """Yields tables with the rows of others in columns of their own, whose names begin with the others' names.

    All have the columns `numbers`. Raises InputError if these differ in a row.
    """
    feeds = {begin: _RowFeed(tables) for begin, tables in others.items()}
    for table in own:
        count, joined = len(next(iter(table.values()))), dict(table)
        for begin, feed in feeds.items():
            theirs = feed.take(count)
            if any(theirs.get(name) != table[name] for name in numbers):
                raise _other_rows(numbers)
            joined |= {begin + name: values for name, values in theirs.items()}
        yield joined
    if any(feed.take(1) for feed in feeds.values()):
        raise _other_rows(numbers)


def _other_rows(numbers: Sequence[str]) -> InputError:
    return InputError(
        f"the two models divide this text into different rows (columns {', '.join(numbers)}), as they read line ends "
        "or white space in other ways; leave out --by to compare whole texts"
    )


class _RowFeed:
    """Takes any number of rows from tables that come in parts."""

    def __init__(self, tables: Iterator[Columns]) -> None:
        self._tables, self._held = tables, Columns()

    def take(self, count: int) -> Columns:
        """Returns the columns of the next rows, `count` of them unless they end."""
        while len(next(iter(self._held.values()), [])) < count and (table := next(self._tables, None)) is not None:
            self._held = {name: [*self._held.get(name, []), *values] for name, values in table.items()}
        taken = {name: values[:count] for name, values in self._held.items()}
        self._held = {name: rest for name, values in self._held.items() if (rest := values[count:])}
        return taken


def _show_symbol(vocabulary: Vocabulary, symbol: int) -> str:
    if symbol == vocabulary.boundary:
        return ""
    if vocabulary.unit == "byte":
        return Verbatim(f"\\x{symbol:02x}") if symbol > 127 else chr(symbol)
    character = vocabulary.decode([symbol])
    is_byte = len(character) == 1 and "\udc80" <= character <= "\udcff"
    return Verbatim(f"\\x{ord(character) - 0xDC00:02x}") if is_byte else character

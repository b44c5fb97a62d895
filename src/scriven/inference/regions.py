"""The regions of an experiment's texts, as a table gives them, and where they end in a text.

The table has the columns `item`, `condition`, `region` and `text`, and any others. Rows of one item and condition, one
below the other, are one text. Between two regions stands the join, unless there is white space already, at the end of
the first or at the beginning of the second. The join belongs to the region before it, or to the one after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Literal

import numpy as np

from scriven.arrays import Ids
from scriven.corpus.decoding import ReadCounts, decode_source, lines_of, prepare
from scriven.corpus.sources import TextSource
from scriven.corpus.structure import missing_column
from scriven.corpus.tables import LONGEST_ROW, read_records_of_lines
from scriven.errors import InputError
from scriven.inference.boundaries import Clusters
from scriven.inference.chunks import split_text
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import check_scored, surprisals_of_text
from scriven.inference.unit_tables import Columns, TextPlaces, unit_tables, value_without_text
from scriven.inference.units import surprisals_of_units
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary

COLUMNS = ("item", "condition", "region", "text")
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Region:
    """A row of the table: its line, and its values by the names of the columns."""

    line: int
    values: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """The item and the condition."""
        return self.values["item"], self.values["condition"]

    @property
    def text(self) -> str:
        """The text of the region."""
        return self.values["text"]


@dataclass(frozen=True)
class RegionTable:
    """A table of regions: its name, the names of its columns, and its texts, each a list of consecutive regions."""

    name: str
    columns: tuple[str, ...]
    texts: Iterator[list[Region]] = field(compare=False)


def read_regions(source: TextSource, settings: CorpusSettings) -> RegionTable:
    """Opens a table; its texts are read later, one at a time.

    The delimiter is the comma, the semicolon or the tab, whichever gives the first row the four columns. Raises
    InputError for a table without rows or one of the columns; and, while texts are read, for a row that has more or
    fewer cells than the first, for a quote that is not closed, and for regions that are no text.
    """
    lines = lines_of(decode_source(source, settings, ReadCounts()), LONGEST_ROW, source.name, "CSV")
    first = next(lines, "")
    delimiter, columns = _read_header(first, source.name)
    return RegionTable(source.name, columns, _texts(lines, source.name, delimiter, columns))


def _read_header(line: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Returns the delimiter, and the names of the columns."""
    delimiter, columns = ",", tuple[str, ...]()
    for other in DELIMITERS:
        with suppress(InputError):  # quotes can be wrong with one delimiter and right with another
            for _, fields in read_records_of_lines([line], name, other, first=1):
                names = tuple(each.strip() for each in fields)
                if not columns or len({*COLUMNS} & {*names}) > len({*COLUMNS} & {*columns}):
                    delimiter, columns = other, names
    if not any(columns):
        raise InputError(f"{name} is empty, or its first line is; give it a first row with {', '.join(COLUMNS)}")
    for column in COLUMNS:
        if column not in columns:
            raise InputError(
                f"{name}, line 1: it {missing_column(column, list(columns))}; regions need the columns "
                f"{', '.join(COLUMNS)} in the first row"
            )
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{name}, line 1: it has the column {twice!r} twice; rename one")
    return delimiter, columns


def _texts(lines: Iterable[str], name: str, delimiter: str, columns: tuple[str, ...]) -> Iterator[list[Region]]:
    """Yields the regions of each text."""
    begun = dict[tuple[str, str], int]()  # the line where each text begins
    for key, group in groupby(_rows(lines, name, delimiter, columns), lambda region: region.key):
        regions = list(group)
        shown = f"item {key[0]}, condition {key[1]}"
        if key in begun:
            raise InputError(
                f"{name}, line {regions[0].line:,}: {shown} begins again, after its rows from line {begun[key]:,} on "
                "were followed by others; put all of its rows below one another"
            )
        begun[key] = regions[0].line
        _check_text(regions, name, shown)
        yield regions
    if not begun:
        raise InputError(f"{name} has no row below the names of its columns; give it regions")


def _rows(lines: Iterable[str], name: str, delimiter: str, columns: tuple[str, ...]) -> Iterator[Region]:
    for number, fields in read_records_of_lines(lines, name, delimiter, first=2):
        if not fields:
            continue
        if len(fields) != len(columns):
            raise InputError(
                f"{name}, line {number:,}: it has {len(fields)} cells, and the first row {len(columns)}; put a text "
                f"with a {delimiter!r} in double quotes"
            )
        yield Region(number, dict(zip(columns, fields, strict=True)))


def _check_text(regions: list[Region], name: str, shown: str) -> None:
    """Raises InputError if regions do not make a whole text: one is missing or twice, or none has a character."""

    def where(region: Region) -> str:
        return f"{name}, line {region.line:,}: {shown}"

    names = [region.values["region"].strip() for region in regions]
    for place, (region, own) in enumerate(zip(regions, names, strict=True)):
        if not own:
            raise InputError(f"{where(region)} has a region without a name; name or number it")
        if own in names[:place]:
            raise InputError(f"{where(region)} has the region {own} twice; give each a name of its own")
    if all(own.isdecimal() for own in names):
        for (before, after), region in zip(pairwise(map(int, names)), regions[1:], strict=True):
            if after != before + 1:
                raise InputError(
                    f"{where(region)} goes from region {before} to region {after}, so its regions do not "
                    "cover a text; add the row that is missing (its text may be empty), or put the rows in order"
                )
    if not any(region.text for region in regions):
        raise InputError(f"{where(regions[0])} has no text in any of its regions; give it some")


@dataclass(frozen=True)
class RegionText:
    """A text as ids (T,), and the places (M,) after each of its regions that has any ids; `filled` says which do."""

    ids: Ids
    ends: Ids
    filled: list[bool]


def encode_regions(
    regions: list[Region],
    vocabulary: Vocabulary,
    settings: CorpusSettings,
    *,
    name: str,
    join: str = " ",
    spaces: Literal["after", "before"] = "after",
) -> RegionText:
    """Returns the text of regions as ids, prepared as a run's corpus was; a model of documents gets the boundary, too.

    Raises InputError for a text that is more than one document to the model, and for a region that begins inside of
    what is read as one character.
    """
    parts = [vocabulary.encode_read(prepare(each, settings)) for each in _joined(regions, join, spaces)]
    for region in regions:
        if vocabulary.boundary is not None and len(split_text(region.text, settings)) > 1:
            raise InputError(
                f"{name}, line {region.line:,}: for this model the text ends inside of the region, as each line or "
                "piece between separators is a document of its own; leave the line end or separator out"
            )
    ends = np.cumsum([len(part) for part in parts])
    ids = np.concatenate(parts)
    _check_clusters(regions, vocabulary, ids, ends, name)
    filled = [len(part) > 0 for part in parts]
    if vocabulary.boundary is not None:
        ids, ends = np.append(ids, vocabulary.boundary), np.where(ends == ends[-1], ends + 1, ends)
    return RegionText(ids, ends[filled], filled)


def _joined(regions: list[Region], join: str, spaces: Literal["after", "before"]) -> Iterator[str]:
    """Yields the text of each region with the joins that belong to it."""
    texts = [region.text for region in regions]
    filled = [place for place, text in enumerate(texts) if text]
    for before, after in pairwise(filled):
        if not (texts[before][-1].isspace() or texts[after][0].isspace()):
            if spaces == "after":
                texts[before] += join
            else:
                texts[after] = join + texts[after]
    yield from texts


def _check_clusters(regions: list[Region], vocabulary: Vocabulary, ids: Ids, ends: Ids, name: str) -> None:
    """Raises InputError if a region begins inside of a grapheme cluster."""
    characters = Clusters(vocabulary).find(ids, last=True)
    firsts = characters.places[:-1][~characters.joined]
    for region, (begin, end) in zip(regions[1:], pairwise(ends.tolist()), strict=True):
        if end > begin and begin and begin not in firsts:
            raise InputError(
                f"{name}, line {region.line:,}: the region begins inside of what is read as one character, such as a "
                "letter and its accent; put all of the character into one region"
            )


class RegionRule:
    """Ends units at known places (M,) of a text."""

    def __init__(self, ends: Ids) -> None:
        self._ends, self._decided = ends, 0

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places of the ends among the next ids."""
        begin, self._decided = self._decided, self._decided + len(ids)
        inside = (self._ends > begin) & (self._ends <= self._decided)
        return self._ends[inside] - begin, len(ids)

    def trim(self, text: str) -> str:
        """Returns the text."""
        return text


def score_regions(predictor: Predictor, text: RegionText, names: Sequence[str]) -> Columns:
    """Returns the columns of these names, `entropy` or those of `SurprisalSums.measures`, a row for each region.

    A region without text costs nothing.
    """
    rule = RegionRule(text.ends)
    if "entropy" in names:
        pieces = surprisals_of_units(predictor, [text.ids], rule)
    else:
        pieces = surprisals_of_text(predictor, [text.ids])
    found: Columns = {name: [] for name in names}
    places = TextPlaces("document")
    for table in unit_tables(predictor.vocabulary, check_scored(pieces), rule, places=places, names=names):
        for name, values in table.items():
            found[name] += values
    rows = {name: iter(values) for name, values in found.items()}
    return {
        name: [next(values) if filled else value_without_text(name) for filled in text.filled]
        for name, values in rows.items()
    }

"""The rows of words, lines or documents in the answer of POST /score, from pieces of a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from scriven.arrays import Ids
from scriven.corpus.decoding import ReadCounts
from scriven.errors import InputError, UsageError
from scriven.inference.boundaries import SeparatorRule, UnitRule, make_rule
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import Scored
from scriven.inference.unit_tables import Columns, TextPlaces, UnitTableReader, row_unit, unit_columns
from scriven.inference.units import UnitSurprisals
from scriven.server.requests import UnitBody
from scriven.server.responses import ApiError, run_apart
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary


class UnitRows:
    """The rows of a text's units, from pieces of the text, as `Model.score_units` makes them."""

    def __init__(self, model: Model, options: UnitBody) -> None:
        """Raises UsageError for a separator that cannot be one, ApiError, 400, for a column that there is not."""
        vocabulary, self._options = model.vocabulary, options
        self._rule = self._make_rule(vocabulary)
        places = TextPlaces(row_unit(model.settings.corpus.documents, options.by))
        self.tally = ReadCounts(empty_places=places.empty)
        self.names = _choose_columns(unit_columns(options.by, vocabulary, places.unit)[1], options)
        self._reader = UnitTableReader(vocabulary, self._rule, places=places, names=self.names)

    def _make_rule(self, vocabulary: Vocabulary) -> UnitRule:
        options = self._options
        return make_rule(
            vocabulary,
            options.by,
            spaces=options.spaces,
            punctuation=options.punctuation,
            separator=options.separator,
        )

    def begin_entropy(self, predictor: Predictor, context: Context) -> UnitSurprisals | None:
        """Returns what reads a text with the entropy before each unit, if that is wanted."""
        return (
            UnitSurprisals(predictor, context, self._make_rule(predictor.vocabulary)) if self._options.entropy else None
        )

    def strip(self, chunks: Iterable[Ids]) -> Iterator[Ids]:
        """Yields the chunks without the user's separators."""
        return self._rule.remove_from(chunks) if isinstance(self._rule, SeparatorRule) else iter(chunks)

    async def take(self, scored: Scored) -> list[Columns]:
        """Returns the columns of the units that end in a piece of the text.

        Raises ApiError, 400, for a separator that cuts what is read as one character.
        """
        return await run_apart(len(scored.ids), lambda: self._collect(self._reader.read(scored)))

    async def finish(self) -> list[Columns]:
        """Returns the columns of the last units."""
        return await run_apart(0, lambda: self._collect(self._reader.finish()))

    def _collect(self, tables: Iterator[Columns]) -> list[Columns]:
        try:
            return list(tables)
        except InputError as error:
            raise ApiError(400, f"separator: {error}", "separator", "invalid_value") from None


def make_unit_rows(model: Model, options: UnitBody, context: Context) -> UnitRows | None:
    """Returns what makes the rows, if some are wanted.

    Raises ApiError, 400, for a separator that cannot be one, for punctuation apart from tokens, and for the entropy of
    a text that is learned from.
    """
    if options.entropy and isinstance(context, AdaptiveContext):
        words = "entropy: not known of a text that is learned from; leave out one of them"
        raise ApiError(400, words, "entropy", "invalid_value")
    try:
        return UnitRows(model, options) if options.by else None
    except UsageError as error:
        param = "separator" if options.separator else "punctuation"
        raise ApiError(400, str(error).removeprefix("--"), param, "invalid_value") from None


def _choose_columns(known: Sequence[str], options: UnitBody) -> tuple[str, ...]:
    """Returns the names of the columns that are wanted. Raises ApiError, 400, for one that there is not."""
    further = (*known, "entropy") if options.entropy else (*known,)
    for name in options.columns:
        if name not in further:
            way_out = "; add entropy: true" if name == "entropy" else f"; choose some of {', '.join(known)}"
            raise ApiError(400, f"columns: there is no {name!r}{way_out}", "columns", "invalid_value")
    return tuple(dict.fromkeys(options.columns)) or further

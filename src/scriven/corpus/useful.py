"""Settings that would do nothing for the texts that they are given with: an error, since they were given to do it."""

from __future__ import annotations

from collections.abc import Sequence

from scriven.corpus.sources import BINARY_TABLES, TABLES, Source
from scriven.errors import UsageError
from scriven.settings import CorpusSettings
from scriven.suggestions import listed


def check_useful(settings: CorpusSettings, sources: Sequence[Source]) -> None:
    """Raises UsageError where a setting would do nothing for the sources."""
    _check_column(settings, sources)
    if settings.validation_file and settings.validation >= 1:
        raise UsageError(
            f"corpus.validation {settings.validation:,.0f} would do nothing, as corpus.validation_file has the text "
            "for validation; drop one of them"
        )
    if settings.duplicates == "drop" and (
        settings.documents == "none" or not (settings.validation or settings.validation_file)
    ):
        raise UsageError(
            "corpus.duplicates drop would do nothing, as it is about documents that validate; say what a document is "
            "with --corpus.documents, or drop it"
        )
    has_bytes = [not source.is_zipped and source.suffixes[0] not in BINARY_TABLES for source in sources]
    if settings.encoding != "utf-8" and not any(has_bytes):
        raise UsageError(
            f"corpus.encoding {settings.encoding} would do nothing, as {sources[0].name} says itself how its text is "
            "encoded; drop it"
        )


def _check_column(settings: CorpusSettings, sources: Sequence[Source]) -> None:
    if settings.bad_rows == "skip" and not settings.column:
        raise UsageError(
            "corpus.bad_rows skip would do nothing, as no column is named, and so no rows are read; name it with "
            "--corpus.column, or drop it"
        )
    without = [source.name for source in sources if not source.is_table and source.path is not None]
    if settings.column and without:
        raise UsageError(
            f"corpus.column {settings.column} would do nothing for {without[0]}, which is no table by its name; "
            f"drop it, or name only tables: files that end in {listed(TABLES)}"
        )

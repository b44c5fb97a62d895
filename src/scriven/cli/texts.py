"""A file that a model is to read, as ids; after the last one, notes on standard error on what should be known of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from scriven.cli.line_ends import noticed
from scriven.cli.rows import note
from scriven.vocabulary import Ids, Vocabulary

if TYPE_CHECKING:
    from scriven.corpus.reading import Tally
    from scriven.session import Model


def read_file(model: Model, file: str, **choices: str | None) -> tuple[Iterator[Ids], Tally]:
    """The ids of a file, in chunks, and what is counted while they are read.

    `choices` are settings of the corpus, as in `CorpusSettings`. What is none is as in the run's corpus, but for the
    encoding, which is UTF-8: the text that was trained on may have had another one.
    """
    from scriven.corpus.documents import cut
    from scriven.corpus.reading import Tally
    from scriven.corpus.sources import find
    from scriven.inference.chunks import read_chunks
    from scriven.settings import validated

    chosen = {name: value for name, value in choices.items() if value}
    values: dict[str, Any] = {**model.settings.corpus.model_dump(), "encoding": "utf-8", **chosen}
    if values["encoding"] != "utf-8" and "invalid" not in chosen:
        values["invalid"] = "strict"
    sources, tally = find([file]).sources, Tally()
    if not all(source.is_table for source in sources):  # the text that was trained on was one, others need not be
        values["column"] = ""
    chunks = read_chunks(model.vocabulary, cut(sources, validated({"corpus": values}).corpus, tally))
    chunks = noticed(model.vocabulary, _marks_noticed(chunks, tally), tally.line_ends)
    return _forms_noticed(model.vocabulary, chunks), tally


def _marks_noticed(chunks: Iterable[Ids], tally: Tally) -> Iterator[Ids]:
    yield from chunks
    if tally.marks:
        note("a byte order mark at the start of the text was left out")


def _forms_noticed(vocabulary: Vocabulary, chunks: Iterable[Ids]) -> Iterator[Ids]:
    from scriven.inference.normal_forms import WAYS_OUT, other_form

    unseen = dict[str, None]()
    for ids in chunks:
        unseen |= dict.fromkeys(vocabulary.unseen_characters(ids))
        yield ids
    if form := other_form(vocabulary, unseen):
        flag = "read it with --corpus.normalize nfc" if form == "NFC" else "convert it, as with uconv -x nfd"
        note(f"{WAYS_OUT[form]}; {flag}")

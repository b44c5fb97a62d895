"""Reads texts as ids for a model. After the last id it prints notes on the text on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scriven.arrays import Ids
from scriven.cli.common import note
from scriven.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scriven.corpus.decoding import LineEnds, ReadCounts
    from scriven.corpus.sources import TextSource
    from scriven.session import Model
    from scriven.settings import CorpusSettings


KINDS = {(True, False): "LF", (False, True): "CR", (True, True): "CR LF"}  # by whether LF and CR occur


def note_line_ends(
    vocabulary: Vocabulary, chunks: Iterable[Ids], line_ends: LineEnds, about: str = ""
) -> Iterator[Ids]:
    """Yields the chunks of a text, then prints a note if its line ends differ from those of the training text.

    `line_ends` are counted while the chunks are made. The note starts with `about`. A model of bytes knows all line
    ends, so it gets no note.
    """
    yield from chunks
    known = ord("\n") in vocabulary.symbols, ord("\r") in vocabulary.symbols
    found = line_ends.feeds > 0, line_ends.returns > 0
    if vocabulary.unit == "byte" or found == known or not (any(found) and any(known)):
        return
    note(
        f"{about}the text has {line_ends}, but the model was trained on {KINDS[known]}; convert the line ends, which "
        "make the score worse"
    )


def read_sources(
    model: Model, sources: Sequence[TextSource], tally: ReadCounts, choices: Mapping[str, str | None], name: str = ""
) -> Iterator[Ids]:
    """Yields the text of sources as chunks of ids. `tally` counts what is read; notes start with `name`.

    `choices` are as in `reading_settings`.
    """
    from scriven.corpus.documents import split_documents
    from scriven.inference.chunks import read_chunks

    settings, about = reading_settings(model, choices), f"{name}: " if name else ""
    if not all(source.is_table for source in sources):  # only the training text was a table
        settings = settings.model_copy(update={"column": ""})
    chunks = read_chunks(model.vocabulary, split_documents(sources, settings, tally))
    chunks = note_line_ends(model.vocabulary, _note_marks(chunks, tally, about), tally.line_ends, about)
    return _note_forms(model.vocabulary, chunks, about)


def reading_settings(model: Model, choices: Mapping[str, str | None]) -> CorpusSettings:
    """Returns how a model reads a text. `choices` of the user have their names in `CorpusSettings`.

    Without a choice, the run's corpus decides, except for the encoding, which is then UTF-8. Raises UsageError
    for an invalid choice.
    """
    from scriven.settings import validate

    chosen = {name: value for name, value in choices.items() if value}
    values: dict[str, Any] = {**model.settings.corpus.model_dump(), "encoding": "utf-8", **chosen}
    if values["encoding"] != "utf-8" and "invalid" not in chosen:
        values["invalid"] = "strict"
    return validate({"corpus": values}).corpus


def _note_marks(chunks: Iterable[Ids], tally: ReadCounts, about: str) -> Iterator[Ids]:
    from scriven.corpus.encodings import describe_marks

    yield from chunks
    if tally.marks:
        note(about + describe_marks(tally.marks))


def _note_forms(vocabulary: Vocabulary, chunks: Iterable[Ids], about: str) -> Iterator[Ids]:
    from scriven.inference.surprisal import describe_form, other_form

    unseen = dict[str, None]()
    for ids in chunks:
        unseen |= dict.fromkeys(vocabulary.unseen_characters(ids))
        yield ids
    if form := other_form(vocabulary, unseen):
        flag = "read it with --corpus.normalize nfc" if form == "NFC" else "convert it, as with uconv -x nfd"
        note(f"{about}the text {describe_form(form)}; {flag}")

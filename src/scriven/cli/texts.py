"""A text that a model is to read, as ids; after the last one, notes on standard error on what should be known of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scriven.arrays import Ids
from scriven.cli.common import note
from scriven.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scriven.corpus.line_ends import LineEnds
if TYPE_CHECKING:
    from scriven.corpus.decoding import ReadCounts
    from scriven.corpus.sources import TextSource
    from scriven.session import Model
    from scriven.settings import CorpusSettings


KINDS = {(True, False): "LF", (False, True): "CR", (True, True): "CR LF"}  # by whether there are LF and CR


def note_line_ends(
    vocabulary: Vocabulary, chunks: Iterable[Ids], line_ends: LineEnds, about: str = ""
) -> Iterator[Ids]:
    """The chunks of a text, any; after the last one a note on standard error, where its line ends are of another kind.

    `line_ends` are counted while the chunks are made, `about` begins the note. A model of bytes knows all line ends,
    whatever it was trained on: of that nothing is said.
    """
    yield from chunks
    known = ord("\n") in vocabulary.symbols, ord("\r") in vocabulary.symbols
    found = line_ends.feeds > 0, line_ends.returns > 0
    if vocabulary.unit == "byte" or found == known or not (any(found) and any(known)):
        return
    note(
        f"{about}the text has {line_ends}, and the model was trained on {KINDS[known]}; convert them for a score of "
        "the text alone"
    )


def read_sources(
    model: Model, sources: Sequence[TextSource], tally: ReadCounts, choices: Mapping[str, str | None], name: str = ""
) -> Iterator[Ids]:
    """The ids of the text of sources, in chunks; `tally` counts while they are read, and `name` begins the notes.

    `choices` are as in `reading_settings`.
    """
    from scriven.corpus.documents import split_documents
    from scriven.inference.chunks import read_chunks

    settings, about = reading_settings(model, choices), f"{name}: " if name else ""
    if not all(source.is_table for source in sources):  # the text that was trained on was one, others need not be
        settings = settings.model_copy(update={"column": ""})
    chunks = read_chunks(model.vocabulary, split_documents(sources, settings, tally))
    chunks = note_line_ends(model.vocabulary, _note_marks(chunks, tally, about), tally.line_ends, about)
    return _note_forms(model.vocabulary, chunks, about)


def reading_settings(model: Model, choices: Mapping[str, str | None]) -> CorpusSettings:
    """How a model reads a text, with choices of the user, by their names in `CorpusSettings`.

    What is None is as in the run's corpus, but for the encoding, which is UTF-8: the text that was trained on may have
    had another one. Raises UsageError where a choice cannot be.
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

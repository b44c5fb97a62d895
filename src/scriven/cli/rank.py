"""`scriven rank`: says how many guesses it takes to come to a name or another text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scriven.arguments import GUESS_SAMPLES
from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Mixing,
    Normalize,
    ReadingPrecision,
    RunFolder,
    Text,
    Which,
    Whole,
    name_characters,
    note,
    note_slowness,
    read_sources,
)
from scriven.errors import UsageError

if TYPE_CHECKING:
    from scriven.arrays import Ids
    from scriven.cli.tables import Columns
    from scriven.trained_model import Model
    from scriven.vocabulary import Vocabulary

READABLE = 1e15  # guesses that are printed with all digits

Words = Annotated[Text, Parameter(help="names, or other texts, each as one document of the model")]
File = Annotated[
    str, Parameter(name=["--file", "-f"], help="file with the texts, read as scriven score does; - is standard input")
]
Samples = Annotated[
    Whole, Parameter(help="texts that the model writes for the estimate. Four times as many halve the interval")
]
Seed = Annotated[Whole, Parameter(help="the same seed writes the same texts, and gives the same numbers")]


def rank(
    run: RunFolder,
    /,
    *words: Words,
    file: File = "",
    samples: Samples = GUESS_SAMPLES,
    seed: Seed = 1,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
    counts: Mixing = "auto",
) -> None:
    """Say how many guesses it takes to come to a name, a password or another text, with a model of lines.

    Guesses are all texts that the model can write, the likeliest first: a text's number is one more than the count of
    likelier ones. It is estimated from texts that the model writes, each of which stands for as many as one over its
    probability. The true number is between low and high in at least 95 of 100 cases.

    A text with a character that the model does not know is never guessed: its numbers are empty, and a note names the
    character. Columns are described in docs/lists.md.
    """
    from scriven.cli.tables import gather_tables, write_tables
    from scriven.inference.guess_numbers import LONGEST, draw_guess_samples, rank_documents
    from scriven.trained_model import load

    if bool(words) == bool(file):
        raise UsageError("scriven rank needs texts: give words, or a file with --file, but not both")
    model = load(run, which=checkpoint, device=device, precision=precision, counts=counts)
    note_slowness(model)
    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    chunks = [model.document_ids(word) for word in words] if words else _file_chunks(model, file, choices)
    drawn = draw_guess_samples(model.predictor, samples, seed)
    unknown = dict[str, None]()
    rows = rank_documents(model.predictor, _with_unknown(model.vocabulary, chunks, unknown), drawn)
    write_tables(gather_tables(_tables(rows, as_json=as_json)), "json" if as_json else "tsv")
    if unknown:
        note(
            f"the model does not know {name_characters([*unknown])}, so no guess comes to texts with "
            f"{'it' if len(unknown) == 1 else 'them'}: their numbers are empty"
        )
    if unended := samples - len(drawn.nats):
        note(
            f"{unended:,} of {samples:,} texts that the model wrote had not ended after {LONGEST:,} characters, so "
            "numbers of less likely texts may be too low, and have no upper end"
        )


def _with_unknown(vocabulary: Vocabulary, chunks: Iterable[Ids], unknown: dict[str, None]) -> Iterator[Ids]:
    """Yields the chunks, and adds the characters that the model does not know to `unknown`, in their order."""
    for ids in chunks:
        unknown.update(dict.fromkeys(vocabulary.unseen_characters(ids)))
        yield ids


def _file_chunks(model: Model, file: str, choices: dict[str, str | None]) -> Iterator[Ids]:
    """Yields the documents of a file."""
    from scriven.corpus.decoding import ReadCounts
    from scriven.corpus.sources import find

    tally = ReadCounts()
    yield from read_sources(model, find([file]).sources, tally, choices)
    if tally.empty:
        note(f"{tally.empty:,} empty text{'s were' if tally.empty > 1 else ' was'} skipped")


def _tables(rows: Iterable[dict[str, Any]], *, as_json: bool) -> Iterator[Columns]:
    """Yields tables of one row, with numbers as people read them unless they are for JSON."""
    for row in rows:
        yield {name: [value if as_json or name == "text" else _show(name, value)] for name, value in row.items()}


def _show(name: str, value: float | None) -> Any:
    """Returns a number with the digits that mean something."""
    from scriven.cli.tables import Verbatim

    if value is None or name == "bits":
        return value
    if name == "log10_guesses":
        return Verbatim(f"{value:.2f}")
    return Verbatim(f"{value:.0f}" if value < READABLE else f"{value:.3e}")

"""`scriven compare`: says which of two models expects a text more, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
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
    Text,
    Whole,
    bits_name,
    check_named,
    note,
    show,
)
from scriven.cli.scoring import AGAINST, ModelRows, Scoring
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.inference.comparison import Comparison

FEW = 20  # documents, below which an interval is too narrow

OtherRun = Annotated[str, Parameter(help="folder or name of the run to compare it with")]
Texts = Annotated[Text, Parameter(help="texts that neither model was trained on: files, folders")]
By = Annotated[
    Literal["document", "line"],
    Parameter(
        help="what is drawn for the interval: documents, or lines, for a text that is one document. A model of "
        "documents divides a file into them; to others each file is one"
    ),
]
Samples = Annotated[Whole, Parameter(help="how often documents are drawn")]
Seed = Annotated[Whole, Parameter(help="the same seed draws the same documents")]


def compare(
    run: RunFolder,
    other: OtherRun,
    /,
    *files: Texts,
    by: By = "document",
    samples: Samples = 2000,
    seed: Seed = 1,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
    counts: Mixing = "auto",
) -> None:
    """Say which of two models expects a text more, and how sure that is.

    Both read the same documents. The difference is the bits per character of the first model less those of the second,
    with the ends of documents in the bits. Below 0, the first model expects the text more.

    How sure that is depends on the documents: with others, the difference would be another. So as many documents as
    there are get drawn from them with replacement, --samples times, always both models' losses of a document together
    (a paired bootstrap). The interval has 95 % of the differences of these samples. It does not say how much training
    with another seed would change.
    """
    from scriven.corpus.sources import find
    from scriven.inference.comparison import compare_losses

    if not files:
        raise UsageError("scriven compare needs a text that neither model was trained on; name files")
    if samples < 1 or seed < 0:
        raise UsageError(f"--samples {samples} --seed {seed}: give 1 or more samples, and a seed of 0 or more")
    sources = find(check_named(files)).sources
    if any(source.path is None for source in sources):
        raise UsageError("both models read the text, and standard input can be read only once; save it to a file")
    loading = {"device": device, "precision": precision, "counts": counts}
    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    own, against = (ModelRows.open(each, by=by, loading=loading, choices=choices) for each in (run, other))
    scoring = Scoring(own, against)
    first, second, characters = _losses(scoring, sources)
    if len(characters) < 2:
        raise InputError(
            f"there is {len(characters)} {scoring.own.unit} to draw from; name several files, or draw lines with "
            "--by line"
        )
    if len(characters) < FEW:
        note(f"{len(characters)} {scoring.own.unit}s are few to draw from, so the interval is likely to be too narrow")
    result = compare_losses(first, second, characters, samples=samples, seed=seed)
    row = _row(result, run, other, scoring.own.unit, as_json=as_json)
    per_symbol = bits_name(own.model.vocabulary.unit)
    shown = row if as_json else {name.replace("bits_per_char", per_symbol): value for name, value in row.items()}
    show([shown], "json" if as_json else "words")


def _losses(scoring: Scoring, sources: Sequence[Any]) -> list[list[float]]:
    """Returns the nats of each document by the first model, those by the second one, and its characters."""
    assert scoring.against is not None
    names = (scoring.own.total, AGAINST + scoring.against.total, "characters")
    columns: list[list[float]] = [[], [], []]
    for table in scoring.tables(sources, names, []):
        rows = zip(*(table[name] for name in names), strict=True)
        for row in rows:
            if row[-1]:  # empty lines of a model of lines have no loss
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
    return columns


def _row(result: Comparison, run: str, other: str, unit: str, *, as_json: bool) -> dict[str, Any]:
    """Returns what is printed of a comparison."""
    values = {
        "first_bits_per_char": result.first,
        "second_bits_per_char": result.second,
        "difference": result.difference,
        "interval": [result.low, result.high],
        "level": result.level,
        "better": result.verdict,
        f"{unit}s": result.documents,
        f"{unit}s_better": result.better,
        "samples": result.samples,
    }
    if as_json:
        return {"first": run, "second": other, **values}
    words = {
        "first": f"{run} expects the text more",
        "second": f"{other} expects the text more",
        "neither": "these texts do not say which one is better",
    }
    interval = f"{result.low:.4f} to {result.high:.4f} ({100 * result.level:.0f} %)"
    shown = {"first": run, "second": other, **values, "interval": interval, "result": words[result.verdict]}
    return {name: value for name, value in shown.items() if name not in {"better", "level"}}

"""`scriven compare`: says which of two models expects a text more, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from scriven.arrays import Float64s
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
    check_named,
    note,
    note_slowness,
    show,
)
from scriven.cli.scoring import AGAINST, ModelRows, Scoring
from scriven.errors import InputError, UsageError

LEVEL = 0.95  # of the interval
DRAWN_AT_ONCE = 1 << 20  # documents of samples: bounds the memory
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
    from scriven.session import load

    if not files:
        raise UsageError("scriven compare needs a text that neither model was trained on; name files")
    if samples < 1 or seed < 0:
        raise UsageError(f"--samples {samples} --seed {seed}: give 1 or more samples, and a seed of 0 or more")
    sources = find(check_named(files)).sources
    if any(source.path is None for source in sources):
        raise UsageError("both models read the text, and standard input can be read only once; save it to a file")

    def open_rows(name: str) -> ModelRows:
        model = load(name, device=device, precision=precision, counts=counts)
        note_slowness(model)
        return ModelRows(model, by, {}, {"invalid": invalid, "encoding": encoding, "normalize": normalize})

    scoring = Scoring(open_rows(run), open_rows(other))
    first, second, characters = _losses(scoring, sources)
    if len(characters) < 2:
        raise InputError(
            f"there is {len(characters)} {scoring.own.unit} to draw from; name several files, or draw lines with "
            "--by line"
        )
    if len(characters) < FEW:
        note(f"{len(characters)} {scoring.own.unit}s are few to draw from, so the interval is likely to be too narrow")
    result = compare_losses(first, second, characters, samples=samples, seed=seed)
    show([_row(result, run, other, scoring.own.unit, as_json=as_json)], "json" if as_json else "words")


def _losses(scoring: Scoring, sources: Sequence[Any]) -> tuple[Float64s, Float64s, Float64s]:
    """Returns the nats (M,) of each document by the first and by the second model, and its characters (M,)."""
    assert scoring.against is not None
    names = (scoring.own.total, AGAINST + scoring.against.total, "characters")
    columns: dict[str, list[float]] = {name: [] for name in names}
    for table in scoring.tables(sources, names, []):
        for name in names:
            columns[name] += table[name]
    first, second, characters = (np.array(columns[name], np.float64) for name in names)
    kept = characters > 0  # empty lines of a model of lines have no loss
    return first[kept], second[kept], characters[kept]


@dataclass(frozen=True)
class Comparison:
    """The bits per character of two models, their difference, and the interval of it by drawn documents."""

    first: float
    second: float
    low: float
    high: float
    documents: int
    better: float  # share of the documents that the first model expects more; half of those that both expect alike
    samples: int

    @property
    def difference(self) -> float:
        """How many more bits per character the first model needs than the second."""
        return self.first - self.second

    @property
    def verdict(self) -> str:
        """Which model is better, if the interval says it: first, second or neither."""
        return "first" if self.high < 0 else "second" if self.low > 0 else "neither"


def compare_losses(
    first: Float64s, second: Float64s, characters: Float64s, *, samples: int = 2000, seed: int = 1
) -> Comparison:
    """Compares nats (M,) of the same documents by two models, with the characters (M,) of each.

    The interval has the percentiles of a paired bootstrap: M documents are drawn with replacement, `samples`
    times; each sample's difference is the ratio of its sums.
    """
    count, random = len(characters), np.random.default_rng(seed)
    gaps = (first - second) / math.log(2)
    drawn = np.empty(samples)
    step = max(1, DRAWN_AT_ONCE // count)
    for begin in range(0, samples, step):
        chosen = random.integers(count, size=(min(step, samples - begin), count))
        drawn[begin : begin + len(chosen)] = gaps[chosen].sum(1) / characters[chosen].sum(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    of_first, of_second = (float(each.sum() / characters.sum() / math.log(2)) for each in (first, second))
    better = float(((gaps < 0) + 0.5 * (gaps == 0)).mean())
    return Comparison(of_first, of_second, low, high, count, better, samples)


def _row(result: Comparison, run: str, other: str, unit: str, *, as_json: bool) -> dict[str, Any]:
    """Returns what is printed of a comparison."""
    values = {
        "first_bits_per_char": result.first,
        "second_bits_per_char": result.second,
        "difference": result.difference,
        "interval": [result.low, result.high],
        "level": LEVEL,
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
    interval = f"{result.low:.4f} to {result.high:.4f} (95 %)"
    shown = {"first": run, "second": other, **values, "interval": interval, "result": words[result.verdict]}
    return {name: value for name, value in shown.items() if name not in {"better", "level"}}

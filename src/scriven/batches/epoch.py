"""What one pass over a text is, in the numbers that people count: windows, steps, and arrays that are never made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scriven.batches.documents import document_count
from scriven.batches.readers import epoch_predictions
from scriven.batches.windows import window_count
from scriven.corpus.store import Part
from scriven.settings import ReaderSettings
from scriven.sizes import size
from scriven.vocabulary import Vocabulary


@dataclass(frozen=True)
class EpochCounts:
    """One pass over a text. Of the arrays, every value is a boolean of one byte."""

    predictions: int  # that count
    windows: int  # 0 for other readers
    window_length: int
    documents: int  # 0 for other readers
    steps: float  # of the optimizer; 0 where it cannot be told without reading the text
    input_bytes: int  # of the one-hot arrays of all windows' characters: (windows, T, known characters)
    target_bytes: int  # of those of the characters to foretell


def count_epoch(text: Part, vocabulary: Vocabulary, reader: ReaderSettings, accumulate: int = 1) -> EpochCounts:
    """The counts of one pass over a text by a reader, when that many batches make a step.

    Raises InputError as `next_batch` does.
    """
    predictions = epoch_predictions(text, reader)
    windows = window_count(text, reader) if reader.kind == "windows" else 0
    documents = document_count(text) if reader.kind == "documents" else 0
    known, targets = len(vocabulary.symbols), predictions if windows else 0
    return EpochCounts(
        predictions,
        windows,
        reader.length,
        documents,
        _batches(text, reader, predictions, windows) / accumulate,
        windows * reader.length * known,
        targets * known,
    )


def _batches(text: Part, reader: ReaderSettings, predictions: int, windows: int) -> float:
    """How many batches an epoch is; 0 where documents are cut that do not share a row."""
    if windows:
        return math.ceil(windows / reader.batch)
    if reader.kind == "stream" or reader.pack:
        return predictions / (reader.batch * reader.length)
    longest = text.document_lengths()[2]
    return text.documents / reader.batch if longest < reader.length else 0.0


def describe_epoch(counts: EpochCounts) -> str:
    """The counts in one sentence, without its beginning and its full stop."""
    if counts.windows:
        what = f"{counts.windows:,} windows of {counts.window_length:,}"
    elif counts.documents:
        what = f"{counts.documents:,} documents"
    else:
        what = f"{counts.predictions:,} predictions"
    return what + (f" in {describe_steps(counts.steps)}" if counts.steps else "") + _describe_arrays(counts)


def describe_steps(steps: float) -> str:
    """A number of steps, which need not be whole."""
    whole = steps == round(steps) or steps >= 100
    return f"{steps:,.0f} step{'s' * (steps != 1)}" if whole else f"{steps:,.2f} steps"


def _describe_arrays(counts: EpochCounts) -> str:
    if not counts.windows:
        return ""
    return f"; as one-hot arrays that would be {size(counts.input_bytes)}, and {size(counts.target_bytes)} to foretell"

"""Whether what a model wrote is new, or a document of the text that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scriven.inference.chunks import DOCUMENTS_AT_ONCE, Text
from scriven.inference.sampling import Ids


def known(text: Text, samples: Sequence[Ids]) -> list[bool]:
    """For each sample, ids (T,) of any length, whether it is exactly one of the documents of a text.

    Reads once, in bounded memory, those documents that are as long as one of the samples.
    """
    wanted = {sample.tobytes() for sample in samples}
    sizes = np.unique([len(sample) for sample in samples])
    found = wanted.intersection(document.tobytes() for document in _of_length(text, sizes))
    return [sample.tobytes() in found for sample in samples]


def _of_length(text: Text, sizes: Ids) -> Iterator[Ids]:
    """The documents that have one of these lengths."""
    for number in range(0, text.documents, DOCUMENTS_AT_ONCE):
        firsts, lengths = text.bounds(np.arange(number, min(number + DOCUMENTS_AT_ONCE, text.documents)))
        fitting = np.isin(lengths, sizes)
        for first, length in zip(firsts[fitting].tolist(), lengths[fitting].tolist(), strict=True):
            yield text.read(first, length)

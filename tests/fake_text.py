"""A text of which nothing is stored: character i has id i, so that ids tell places; cut into documents where asked."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from scriven import batches
from scriven.arrays import Ids
from scriven.batches import Batch, Cursor
from scriven.settings import ReaderSettings
from scriven.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of("".join(map(chr, range(5000))))
BOUNDED = Vocabulary.of("".join(map(chr, range(5000))), separator="\n")


class Text:
    """What a reader wants of a part of a corpus."""

    def __init__(self, characters: int = 0, documents: Sequence[int] = ()) -> None:
        """`documents` are the lengths of documents; `characters` are then their sum."""
        self._firsts = np.array([0, *itertools.accumulate(documents)], np.int64)
        self._lengths = np.array(documents, np.int64)
        self.characters = sum(documents) if documents else characters
        self.bytes = self.characters
        self.documents = len(documents)

    def read(self, start: int, length: int) -> Ids:
        assert 0 <= start <= start + length <= self.characters
        return np.arange(start, start + length, dtype=np.int64)

    def read_all(self, starts: Sequence[int], lengths: Sequence[int]) -> Ids:
        pieces = [self.read(start, length) for start, length in zip(starts, lengths, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *pieces])

    def bounds(self, numbers: Ids) -> tuple[Ids, Ids]:
        assert not numbers.size or 0 <= numbers.min() <= numbers.max() < self.documents
        return self._firsts[numbers], self._lengths[numbers]


def next_batch(text: Text, settings: ReaderSettings, cursor: Cursor, *rest: Any) -> tuple[Batch, Cursor]:
    """As scriven's, of a made-up text."""
    vocabulary = BOUNDED if text.documents else VOCABULARY
    return batches.next_batch(text, vocabulary, settings, cursor, *rest)  # type: ignore[arg-type]


def some_batches(text: Text, settings: ReaderSettings, count: int, cursor: Cursor = 0) -> list[Batch]:
    """The first batches from a cursor on."""
    found = []
    for _ in range(count):
        batch, cursor = next_batch(text, settings, cursor)
        found.append(batch)
    return found

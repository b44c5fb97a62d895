"""Places of a text that a model goes on from, so that what it writes can be seen beside how the text went on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scriven.inference.chunks import Text
from scriven.inference.sampling import Ids


@dataclass(frozen=True)
class Passage:
    """A piece of a text, as ids: what is given (G,), and what comes after that (M,)."""

    given: Ids
    after: Ids


def random_passage(text: Text, seed: Sequence[int], given: int, after: int) -> Passage:
    """A piece of the text at a place that looks random and depends on the numbers of `seed` alone.

    Up to `given` characters, but no more than half of the text, and up to `after` that follow them. Where the text is
    made of documents, it is the beginning of one of them.
    """
    random = np.random.default_rng(seed)
    if text.documents:
        firsts, lengths = text.bounds(random.integers(text.documents, size=1))
        first, characters = int(firsts[0]), int(lengths[0])
        given = min(given, characters // 2)
    else:
        given = min(given, text.characters // 2)
        first = int(random.integers(text.characters - given + 1))
        characters = text.characters - first
    ids = text.read(first, min(characters, given + after))
    return Passage(ids[:given], ids[given:])

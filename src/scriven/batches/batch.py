"""The batch that every reader makes, and the cursor that says where it continues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float32s, Ids

ORDER = 2  # the version of the documents' order; with another one, some would be read twice and others never


class Places(TypedDict):
    """The cursor of the reader of documents."""

    order: int  # ORDER
    taken: int  # documents already taken from their endless order
    documents: list[int]  # (N,) the document that each row is in; -1 if it takes the next one
    read: list[int]  # (N,) predictions that were made in it before


Cursor = int | Places  # plain values that JSON can hold; 0 is the start of every reader


@dataclass(frozen=True)
class Batch:
    """The ids that one step reads, and the ids that it predicts."""

    ids: Ids  # (T, N) what the model reads
    targets: Ids  # (T, N) what it should predict: the character after each
    lanes: Ids  # (N,) the global numbers of these rows
    weights: Float32s | None = None  # (T, N) the weight of each prediction; None means 1
    fresh: npt.NDArray[np.bool_] | None = None  # (T, N) true where a row's state is zeroed before reading; None: never

    @property
    def predictions(self) -> int:
        """The number of predictions that count: of characters, and of the ends of documents."""
        return self.ids.size if self.weights is None else int(self.weights.sum())

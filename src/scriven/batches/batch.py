"""What every reader makes, and where it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float32s, Ids

ORDER = 2  # which document comes when; a cursor of another order would read some twice and others never


class Places(TypedDict):
    """Where the reader of documents is."""

    order: int  # ORDER
    taken: int  # documents taken so far from their endless order
    documents: list[int]  # (N,) the document that each row is in; -1 where it takes the next one
    read: list[int]  # (N,) predictions of it made before


Cursor = int | Places  # plain values, as JSON keeps them; 0 is the start of every reader


@dataclass(frozen=True)
class Batch:
    """What one step reads and predicts, whichever reader made it."""

    ids: Ids  # (T, N) what the model reads
    targets: Ids  # (T, N) what it should predict: the character after each
    lanes: Ids  # (N,) the global numbers of these rows
    weights: Float32s | None = None  # (T, N) what each prediction counts; None is 1
    fresh: npt.NDArray[np.bool_] | None = None  # (T, N) rows whose state is zeroed before reading; None is nowhere

    @property
    def predictions(self) -> int:
        """Predictions that count: of characters, and of the ends of documents."""
        return self.ids.size if self.weights is None else int(self.weights.sum())

"""Types of numpy arrays, each defined once, and arrays of torch as numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
State = tuple[tuple[Float32s, ...], ...]  # of a model: h, and an lstm's c, (N, H), of each layer


def as_numpy(array: Any) -> npt.NDArray[Any]:
    """Returns an array of numpy as it is, and an array of torch on the CPU, as numpy's; no values are copied there."""
    found: npt.NDArray[Any] = array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()
    return found

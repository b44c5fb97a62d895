"""The native scorer: one call reads many characters and tells what each costs, for several texts side by side.

It reads with what the sampler packs: in int8 a text costs the same, to the bit, on every processor, in whatever pieces
it comes, whatever texts are beside it, and however many threads read. Costs are made of fp32 logits.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scriven.kernels import library
from scriven.kernels.sampler import Ids, Sampler, State

ARGUMENTS = [*[ctypes.c_int64] * 2, ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 5]


def read(
    model: Sampler, logits: Tensor, state: State, ids: Ids, targets: Ids, threads: int = 1
) -> tuple[npt.NDArray[np.float64], Tensor, State]:
    """Read ids (T, N); gives the nats (T, N) that targets (T, N) cost, and the logits and the state after the last id.

    The logits (N, V) and the state before foretell the first targets; what is read the next ones. A state has a tuple
    of arrays (N, H) for each layer. Arguments stay as they are. ValueError for arrays of shapes that do not fit,
    RuntimeError for ids that the model does not have.
    """
    if ids.shape != targets.shape or ids.shape[1:] != (len(logits),):
        raise ValueError(f"ids {ids.shape} and targets {targets.shape} of {len(logits)} rows; give them all one shape")
    ids, targets = (np.ascontiguousarray(each, np.int64) for each in (ids, targets))
    nats, (logits, after, addresses) = np.empty(ids.shape), model.copies(logits, state)
    if ids.size:
        library.declare("scriven_scorer_read", ARGUMENTS)(
            *model.packed,
            threads,
            *reversed(ids.shape),
            ids.ctypes.data,
            targets.ctypes.data,
            addresses,
            logits.data_ptr(),
            nats.ctypes.data,
        )
    return nats, logits, after

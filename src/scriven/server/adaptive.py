"""States that learn while they read: each has weights of its own. One text at a time learns, beside the engine.

A completion after such a state is written by an engine of its own, with the weights that learned, and learns nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Executor

import numpy as np

from scriven.arrays import Float64s, Ids
from scriven.inference.adaptive import AdaptiveContext, AdaptiveReader
from scriven.server.responses import overflow, timed_out

SYMBOLS_PER_PIECE = 256  # read at once, so that requests that are gone end soon


async def learn_from(
    reader: AdaptiveReader, context: AdaptiveContext, ids: Ids, *, threads: Executor, seconds: float
) -> AsyncGenerator[tuple[Ids, Float64s, AdaptiveContext]]:
    """Reads ids (T,) and learns from them. Yields pieces with their surprisals, and the context after each.

    Raises ApiError: 503 if it takes longer than `seconds`, 500 if the model's numbers overflow.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    for begin in range(0, len(ids), SYMBOLS_PER_PIECE):
        piece = ids[begin : begin + SYMBOLS_PER_PIECE]
        nats, _, context = await loop.run_in_executor(threads, reader.read, context, piece)
        if not np.isfinite(nats).all():
            raise overflow()
        if loop.time() > until:
            raise timed_out(seconds)
        yield piece, nats, context

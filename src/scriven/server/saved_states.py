"""Saved contexts under handles: a client goes on from one, as often as it likes, without sending the text again."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from scriven.inference.predictor import Context
from scriven.server.limits import Limits
from scriven.server.responses import ApiError


class SavedState(NamedTuple):
    """A context of one row, the checkpoint that it is of, how many characters it has read, and when it expires."""

    model: str
    context: Context
    characters: int
    bytes: int
    until: float


class SavedStates:
    """The contexts kept, bounded in number, bytes and time; the one not used for longest goes first."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[str, SavedState] = OrderedDict()  # the one used last is the last
        self.bytes = 0

    def __len__(self) -> int:
        self._expire()
        return len(self._kept)

    def add(self, model: str, context: Context, characters: int) -> str:
        """Keep a context; its handle, which nobody can guess."""
        handle = secrets.token_urlsafe(16)
        size = _size(context)
        self._kept[handle] = SavedState(model, context, characters, size, self._clock() + self._limits.state_seconds)
        self.bytes += size
        self._expire()
        while len(self._kept) > self._limits.states or self.bytes > self._limits.state_bytes:
            self._drop(next(iter(self._kept)))
        return handle

    def get(self, model: str, handle: str) -> SavedState:
        """What a handle stands for, which is kept from now on as if it were new.

        Raises Refused, 404, where it is not kept, or is another model's.
        """
        self._expire()
        saved = self._kept.get(handle)
        if saved is None or saved.model != model:
            raise ApiError(
                404,
                f"state {handle!r} is not kept here (any more), or is of an earlier checkpoint of the model; "
                "read the text again",
                "state",
                "no_state",
            )
        saved = saved._replace(until=self._clock() + self._limits.state_seconds)
        self._kept[handle] = saved
        self._kept.move_to_end(handle)
        return saved

    def delete(self, handle: str) -> bool:
        """Keep it no longer; whether it was kept."""
        self._expire()
        if handle not in self._kept:
            return False
        self._drop(handle)
        return True

    def forget(self, model: str) -> None:
        """Keep no more of this model's."""
        for handle in [handle for handle, saved in self._kept.items() if saved.model == model]:
            self._drop(handle)

    def _expire(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop(next(iter(self._kept)))

    def _drop(self, handle: str) -> None:
        self.bytes -= self._kept.pop(handle).bytes


def _size(context: Context) -> int:
    parts = [context.logits, *(part for layer in context.state or () for part in layer)]
    recent = 0 if context.recent is None else context.recent.nbytes
    return recent + sum(part.numel() * part.element_size() for part in parts)

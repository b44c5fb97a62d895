"""Saved states: a client can continue from one as often as it likes, without sending the text again."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from scriven.inference.adaptive_mixture import MixedContext
from scriven.inference.context import AdaptiveContext, Context
from scriven.server.limits import Limits
from scriven.server.responses import ApiError


class SavedState(NamedTuple):
    """A context of one row: its checkpoint, characters read, size in bytes, and time of expiry."""

    model: str
    context: Context
    characters: int
    bytes: int
    expires: float
    last: str | None = None  # the text of its last symbol; None if that is not known


class SavedStates:
    """The saved states, bounded in number, bytes and time. The least recently used one is deleted first."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._states: OrderedDict[str, SavedState] = OrderedDict()  # most recently used last
        self.bytes = 0

    def __len__(self) -> int:
        self._expire()
        return len(self._states)

    def add(self, model: str, context: Context, characters: int, last: str | None = None) -> str:
        """Saves a context, after a text that ends with `last`. Returns a handle that cannot be guessed.

        Raises ApiError, 429, if the context has learned, and no more of these may be saved.
        """
        if isinstance(context, AdaptiveContext):
            self.check_adaptive()
        handle = secrets.token_urlsafe(16)
        size = _size_bytes(context)
        expires = self._clock() + self._limits.state_seconds
        self._states[handle] = SavedState(model, context, characters, size, expires, last)
        self.bytes += size
        self._expire()
        while len(self._states) > self._limits.states or self.bytes > self._limits.state_bytes:
            self._drop(next(iter(self._states)))
        self._drop_counts()
        return handle

    def check_adaptive(self) -> None:
        """Raises ApiError, 429, if as many states as may be have learned, and so have weights of their own."""
        self._expire()
        count = sum(isinstance(saved.context, AdaptiveContext) for saved in self._states.values())
        if count >= self._limits.adaptive_states:
            raise ApiError(
                429,
                f"adapt: {count} saved states have weights of their own, and this server keeps no more; delete one, "
                "with DELETE /states/HANDLE, or wait until one expires",
                "adapt",
                "too_many_states",
            )

    def get(self, model: str, handle: str) -> SavedState:
        """The state of a handle, whose time to expiry starts again.

        Raises ApiError, 404, if there is no such state for this checkpoint.
        """
        self._expire()
        saved = self._states.get(handle)
        if saved is None or saved.model != model:
            raise no_state(handle)
        saved = saved._replace(expires=self._clock() + self._limits.state_seconds)
        self._states[handle] = saved
        self._states.move_to_end(handle)
        if isinstance(saved.context, MixedContext):
            self._drop_counts()
        return saved

    def model_of(self, handle: str) -> str:
        """The checkpoint of a handle, or "" if there is no such state."""
        self._expire()
        return self._states[handle].model if handle in self._states else ""

    def delete(self, handle: str) -> bool:
        """Deletes a state. Returns whether it existed."""
        self._expire()
        if handle not in self._states:
            return False
        self._drop(handle)
        return True

    def delete_all(self, model: str) -> None:
        """Deletes all states of a checkpoint."""
        for handle in [handle for handle, saved in self._states.items() if saved.model == model]:
            self._drop(handle)

    def _drop_counts(self) -> None:
        """Drops the counts of states that learn, but for those that were used last."""
        contexts = [saved.context for saved in reversed(self._states.values())]
        places = list(dict.fromkeys(each.partners for each in contexts if isinstance(each, MixedContext)))
        for place in places[self._limits.counting_states :]:
            place.take()

    def _expire(self) -> None:
        now = self._clock()
        while self._states and next(iter(self._states.values())).expires <= now:
            self._drop(next(iter(self._states)))

    def _drop(self, handle: str) -> None:
        self.bytes -= self._states.pop(handle).bytes


def no_state(handle: str) -> ApiError:
    """An error 404: there is no such state."""
    return ApiError(
        404,
        f"state {handle[:80]!r}: no such saved state, or it has expired or belongs to an earlier checkpoint; send the "
        "text again",
        "state",
        "no_state",
    )


def _size_bytes(context: Context) -> int:
    parts = [context.logits, *(part for layer in context.state or () for part in layer)]
    recent = 0 if context.recent is None else context.recent.nbytes
    if isinstance(context, AdaptiveContext):
        parts += context.to_arrays().values()
    return recent + sum(part.nbytes for part in parts)

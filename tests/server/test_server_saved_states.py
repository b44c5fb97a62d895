"""Saved contexts: found again, expired, and bounded in number and bytes."""

from dataclasses import replace

import numpy as np
import pytest

from scriven.inference.context import Context
from scriven.server.limits import LIMITS
from scriven.server.responses import ApiError
from scriven.server.saved_states import SavedStates

CONTEXT = Context(np.zeros((1, 10), np.float32), ((np.zeros((1, 5), np.float32),) * 2,))
BYTES = 80


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def is_forgotten(states: SavedStates, handle: str, model: str = "a") -> bool:
    with pytest.raises(ApiError, match="no such saved state") as caught:
        states.get(model, handle)
    return caught.value.status == 404


def test_a_handle_stands_for_its_context_in_its_model_alone() -> None:
    states = SavedStates(LIMITS)
    handle = states.add("a", CONTEXT, 7)
    assert states.get("a", handle).context is CONTEXT
    assert states.get("a", handle).characters == 7
    assert is_forgotten(states, handle, "b")
    assert is_forgotten(states, "no such handle")
    assert states.delete(handle)
    assert not states.delete(handle)
    assert is_forgotten(states, handle)


def test_states_expire_some_time_after_they_were_last_used() -> None:
    clock = Clock()
    states = SavedStates(replace(LIMITS, state_seconds=10), clock)
    one, other = states.add("a", CONTEXT, 0), states.add("a", CONTEXT, 0)
    clock.now = 9
    states.get("a", one)
    clock.now = 11
    assert len(states) == 1
    assert is_forgotten(states, other)
    clock.now = 19.5
    assert len(states) == 0
    assert states.bytes == 0


@pytest.mark.parametrize("limits", [replace(LIMITS, states=3), replace(LIMITS, state_bytes=3 * BYTES)])
def test_the_one_not_used_for_longest_goes_first(limits: object) -> None:
    states = SavedStates(limits)  # type: ignore[arg-type]
    handles = [states.add("a", CONTEXT, 0) for _ in range(3)]
    states.get("a", handles[0])
    states.add("a", CONTEXT, 0)
    assert len(states) == 3
    assert states.bytes == 3 * BYTES
    assert is_forgotten(states, handles[1])
    assert states.get("a", handles[0]).context is CONTEXT

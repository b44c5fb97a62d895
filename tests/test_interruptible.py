"""A thread that waits for another one, which stays awake."""

import threading

import pytest

from scriven.signals import InterruptibleCaller


def nothing() -> None:
    pass


def test_it_gives_what_the_task_gives_and_raises_what_it_raises() -> None:
    caller = InterruptibleCaller()
    assert caller.wait_for(lambda: (threading.current_thread().name, 3), nothing) == ("scriven-caller", 3)
    with pytest.raises(ZeroDivisionError):
        caller.wait_for(lambda: 1 // 0, nothing)
    assert caller.wait_for(lambda: 4, nothing) == 4
    caller.close()


def test_who_waits_may_leave() -> None:
    caller, ended = InterruptibleCaller(), threading.Event()

    def look() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caller.wait_for(ended.wait, look)
    assert caller.busy
    ended.set()
    caller.close()


def test_one_that_was_never_needed_has_no_thread() -> None:
    before = threading.active_count()
    InterruptibleCaller().close()
    assert threading.active_count() == before

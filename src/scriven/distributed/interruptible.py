"""Waiting in foreign code without falling asleep: a thread does it, so that this one still hears of signals."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

NAME = "scriven-attendant"  # of the thread
LOOK_SECONDS = 0.2
CLOSE_SECONDS = 1.0
T = TypeVar("T")


@dataclass
class _Call:
    task: Callable[[], Any]
    ended: threading.Lock = field(default_factory=threading.Lock)  # held until then
    result: Any = None
    error: BaseException | None = None


def has_abandoned_calls() -> bool:
    """Whether any attendant of this process still waits, although nobody waits for it any more."""
    return any(thread.name == NAME for thread in threading.enumerate())


class InterruptibleCaller:
    """A thread that does what the one that has it cannot do without being deaf to signals meanwhile.

    Python calls handlers of signals in the main thread only, and not while that waits in C or C++.
    """

    def __init__(self) -> None:
        """The thread is started by the first errand."""
        self._errands: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False  # also after an errand that was not waited for to its end

    def wait_for(self, task: Callable[[], T], look: Callable[[], None]) -> T:
        """What `task()` gives or raises; `look` is called now and then meanwhile, and may raise to wait no more.

        The task goes on then, and so does the thread: there must be no other errand before it has ended.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=NAME, daemon=True)
            self._thread.start()
        errand = _Call(task)
        errand.ended.acquire()
        self.busy = True
        self._errands.put(errand)
        while not errand.ended.acquire(timeout=LOOK_SECONDS):
            look()
        if errand.error:
            raise errand.error
        result: T = errand.result
        return result

    def close(self) -> None:
        """Lets the thread end as soon as it has done what it does, and waits for that CLOSE_SECONDS at the most."""
        if self._thread:
            self._errands.put(None)
            self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        while errand := self._errands.get():
            try:
                errand.result = errand.task()
            except BaseException as error:  # raised again by who waits
                errand.error = error
            self.busy = False
            errand.ended.release()
            del errand  # and what it holds

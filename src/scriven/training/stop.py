"""Being asked to stop: by Ctrl-C, or by whoever ends processes on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from scriven.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """An evaluation was left because somebody asked to stop; nothing has changed since it began."""


class StopFlag:
    """The number of the signal that asked to stop, or 0. A second signal stops at once, a third whatever happens."""

    def __init__(self, notice: Callable[[], None] | None = None) -> None:
        """`notice` is called by the first signal, wherever the program is at that moment."""
        self._number, self._notice = 0, notice

    def __call__(self) -> int:
        """The signal's number, or 0 when nobody has asked."""
        return self._number

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, signals set the flag. Only the main thread gets signals; in others nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._set) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        if self._number:
            for other in SIGNALS:
                signal.signal(other, signal.SIG_DFL)
            raise Interrupted("stopped at once; what was saved last is kept, and --resume goes on from there", number)
        self._number = number
        if self._notice:
            self._notice()


def leave_where_asked(stop: Callable[[], int]) -> None:
    """Raises Interrupted when `stop()` is the number of a signal; for what comes before the first step."""
    if number := stop():
        raise Interrupted("stopped before the first step; there is nothing new to save, so just start again", number)


def ignore_interrupts() -> None:
    """Leaves signals to rank 0: a terminal sends Ctrl-C to every process, and all must stop after the same step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

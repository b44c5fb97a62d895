"""Being asked to stop: by Ctrl-C, or by whoever ends processes on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from scriven.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """The number of the signal that asked to stop, or 0. A second signal stops at once."""

    def __init__(self) -> None:
        self._number = 0

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
            raise Interrupted("stopped at once; what was saved last is kept, and --resume goes on from there", number)
        self._number = number


def ignore_interrupts() -> None:
    """Leaves signals to rank 0: a terminal sends Ctrl-C to every process, and all must stop after the same step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

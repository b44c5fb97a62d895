"""Being asked to stop: by Ctrl-C, or by whoever ends processes on this machine."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from scriven.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SERVED_SECONDS = 3.0  # that a second signal has to end the work, before it ends the process
LAUNCHER_SECONDS = 5.0  # in which what a launcher sends, and what its own job is sent, are one request


class Stopped(Exception):
    """Training or an evaluation was left because somebody asked to stop; nothing has changed since it began."""

    def __init__(self, number: int) -> None:
        """`number` is that of the signal."""
        super().__init__(number)
        self.number = number


class StopFlag:
    """The number of the signal that asked to stop, or 0. A second signal stops at once.

    Python calls no handler while its main thread waits in foreign code, for another process or a disk. So a thread
    hears of signals too. It ends the process where a second one does not end the work within SERVED_SECONDS.
    """

    def __init__(self, notice: Callable[[], None] | None = None, *, once_for: float = 0.0) -> None:
        """`notice` is called by the first signal, wherever the program is then, perhaps in another thread.

        What comes within `once_for` seconds after the first signal is the same request.
        """
        self.last: Callable[[], None] = lambda: None  # what is done before the process is ended
        self._once_for = once_for
        self._came: list[tuple[int, float]] = []  # all signals: number and time
        self._notices: list[Callable[[int], None]] = [lambda _: notice()] if notice else []
        self._raised = False
        self._lock = threading.RLock()  # a handler may run within a handler

    def __call__(self) -> int:
        """The signal's number, or 0 when nobody has asked."""
        return self._came[0][0] if self._came else 0

    def add_callback(self, notice: Callable[[int], None]) -> None:
        """Has `notice` called with the number of the first signal too; now, where it has come."""
        self._notices.append(notice)
        self._tell()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, signals set the flag. Only the main thread gets signals; in others nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._heard, sender = socket.socketpair()
        self._heard.setblocking(False)
        sender.setblocking(False)
        left = threading.Event()
        watch = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        threading.Thread(target=self._watch, args=(left,), name="scriven-stop", daemon=True).start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(watch)
            left.set()
            sender.close()  # which ends the thread

    @property
    def _at_once(self) -> bool:
        """Whether there was a second request."""
        return any(when >= self._came[0][1] + self._once_for for _, when in self._came[1:])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._hear()
        if self._at_once and not self._raised:  # once, so that what is done while it ends is not interrupted
            self._raised = True
            raise Interrupted("stopped at once; what was saved last is kept, and --resume goes on from there", number)

    def _watch(self, left: threading.Event) -> None:
        """Hears signals until none can come any more, or one must stop the process at once."""
        with self._heard, selectors.DefaultSelector() as selector:
            selector.register(self._heard, selectors.EVENT_READ)
            while not self._at_once:
                selector.select()
                if not self._hear():
                    return
            if not left.wait(SERVED_SECONDS):
                try:
                    self.last()
                finally:
                    os._exit(128 + self._came[-1][0])

    def _hear(self) -> bool:
        """Takes note of the signals that came; whether more can come."""
        with self._lock:
            try:
                numbers = self._heard.recv(4096)
            except BlockingIOError:  # the other thread was faster
                return True
            self._came += [(number, time.monotonic()) for number in numbers if number in SIGNALS]
        self._tell()
        return bool(numbers)

    def _tell(self) -> None:
        """Calls those who are to know of the first signal, each once."""
        while self._came and self._notices:
            with contextlib.suppress(IndexError):  # the other thread was faster
                self._notices.pop(0)(self())


def raise_if_stopped(stop: Callable[[], int]) -> None:
    """Raises Interrupted when `stop()` is the number of a signal; for what comes before the first step."""
    if number := stop():
        raise Interrupted("stopped before the first step; there is nothing new to save, so just start again", number)

"""Requests to stop, which come as signals: Ctrl-C (SIGINT), or SIGTERM from a process manager.

Python runs signal handlers only in the main thread, and not while that thread waits in C or C++. So blocking calls can
be run in another thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from scriven.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SERVED_SECONDS = 3.0  # after a second signal, until the process is ended by force
CHECK_SECONDS = 0.2  # between two checks while waiting
THREAD_CLOSE_SECONDS = 1.0
CALLER_NAME = "scriven-caller"  # of the thread of an `InterruptibleCaller`
LAUNCHER_SECONDS = 5.0  # within which a launcher's signals and those of its job scheduler count as one request
T = TypeVar("T")


class Stopped(Exception):
    """Somebody asked to stop a step of training or an evaluation. The state is as it was before it."""

    def __init__(self, number: int) -> None:
        """`number` is the signal's number."""
        super().__init__(number)
        self.number = number


class StopFlag:
    """Records the signal that asked to stop. A second signal stops at once.

    Python calls no signal handler while its main thread waits in C code, for another process or for a disk. So a thread
    watches for signals too. After a second signal it ends the process if that does not stop within SERVED_SECONDS.
    """

    def __init__(self, notice: Callable[[], None] | None = None, *, once_for: float = 0.0) -> None:
        """`notice` is called at the first signal, at any point of the program, perhaps in another thread.

        Signals that come within `once_for` seconds after the first one count as the same request.
        """
        self.last: Callable[[], None] = lambda: None  # called before the process is ended by force
        self._once_for = once_for
        self._came: list[tuple[int, float]] = []  # all signals: number and time
        self._notices: list[Callable[[int], None]] = [lambda _: notice()] if notice else []
        self._raised = False
        self._lock = threading.RLock()  # a handler may run within a handler

    def __call__(self) -> int:
        """The number of the first signal, or 0 if none came."""
        return self._came[0][0] if self._came else 0

    def add_callback(self, notice: Callable[[int], None]) -> None:
        """Calls `notice` with the number of the first signal when it comes, or at once if it has come already."""
        self._notices.append(notice)
        self._tell()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Makes signals set the flag while the context lasts. Does nothing outside the main thread."""
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
            sender.close()  # ends the thread

    @property
    def _at_once(self) -> bool:
        """Whether a second request came."""
        return any(when >= self._came[0][1] + self._once_for for _, when in self._came[1:])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._hear()
        if self._at_once and not self._raised:  # only once, so that cleaning up is not interrupted
            self._raised = True
            raise Interrupted("stopped at once; the last checkpoint is kept, and --resume continues from it", number)

    def _watch(self, left: threading.Event) -> None:
        """Takes note of signals until listening ends; ends the process after a second request that was not obeyed."""
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
        """Takes note of the signals that came. Returns whether more can come."""
        with self._lock:
            try:
                numbers = self._heard.recv(4096)
            except BlockingIOError:  # the other thread was faster
                return True
            self._came += [(number, time.monotonic()) for number in numbers if number in SIGNALS]
        self._tell()
        return bool(numbers)

    def _tell(self) -> None:
        """Calls each callback once if a signal has come."""
        while self._came and self._notices:
            with contextlib.suppress(IndexError):  # the other thread was faster
                self._notices.pop(0)(self())


def stop_with_input() -> None:
    """Sends this process a SIGTERM when its standard input ends, because its writer has closed it or has died."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="scriven-input", daemon=True).start()


def raise_if_stopped(stop: Callable[[], int]) -> None:
    """Raises Interrupted if `stop()` is the number of a signal; used before the first step."""
    if number := stop():
        raise Interrupted("stopped before the first step; nothing new had to be saved, so just start again", number)


@dataclass
class _Call:
    task: Callable[[], Any]
    ended: threading.Lock = field(default_factory=threading.Lock)  # held until the task has ended
    result: Any = None
    error: BaseException | None = None


def has_abandoned_calls() -> bool:
    """Whether a caller's thread of this process still runs a call that nobody waits for."""
    return any(thread.name == CALLER_NAME for thread in threading.enumerate())


class InterruptibleCaller:
    """Runs blocking calls in a thread, so that the main thread can handle signals.

    Python runs signal handlers only in the main thread, and not while that thread waits in C or C++.
    """

    def __init__(self) -> None:
        """The first call starts the thread."""
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False  # stays true while a call runs that nobody waits for any more

    def wait_for(self, task: Callable[[], T], check: Callable[[], None]) -> T:
        """Returns or raises what `task()` does. Calls `check` now and then meanwhile, which may raise to stop waiting.

        The task then continues in its thread, and no other call may start before it has ended.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=CALLER_NAME, daemon=True)
            self._thread.start()
        call = _Call(task)
        call.ended.acquire()
        self.busy = True
        self._calls.put(call)
        while not call.ended.acquire(timeout=CHECK_SECONDS):
            check()
        if call.error:
            raise call.error
        result: T = call.result
        return result

    def close(self) -> None:
        """Ends the thread after its current call. Waits for that at most THREAD_CLOSE_SECONDS."""
        if self._thread:
            self._calls.put(None)
            self._thread.join(THREAD_CLOSE_SECONDS)

    def _serve(self) -> None:
        while call := self._calls.get():
            try:
                call.result = call.task()
            except BaseException as error:  # `wait_for` raises it again
                call.error = error
            self.busy = False
            call.ended.release()
            del call  # frees what the task and its result hold

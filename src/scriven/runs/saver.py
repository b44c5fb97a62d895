"""Saves checkpoints in the background: training waits for a copy in memory only, and a thread waits for the disk."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from scriven.errors import Interrupted
from scriven.runs.folder import Run

if TYPE_CHECKING:
    from torch import Tensor


class Saver:
    """Writes checkpoints of a run, one at a time, each in a thread.

    A process that is killed loses only the checkpoint that is being written. Leaving the context waits for that one,
    unless a second signal asked to stop at once; see `add_callback`.
    """

    def __init__(self, run: Run, newest: str = "") -> None:
        """Only the writer of the run may make one. `newest` is the folder of its newest checkpoint."""
        self.run, self._newest = run, newest
        self._thread: threading.Thread | None = None
        self._saved: deque[tuple[int, Path, bool]] = deque()  # on the disk, not yet returned by `take_saved`
        self._error: BaseException | None = None
        self.processor_seconds = 0.0  # of the thread in the last write

    def save(
        self, weights: Mapping[str, Tensor], training: Mapping[str, Tensor], manifest: Mapping[str, Any], *, best: int
    ) -> None:
        """Waits for the previous save, then starts one like `Run.save` from copies of the tensors.

        Raises the error of the previous save, if any.
        """
        self._wait()
        arguments = (_copy(weights), _copy(training), dict(manifest), best)
        # A daemon, so that a process can end at once: an unfinished checkpoint is swept later.
        self._thread = threading.Thread(target=self._write, args=arguments, name="scriven-saver", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system cannot start a thread: training waits for the disk
            self._thread = None
            self._write(*arguments)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written, so that the next save would have to wait."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def newest(self) -> str:
        """The folder of the newest checkpoint, after waiting for a write; "" if there is none."""
        if self._thread:
            self._thread.join()
        return self._newest

    def take_saved(self, *, wait: bool = False) -> list[tuple[int, Path, bool]]:
        """The checkpoints that have reached the disk since the last call: step, folder, and whether at an evaluation.

        With `wait`, waits for a write first. Raises the error of a save, if any.
        """
        if wait or not self.busy:  # without a thread too: the write may have failed in training's own
            self._wait()
        return [self._saved.popleft() for _ in range(len(self._saved))]  # more may come meanwhile

    def add_callback(self, task: Callable[[], None]) -> None:
        """Calls `task` when the present write has ended, in a thread; at once if nothing is being written.

        So the right to write to the run can be held until then.
        """
        writing = self._thread

        def _wait() -> None:
            if writing:
                writing.join()
            task()

        if writing and writing.is_alive():
            threading.Thread(target=_wait, name="scriven-after", daemon=True).start()
        else:
            task()

    def _write(
        self, weights: dict[str, Tensor], training: dict[str, Tensor], manifest: dict[str, Any], best: int
    ) -> None:
        begun = time.thread_time()
        try:
            checkpoint = self.run.save(weights, training, manifest, best=best)
        except BaseException as error:  # raised later in the training's thread
            self._error = error
        else:
            self._newest = str(checkpoint.path)
            self._saved.append((int(manifest["step"]), checkpoint.path, manifest.get("evaluation") is True))
        self.processor_seconds = time.thread_time() - begun

    def _wait(self) -> None:
        if self._thread:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread and not isinstance(error, Interrupted):
            self._thread.join()


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}

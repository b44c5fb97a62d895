"""Saving in the background: training pays for a copy in memory, the disk is waited for by a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from scriven.errors import Interrupted
from scriven.runs.folder import Run


class Saver:
    """Writes checkpoints of a run, one at a time, each in a thread.

    A process that is killed loses the one that is being written, and no other. On leaving the context the write
    under way is waited for, but not where a second signal asked to stop at once; see `then`.
    """

    def __init__(self, run: Run, newest: str = "") -> None:
        """Only the one who writes to the run may make one; `newest` is the folder of its newest checkpoint so far."""
        self.run, self._newest = run, newest
        self._thread: threading.Thread | None = None
        self._saved: deque[tuple[int, Path, bool]] = deque()  # on the disk, and not told yet
        self._error: BaseException | None = None
        self.processor_seconds = 0.0  # that the last write took, beside the training's thread

    def save(
        self, weights: Mapping[str, Tensor], training: Mapping[str, Tensor], manifest: Mapping[str, Any], *, best: int
    ) -> None:
        """Begins to save as `Run.save`, from copies of the tensors, once the save before has ended.

        Raises what that one ran into.
        """
        self._wait()
        arguments = (_copy(weights), _copy(training), dict(manifest), best)
        # A daemon, so that a process can end at once: what it leaves then is no checkpoint, and swept.
        self._thread = threading.Thread(target=self._write, args=arguments, name="scriven-saver", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system has no thread for it: training waits for the disk
            self._thread = None
            self._write(*arguments)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written: to save another one now would wait for that."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def newest(self) -> str:
        """The folder of the newest checkpoint, once nothing is being written any more; "" where there is none."""
        if self._thread:
            self._thread.join()
        return self._newest

    def take_saved(self, *, wait: bool = False) -> list[tuple[int, Path, bool]]:
        """The steps and folders of checkpoints that have reached the disk since this was asked last.

        And whether each was made by an evaluation, as its manifest says.

        With `wait`, that of the one under way too. Raises what a save has run into.
        """
        if wait or not self.busy:  # also without a thread: the write may have failed in training's own
            self._wait()
        return [self._saved.popleft() for _ in range(len(self._saved))]  # more may come meanwhile

    def add_callback(self, task: Callable[[], None]) -> None:
        """Has `task` called once nothing is being written any more, by a thread; now, where nothing is.

        So the right to write to the run can be kept for so long.
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
        except BaseException as error:  # told to the training's thread
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

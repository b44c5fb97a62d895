"""Compares the files of a corpus with their hashes in a thread, while training reads them for the first time."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from types import TracebackType
from typing import Self

from scriven.corpus.store import Corpus
from scriven.errors import InputError

WAIT_SECONDS = 2.0  # that a save waits for the rest of the check once the whole text was read
LOWEST = 19  # priority, on Linux of a single thread


class CorpusCheck:
    """A check of a corpus, which begins when the context is entered and is left where it is at its end."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._error: Exception | None = None
        self._left = threading.Event()
        self._waited = False
        self._thread = threading.Thread(target=self._compare, name="scriven-corpus", daemon=True)

    def tell(self, *, wait: bool = False) -> None:
        """Raises InputError when a file was found not to be what was written.

        With `wait` the rest of the check is waited for, WAIT_SECONDS at most and only once.
        """
        if wait and not self._waited:
            self._waited = True
            self._thread.join(WAIT_SECONDS)
        if self._error:
            raise self._error

    def _compare(self) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            for _ in self._corpus.compare_hashes():
                if self._left.is_set():
                    return
        except Exception as error:  # raised where training asks
            self._error = InputError(
                f"{error} (remove {self._corpus.name} first); checkpoints that were saved before are kept, and "
                "--resume goes on from the last one"
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()

"""Newer checkpoints of the runs that are served, taken up while a training goes on, between requests.

Each is opened and packed beside the one that is served. Then requests that come get the new one, and those under way
keep theirs to the end. What is damaged, or of other symbols, is not taken up: its run is served as before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from scriven.errors import ScrivenError, shortage
from scriven.runs import open_run
from scriven.runs.checkpoints import MANIFEST_FILE
from scriven.runs.folder import Which
from scriven.server.shared import ServedModel, ServerState
from scriven.session import Model, load

EVERY = 5.0  # seconds between two looks at the runs

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class ServedCheckpoint:
    """A run that is served: which of its checkpoints, and how it is opened."""

    def __init__(
        self,
        run: str | Path,
        which: Which = "best",
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        precision: Literal["auto", "fp32", "bf16", "int8"] = "auto",
    ) -> None:
        """As `scriven.session.load`."""
        self.run = run
        self._which = which
        self._device, self._precision = device, precision
        self._stamp: Stamp | None = None  # of the checkpoint that was opened last

    def open(self) -> Model:
        """The model of the checkpoint as it is now. Raises InputError and UsageError as `load`."""
        self._stamp = self._now()
        return load(self.run, which=self._which, device=self._device, precision=self._precision)

    def open_later(self) -> None:
        """Take the checkpoint that was opened last for another one, so that it is opened again."""
        self._stamp = None

    def has_changed(self) -> bool:
        """Whether there is another checkpoint than the one opened last; one that was asked for by its step stays."""
        return self._which in ("best", "last") and self._now() not in (None, self._stamp)

    def _now(self) -> Stamp | None:
        """Returns the checkpoint's step and which file its manifest is; None while no checkpoint can be read."""
        try:
            checkpoint = open_run(self.run).checkpoint(self._which)
            manifest = (checkpoint.path / MANIFEST_FILE).stat()
            return checkpoint.step, manifest.st_ino, manifest.st_mtime_ns
        except (ScrivenError, OSError):
            return None


async def renew(server: ServerState, sources: Mapping[str, ServedCheckpoint], tell: Callable[[str], object]) -> None:
    """Take up what is newer, again and again; `tell` is given a line about each."""
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(1, "renewal")
    last = dict[str, str]()  # what was said of each, so that nothing is said at every look
    try:
        while True:
            await asyncio.sleep(EVERY)
            server.let_go()
            for name, source in sources.items():
                try:
                    served, said = await loop.run_in_executor(threads, _newer, server.models[name], source, server)
                    if served is not None:
                        server.take_up(served)
                    if said and said != last.get(name):
                        last[name] = said
                        tell(f"{name}: {said}")
                except Exception as error:  # no thread can be started, or standard error is closed: the next is tried
                    if shortage(error):
                        source.open_later()
                    log.exception("a newer checkpoint of %s could not be taken up", name)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _reason(error: Exception, source: ServedCheckpoint) -> str:
    """Why a newer checkpoint could not be opened, which is tried again where the system lacked something."""
    if lacking := shortage(error):
        source.open_later()
        return f"there is not enough {lacking} for the newer checkpoint; it is tried again"
    if not isinstance(error, ScrivenError | OSError):
        log.exception("a newer checkpoint could not be opened", exc_info=error)
    return f"the newer checkpoint cannot be opened: {error}"


def _newer(before: ServedModel, source: ServedCheckpoint, server: ServerState) -> tuple[ServedModel | None, str]:
    """What is to be served in place of `before`, if anything, and what to say."""
    still = f"still serving step {before.model.step:,}"
    try:
        if not source.has_changed():
            return None, ""
        served = ServedModel(before.name, source.open(), server.limits)
    except Exception as error:
        return None, f"{still}, since {_reason(error, source)}"
    if served.model.vocabulary != before.model.vocabulary:
        return None, f"{still}, since the run knows other characters now; restart the server to serve it"
    if not served.start.logits.isfinite().all():
        return None, f"{still}, since the numbers of step {served.model.step:,} overflow"
    if served.fingerprint == before.fingerprint:
        return None, ""
    return served, f"serving step {served.model.step:,} ({served.fingerprint}) now, {before.model.step:,} before"


__all__ = ["ServedCheckpoint", "renew"]

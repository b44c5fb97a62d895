"""Loads newer checkpoints of the served runs while they are being trained.

A newer checkpoint is opened while the old one is served. New requests then get the new one, and current requests keep
the old one until they end. A checkpoint that is damaged or has another vocabulary is not used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from scriven.errors import ScrivenError, shortage
from scriven.inference.loading import training_text
from scriven.runs import open_run
from scriven.runs.checkpoints import MANIFEST_FILE
from scriven.runs.folder import Which
from scriven.server.limits import Limits
from scriven.server.shared import ServedModel, ServerState
from scriven.trained_model import Model, load

CHECK_SECONDS = 5.0  # seconds between two checks of the runs

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class ServedCheckpoint:
    """A served run: which of its checkpoints is served, on which device, and at which precision."""

    def __init__(
        self,
        run: str | Path,
        which: Which = "best",
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        precision: Literal["auto", "fp32", "bf16", "int8"] = "auto",
        *,
        counts: Literal["auto", "none"] = "auto",
        write_order: int | None = None,
    ) -> None:
        """The arguments are those of `scriven.trained_model.load`."""
        self.run = run
        self._which = which
        self._device, self._precision = device, precision
        self._counts, self._write_order = counts, write_order
        self._stamp: Stamp | None = None  # of the last checkpoint opened

    def open(self) -> Model:
        """Opens the current checkpoint. Raises InputError and UsageError as `load` does.

        Its counts do not build a corpus that is missing, as that could take any time of a request, and reads files.
        """
        self._stamp = self._current_stamp()
        model = load(
            self.run,
            which=self._which,
            device=self._device,
            precision=self._precision,
            counts=self._counts,
            write_order=self._write_order,
        )
        model.predictor.training_text = partial(training_text, open_run(self.run), build=False)
        return model

    def open_later(self) -> None:
        """Makes `has_changed` true, so that opening is tried again later."""
        self._stamp = None

    def has_changed(self) -> bool:
        """Whether there is another checkpoint than the last one opened. One selected by its step never changes."""
        return self._which in ("best", "last") and self._current_stamp() not in (None, self._stamp)

    def _current_stamp(self) -> Stamp | None:
        """Returns the checkpoint's step and which file its manifest is; None while no checkpoint can be read."""
        try:
            checkpoint = open_run(self.run).checkpoint(self._which)
            manifest = (checkpoint.path / MANIFEST_FILE).stat()
            return checkpoint.step, manifest.st_ino, manifest.st_mtime_ns
        except (ScrivenError, OSError):
            return None


async def renew(server: ServerState, sources: Mapping[str, ServedCheckpoint], report: Callable[[str], object]) -> None:
    """Loads newer checkpoints until it is cancelled; `report` gets a line about each."""
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(1, "renewal")
    last = dict[str, str]()  # the last line about each run, which is not repeated
    try:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            server.forget_stopped()
            for name, source in list(sources.items()):
                try:
                    opening = partial(_open_newer, name, server.models.get(name), source, server.limits)
                    served, line = await loop.run_in_executor(threads, opening)
                    if served is not None:
                        server.replace(served)
                    if line and line != last.get(name):
                        last[name] = line
                        report(f"{name}: {line}")
                except Exception as error:  # no thread can be started, or standard error is closed
                    if shortage(error):
                        source.open_later()
                    log.exception("a newer checkpoint of %s could not be loaded", name)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _reason(error: Exception, source: ServedCheckpoint) -> str:
    """Why a newer checkpoint could not be opened. If the system was short of a resource, it is tried again."""
    if lacking := shortage(error):
        source.open_later()
        return f"there is not enough {lacking} for the newer checkpoint; trying again"
    if not isinstance(error, ScrivenError | OSError):
        log.exception("a newer checkpoint could not be opened", exc_info=error)
    return f"the newer checkpoint cannot be opened: {error}"


def _open_newer(
    name: str, before: ServedModel | None, source: ServedCheckpoint, limits: Limits
) -> tuple[ServedModel | None, str]:
    """The checkpoint to serve in place of `before`, or None, and a line about it.

    There is none `before` for a run that was started from the page.
    """
    still = f"still serving step {before.model.step:,}" if before else "not served yet"
    try:
        if not source.has_changed():
            return None, ""
        served = ServedModel(name, source.open(), limits)
    except Exception as error:
        return None, f"{still}: {_reason(error, source)}"
    if before and served.model.vocabulary != before.model.vocabulary:
        return None, f"{still}: the newer checkpoint has another vocabulary; restart the server to serve it"
    if not _is_finite(served):
        return None, f"{still}: the numbers of step {served.model.step:,} overflow"
    if before and served.fingerprint == before.fingerprint:
        return None, ""
    instead = f" instead of {before.model.step:,}" if before else ""
    return served, f"now serving step {served.model.step:,} ({served.fingerprint}){instead}"


def _is_finite(served: ServedModel) -> bool:
    """Whether the model predicts the first character of a text in finite numbers."""
    return bool(np.isfinite(served.start.logits).all())


__all__ = ["ServedCheckpoint", "renew"]

"""Trains models for people at the page: one process for each training, which ends when the server does.

A training lasts while the server holds its standard input open. Closing that makes it finish its step, save and end, as
Ctrl-C does. The system closes it if the server is killed. So no training outlives its server, nor loses a checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scriven.errors import ScrivenError
from scriven.runs import open_run
from scriven.runs.folder import RUNS, has_checkpoints
from scriven.runs.summary import summarize
from scriven.safe_files import discard, make_folder, write_flushed
from scriven.server.limits import LIMITS, Limits
from scriven.server.requests import TrainingBody
from scriven.server.responses import ApiError, answer, stopping, too_many_requests
from scriven.server.security import is_loopback
from scriven.server.shared import parse_request

TRAIN = (sys.executable, "-m", "scriven", "train", "--quiet", "--attached")
LINES_KEPT = 5  # of what a training writes to standard error; the last one says why it failed
STOPPED = {0, 130, 143}  # exit codes of a training that ended with its model saved
State = Literal["training", "stopping", "ended", "failed"]
Source = TypeVar("Source")  # of checkpoints: how the server serves a run


@dataclass(frozen=True)
class TrainingPolicy(Generic[Source]):
    """What the server's owner lets people at the page train."""

    source: Callable[[Path], Source]  # of the checkpoints of a new run
    texts: Path | None = None  # a folder of texts; others can be sent
    refusal: str = ""  # why nobody may start a training; "" if people may

    def find_texts(self) -> dict[str, Path]:
        """The files of the folder by name, except hidden ones and links. Nothing else on the machine can be named."""
        if self.texts is None:
            return {}
        try:
            found = sorted(path for path in self.texts.iterdir() if path.is_file() and not path.is_symlink())
        except OSError:  # the folder is gone
            return {}
        return {path.name: path for path in found if not path.name.startswith(".")}


def why_refused(host: str, token: str | None, others: Sequence[str]) -> str:
    """Why pages may start no training on a server at `host`; "" if they may.

    `others` are the hosts and origins that the owner allows besides: with one of these, other machines can reach the
    server through a proxy, so they need the token too.
    """
    if token is not None or (is_loopback(host) and not others):
        return ""
    return "other machines can reach this server, so starting a training needs a token; start the server with --token"


@dataclass
class TrainingProcess:
    """A training that runs as a process, and how it ended."""

    name: str
    process: subprocess.Popen[bytes]
    text: Path | None  # that was written for this training
    stopping: bool = False
    error: str = ""  # why it failed
    lines: deque[bytes] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def state(self) -> State:
        """What it does."""
        if self.running:
            return "stopping" if self.stopping else "training"
        return "failed" if self.error else "ended"

    def stop(self) -> None:
        """Makes it save and end soon."""
        self.stopping = True
        self._end_input()

    def _end_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def wait(self, folders: Sequence[Path]) -> None:
        """Waits until it has ended, and keeps why it failed, without the paths of `folders`."""
        assert self.process.stderr
        with self.process.stderr:
            self.lines.extend(self.process.stderr)
        code = self.process.wait()
        self._end_input()
        if code not in STOPPED:
            said = self.lines[-1].decode("utf-8", "replace").strip() if self.lines else f"exit code {code}"
            self.error = said.removeprefix("scriven: ")
            for folder in folders:
                self.error = self.error.replace(f"{folder}{os.sep}", "")


class Trainings(Generic[Source]):
    """Starts, stops and resumes trainings by requests."""

    def __init__(
        self,
        policy: TrainingPolicy[Source],
        runs: MutableMapping[str, Path],
        sources: MutableMapping[str, Source],
        limits: Limits = LIMITS,
    ) -> None:
        """New runs are added to `runs`, so that they can be watched, and to `sources`, so that they are served."""
        self._policy = policy
        self._runs, self._sources = runs, sources
        self._limits = limits
        self._processes: dict[str, TrainingProcess] = {}
        self._waiting: list[threading.Thread] = []
        self._starting = asyncio.Lock()
        self._ending = False
        self._new = 0  # runs

    def routes(self) -> list[Route]:
        """The routes of trainings."""
        return [
            Route("/trainings", self.describe, methods=["GET"]),
            Route("/trainings", self.start, methods=["POST"]),
            Route("/trainings/{name}", self.stop, methods=["DELETE"]),
        ]

    async def describe(self, request: Request) -> Response:
        """GET /trainings: whether trainings may be started, the owner's texts, and the trainings of this server."""
        texts = await run_in_threadpool(self._policy.find_texts) if not self._policy.refusal else {}
        trainings = [{"name": each.name, "state": each.state, "error": each.error} for each in self._processes.values()]
        return answer({"refusal": self._policy.refusal, "texts": [*texts], "trainings": trainings})

    async def start(self, request: Request) -> Response:
        """POST /trainings: starts to train a new model, or resumes a run."""
        if self._policy.refusal:
            raise ApiError(403, self._policy.refusal, code="training_not_allowed")
        body = await parse_request(request, TrainingBody)
        async with self._starting:  # so that two requests at once are not both the first
            self._check_free(body)
            words, text = await run_in_threadpool(self._resume if body.resume else self._prepare, body)
            training = await run_in_threadpool(self._run, body.name, words, text)
            self._watch(training, new=not body.resume)
        return answer({"name": training.name, "state": training.state, "error": ""})

    async def stop(self, request: Request) -> Response:
        """DELETE /trainings/{name}: makes a training save and end."""
        name = request.path_params["name"]
        training = self._processes.get(name)
        if training is None or not training.running:
            raise ApiError(
                404, f"no training of {name[:80]!r} runs here; GET /trainings lists them", "name", "not_found"
            )
        training.stop()
        return answer({"name": training.name, "state": training.state, "error": training.error})

    def stop_all(self) -> list[str]:
        """Makes all trainings save and end, and lets no other start. Returns the names of those that it stops."""
        self._ending = True
        running = [each for each in self._processes.values() if each.state == "training"]
        for each in running:
            each.stop()
        return [each.name for each in running]

    def wait(self) -> None:
        """Waits until all trainings have ended."""
        for thread in self._waiting:
            thread.join()

    def _check_free(self, body: TrainingBody) -> None:
        """Raises ApiError if another training runs, or if the name does not fit what is asked."""
        if self._ending:
            raise stopping()
        running = [each.name for each in self._processes.values() if each.running]
        if body.name in running:
            raise ApiError(409, f"{body.name} is being trained; stop it first", "name", "already_training")
        if len(running) >= self._limits.trainings:
            raise too_many_requests(f"{', '.join(running)}: as many trainings as may run at once; stop one first")
        if body.resume and body.name not in self._runs:
            raise ApiError(404, f"no such run: {body.name[:80]!r}; GET /runs lists all runs", "name", "not_found")
        if not body.resume and self._new >= self._limits.new_runs:
            raise too_many_requests(f"{self._new} runs were started from the page; restart the server to start more")

    def _prepare(self, body: TrainingBody) -> tuple[list[str], Path | None]:
        """Returns the command's words for a new run, and the file that a sent text was written to."""
        run, sent = RUNS / body.name, None
        if body.name in self._runs or has_checkpoints(run):
            raise ApiError(409, f"there is a run {body.name} already; choose another name", "name", "name_taken")
        if body.file:
            texts = self._policy.find_texts()
            if body.file not in texts:
                raise ApiError(404, f"no such text: {body.file[:80]!r}; GET /trainings lists them", "file", "not_found")
            text = texts[body.file]
        else:
            text = sent = RUNS / f"{body.name}.txt"
            _save_text(sent, body.text)
        words = [str(text.resolve()), "-o", str(run), "--corpus.documents", body.documents]
        return [*words, "--minutes", f"{body.minutes:.15g}"], sent

    def _resume(self, body: TrainingBody) -> tuple[list[str], None]:
        """Returns the command's words to continue a run for some minutes more."""
        run = self._runs[body.name]
        try:
            trained = summarize(open_run(run)).seconds or 0.0
        except ScrivenError as error:
            words = str(error).replace(f"{run.parent}{os.sep}", "")
            raise ApiError(409, words, "name", "unreadable") from None
        return ["--resume", "-o", str(run), "--minutes", f"{trained / 60 + body.minutes:.15g}"], None

    def _run(self, name: str, words: Sequence[str], text: Path | None) -> TrainingProcess:
        """Starts the process. Raises ApiError, 503, if the system cannot."""
        try:
            process = subprocess.Popen(
                [*TRAIN, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C goes to the server alone, which lets the training save
            )
        except OSError as error:
            if text is not None:
                discard(text)
            raise ApiError(503, f"no process can be started: {error.strerror}", code="no_process") from None
        return TrainingProcess(name, process, text)

    def _watch(self, training: TrainingProcess, *, new: bool) -> None:
        """Lets people watch the run and write with it. Waits for its end in a thread."""
        self._processes[training.name] = training
        if new:
            self._new += 1
            self._runs[training.name] = run = RUNS / training.name
            self._sources[training.name] = self._policy.source(run)
        loop, folder = asyncio.get_running_loop(), self._runs[training.name].parent
        places = [RUNS, folder] if self._policy.texts is None else [self._policy.texts, RUNS, folder]

        def attend() -> None:
            training.wait([*(each.resolve() for each in places), folder])
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._forget_if_empty, training)

        thread = threading.Thread(target=attend, name=f"training {training.name}", daemon=True)
        self._waiting = [each for each in self._waiting if each.is_alive()] + [thread]
        thread.start()

    def _forget_if_empty(self, training: TrainingProcess) -> None:
        """Forgets a run that came to nothing, so that its name is free again, and removes the text written for it."""
        run = self._runs.get(training.name)
        if run is None or has_checkpoints(run):
            return
        del self._runs[training.name]
        self._sources.pop(training.name, None)
        if training.text is not None:
            discard(training.text)


def _save_text(path: Path, text: str) -> None:
    """Writes a text to a new file. Raises ApiError if the name is taken, or if it cannot be written."""
    try:
        make_folder(path.parent)
        write_flushed(path, text.encode())
    except FileExistsError:
        raise ApiError(409, f"there is a file {path} already; choose another name", "name", "name_taken") from None
    except OSError as error:
        discard(path)
        raise ApiError(503, f"the text cannot be saved: {error.strerror}", code="cannot_save") from None

"""Follows runs while they are being trained, by reading the metrics and samples files that their training writes.

It never locks or writes a file, so it cannot disturb a training. A loss is a sum of nats with its number of characters.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scriven.errors import InputError
from scriven.runs import open_run
from scriven.runs.journal import METRICS_FILE, SAMPLES_FILE, record_of
from scriven.runs.summary import find_beginnings, summarize
from scriven.safe_files import open_regular
from scriven.server.disconnects import DisconnectAwareResponse
from scriven.server.limits import LIMITS, Limits
from scriven.server.responses import (
    EVENTS,
    LONG_ANSWER,
    UTF8,
    ApiError,
    LimitedCount,
    answer,
    json_in_pieces,
    long_answer,
)

Record = dict[str, Any]

BYTES_PER_READ = 32 << 20  # the files of the longest runs have about 10 million bytes
LINES_PER_READ = 200_000  # a hostile file of nothing but line ends would take too long otherwise
LARGEST_LOSS = 1e300  # a larger loss could overflow when summed
MOST_STEPS = 1200  # steps reported at most; neighbouring steps of a longer run are summed
MOST_SAMPLES = 2000  # the last texts that are reported
QUIET_SECONDS = 120.0  # seconds without a new line after which a run counts as no longer in training
TAIL_BYTES = 1 << 16  # bytes at the end of a file that are searched for its last line
CHECK_SECONDS = 0.5  # seconds between two checks of the files of a run that is followed
KEEP_ALIVE_SECONDS = 15.0  # seconds without changes after which a comment is sent, which notices disconnected clients
NO_STORE = {"cache-control": "no-store"}
STARTED = ("name", "parameters", "training_characters", "validation_characters", "counts", "unit")
FINISHED = ("step", "reason", "best_step", "seconds", "network_alone")
SAMPLED = ("step", "prompt", "text", "temperature", "seed")


class Tail:
    """Reads a growing `.jsonl` file: each line once, when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = (0, 0)  # device and inode
        self._offset = 0

    def read(self) -> tuple[bool, list[Record]]:
        """The new records, and whether the file was replaced, so that all earlier records are void.

        Skips lines that are not records. A missing file counts as empty. Raises InputError if it is not a regular file.
        """
        if not os.path.lexists(self._path):
            return self._was_replaced((0, 0), 0), []
        with open_regular(self._path) as (file, size):
            status = os.fstat(file.fileno())
            replaced = self._was_replaced((status.st_dev, status.st_ino), size)
            file.seek(self._offset)
            data = file.read(BYTES_PER_READ)
        whole = data.rfind(b"\n") + 1 or (len(data) if len(data) == BYTES_PER_READ else 0)
        lines = list(islice(io.BytesIO(data[:whole]), LINES_PER_READ))
        self._offset += sum(map(len, lines))
        return replaced, records(lines)

    def _was_replaced(self, file: tuple[int, int], size: int) -> bool:
        if file == self._file and size >= self._offset:
            return False
        first = self._file == (0, 0)
        self._file, self._offset = file, 0
        return not first


def records(lines: Iterable[bytes]) -> list[Record]:
    """The JSON objects with a step among these lines."""
    return [record for line in lines if line.startswith(b"{") and (record := record_of(line))]


class RunHistory:
    """The metrics and samples of a run from its beginning, as they grow."""

    def __init__(self, run: Path) -> None:
        """`run` is the run's folder."""
        self._run = run
        self._restart()
        self._training = False

    def _restart(self) -> None:
        self._metrics, self._samples = Tail(self._run / METRICS_FILE), Tail(self._run / SAMPLES_FILE)
        self._reported = False

    def hide_folder(self, words: str) -> str:
        """A sentence about the run's files, without the folder that the run is in."""
        return words.replace(f"{self._run.parent}{os.sep}", "")

    def changes(self) -> Record | None:
        """What changed since the last call, or None. The first call returns everything.

        `again` is true if everything returned earlier is void: in the first call, and after training rolled back to an
        earlier step. `steps` and `evaluations` are losses (`nats` over `characters`) by step, `samples` are generated
        texts, `facts` are about the whole run. Raises InputError if the files are not regular files.
        """
        (metrics_replaced, metrics), (samples_replaced, samples) = self._metrics.read(), self._samples.read()
        if metrics_replaced or samples_replaced:
            self._restart()
            (_, metrics), (_, samples) = self._metrics.read(), self._samples.read()
        before, self._training = self._training, is_training(self._run, metrics[-1:])
        if self._reported and not metrics and not samples and before == self._training:
            return None
        again, self._reported = not self._reported, True
        samples = collect_samples(samples)
        return {"again": again, "training": self._training, **collect_losses(metrics), "samples": samples}


def is_training(run: Path, last: Sequence[Record] = ()) -> bool:
    """Whether a run seems to be in training: it did not finish, and wrote a line in the last QUIET_SECONDS."""
    path = run / METRICS_FILE
    last = last or last_records(path)
    if not last or last[-1].get("event") == "finished":
        return False
    return time.time() - path.stat().st_mtime < QUIET_SECONDS


def last_records(path: Path) -> list[Record]:
    """The records near the end of a file. A missing file has none. Raises InputError if it is not a regular file."""
    if not os.path.lexists(path):
        return []
    with open_regular(path) as (file, size):
        file.seek(max(0, size - TAIL_BYTES))
        return records(io.BytesIO(file.read(TAIL_BYTES)))


def collect_losses(metrics: Sequence[Record]) -> Record:
    """The steps, evaluations and facts from records of `metrics.jsonl`."""
    steps = [each for record in metrics if record.get("event") == "stepped" for each in _step(record)]
    evaluations = [each for record in metrics if record.get("event") == "evaluated" for each in _evaluation(record)]
    facts: Record = {}
    for record in metrics:
        if record.get("event") == "started":
            facts = {"started": _scalars(record, STARTED), "finished": None}
        elif record.get("event") == "finished":
            best = [{"nats": each["nats"], "characters": each["characters"]} for each in _loss(record, "best")]
            facts["finished"] = _scalars(record, FINISHED) | (best[0] if best else {})
    return {"steps": thin_out(steps), "evaluations": evaluations, "facts": facts}


def _scalars(record: Record, names: Sequence[str]) -> Record:
    """The values of these names; None for lists and objects, which could be nested deeply."""
    values = {name: record.get(name) for name in names}
    return {name: value if isinstance(value, str | int | float) else None for name, value in values.items()}


def _step(record: Record) -> list[Record]:
    values = _scalars(record, ("characters", "seconds", "progress"))
    rest = {"read": values.pop("characters"), **values}
    return [loss | rest for loss in _loss(record)]


def _evaluation(record: Record) -> list[Record]:
    rest = _scalars(record, ("protocol", "best", "final"))
    return [loss | rest for loss in _loss(record)]


def _loss(record: Record, name: str = "loss") -> list[Record]:
    """The step and its loss, as a list of one; an empty list if the record has no valid loss."""
    loss = record.get(name)
    nats, characters = (loss.get("nats"), loss.get("characters")) if isinstance(loss, dict) else (None, None)
    if not (isinstance(nats, int | float) and isinstance(characters, int) and characters > 0):
        return []
    if not max(abs(nats), characters) < LARGEST_LOSS:
        return []
    return [{"step": record["step"], "nats": nats, "characters": characters}]


def thin_out(steps: Sequence[Record], points: int = MOST_STEPS) -> list[Record]:
    """At most `points` steps. Neighbours become one step with their summed losses and the last one's other values."""
    size = -(-len(steps) // points) or 1
    groups = groupby(enumerate(steps), lambda each: each[0] // size)
    return [_merge([step for _, step in group]) for _, group in groups]


def _merge(steps: Sequence[Record]) -> Record:
    sums = {name: sum(step[name] for step in steps) for name in ("nats", "characters")}
    return steps[-1] | sums


def collect_samples(samples: Sequence[Record]) -> list[Record]:
    """The generated texts from records of `samples.jsonl`."""
    texts = [each for each in samples if isinstance(each.get("text"), str) and isinstance(each.get("prompt"), str)]
    return [_scalars(each, SAMPLED) for each in texts[-MOST_SAMPLES:]]


class RunMonitor:
    """Answers requests about runs by their names."""

    def __init__(self, runs: Mapping[str, Path], limits: Limits = LIMITS) -> None:
        """`runs` are the folders of the runs, by name; clients cannot ask for any others."""
        self._runs = runs  # more may be added
        self._limits = limits
        self._followers = LimitedCount(limits.followers, "pages are watching runs")
        self.ending = False  # whether the server is stopping, which ends all streams of events

    def routes(self) -> list[Route]:
        """The routes of the monitor."""
        return [
            Route("/runs", self.list, methods=["GET"]),
            Route("/runs/{name}", self.introduction, methods=["GET"]),
            Route("/runs/{name}/metrics", self.metrics, methods=["GET"]),
            Route("/runs/{name}/samples", self.samples, methods=["GET"]),
            Route("/runs/{name}/events", self.events, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """GET /runs: each run's name, whether it is in training, and its last step."""
        return answer(await run_in_threadpool(lambda: [_summary(*run) for run in list(self._runs.items())]))

    async def introduction(self, request: Request) -> Response:
        """GET /runs/{name}: what the model learned from, how well, and beginnings of texts."""
        folder = self._folder(request)
        return answer(await run_in_threadpool(lambda: {"name": request.path_params["name"], **_introduction(folder)}))

    async def metrics(self, request: Request) -> Response:
        """GET /runs/{name}/metrics?after=STEP: the losses after this step; all losses without `after`."""
        after = _query_step(request.query_params.get("after", "-1"))
        changes = await run_in_threadpool(_changes, RunHistory(self._folder(request)))
        for kind in ("steps", "evaluations"):
            changes[kind] = [each for each in changes[kind] if each["step"] > after]
        return answer({name: changes[name] for name in ("training", "facts", "steps", "evaluations")})

    async def samples(self, request: Request) -> Response:
        """GET /runs/{name}/samples: the texts that the model generated during training."""
        history = RunHistory(self._folder(request))
        return await long_answer(LONG_ANSWER, lambda: _changes(history)["samples"])

    async def events(self, request: Request) -> Response:
        """GET /runs/{name}/events: `RunHistory.changes` as server-sent events; the first has everything until now."""
        history = RunHistory(self._folder(request))
        if request.method == "HEAD":
            return Response(media_type=EVENTS + UTF8, headers=NO_STORE)
        return DisconnectAwareResponse(self._follow(history), EVENTS + UTF8, within=self._count_follower())

    async def _follow(self, history: RunHistory) -> AsyncGenerator[bytes]:
        clock = asyncio.get_running_loop().time
        started = sent = clock()
        while clock() - started < self._limits.follow_seconds and not self.ending:
            try:
                changes = await run_in_threadpool(lambda: json_in_pieces(_changes(history)))
            except ApiError as refused:
                yield b"data: " + refused.body + b"\n\n"
                return
            changed = changes != "{}"
            if changed or clock() - sent > KEEP_ALIVE_SECONDS:
                sent = clock()
                yield f"data: {changes}\n\n".encode() if changed else b":\n\n"
            await asyncio.sleep(CHECK_SECONDS)

    @asynccontextmanager
    async def _count_follower(self) -> AsyncIterator[None]:
        """Counts a page as following a run. Raises ApiError, 429, if there are too many."""
        with self._followers.hold():
            yield

    def _folder(self, request: Request) -> Path:
        name = request.path_params["name"]
        if name not in self._runs:
            raise ApiError(404, f"no such run: {name[:80]!r}; GET /runs lists all runs", "name", "not_found")
        return self._runs[name]


def _summary(name: str, run: Path) -> dict[str, Any]:
    try:
        last = last_records(run / METRICS_FILE)
        return {"name": name, "training": is_training(run, last), "steps": last[-1]["step"] if last else 0}
    except (InputError, OSError):
        return {"name": name, "training": False, "steps": 0}


def _introduction(folder: Path) -> dict[str, Any]:
    """The introduction of a run, without its name. Raises ApiError, 404, if the run's files cannot be read."""
    try:
        run = open_run(folder)
        summary = summarize(run)
        bits = summary.loss.bits_per_char if summary.loss else math.nan
        return {
            "texts": [Path(text).name or text for text in run.origin.get("texts", [])],
            "training_characters": summary.training_characters,
            "seconds": summary.seconds,
            "bits_per_char": bits if math.isfinite(bits) else None,
            "network_alone": summary.network_alone,
            "unit": run.vocabulary.unit,
            "beginnings": find_beginnings(run, summary),
        }
    except (InputError, OSError) as error:
        raise ApiError(404, RunHistory(folder).hide_folder(str(error)), "name", "unreadable") from None


def _changes(history: RunHistory) -> dict[str, Any]:
    """The changes of a run; {} if there are none. Raises ApiError, 404, if the run's files cannot be read."""
    try:
        return history.changes() or {}
    except (InputError, OSError) as error:
        words = history.hide_folder(str(error))
        raise ApiError(404, words, "name", "unreadable") from None


def _query_step(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ApiError(400, f"after={text[:40]!r}: give the number of a step", "after", "invalid_value") from None

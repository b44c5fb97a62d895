"""The story of a run in training, read from the files to which it is told, again and again as they grow.

Nothing is locked or written: a training never notices. Losses are sums of nats beside the characters they sum over.
"""

from __future__ import annotations

import asyncio
import io
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
from scriven.runs.journal import METRICS_FILE, SAMPLES_FILE, record_of
from scriven.safe_files import open_regular
from scriven.server.limits import LIMITS, Limits
from scriven.server.responses import BRIEF, ApiError, answer, long_answer, pieces, too_many_requests
from scriven.server.shared import DisconnectAwareResponse

Record = dict[str, Any]

AT_ONCE = 32 << 20  # bytes of a file that are read at once; the files of the longest runs have about 10 million
LINES = 200_000  # and how many lines of it: a hostile file of nothing but ends of lines would keep us busy for long
LARGEST = 1e300  # a loss that is larger cannot be summed
POINTS = 1200  # steps of a run that are told; of a longer one neighbours are summed
SAMPLES = 2000  # texts that are told, the last ones
QUIET = 120.0  # seconds without a new line after which a run is not in training any more
TAIL = 1 << 16  # bytes at the end of a file in which its last line is looked for
STARTED = ("name", "parameters", "training_characters", "validation_characters")
FINISHED = ("step", "reason", "best_step", "seconds")
SAMPLED = ("step", "prompt", "text", "temperature", "seed")


class Tail:
    """The lines of a `.jsonl` file that grows, each once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = (0, 0)  # device and inode
        self._offset = 0

    def read(self) -> tuple[bool, list[Record]]:
        """The records that were added, and whether they are of another file than those before, which are void then.

        Lines that are no record are left out. A file that is missing is empty. Raises InputError for what is no file.
        """
        if not os.path.lexists(self._path):
            return self._has_moved((0, 0), 0), []
        with open_regular(self._path) as (file, size):
            found = os.fstat(file.fileno())
            again = self._has_moved((found.st_dev, found.st_ino), size)
            file.seek(self._offset)
            data = file.read(AT_ONCE)
        whole = data.rfind(b"\n") + 1 or (len(data) if len(data) == AT_ONCE else 0)
        lines = list(islice(io.BytesIO(data[:whole]), LINES))
        self._offset += sum(map(len, lines))
        return again, records(lines)

    def _has_moved(self, file: tuple[int, int], size: int) -> bool:
        if file == self._file and size >= self._offset:
            return False
        first = self._file == (0, 0)
        self._file, self._offset = file, 0
        return not first


def records(lines: Iterable[bytes]) -> list[Record]:
    """The objects with a step among lines of JSON."""
    return [record for line in lines if line.startswith(b"{") and (record := record_of(line))]


class RunHistory:
    """What a run tells, in order, from its beginning."""

    def __init__(self, run: Path) -> None:
        """`run` is the run's folder."""
        self._run = run
        self._begin()
        self._training = False

    def _begin(self) -> None:
        self._metrics, self._samples = Tail(self._run / METRICS_FILE), Tail(self._run / SAMPLES_FILE)
        self._told = False

    def without_place(self, words: str) -> str:
        """A sentence about the run's files, without where on this machine they are."""
        return words.replace(f"{self._run.parent}{os.sep}", "")

    def news(self) -> Record | None:
        """What is new since the last call, None where nothing is; the first call tells everything.

        `again` says that all that was told before is void: at the beginning, and where a training went back to an
        earlier step. `steps` and `evaluations` are losses (`nats` over `characters`) at a step, `samples` texts that
        were written, `facts` what is known of the run as a whole. Raises InputError where the files are none.
        """
        (moved, metrics), (moved_too, samples) = self._metrics.read(), self._samples.read()
        if moved or moved_too:
            self._begin()
            (_, metrics), (_, samples) = self._metrics.read(), self._samples.read()
        before, self._training = self._training, in_training(self._run, metrics[-1:])
        if self._told and not metrics and not samples and before == self._training:
            return None
        again, self._told = not self._told, True
        told = {"again": again, "training": self._training, **losses(metrics), "samples": sample_texts(samples)}
        return told


def in_training(run: Path, last: Sequence[Record] = ()) -> bool:
    """Whether a run seems to be in training: it has not said that it finished, and wrote something not long ago."""
    path = run / METRICS_FILE
    last = last or last_records(path)
    if not last or last[-1].get("event") == "finished":
        return False
    return time.time() - path.stat().st_mtime < QUIET


def last_records(path: Path) -> list[Record]:
    """The records near the end of a file; none of a missing one. Raises InputError for what is no file."""
    if not os.path.lexists(path):
        return []
    with open_regular(path) as (file, size):
        file.seek(max(0, size - TAIL))
        return records(io.BytesIO(file.read(TAIL)))


def losses(metrics: Sequence[Record]) -> Record:
    """The steps, evaluations and facts that lines of `metrics.jsonl` tell."""
    steps = [each for record in metrics if record.get("event") == "stepped" for each in _step(record)]
    evaluations = [each for record in metrics if record.get("event") == "evaluated" for each in _evaluation(record)]
    facts: Record = {}
    for record in metrics:
        if record.get("event") == "started":
            facts = {"started": _plain(record, STARTED), "finished": None}
        elif record.get("event") == "finished":
            facts["finished"] = _plain(record, FINISHED)
    return {"steps": thin_out(steps), "evaluations": evaluations, "facts": facts}


def _plain(record: Record, names: Sequence[str]) -> Record:
    """Some of its values; null for those that are lists or objects, which may be of any depth."""
    values = {name: record.get(name) for name in names}
    return {name: value if isinstance(value, str | int | float) else None for name, value in values.items()}


def _step(record: Record) -> list[Record]:
    told = _plain(record, ("characters", "seconds", "progress"))
    rest = {"read": told.pop("characters"), **told}
    return [loss | rest for loss in _loss(record)]


def _evaluation(record: Record) -> list[Record]:
    rest = _plain(record, ("protocol", "best", "final"))
    return [loss | rest for loss in _loss(record)]


def _loss(record: Record) -> list[Record]:
    """The step and its loss; nothing where there is none."""
    loss = record.get("loss")
    nats, characters = (loss.get("nats"), loss.get("characters")) if isinstance(loss, dict) else (None, None)
    if not (isinstance(nats, int | float) and isinstance(characters, int) and characters > 0):
        return []
    if not max(abs(nats), characters) < LARGEST:
        return []
    return [{"step": record["step"], "nats": nats, "characters": characters}]


def thin_out(steps: Sequence[Record], points: int = POINTS) -> list[Record]:
    """So many steps at most: of neighbours their losses' sums, and otherwise what is true of the last of them."""
    size = -(-len(steps) // points) or 1
    groups = groupby(enumerate(steps), lambda each: each[0] // size)
    return [_merge([step for _, step in group]) for _, group in groups]


def _merge(steps: Sequence[Record]) -> Record:
    sums = {name: sum(step[name] for step in steps) for name in ("nats", "characters")}
    return steps[-1] | sums


def sample_texts(samples: Sequence[Record]) -> list[Record]:
    """The texts that lines of `samples.jsonl` tell."""
    texts = [each for each in samples if isinstance(each.get("text"), str) and isinstance(each.get("prompt"), str)]
    return [_plain(each, SAMPLED) for each in texts[-SAMPLES:]]


__all__ = ["RunHistory", "Tail", "in_training", "last_records", "losses", "sample_texts", "thin_out"]


EVERY = 0.5  # seconds between two looks at the files of a run that is followed
ALIVE = 15.0  # seconds after which a comment is sent where nothing is new, so that who went away is noticed
EVENTS = "text/event-stream; charset=utf-8"
UNKEPT = {"cache-control": "no-store"}


class RunMonitor:
    """Tells about runs by their names."""

    def __init__(self, runs: Mapping[str, Path], limits: Limits = LIMITS) -> None:
        """`runs` are the folders of the runs that are served; there is no way to ask for others."""
        self._runs = dict(runs)
        self._limits = limits
        self._followers = 0
        self.ending = False  # the server is: nobody is told any more

    def routes(self) -> list[Route]:
        """What it answers."""
        return [
            Route("/runs", self.list, methods=["GET"]),
            Route("/runs/{name}/metrics", self.metrics, methods=["GET"]),
            Route("/runs/{name}/samples", self.samples, methods=["GET"]),
            Route("/runs/{name}/events", self.events, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """GET /runs: name, whether it is in training, and the last step, of each run."""
        return answer(await run_in_threadpool(lambda: [_summary(*run) for run in self._runs.items()]))

    async def metrics(self, request: Request) -> Response:
        """GET /runs/{name}/metrics?after=STEP: the losses of later steps; of all without `after`."""
        after = _query_step(request.query_params.get("after", "-1"))
        told = await run_in_threadpool(_news, RunHistory(self._folder(request)))
        for kind in ("steps", "evaluations"):
            told[kind] = [each for each in told[kind] if each["step"] > after]
        return answer({name: told[name] for name in ("training", "facts", "steps", "evaluations")})

    async def samples(self, request: Request) -> Response:
        """GET /runs/{name}/samples: what the model wrote in training."""
        story = RunHistory(self._folder(request))
        return await long_answer(BRIEF, lambda: _news(story)["samples"])

    async def events(self, request: Request) -> Response:
        """GET /runs/{name}/events: server-sent events of what `Story.news` tells, everything so far in the first."""
        story = RunHistory(self._folder(request))
        if request.method == "HEAD":
            return Response(media_type=EVENTS, headers=UNKEPT)
        return DisconnectAwareResponse(self._follow(story), EVENTS, within=self._count_follower())

    async def _follow(self, story: RunHistory) -> AsyncGenerator[bytes]:
        clock = asyncio.get_running_loop().time
        begun = said = clock()
        while clock() - begun < self._limits.follow_seconds and not self.ending:
            try:
                news = await run_in_threadpool(lambda: "".join(pieces(_news(story))))
            except ApiError as refused:
                yield b"data: " + refused.body + b"\n\n"
                return
            new = news != "{}"
            if new or clock() - said > ALIVE:
                said = clock()
                yield f"data: {news}\n\n".encode() if new else b":\n\n"
            await asyncio.sleep(EVERY)

    @asynccontextmanager
    async def _count_follower(self) -> AsyncIterator[None]:
        """While a run is followed. Raises Refused, 429, where that are too many; nobody comes between."""
        if self._followers >= self._limits.followers:
            raise too_many_requests(f"{self._followers} pages are watching runs already")
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def _folder(self, request: Request) -> Path:
        name = request.path_params["name"]
        if name not in self._runs:
            raise ApiError(404, f"there is no run {name[:80]!r}; GET /runs lists those there are", "name", "not_found")
        return self._runs[name]


def _summary(name: str, run: Path) -> dict[str, Any]:
    try:
        last = last_records(run / METRICS_FILE)
        return {"name": name, "training": in_training(run, last), "steps": last[-1]["step"] if last else 0}
    except (InputError, OSError):
        return {"name": name, "training": False, "steps": 0}


def _news(story: RunHistory) -> dict[str, Any]:
    """What is new; an empty dictionary where nothing is. Raises Refused where the run's files cannot be read."""
    try:
        return story.news() or {}
    except (InputError, OSError) as error:
        words = story.without_place(str(error))
        raise ApiError(404, words, "name", "unreadable") from None


def _query_step(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ApiError(400, f"after={text[:40]!r}: give a step, a whole number", "after", "invalid_value") from None

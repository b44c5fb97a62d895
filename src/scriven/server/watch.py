"""What training tells, over HTTP: the runs that are served, their losses and samples so far, and what comes next.

A run may be in training while it is served; see `scriven.server.story` for how it is followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scriven.errors import InputError
from scriven.runs.journal import METRICS_FILE
from scriven.server.answers import BRIEF, answer, long_answer, pieces
from scriven.server.errors import Refused, full
from scriven.server.limits import LIMITS, Limits
from scriven.server.serving import Streamed
from scriven.server.story import Story, in_training, last_records

EVERY = 0.5  # seconds between two looks at the files of a run that is followed
ALIVE = 15.0  # seconds after which a comment is sent where nothing is new, so that who went away is noticed
EVENTS = "text/event-stream; charset=utf-8"
UNKEPT = {"cache-control": "no-store"}


class Watch:
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
        after = _step(request.query_params.get("after", "-1"))
        told = await run_in_threadpool(_news, Story(self._folder(request)))
        for kind in ("steps", "evaluations"):
            told[kind] = [each for each in told[kind] if each["step"] > after]
        return answer({name: told[name] for name in ("training", "facts", "steps", "evaluations")})

    async def samples(self, request: Request) -> Response:
        """GET /runs/{name}/samples: what the model wrote in training."""
        story = Story(self._folder(request))
        return await long_answer(BRIEF, lambda: _news(story)["samples"])

    async def events(self, request: Request) -> Response:
        """GET /runs/{name}/events: server-sent events of what `Story.news` tells, everything so far in the first."""
        story = Story(self._folder(request))
        if request.method == "HEAD":
            return Response(media_type=EVENTS, headers=UNKEPT)
        return Streamed(self._follow(story), EVENTS, within=self._counted())

    async def _follow(self, story: Story) -> AsyncGenerator[bytes]:
        clock = asyncio.get_running_loop().time
        begun = said = clock()
        while clock() - begun < self._limits.follow_seconds and not self.ending:
            try:
                news = await run_in_threadpool(lambda: "".join(pieces(_news(story))))
            except Refused as refused:
                yield b"data: " + refused.body + b"\n\n"
                return
            new = news != "{}"
            if new or clock() - said > ALIVE:
                said = clock()
                yield f"data: {news}\n\n".encode() if new else b":\n\n"
            await asyncio.sleep(EVERY)

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """While a run is followed. Raises Refused, 429, where that are too many; nobody comes between."""
        if self._followers >= self._limits.followers:
            raise full(f"{self._followers} pages are watching runs already")
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def _folder(self, request: Request) -> Path:
        name = request.path_params["name"]
        if name not in self._runs:
            raise Refused(404, f"there is no run {name[:80]!r}; GET /runs lists those there are", "name", "not_found")
        return self._runs[name]


def _summary(name: str, run: Path) -> dict[str, Any]:
    try:
        last = last_records(run / METRICS_FILE)
        return {"name": name, "training": in_training(run, last), "steps": last[-1]["step"] if last else 0}
    except (InputError, OSError):
        return {"name": name, "training": False, "steps": 0}


def _news(story: Story) -> dict[str, Any]:
    """What is new; an empty dictionary where nothing is. Raises Refused where the run's files cannot be read."""
    try:
        return story.news() or {}
    except (InputError, OSError) as error:
        words = story.without_place(str(error))
        raise Refused(404, words, "name", "unreadable") from None


def _step(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(400, f"after={text[:40]!r}: give a step, a whole number", "after", "invalid_value") from None

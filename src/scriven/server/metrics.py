"""GET /metrics: counters of the server, in OpenMetrics 1.0.0 if the client accepts it, otherwise in Prometheus' format.

The formats differ in the names of counters in their TYPE lines, and in the last line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scriven.server.responses import OPENMETRICS, PLAIN, UTF8
from scriven.server.shared import Histogram, ServerState, server_of

TYPES = {True: f"{OPENMETRICS}; version=1.0.0{UTF8}", False: f"{PLAIN}; version=0.0.4{UTF8}"}
Sample = tuple[str, dict[str, str], float]  # suffix of its name, labels, value


class AnswerCounter:
    """ASGI middleware that counts answers by method and status, and measures their duration by path."""

    def __init__(self, app: ASGIApp, server: ServerState) -> None:
        """Counts are added to the server's `answers` and `seconds`."""
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on and counts its answer."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._server.answers[_method(scope), message["status"]] += 1
            await send(message)

        started = time.monotonic()
        try:
            await self._app(scope, receive, send_and_count)
        finally:
            route = scope.get("route")  # clients may invent paths, which count as one
            self._server.seconds.add(getattr(route, "path", "other"), time.monotonic() - started)


def _method(scope: Scope) -> str:
    """The method of a request; "other" for unusual ones, since clients may invent methods."""
    method: str = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    openmetrics = OPENMETRICS in request.headers.get("accept", "").lower()
    lines = [line for family in _families(server_of(request)) for line in family.lines(openmetrics)]
    end = "# EOF\n" if openmetrics else ""
    return Response("".join(lines) + end, media_type=TYPES[openmetrics], headers={"vary": "Accept"})


@dataclass(frozen=True)
class _Family:
    """A metric with all its samples."""

    name: str
    kind: str
    help: str
    samples: list[Sample]

    def lines(self, openmetrics: bool) -> Iterator[str]:
        """The lines of the text format."""
        name = f"scriven_{self.name}"
        family = name if openmetrics or self.kind != "counter" else f"{name}_total"
        yield f"# HELP {family} {self.help}\n# TYPE {family} {self.kind}\n"
        for suffix, labels, value in self.samples:
            shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
            yield f"{name}{suffix}{{{shown}}} {value}\n" if shown else f"{name}{suffix} {value}\n"


def _families(server: ServerState) -> Iterator[_Family]:
    engines = {name: server.engines(name) for name in server.models}

    def each(suffix: str, values: dict[str, float]) -> list[Sample]:
        return [(suffix, {"model": name}, value) for name, value in values.items()]

    written = {name: server.written[name] + sum(each.written for each in those) for name, those in engines.items()}
    read = {name: server.read[name] + sum(each.read for each in those) for name, those in engines.items()}
    rows = {name: sum(each.rows for each in those) for name, those in engines.items()}
    waiting = {name: sum(each.waiting_jobs for each in those) for name, those in engines.items()}
    steps = {name: served.model.step for name, served in server.models.items()}
    answers: list[Sample] = [
        ("_total", {"method": method, "status": str(status)}, count)
        for (method, status), count in server.answers.items()
    ]
    yield _Family("answers", "counter", "Answers started.", answers)
    yield _Family("written", "counter", "Symbols generated.", each("_total", {**written}))
    yield _Family("read", "counter", "Symbols read.", each("_total", {**read}))
    yield _Family("rows", "gauge", "Texts being read or generated now.", each("", {**rows}))
    yield _Family("waiting", "gauge", "Texts waiting for a row.", each("", {**waiting}))
    yield _Family("step", "gauge", "Training step of the served checkpoint.", each("", {**steps}))
    yield _Family("scoring", "gauge", "Texts being scored now.", [("", {}, server.scores.now)])
    yield _Family("states", "gauge", "Saved states.", [("", {}, len(server.states))])
    yield _Family("state_bytes", "gauge", "Bytes of the saved states.", [("", {}, server.states.bytes)])
    yield _Family(
        "start_time_seconds", "gauge", "When the server started, in seconds since 1970.", [("", {}, server.begun)]
    )
    yield _histogram("request_seconds", "Time from a request to the end of its answer.", "path", server.seconds)
    yield _histogram("first_token_seconds", "Time from a request to its first symbol.", "model", server.first)


def _histogram(name: str, help: str, label: str, histogram: Histogram) -> _Family:
    samples: list[Sample] = []
    for value, counts, total in histogram:
        labels = {label: value}
        samples += [
            ("_bucket", {**labels, "le": "+Inf" if bound == float("inf") else str(bound)}, count)
            for bound, count in counts
        ]
        samples += [("_count", labels, counts[-1][1]), ("_sum", labels, total)]
    return _Family(name, "histogram", help, samples)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""GET /metrics: what the server does, in the format of OpenMetrics (1.0.0) where that is accepted, else Prometheus'.

They differ in how a counter is named where its type is told, and in the line that ends everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scriven.server.openapi import OPENMETRICS
from scriven.server.shared import Histogram, ServerState, server_of

TYPES = {True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8", False: "text/plain; version=0.0.4; charset=utf-8"}
Sample = tuple[str, dict[str, str], float]  # what its name ends with, its labels, its value


class AnswerCounter:
    """ASGI middleware that counts answers by method and status, and how long they take by path."""

    def __init__(self, app: ASGIApp, server: ServerState) -> None:
        """What is counted is added to the server's `answers` and `seconds`."""
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._server.answers[_method(scope), message["status"]] += 1
            await send(message)

        begun = time.monotonic()
        try:
            await self._app(scope, receive, counted)
        finally:
            route = scope.get("route")  # clients may invent paths; they are not counted apart
            self._server.seconds.add(getattr(route, "path", "other"), time.monotonic() - begun)


def _method(scope: Scope) -> str:
    """Clients may invent methods; they are not counted apart."""
    method: str = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"


async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms."""
    openmetrics = OPENMETRICS in request.headers.get("accept", "").lower()
    lines = [line for family in _families(server_of(request)) for line in family.lines(openmetrics)]
    end = "# EOF\n" if openmetrics else ""
    return Response("".join(lines) + end, media_type=TYPES[openmetrics], headers={"vary": "Accept"})


@dataclass(frozen=True)
class _Family:
    """Values of one kind and meaning."""

    name: str
    kind: str
    means: str
    samples: list[Sample]

    def lines(self, openmetrics: bool) -> Iterator[str]:
        """What tells of them."""
        name = f"scriven_{self.name}"
        known = name if openmetrics or self.kind != "counter" else f"{name}_total"
        yield f"# HELP {known} {self.means}\n# TYPE {known} {self.kind}\n"
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
    yield _Family("answers", "counter", "Answers begun.", answers)
    yield _Family("written", "counter", "Symbols written.", each("_total", {**written}))
    yield _Family("read", "counter", "Symbols read.", each("_total", {**read}))
    yield _Family("rows", "gauge", "Texts read or written now.", each("", {**rows}))
    yield _Family("waiting", "gauge", "Texts that wait for a row.", each("", {**waiting}))
    yield _Family("step", "gauge", "Training step of the checkpoint served.", each("", {**steps}))
    yield _Family("scoring", "gauge", "Texts scored now.", [("", {}, server.scores)])
    yield _Family("states", "gauge", "States kept.", [("", {}, len(server.states))])
    yield _Family("state_bytes", "gauge", "Bytes of the states kept.", [("", {}, server.states.bytes)])
    yield _Family("start_time_seconds", "gauge", "When the server began, since 1970.", [("", {}, server.begun)])
    yield _histogram("request_seconds", "From a request to the end of its answer.", "path", server.seconds)
    yield _histogram("first_token_seconds", "From a request to its first symbol.", "model", server.first)


def _histogram(name: str, means: str, label: str, histogram: Histogram) -> _Family:
    samples: list[Sample] = []
    for value, counts, total in histogram:
        labels = {label: value}
        samples += [
            ("_bucket", {**labels, "le": "+Inf" if bound == float("inf") else str(bound)}, count)
            for bound, count in counts
        ]
        samples += [("_count", labels, counts[-1][1]), ("_sum", labels, total)]
    return _Family(name, "histogram", means, samples)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

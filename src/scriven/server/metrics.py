"""GET /metrics: what the server does, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scriven.server.serving import Server, server_of

TEXT = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]
Samples = list[tuple[Labels, float]]


class Counted:
    """ASGI middleware that counts answers by method and status."""

    def __init__(self, app: ASGIApp, answers: Counter[tuple[str, int]]) -> None:
        """`answers` is added to."""
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answers[_method(scope), message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counted)


def _method(scope: Scope) -> str:
    """Clients may invent methods; they are not counted apart."""
    method: str = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"


async def metrics(request: Request) -> Response:
    """Counters and gauges."""
    families = _families(server_of(request))
    lines = (line for name, kind, means, samples in families for line in _lines(name, kind, means, samples))
    return Response("".join(lines), media_type=TEXT)


def _families(server: Server) -> Iterator[tuple[str, str, str, Samples]]:
    engines = [((("model", name),), served.engine) for name, served in server.models.items()]
    answers: Samples = [
        ((("method", method), ("status", str(status))), count) for (method, status), count in server.answers.items()
    ]
    yield "answers_total", "counter", "answers begun", answers
    yield "written_total", "counter", "symbols written", [(labels, engine.written) for labels, engine in engines]
    yield "read_total", "counter", "symbols read", [(labels, engine.read) for labels, engine in engines]
    yield "rows", "gauge", "texts read or written now", [(labels, engine.rows) for labels, engine in engines]
    yield "waiting", "gauge", "texts that wait for a row", [(labels, engine.waiting_jobs) for labels, engine in engines]
    yield "scoring", "gauge", "texts scored now", [((), server.scores)]
    yield "states", "gauge", "states kept", [((), len(server.states))]
    yield "state_bytes", "gauge", "bytes of the states kept", [((), server.states.bytes)]
    yield "start_time_seconds", "gauge", "when the server began, in seconds since 1970", [((), server.begun)]


def _lines(name: str, kind: str, means: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP scriven_{name} {means}\n# TYPE scriven_{name} {kind}\n"
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        yield f"scriven_{name}{{{shown}}} {value}\n" if shown else f"scriven_{name} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

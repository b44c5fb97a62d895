"""The web application: its routes, the files of its page, and its error answers."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from scriven.server import chat, metrics, openapi, scoring, searches, utility_routes
from scriven.server.limits import LIMITS, Limits
from scriven.server.renewal import ServedCheckpoint, renew
from scriven.server.responses import JSON, ApiError, internal_error, stopping
from scriven.server.run_monitor import RunMonitor
from scriven.server.shared import ServedModel, ServerState
from scriven.server.trainings import TrainingPolicy, Trainings
from scriven.trained_model import Model

log = logging.getLogger(__name__)

PAGE_FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


# A comment on lines of its own, or at the end of a line, without quotation marks, as it would have inside of a string.
COMMENT = re.compile(rb"^[ \t]*(?:/\*(?:(?!\*/).)*\*/|//[^\n]*)[ \t]*$|[ \t]+// [^\"'`\n]*$", re.MULTILINE | re.DOTALL)
CSS_SPACE = re.compile(rb"\n|(?<=[{};:,>]) |;?\s*(?=})| (?=[{>])")  # and the last semicolon of a rule
INDENTATION = re.compile(rb"^[ \t]+", re.MULTILINE)


@dataclass(frozen=True)
class PageFile:
    """A file of the page: media type, content as it is and compressed, and an ETag."""

    media_type: str
    data: bytes
    compressed: bytes
    tag: str

    async def get(self, request: Request) -> Response:
        """Answers with the file, or with 304 if the browser has this version."""
        headers = {"cache-control": "no-cache", "etag": self.tag, "vary": "Accept-Encoding"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.data, media_type=self.media_type, headers=headers)
        return Response(self.compressed, media_type=self.media_type, headers=headers | {"content-encoding": "gzip"})


@cache
def page() -> dict[str, PageFile]:
    """The files of the page, by path."""
    files = {f"/{path.name}": _load_file(path) for path in sorted(PAGE_FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
    return {"/": files.pop(f"/{INDEX}"), **files}


def _load_file(path: Path) -> PageFile:
    data = _slim(path.read_bytes())
    data = CSS_SPACE.sub(b"", data) if path.suffix == ".css" else data
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    return PageFile(MEDIA_TYPES[path.suffix], data, gzip.compress(data, mtime=0), tag)


def _slim(data: bytes) -> bytes:
    """Returns a file without its comments and indentation. Lines keep their numbers, which errors of scripts name."""
    return INDENTATION.sub(b"", COMMENT.sub(lambda found: b"\n" * found[0].count(b"\n"), data))


def page_routes() -> list[Route]:
    """One route for each file of the page."""
    return [Route(path, file.get, methods=["GET"], include_in_schema=False) for path, file in page().items()]


ROUTES = (
    Route("/v1/completions", searches.completions, methods=["POST"]),
    Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
    Route("/v1/models", utility_routes.models, methods=["GET"]),
    Route("/v1/models/{model}", utility_routes.model, methods=["GET"]),
    Route("/tokenizer_info", utility_routes.tokenizer_info, methods=["GET"]),
    Route("/tokenize", utility_routes.tokenize, methods=["POST"]),
    Route("/detokenize", utility_routes.detokenize, methods=["POST"]),
    Route("/score", scoring.score, methods=["POST"]),
    Route("/extract", utility_routes.extract, methods=["POST"]),
    Route("/novelty", utility_routes.novelty, methods=["POST"]),
    Route("/states", utility_routes.create_state, methods=["POST"]),
    Route("/states/{handle}", utility_routes.download_state, methods=["GET"]),
    Route("/states/{handle}", utility_routes.delete_state, methods=["DELETE"]),
    Route("/health/live", utility_routes.live, methods=["GET"]),
    Route("/health/ready", utility_routes.ready, methods=["GET"]),
    Route("/metrics", metrics.metrics, methods=["GET"]),
    Route("/openapi.json", openapi.openapi, methods=["GET"]),
)
PLAIN = chat.ChatTemplate()
OPEN = ("/health/live", "/health/ready", *page())  # paths that require no token
WAY_OUT = "use POST /v1/completions to generate text; /openapi.json lists all paths"
NO_TRAININGS = TrainingPolicy(ServedCheckpoint, refusal="this server was started with --no-training")
STREAMED = tuple(each.path for each in openapi.OPERATIONS if each.plain)  # paths that accept text/plain of any length
UPLOADS = tuple(each.path for each in openapi.OPERATIONS if each.upload)  # paths that accept a file


def make_app(
    models: Mapping[str, Model],
    limits: Limits = LIMITS,
    middleware: Sequence[Middleware] = (),
    runs: Mapping[str, Path] | None = None,
    sources: Mapping[str, ServedCheckpoint] | None = None,
    report: Callable[[str], object] = log.warning,
    trainings: TrainingPolicy[ServedCheckpoint] = NO_TRAININGS,
    chat_template: chat.ChatTemplate = PLAIN,
    novelty_refusal: str = "",
) -> Starlette:
    """Returns the application that serves these models by name. Its engines run while it runs.

    `runs` are folders of runs whose training the page shows. Newer checkpoints of `sources` are loaded while the server
    runs; `report` gets a line about each. `trainings` says what people may train, `chat_template` how the messages of a
    chat become a prompt, and `novelty_refusal` why nobody may ask what is copied; empty if all may. `app.state.end()`
    makes all current requests end soon, and trainings save.
    """
    runs, sources = dict(runs or {}), dict(sources or {})  # the page may add some
    served = {name: ServedModel(name, model, limits) for name, model in models.items()}
    server = ServerState(served, limits, novelty_refusal)

    @contextlib.asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        for served in server.models.values():
            served.engine.start()
        renewal = asyncio.create_task(renew(server, sources, report))
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            end_trainings()
            await run_in_threadpool(training.wait)
            for served in server.served:
                served.engine.stop()
            server.threads.shutdown(wait=False, cancel_futures=True)
            server.indexes.stop()

    monitor = RunMonitor(runs, limits)
    training = Trainings(trainings, runs, sources, limits)

    def end_trainings() -> None:
        for name in training.stop_all():
            report(f"{name}: its training saves and ends; scriven train --resume continues it")

    def end() -> None:
        monitor.ending = True
        end_trainings()
        for served in server.served:
            served.engine.refuse(stopping())
        server.indexes.stop()

    app = Starlette(
        routes=[*ROUTES, *monitor.routes(), *training.routes(), *page_routes()],
        middleware=[Middleware(metrics.AnswerCounter, server=server), *middleware],
        lifespan=running,
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False
    app.state.server, app.state.end, app.state.chat_template = server, end, chat_template
    return app


async def _answer_api_error(request: Request, error: ApiError) -> Response:
    return Response(error.body, error.status, error.headers, JSON)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    """Answers 404 for an unknown path and 405 for a method that the path does not have."""
    allowed = (error.headers or {}).get("Allow", "other methods")
    wrong = {
        404: f"no such path: {request.url.path[:80]!r}; {WAY_OUT}",
        405: f"this path allows {allowed}, not {request.method}; {WAY_OUT}",
    }
    message = wrong.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    refused = ApiError(error.status_code, message, code=code)
    return Response(refused.body, refused.status, {**refused.headers, **(error.headers or {})}, JSON)


async def _answer_disconnect(request: Request, error: ClientDisconnect) -> Response:
    """The client has disconnected: nobody reads this answer."""
    return Response(status_code=400)


async def _answer_internal_error(request: Request, error: Exception) -> Response:
    refused = internal_error(error)
    return Response(refused.body, refused.status, refused.headers, JSON)


HANDLERS: dict[Any, Any] = {
    ApiError: _answer_api_error,
    HTTPException: _answer_http_error,
    ClientDisconnect: _answer_disconnect,
    Exception: _answer_internal_error,
}

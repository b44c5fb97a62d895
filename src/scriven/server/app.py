"""The application: which path is whose, and how what goes wrong is told."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from scriven.server import completions, metrics, openapi, scoring, utility_routes
from scriven.server.limits import LIMITS, Limits
from scriven.server.renewal import ServedCheckpoint, renew
from scriven.server.responses import ApiError, internal_error
from scriven.server.run_monitor import RunMonitor
from scriven.server.shared import ServedModel, ServerState
from scriven.session import Model

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class File:
    """One file: what it is, as it is and compressed, and a tag that changes with it."""

    kind: str
    data: bytes
    packed: bytes
    tag: str

    async def get(self, request: Request) -> Response:
        """The file; 304 where the browser has this one."""
        headers = {"cache-control": "no-cache", "etag": self.tag, "vary": "Accept-Encoding"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.data, media_type=self.kind, headers=headers)
        return Response(self.packed, media_type=self.kind, headers=headers | {"content-encoding": "gzip"})


@cache
def page() -> dict[str, File]:
    """The files by their paths."""
    files = {f"/{path.name}": _file(path) for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}
    return {"/": files.pop(f"/{INDEX}"), **files}


def _file(path: Path) -> File:
    data = path.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    return File(KINDS[path.suffix], data, gzip.compress(data, mtime=0), tag)


def page_routes() -> list[Route]:
    """A route for each file, and none for anything else."""
    return [Route(path, file.get, methods=["GET"], include_in_schema=False) for path, file in page().items()]


log = logging.getLogger(__name__)

ROUTES = (
    Route("/v1/completions", completions.completions, methods=["POST"]),
    Route("/v1/models", completions.models, methods=["GET"]),
    Route("/v1/models/{model}", completions.model, methods=["GET"]),
    Route("/tokenizer_info", utility_routes.tokenizer_info, methods=["GET"]),
    Route("/tokenize", utility_routes.tokenize, methods=["POST"]),
    Route("/detokenize", utility_routes.detokenize, methods=["POST"]),
    Route("/score", scoring.score, methods=["POST"]),
    Route("/states", utility_routes.save, methods=["POST"]),
    Route("/states/{handle}", utility_routes.forget, methods=["DELETE"]),
    Route("/health/live", utility_routes.live, methods=["GET"]),
    Route("/health/ready", utility_routes.ready, methods=["GET"]),
    Route("/metrics", metrics.metrics, methods=["GET"]),
    Route("/openapi.json", openapi.openapi, methods=["GET"]),
)
OPEN = ("/health/live", "/health/ready", *page())  # paths that need no token
WAY_OUT = "models write at POST /v1/completions (they do not chat), and /openapi.json lists every path"
STREAMED = ("/score",)  # paths that take a text of any length as text/plain


def make_app(
    models: Mapping[str, Model],
    limits: Limits = LIMITS,
    middleware: Sequence[Middleware] = (),
    runs: Mapping[str, Path] | None = None,
    sources: Mapping[str, ServedCheckpoint] | None = None,
    tell: Callable[[str], object] = log.warning,
) -> Starlette:
    """The application that serves models under these names; its engines run while it does.

    `runs` are the folders of runs whose training the page shows. `sources` are where models are from whose newer
    checkpoints are taken up, of which `tell` is given a line. `state.end()` ends all that is under way, soon.
    """
    server = ServerState({name: ServedModel(name, model, limits) for name, model in models.items()}, limits)

    @contextlib.asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        for served in server.models.values():
            served.engine.start()
        renewal = asyncio.create_task(renew(server, sources, tell)) if sources else None
        try:
            yield
        finally:
            if renewal is not None:
                renewal.cancel()
                await asyncio.gather(renewal, return_exceptions=True)
            for served in (*server.models.values(), *server.retired):
                served.engine.stop()
            server.threads.shutdown(wait=False, cancel_futures=True)

    watch = RunMonitor(runs or {}, limits)

    def end() -> None:
        watch.ending = True
        for served in (*server.models.values(), *server.retired):
            served.engine.refuse(ApiError(503, "the server is stopping; try again in a while", code="stopping"))

    app = Starlette(
        routes=[*ROUTES, *watch.routes(), *page_routes()],
        middleware=[Middleware(metrics.AnswerCounter, server=server), *middleware],
        lifespan=running,
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False
    app.state.server, app.state.end = server, end
    return app


async def _answer_refusal(request: Request, error: ApiError) -> Response:
    return Response(error.body, error.status, error.headers, "application/json")


async def _unknown(request: Request, error: HTTPException) -> Response:
    """No such path, or not by this method."""
    takes = (error.headers or {}).get("Allow", "another method")
    wrong = {
        404: f"there is no {request.url.path[:80]!r} here; {WAY_OUT}",
        405: f"{request.method} is not for this path, which takes {takes}; {WAY_OUT}",
    }
    message = wrong.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    refused = ApiError(error.status_code, message, code=code)
    return Response(refused.body, refused.status, {**refused.headers, **(error.headers or {})}, "application/json")


async def _answer_nobody(request: Request, error: ClientDisconnect) -> Response:
    """Nobody reads this."""
    return Response(status_code=400)


async def _answer_mistake(request: Request, error: Exception) -> Response:
    refused = internal_error(error)
    return Response(refused.body, refused.status, refused.headers, "application/json")


HANDLERS: dict[Any, Any] = {
    ApiError: _answer_refusal,
    HTTPException: _unknown,
    ClientDisconnect: _answer_nobody,
    Exception: _answer_mistake,
}

"""GET /openapi.json: what can be asked, as an OpenAPI document, made once from the classes that check requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from scriven.server.answers import answer
from scriven.server.requests import Body, CompletionBody, DetokenizeBody, ScoreBody, StateBody, TokenizeBody

JSON = "application/json"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
PLAIN = "text/plain"
BODIES = (CompletionBody, DetokenizeBody, ScoreBody, StateBody, TokenizeBody)
REFUSALS = {
    400: "the request is not what it must be",
    401: "the token is missing or another one",
    403: "this may not be asked from there",
    404: "there is no such model, state or path",
    408: "the request came too slowly",
    413: "the body is too large",
    429: "too much is going on; try again after Retry-After seconds",
    503: "it took too long, or the server is not ready",
}
MODEL = {"name": "model", "in": "query", "required": False, "schema": {"type": "string"}}


@dataclass(frozen=True)
class Operation:
    """A path and a method: what it does, what its body is, and in what forms it answers."""

    method: str
    path: str
    summary: str
    body: type[Body] | None = None
    answers: tuple[str, ...] = (JSON,)
    plain: bool = False  # whether the body may be the text itself
    query: tuple[dict[str, Any], ...] = ()

    def document(self, schemas: dict[Any, Any]) -> dict[str, Any]:
        """As OpenAPI has it."""
        told: dict[str, Any] = {"summary": self.summary, "responses": dict(self._responses())}
        parameters = [*_path_parameters(self.path), *self.query]
        if parameters:
            told["parameters"] = parameters
        if self.body is not None:
            content: dict[str, Any] = {JSON: {"schema": schemas[self.body, "validation"]}}
            if self.plain:
                content[PLAIN] = {"schema": {"type": "string"}}
            told["requestBody"] = {"required": True, "content": content}
        return told

    def _responses(self) -> Iterator[tuple[str, Any]]:
        yield "200", {"description": "done", "content": {kind: {} for kind in self.answers}}
        for status, means in REFUSALS.items():
            schema = {"schema": {"$ref": "#/components/schemas/Error"}}
            yield str(status), {"description": means, "content": {JSON: schema}}


OPERATIONS = (
    Operation("post", "/v1/completions", "Write texts.", CompletionBody, (JSON, EVENTS)),
    Operation("get", "/v1/models", "The models served."),
    Operation("get", "/v1/models/{model}", "One of them."),
    Operation("get", "/tokenizer_info", "What is to be known of ids.", query=(MODEL,)),
    Operation("post", "/tokenize", "The ids of a text.", TokenizeBody, query=(MODEL,)),
    Operation("post", "/detokenize", "The text of ids.", DetokenizeBody, query=(MODEL,)),
    Operation("post", "/score", "How surprising a text is.", ScoreBody, (JSON, LINES), plain=True, query=(MODEL,)),
    Operation("post", "/states", "Read a text, and keep the state after it.", StateBody),
    Operation("delete", "/states/{handle}", "Keep a state no longer."),
    Operation("get", "/runs", "The runs whose training is shown."),
    Operation(
        "get",
        "/runs/{name}/metrics",
        "What a training told of its losses.",
        query=({"name": "after", "in": "query", "required": False, "schema": {"type": "integer"}},),
    ),
    Operation("get", "/runs/{name}/samples", "What a training wrote."),
    Operation("get", "/runs/{name}/events", "What a training tells, as it tells it.", answers=(EVENTS,)),
    Operation("get", "/health/live", "Whether the process answers."),
    Operation("get", "/health/ready", "Whether requests are served."),
    Operation("get", "/metrics", "Counters, for Prometheus.", answers=(PLAIN,)),
    Operation("get", "/openapi.json", "This document."),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    schemas, definitions = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = each.document(schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Scriven",
            "version": version("scriven"),
            "description": "Small recurrent language models: they write text, and tell how surprising text is. "
            "A token is a symbol of the model: a character, or a byte.",
        },
        "paths": paths,
        "components": {
            "schemas": {**definitions["$defs"], "Error": ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return answer(document())


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for part in path.split("/"):
        if part.startswith("{"):
            yield {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}


_NULLABLE_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}]}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
            },
        }
    },
}

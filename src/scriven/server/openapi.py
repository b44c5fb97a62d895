"""GET /openapi.json: what can be asked, as an OpenAPI document, made once from the types of requests and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from scriven.server import schemas
from scriven.server.requests import CompletionBody, DetokenizeBody, RequestBody, ScoreBody, StateBody, TokenizeBody
from scriven.server.responses import answer

JSON = "application/json"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
PLAIN = "text/plain"
OPENMETRICS = "application/openmetrics-text"
BODIES = (CompletionBody, DetokenizeBody, ScoreBody, StateBody, TokenizeBody)
REFUSALS = {
    400: "the request is not what it must be",
    401: "the token is missing or another one",
    403: "this may not be asked from there",
    404: "there is no such model, state or path",
    405: "this path takes another method",
    408: "the request came too slowly",
    413: "the body is too large",
    429: "too much is going on; try again after Retry-After seconds",
    500: "the server is wrong, or its model's numbers overflow",
    503: "it took too long, or the server is not ready",
}
MODEL = {"name": "model", "in": "query", "required": False, "schema": {"type": "string"}}


@dataclass(frozen=True)
class Operation:
    """A path and a method: what it does, what it answers in JSON, what its body is, in what other forms it answers."""

    method: str
    path: str
    summary: str
    reply: type[BaseModel] | None = None
    body: type[RequestBody] | None = None
    others: tuple[str, ...] = ()
    plain: bool = False  # whether the body may be the text itself
    query: tuple[dict[str, Any], ...] = ()

    def document(self, known: dict[Any, Any]) -> dict[str, Any]:
        """As OpenAPI has it; `known` are the schemas of bodies and replies."""
        told: dict[str, Any] = {"summary": self.summary, "responses": dict(self._responses(known))}
        parameters = [*_path_parameters(self.path), *self.query]
        if parameters:
            told["parameters"] = parameters
        if self.body is not None:
            content: dict[str, Any] = {JSON: {"schema": known[self.body, "validation"]}}
            if self.plain:
                content[PLAIN] = {"schema": {"type": "string"}}
            told["requestBody"] = {"required": True, "content": content}
        return told

    def _responses(self, known: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
        content = {} if self.reply is None else {JSON: {"schema": known[self.reply, "validation"]}}
        content |= {kind: {"schema": {"type": "string"}} for kind in self.others}
        yield "200", {"description": "done", "content": content}
        for status, means in REFUSALS.items():
            schema = {"schema": known[schemas.ErrorReply, "validation"]}
            yield str(status), {"description": means, "content": {JSON: schema}}


OPERATIONS = (
    Operation("post", "/v1/completions", "Write texts.", schemas.CompletionReply, CompletionBody, (EVENTS,)),
    Operation("get", "/v1/models", "The models served.", schemas.ModelListReply),
    Operation("get", "/v1/models/{model}", "One of them.", schemas.ModelEntryReply),
    Operation("get", "/tokenizer_info", "What is to be known of ids.", schemas.TokenizerInfoReply, query=(MODEL,)),
    Operation("post", "/tokenize", "The ids of a text.", schemas.TokensReply, TokenizeBody, query=(MODEL,)),
    Operation("post", "/detokenize", "The text of ids.", schemas.TextReply, DetokenizeBody, query=(MODEL,)),
    Operation(
        "post",
        "/score",
        "How surprising a text is.",
        schemas.ScoreReply,
        ScoreBody,
        (LINES,),
        plain=True,
        query=(MODEL,),
    ),
    Operation("post", "/states", "Read a text, and keep the state after it.", schemas.StateReply, StateBody),
    Operation("delete", "/states/{handle}", "Keep a state no longer.", schemas.DeletedReply),
    Operation("get", "/runs", "The runs whose training is shown.", schemas.RunsReply),
    Operation(
        "get",
        "/runs/{name}/metrics",
        "What a training told of its losses.",
        schemas.RunMetricsReply,
        query=({"name": "after", "in": "query", "required": False, "schema": {"type": "integer"}},),
    ),
    Operation("get", "/runs/{name}/samples", "What a training wrote.", schemas.SamplesReply),
    Operation("get", "/runs/{name}/events", "What a training tells, as it tells it.", others=(EVENTS,)),
    Operation("get", "/health/live", "Whether the process answers.", schemas.LiveReply),
    Operation("get", "/health/ready", "Whether requests are served.", schemas.LiveReply),
    Operation("get", "/metrics", "Counters, for Prometheus.", others=(PLAIN, OPENMETRICS)),
    Operation("get", "/openapi.json", "This document.", schemas.DocumentReply),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    known, definitions = models_json_schema(
        [(each, "validation") for each in (*BODIES, *schemas.REPLIES)], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = each.document(known)
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
            "schemas": definitions["$defs"],
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

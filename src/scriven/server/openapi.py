"""GET /openapi.json: the OpenAPI document, made once from the types of requests and answers."""

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
    400: "the request is not valid",
    401: "the token is missing or wrong",
    403: "this host or site may not send requests",
    404: "there is no such model, state or path",
    405: "the path does not allow this method",
    408: "the request arrived too slowly",
    413: "the body is too large",
    429: "the server is too busy; try again after Retry-After seconds",
    500: "an internal error, or the model's numbers overflow",
    503: "the request took too long, or the server is not ready",
}
MODEL = {"name": "model", "in": "query", "required": False, "schema": {"type": "string"}}


@dataclass(frozen=True)
class Operation:
    """A path and method of the API: its summary, JSON reply, body, and other media types of its answer."""

    method: str
    path: str
    summary: str
    reply: type[BaseModel] | None = None
    body: type[RequestBody] | None = None
    other_types: tuple[str, ...] = ()
    plain: bool = False  # whether the body may be the text itself
    query: tuple[dict[str, Any], ...] = ()

    def document(self, schemas_of: dict[Any, Any]) -> dict[str, Any]:
        """The operation in the OpenAPI document. `schemas_of` has the schemas of bodies and replies."""
        operation: dict[str, Any] = {"summary": self.summary, "responses": dict(self._responses(schemas_of))}
        parameters = [*_path_parameters(self.path), *self.query]
        if parameters:
            operation["parameters"] = parameters
        if self.body is not None:
            content: dict[str, Any] = {JSON: {"schema": schemas_of[self.body, "validation"]}}
            if self.plain:
                content[PLAIN] = {"schema": {"type": "string"}}
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    def _responses(self, schemas_of: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
        content = {} if self.reply is None else {JSON: {"schema": schemas_of[self.reply, "validation"]}}
        content |= {kind: {"schema": {"type": "string"}} for kind in self.other_types}
        yield "200", {"description": "done", "content": content}
        for status, description in REFUSALS.items():
            schema = {"schema": schemas_of[schemas.ErrorReply, "validation"]}
            yield str(status), {"description": description, "content": {JSON: schema}}


OPERATIONS = (
    Operation("post", "/v1/completions", "Generate texts.", schemas.CompletionReply, CompletionBody, (EVENTS,)),
    Operation("get", "/v1/models", "The served models.", schemas.ModelListReply),
    Operation("get", "/v1/models/{model}", "One of the served models.", schemas.ModelEntryReply),
    Operation("get", "/tokenizer_info", "Facts about token ids.", schemas.TokenizerInfoReply, query=(MODEL,)),
    Operation("post", "/tokenize", "The ids of a text.", schemas.TokensReply, TokenizeBody, query=(MODEL,)),
    Operation("post", "/detokenize", "The text of ids.", schemas.TextReply, DetokenizeBody, query=(MODEL,)),
    Operation(
        "post",
        "/score",
        "Score how surprising a text is.",
        schemas.ScoreReply,
        ScoreBody,
        (LINES,),
        plain=True,
        query=(MODEL,),
    ),
    Operation("post", "/states", "Read a text and save the state after it.", schemas.StateReply, StateBody),
    Operation("delete", "/states/{handle}", "Delete a saved state.", schemas.DeletedReply),
    Operation("get", "/runs", "The runs.", schemas.RunsReply),
    Operation(
        "get",
        "/runs/{name}/metrics",
        "The losses of a run.",
        schemas.RunMetricsReply,
        query=({"name": "after", "in": "query", "required": False, "schema": {"type": "integer"}},),
    ),
    Operation("get", "/runs/{name}/samples", "The texts that a model generated during training.", schemas.SamplesReply),
    Operation("get", "/runs/{name}/events", "Changes of a run as they happen.", other_types=(EVENTS,)),
    Operation("get", "/health/live", "Whether the process answers.", schemas.LiveReply),
    Operation("get", "/health/ready", "Whether the server is ready for requests.", schemas.LiveReply),
    Operation("get", "/metrics", "Counters, for Prometheus.", other_types=(PLAIN, OPENMETRICS)),
    Operation("get", "/openapi.json", "This document.", schemas.DocumentReply),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    schemas_of, definitions = models_json_schema(
        [(each, "validation") for each in (*BODIES, *schemas.REPLIES)], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = each.document(schemas_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Scriven",
            "version": version("scriven"),
            "description": "Small recurrent language models that generate text and score how surprising text is. "
            "A token is a character, or a byte.",
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

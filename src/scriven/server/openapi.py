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

from scriven.server.replies import (
    ChatReply,
    CompletionReply,
    DeletedReply,
    DocumentReply,
    ErrorReply,
    IntroductionReply,
    LiveReply,
    ModelEntryReply,
    ModelListReply,
    NoveltyReply,
    RunMetricsReply,
    RunsReply,
    SamplesReply,
    ScoreReply,
    StateReply,
    TextReply,
    TokenizerInfoReply,
    TokensReply,
    TrainingReply,
    TrainingsReply,
)
from scriven.server.requests import (
    DetokenizeBody,
    NoveltyBody,
    RequestBody,
    ScoreBody,
    StateBody,
    TokenizeBody,
    TrainingBody,
    UnitBody,
)
from scriven.server.responses import EVENTS, FILE, JSON, LINES, OPENMETRICS, PLAIN, answer
from scriven.server.writing_requests import ChatBody, CompletionBody

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


def _parameter(name: str, kind: str = "string", *, place: str = "query", required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": {"type": kind}}


MODEL = _parameter("model")


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
    upload: bool = False  # whether the body is a file
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
        if self.upload:
            body = operation.setdefault("requestBody", {"required": True, "content": {}})
            body["content"][FILE] = {}
        return operation

    def _responses(self, schemas_of: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
        content = {} if self.reply is None else {JSON: {"schema": schemas_of[self.reply, "validation"]}}
        content |= {kind: {"schema": {"type": "string"}} for kind in self.other_types}
        yield "200", {"description": "done", "content": content}
        for status, description in REFUSALS.items():
            schema = {"schema": schemas_of[ErrorReply, "validation"]}
            yield str(status), {"description": description, "content": {JSON: schema}}


OPERATIONS = (
    Operation("post", "/v1/completions", "Generate texts.", CompletionReply, CompletionBody, (EVENTS,)),
    Operation("post", "/v1/chat/completions", "Continue a chat.", ChatReply, ChatBody, (EVENTS,)),
    Operation("get", "/v1/models", "The served models.", ModelListReply),
    Operation("get", "/v1/models/{model}", "One of the served models.", ModelEntryReply),
    Operation("get", "/tokenizer_info", "Facts about token ids.", TokenizerInfoReply, query=(MODEL,)),
    Operation("post", "/tokenize", "The ids of a text.", TokensReply, TokenizeBody, query=(MODEL,)),
    Operation("post", "/detokenize", "The text of ids.", TextReply, DetokenizeBody, query=(MODEL,)),
    Operation(
        "post",
        "/score",
        "Score how surprising a text is.",
        ScoreReply,
        ScoreBody,
        (LINES,),
        plain=True,
        query=(MODEL, *map(_parameter, ("adapt", *UnitBody.model_fields))),
    ),
    Operation("post", "/novelty", "What of a text is copied from the training text.", NoveltyReply, NoveltyBody),
    Operation(
        "post",
        "/extract",
        "The text of a .docx or .epub file.",
        other_types=(PLAIN,),
        upload=True,
        query=(_parameter("name", required=True),),
    ),
    Operation(
        "post",
        "/states",
        "Read a text and save the state after it, or save the state in a file.",
        StateReply,
        StateBody,
        upload=True,
        query=(MODEL,),
    ),
    Operation("get", "/states/{handle}", "The file of a saved state.", other_types=(FILE,)),
    Operation("delete", "/states/{handle}", "Delete a saved state.", DeletedReply),
    Operation("get", "/runs", "The runs.", RunsReply),
    Operation("get", "/runs/{name}", "What a run's model learned from, and how well.", IntroductionReply),
    Operation(
        "get",
        "/runs/{name}/metrics",
        "The losses of a run.",
        RunMetricsReply,
        query=(_parameter("after", "integer"),),
    ),
    Operation("get", "/runs/{name}/samples", "The texts that a model generated during training.", SamplesReply),
    Operation("get", "/runs/{name}/events", "Changes of a run as they happen.", other_types=(EVENTS,)),
    Operation("get", "/trainings", "The trainings of this server.", TrainingsReply),
    Operation("post", "/trainings", "Train a new model, or go on with a run.", TrainingReply, TrainingBody),
    Operation("delete", "/trainings/{name}", "Make a training save and end.", TrainingReply),
    Operation("get", "/health/live", "Whether the process answers.", LiveReply),
    Operation("get", "/health/ready", "Whether the server is ready for requests.", LiveReply),
    Operation("get", "/metrics", "Counters, for Prometheus.", other_types=(PLAIN, OPENMETRICS)),
    Operation("get", "/openapi.json", "This document.", DocumentReply),
)
BODIES = tuple(dict.fromkeys(each.body for each in OPERATIONS if each.body))


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    types: set[type[BaseModel]] = {*BODIES, ErrorReply, *(each.reply for each in OPERATIONS if each.reply)}
    schemas_of, definitions = models_json_schema(
        [(each, "validation") for each in sorted(types, key=lambda each: each.__name__)],
        ref_template="#/components/schemas/{model}",
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
            yield _parameter(part[1:-1], place="path", required=True)

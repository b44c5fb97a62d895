"""The routes beside completions: tokens as numbers, saved states, health."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from scriven.arrays import Ids
from scriven.server.completions import token_name
from scriven.server.jobs import Job
from scriven.server.requests import DetokenizeBody, StateBody, TokenizeBody
from scriven.server.responses import ApiError, answer, long_answer, run_apart
from scriven.server.shared import RequestHandle, ServedModel, beginning, body_of, known_ids, server_of, unless_gone
from scriven.session import Model

BEGINNING = "\uffff"  # what the id is called that begins a text: no character, by Unicode's word


async def tokenizer_info(request: Request) -> Response:
    """What is to be known of ids: how many there are, and what begins and ends a text.

    lm-eval stops at `eos_token`, and puts the token of `bos_token` before a text without a context. A text that is not
    made of documents has no end: there both are what is never written.
    """
    served = _alphabet(request)
    vocabulary = served.model.vocabulary
    edge = BEGINNING if vocabulary.separator is None else vocabulary.separator
    return answer(
        {
            "model": served.name,
            "tokenizer_class": "scriven",
            "unit": vocabulary.unit,
            "vocab_size": vocabulary.size,
            "bos_token": edge,
            "eos_token": edge,
            "separator": vocabulary.separator,  # between two documents
            "pad_token": None,
            "unk_token": "<unk>",
            "chat_template": None,
        }
    )


async def tokenize(request: Request) -> Response:
    """The ids of a text."""
    body = await body_of(request, TokenizeBody)
    model = _alphabet(request, body.model).model
    return await long_answer(len(body.prompt), lambda: _tokens(model, body))


def _tokens(model: Model, body: TokenizeBody) -> dict[str, Any]:
    begin = beginning(model.vocabulary)
    if body.prompt == BEGINNING and begin is not None:
        return {"count": 1, "tokens": [begin], **({"token_strs": [BEGINNING]} if body.return_token_strs else {})}
    ids = model.read_ids(body.prompt)
    told = {"count": len(ids), "tokens": ids}
    if not body.return_token_strs:
        return told
    known, places = np.unique(ids, return_inverse=True)
    names = np.array([token_name(model.vocabulary, each) for each in known.tolist()], np.object_)
    return {**told, "token_strs": names[places]}


async def detokenize(request: Request) -> Response:
    """The text of ids."""
    body = await body_of(request, DetokenizeBody)
    model = _alphabet(request, body.model).model
    return await long_answer(len(body.tokens), lambda: {"prompt": _text(model, body.tokens)})


def _text(model: Model, tokens: list[int]) -> str:
    begins = tokens[:1] == [beginning(model.vocabulary)]
    return BEGINNING * begins + model.decode(known_ids(model, tokens[begins:], "tokens"))


def _alphabet(request: Request, name: str = "") -> ServedModel:
    """The model whose ids are meant; lm-eval does not name it."""
    return server_of(request).alphabet(name or request.query_params.get("model", ""))


async def save(request: Request) -> Response:
    """Read a text, and keep the state after it."""
    body = await body_of(request, StateBody)
    server = server_of(request)
    served = server.model_named(body.model)
    context, characters = server.context(served, body.state)
    ids = await run_apart(len(body.text), lambda: _prompt_of(served.model, body.text, server.limits.prompt_characters))
    after = await unless_gone(request, _prefill(RequestHandle(server, served, [Job(ids, context)])))
    characters += len(ids)
    handle = server.keep(served, after, characters)
    if handle is None:
        raise ApiError(503, "a newer checkpoint was taken up while the text was read; send it again", code="replaced")
    return answer({"state": handle, "characters": characters, "expires_in": server.limits.state_seconds})


def _prompt_of(model: Model, text: str, most: int) -> Ids:
    """The ids of a text. Raises Refused where there are more than `most`."""
    ids = model.read_ids(text)
    if len(ids) > most:
        raise ApiError(400, f"text: {len(ids):,} characters; give {most:,} at most", "text", "too_large")
    return ids


async def _prefill(work: RequestHandle) -> Any:
    async with work:
        while True:
            for news in await work.news():
                if news.done:
                    return news.context


async def forget(request: Request) -> Response:
    """Keep a state no longer."""
    handle = request.path_params["handle"]
    if not server_of(request).states.delete(handle):
        raise ApiError(404, f"state {handle[:80]!r} is not kept here (any more)", "state", "no_state")
    return answer({"state": handle, "deleted": True})


async def live(request: Request) -> Response:
    """The process answers."""
    return answer({"status": "ok"})


async def ready(request: Request) -> Response:
    """Requests are served."""
    server = server_of(request)
    engines = [served.engine for served in server.models.values()]
    if not all(engine.running for engine in engines):
        raise ApiError(503, "the server is starting, or stopping; try again in a moment", code="not_ready")
    return answer({"status": "ok"})  # the names of models are for those who have the token

"""Routes for the list of models, token ids, saved states, the text of files, what a text copies, and health."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from scriven.arrays import Ids
from scriven.corpus.filesystem import explain_errors
from scriven.corpus.sources import ZIPPED
from scriven.corpus.zipped import read_zipped
from scriven.errors import InputError, UsageError
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.saved_session import Origin, SavedSession
from scriven.server.client_tokens import UNKNOWN_NAME, check_ids, ids_for_clients, start_id, token_name
from scriven.server.disconnects import run_unless_disconnected
from scriven.server.jobs import Job
from scriven.server.limits import Limits
from scriven.server.requests import DetokenizeBody, NoveltyBody, StateBody, TokenizeBody
from scriven.server.responses import (
    FILE,
    PLAIN,
    ApiError,
    answer,
    long_answer,
    media_type_of,
    run_apart,
)
from scriven.server.shared import RequestHandle, ServedModel, ServerState, parse_request, read_body, server_of
from scriven.trained_model import Model

LONGEST_NAME = 255  # characters of a file's name
MESSAGE = 500  # characters of a message about a file, which may name what is in it
START_NAME = "\uffff"  # names the id that marks the start of a text; Unicode guarantees that it is not a character


async def models(request: Request) -> Response:
    """GET /v1/models: the served models."""
    server = server_of(request)
    return answer({"object": "list", "data": [_model(served) for served in server.models.values()]})


async def model(request: Request) -> Response:
    """GET /v1/models/{model}: one of the served models."""
    server = server_of(request)
    return answer(_model(server.model_named(request.path_params["model"])))


def _model(served: ServedModel) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": int(served.since),
        "owned_by": "scriven",
        "step": served.model.step,
        "system_fingerprint": served.fingerprint,
    }


async def tokenizer_info(request: Request) -> Response:
    """GET /tokenizer_info: how many ids there are, and the tokens that start and end a text.

    lm-eval stops at `eos_token`, and puts `bos_token` before a text without a context. A model that does not know
    documents never ends a text: both are then a token that is never generated.
    """
    served = _model_for_ids(request)
    vocabulary = served.model.vocabulary
    separator = START_NAME if vocabulary.separator is None else vocabulary.separator
    return answer(
        {
            "model": served.name,
            "tokenizer_class": "scriven",
            "unit": vocabulary.unit,
            "vocab_size": vocabulary.size,
            "bos_token": separator,
            "eos_token": separator,
            "separator": vocabulary.separator,  # between two documents
            "pad_token": None,
            "unk_token": UNKNOWN_NAME,
            "chat_template": None,
        }
    )


async def tokenize(request: Request) -> Response:
    """POST /tokenize: the ids of a text."""
    body = await parse_request(request, TokenizeBody)
    model = _model_for_ids(request, body.model).model
    return await long_answer(len(body.prompt), lambda: _tokens(model, body))


def _tokens(model: Model, body: TokenizeBody) -> dict[str, Any]:
    begin = start_id(model.vocabulary)
    if body.prompt == START_NAME and begin is not None:
        return {"count": 1, "tokens": [begin], **({"token_strs": [START_NAME]} if body.return_token_strs else {})}
    ids = ids_for_clients(model.vocabulary, model.read_ids(body.prompt))
    values = {"count": len(ids), "tokens": ids}
    if not body.return_token_strs:
        return values
    known, places = np.unique(ids, return_inverse=True)
    names = np.array([token_name(model.vocabulary, each) for each in known.tolist()], np.object_)
    return {**values, "token_strs": names[places]}


async def detokenize(request: Request) -> Response:
    """POST /detokenize: the text of ids."""
    body = await parse_request(request, DetokenizeBody)
    model = _model_for_ids(request, body.model).model
    return await long_answer(len(body.tokens), lambda: {"prompt": _text(model, body.tokens)})


def _text(model: Model, tokens: list[int]) -> str:
    begins = tokens[:1] == [start_id(model.vocabulary)]
    return START_NAME * begins + model.decode(check_ids(model.vocabulary, tokens[begins:], "tokens"))


def _model_for_ids(request: Request, name: str = "") -> ServedModel:
    """The model whose ids are meant. lm-eval does not name it."""
    return server_of(request).model_for_vocabulary(name or request.query_params.get("model", ""))


async def create_state(request: Request) -> Response:
    """POST /states: reads a text and saves the state after it; or saves the state in a file, which is the body."""
    server = server_of(request)
    if media_type_of(request.headers.get("content-type", "")) == FILE:
        return await _upload_state(request, server)
    body = await parse_request(request, StateBody)
    served = server.model_named(body.model)
    context, characters = server.starting_context(served, body.state, adapt=body.adapt, saves=True)
    last = server.last_text(served, body.state)
    ids = await run_apart(len(body.text), lambda: _read_ids(served.model, body.text, server.limits.prompt_characters))
    if isinstance(context, AdaptiveContext):
        after = await run_unless_disconnected(request, _learn(server, served, context, ids))
    else:
        after = await run_unless_disconnected(request, _prefill(RequestHandle(server, served, [Job(ids, context)])))
    return _answer_state(server, served, after, characters + len(ids), last=served.model.decode(ids[-1:]) or last)


def _answer_state(
    server: ServerState, served: ServedModel, context: Context, characters: int, last: str | None = None
) -> Response:
    """Saves a state, and returns the answer with its handle. Raises ApiError, 503, for an earlier checkpoint."""
    handle = server.save_state(served, context, characters, last)
    if handle is None:
        raise ApiError(
            503, "a newer checkpoint was loaded while the text was being read; send it again", code="replaced"
        )
    return answer({"state": handle, "characters": characters, "expires_in": server.limits.state_seconds})


async def _upload_state(request: Request, server: ServerState) -> Response:
    """Saves the state in a file, as GET /states/{handle} or `scriven sample --save-state` gives it."""
    served = server.model_named(request.query_params.get("model", ""))
    data = await read_body(request, server.limits.file_bytes)
    context, last = await run_apart(len(data), lambda: _open_state(served, data))
    _check_learned(context, server.limits.learned_characters)
    return _answer_state(server, served, context, 0, last=last)


def _open_state(served: ServedModel, data: bytes) -> tuple[Context, str | None]:
    """Returns the context in a file, and the text of its last symbol, if that is known.

    Raises ApiError, 400, if it is no such file, or is not bound to this checkpoint.
    """
    origin = _origin_of(served)
    try:
        saved = SavedSession.from_bytes(Path("the body"), data)
        context = saved.check(served.model.predictor, origin)
    except (InputError, UsageError) as error:
        raise ApiError(400, f"state: {str(error)[:MESSAGE]}", "state", "invalid_state") from None
    begun = saved.begun or isinstance(context, AdaptiveContext)
    return context if begun else served.start, None if saved.inside else ""


def _check_learned(context: Context, most: int) -> None:
    """Raises ApiError, 400, if a state learned from more than `most` ids, as these will be read again."""
    count = context.ids_to_read_again if isinstance(context, AdaptiveContext) else 0
    if count > most:
        words = (
            f"state: it learned from a text whose {count:,} characters would be read again; files of states are sent "
            f"and given with at most {most:,}; continue a longer one with scriven sample --state or load_session"
        )
        raise ApiError(400, words, "state", "too_large")


async def download_state(request: Request) -> Response:
    """GET /states/{handle}: the file of a saved state, which `scriven sample --state` and POST /states take."""
    server = server_of(request)
    served, saved = server.saved_state(request.path_params["handle"])
    _check_learned(saved.context, server.limits.learned_characters)
    begun = saved.context is not served.start
    # The run's name instead of its folder: nobody needs to know where that is.
    origin = _origin_of(served).model_copy(update={"run": served.name})
    inside = saved.last is None or not served.model.vocabulary.ends_apart(saved.last)
    session = SavedSession(origin, saved.context, np.random.default_rng(), begun, inside)
    data = await run_apart(saved.bytes, session.to_bytes)
    headers = {"content-disposition": 'attachment; filename="state.session"'}
    return Response(data, media_type=FILE, headers=headers)


def _origin_of(served: ServedModel) -> Origin:
    """Returns the checkpoint that a file is bound to. Raises ApiError, 400, if the model belongs to no run."""
    if served.model.origin is None:
        raise ApiError(400, f"model {served.name!r} belongs to no run, so its states have no files", "model")
    return served.model.origin


def _read_ids(model: Model, text: str, most: int) -> Ids:
    """The ids of a text. Raises ApiError if there are more than `most`."""
    ids = model.read_ids(text)
    if len(ids) > most:
        raise ApiError(400, f"text: {len(ids):,} characters; send at most {most:,}", "text", "too_large")
    return ids


async def _prefill(work: RequestHandle) -> Any:
    async with work:
        while True:
            for update in await work.updates():
                if update.done:
                    return update.context


async def _learn(server: ServerState, served: ServedModel, context: AdaptiveContext, ids: Ids) -> AdaptiveContext:
    with server.scores.hold(), served.hold():
        async for _, _, after in server.learn(served, context, ids):
            context = after
    return context


async def delete_state(request: Request) -> Response:
    """DELETE /states/{handle}: deletes a saved state."""
    handle = request.path_params["handle"]
    if not server_of(request).states.delete(handle):
        raise ApiError(404, f"state {handle[:80]!r}: no such saved state, or it has expired", "state", "no_state")
    return answer({"state": handle, "deleted": True})


async def novelty(request: Request) -> Response:
    """POST /novelty: what of a text is copied from the training text, and what is new."""
    body = await parse_request(request, NoveltyBody)
    server = server_of(request)
    served = server.model_named(body.model)
    await run_unless_disconnected(request, server.indexes.find(served.model, "text"))  # which may take minutes
    with server.scores.hold():
        work = server.indexes.measure(served.model, [body.text], "text", body.stretches)
        (measured,) = await run_unless_disconnected(request, work)
    return answer({"model": served.name, "system_fingerprint": served.fingerprint, **measured})


# --- the text of a .docx or .epub file, read as `scriven train` reads it
#
# A browser cannot read such files, so the page sends them here. They are held in memory, never unpacked to the disk,
# and everything about them is bounded: the sizes of the file and of its XML, the length of its text, and the time.


async def extract(request: Request) -> Response:
    """POST /extract?name=NAME: the text of the file in the body, as text/plain."""
    server = server_of(request)
    name = request.query_params.get("name", "")
    if len(name) > LONGEST_NAME or PurePosixPath(name.lower()).suffix not in ZIPPED:
        words = f"name {name[:60]!r}: give a file's name that ends in {' or '.join(ZIPPED)}"
        raise ApiError(400, words, "name", "invalid_value")
    data = await read_body(request, server.limits.file_bytes)  # first, so that a slow client takes nobody's turn
    with server.files.hold():
        text = await run_in_threadpool(_read, data, name, server.limits)
    return Response(text, media_type=PLAIN)


def _read(data: bytes, name: str, limits: Limits) -> bytes:
    """The text of a file, as UTF-8. Raises ApiError, 400, if it has none, is damaged, or is beyond a bound."""
    try:
        text = "".join(_bounded_pieces(data, name, limits))
        if not text.strip():
            raise InputError(f"{name} has no text in it")
    except InputError as error:
        raise ApiError(400, str(error), code="unreadable_file") from None
    return text.encode()


def _bounded_pieces(data: bytes, name: str, limits: Limits) -> Iterator[str]:
    until, left = time.monotonic() + limits.file_seconds, limits.file_characters
    with explain_errors(name, Exception):
        for piece in read_zipped(io.BytesIO(data), PurePosixPath(name.lower()).suffix, name, limits.file_xml_bytes):
            left -= len(piece)
            if left < 0:
                raise InputError(
                    f"{name} has over {limits.file_characters:,} characters; split it, or save it as plain text"
                )
            if time.monotonic() > until:
                raise InputError(f"{name} takes over {limits.file_seconds:g} seconds to read; save it as plain text")
            yield piece


# --- health


async def live(request: Request) -> Response:
    """GET /health/live: the process answers."""
    return answer({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /health/ready: 200 if the engines run, 503 otherwise."""
    server = server_of(request)
    engines = [served.engine for served in server.models.values()]
    if not all(engine.running for engine in engines):
        raise ApiError(503, "the server is starting or stopping; try again in a moment", code="not_ready")
    return answer({"status": "ok"})  # without the names of models, which require the token

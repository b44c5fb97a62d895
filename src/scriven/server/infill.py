"""POST /v1/completions with a `suffix`: the text between a prompt and what follows, searched in turns of the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from scriven.arrays import Ids
from scriven.errors import InputError
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.generation import GenerationOptions
from scriven.inference.search import Middle, MiddleOptions, MiddleSearch
from scriven.server.completions import CompletionRequest, respond
from scriven.server.engine import SYMBOLS_PER_PIECE
from scriven.server.responses import (
    EVENTS,
    LONG_ANSWER,
    UTF8,
    ApiError,
    answer,
    json_text,
    overflow,
    run_apart,
    timed_out,
)
from scriven.server.shared import (
    DisconnectAwareResponse,
    ServerState,
    parse_request,
    run_unless_disconnected,
    server_of,
)
from scriven.server.writing_requests import CompletionBody
from scriven.session import first_seed
from scriven.settings import SamplingFilters

Value = TypeVar("Value")


async def completions(request: Request) -> Response:
    """POST /v1/completions: generates texts, or with a `suffix` the texts before it."""
    body = await parse_request(request, CompletionBody)
    if not body.suffix:
        return await respond(request, body)
    search = await run_apart(LONG_ANSWER, partial(Infilling.of, server_of(request), body))
    if body.stream:
        return DisconnectAwareResponse(_events(search), EVENTS + UTF8)
    return answer(await run_unless_disconnected(request, _whole(search)))


@dataclass
class Infilling:
    """The middles that a request asks for, which are found one after another."""

    completion: CompletionRequest
    after: Ids
    options: MiddleOptions
    _until: float = 0.0  # when it has taken too long

    @classmethod
    def of(cls, server: ServerState, body: CompletionBody) -> Infilling:
        """Returns what a request asks for. Raises ApiError if something in it is not possible."""
        served = server.model_named(body.model)
        context, characters = server.context(served, body.state)
        if isinstance(context, AdaptiveContext):
            words = "suffix: not supported after a state that learns; send the prompt itself"
            raise ApiError(400, words, "suffix", "not_offered")
        completion, model = CompletionRequest(server, served, body, context, characters), served.model
        texts = len(completion.prompts) * body.texts
        if texts > server.limits.infill_texts:
            words = f"n: {texts:,} texts; with suffix, ask for at most {server.limits.infill_texts:,}"
            raise ApiError(400, words, "n", "too_large")
        until_end = model.ends_texts and not body.ignore_eos
        drawing = body.sampling
        rest = drawing.model_dump(exclude={"temperature", "top_k", "top_p", "min_p"})
        writing = GenerationOptions(
            body.length,
            (),
            until_end,
            drawing.temperature,
            drawing.top_k,
            drawing.top_p,
            drawing.min_p,
            rule=body.rule,
            filters=cast("SamplingFilters", rest),
        )
        after = model.suffix_ids(body.suffix, until_end=until_end)
        return cls(completion, after, MiddleOptions(writing, body.draws))

    async def choices(self) -> AsyncGenerator[tuple[dict[str, Any], int]]:
        """Yields each choice in OpenAI's format, and its number of symbols."""
        body, served, server = self.completion.body, self.completion.served, self.completion.server
        self._until = time.monotonic() + server.limits.seconds
        seed, index = first_seed(None) if body.seed is None else body.seed, 0
        with server.scoring(), served.hold():
            for prompt in self.completion.prompts:
                context = await self._read(prompt.ids)
                for n in range(body.texts):
                    middle = await self._find(context, np.random.default_rng((seed + n) % (1 << 64)))
                    yield self._choice(index, middle, prompt.text), middle.symbols
                    index += 1

    def _choice(self, index: int, middle: Middle, before: str) -> dict[str, Any]:
        text = self.completion.served.model.vocabulary.fit_between(before, middle.text, self.completion.body.suffix)
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": "stop"}
        return choice | {"effective_draws": middle.effective_draws}

    async def _read(self, ids: Ids) -> Context:
        """Returns the context after a prompt."""
        context = self.completion.context
        for begin in range(0, len(ids), SYMBOLS_PER_PIECE):
            context = await self._turn(partial(self._read_piece, context, ids[begin : begin + SYMBOLS_PER_PIECE]))
        return context

    def _read_piece(self, context: Context, ids: Ids) -> Context:
        """Returns the context after a piece of a prompt, and counts it. Runs in the engine's thread."""
        served = self.completion.served
        context = served.model.predictor.read(context, ids[:, None])
        served.engine.read += len(ids)
        return context

    async def _find(self, context: Context, random: np.random.Generator) -> Middle:
        """Returns a middle after a context."""
        predictor, place = self.completion.served.model.predictor, self.completion.rule
        search = await self._turn(
            lambda: MiddleSearch(predictor, context, self.after, self.options, random, place=place)
        )
        while await self._turn(search.advance):
            pass
        return await self._turn(partial(self._choose, search))

    def _choose(self, search: MiddleSearch) -> Middle:
        """Returns the middle that a search found, and counts it. Runs in the engine's thread."""
        found = search.choose()
        self.completion.served.engine.written += found.symbols
        return found

    async def _turn(self, function: Callable[[], Value]) -> Value:
        """Runs a function in the engine's thread, at the start of a turn. Raises ApiError."""
        if time.monotonic() > self._until:
            raise timed_out(self.completion.server.limits.seconds)
        try:
            return await asyncio.wrap_future(self.completion.served.engine.call(function))
        except InputError:
            raise overflow() from None


async def _whole(search: Infilling) -> dict[str, Any]:
    """The answer in one piece."""
    found = [each async for each in search.choices()]
    usage = _usage(search, sum(symbols for _, symbols in found))
    return search.completion.response([choice for choice, _ in found], usage)


def _usage(search: Infilling, written: int) -> dict[str, int]:
    """How many symbols have been read, of prompts and the suffix, and written."""
    prompts = search.completion.prompts
    read = sum(len(each.ids) for each in prompts) + len(prompts) * len(search.after)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _events(search: Infilling) -> AsyncGenerator[bytes]:
    """The answer as server-sent events: one for each choice, which is whole."""
    response, wanted, written = search.completion.response, search.completion.body.stream_options.include_usage, 0
    try:
        async for choice, symbols in search.choices():
            written += symbols
            yield f"data: {json_text(response([choice], None if wanted else {}))}\n\n".encode()
    except ApiError as refused:
        yield b"data: " + refused.body + b"\n\n"
        return
    if wanted:
        yield f"data: {json_text(response([], _usage(search, written)))}\n\n".encode()
    yield b"data: [DONE]\n\n"

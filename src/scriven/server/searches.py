"""POST /v1/completions with a `suffix` or a `beam`: texts that are searched for in turns of the engine.

With a suffix it is the text between the prompt and what follows, with a beam the likeliest texts after the prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from scriven.arguments import first_seed
from scriven.arrays import Ids
from scriven.errors import InputError
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.generation import GenerationOptions
from scriven.inference.search import (
    BeamOptions,
    BeamSearch,
    FoundText,
    Middle,
    MiddleOptions,
    MiddleSearch,
)
from scriven.sampling_settings import SamplingFilters
from scriven.server.completions import CompletionRequest, Prompt, Usage, find_training, respond
from scriven.server.disconnects import run_unless_disconnected
from scriven.server.engine import SYMBOLS_PER_PIECE
from scriven.server.responses import (
    LONG_ANSWER,
    ApiError,
    answer,
    overflow,
    run_apart,
    timed_out,
)
from scriven.server.shared import ServerState, parse_request, server_of
from scriven.server.writing_requests import CompletionBody

Value = TypeVar("Value")


async def completions(request: Request) -> Response:
    """POST /v1/completions: generates texts, or searches for them."""
    body = await parse_request(request, CompletionBody)
    if not (body.suffix or body.beam):
        return await respond(request, body)
    server = server_of(request)
    await run_unless_disconnected(request, find_training(server, server.model_named(body.model), body))
    kind = Infilling if body.suffix else Likeliest
    search = await run_apart(LONG_ANSWER, partial(kind.of, server, body))
    if body.stream:
        return search.completion.stream(_events(search), search.usage)
    return answer(await run_unless_disconnected(request, _whole(search)))


@dataclass
class TextSearch(ABC):
    """The texts that a request asks for, which are found one prompt after another."""

    completion: CompletionRequest
    _until: float = field(default=0.0, init=False)  # when it has taken too long
    _written: int = field(default=0, init=False)  # symbols of the choices so far

    @classmethod
    @abstractmethod
    def of(cls, server: ServerState, body: CompletionBody) -> TextSearch:
        """Returns what a request asks for. Raises ApiError if something in it is not possible."""

    @property
    @abstractmethod
    def read(self) -> int:
        """How many symbols are read."""

    @abstractmethod
    def _find_all(self, prompt: Prompt, context: Context) -> AsyncGenerator[FoundChoice]:
        """Yields what is found after a prompt, which was read into a context."""

    def usage(self) -> Usage:
        """How many symbols have been read and written."""
        total = self.read + self._written
        return {"prompt_tokens": self.read, "completion_tokens": self._written, "total_tokens": total}

    async def choices(self) -> AsyncGenerator[dict[str, Any]]:
        """Yields each choice in OpenAI's format."""
        body, served, server = self.completion.body, self.completion.served, self.completion.server
        self._until, index = time.monotonic() + server.limits.seconds, 0
        with server.scores.hold(), served.hold():
            for prompt in self.completion.prompts:
                context = await self._read(prompt.ids)
                async with contextlib.aclosing(self._find_all(prompt, context)) as found:
                    async for each in found:
                        choice = {"index": index, "text": each.text, "logprobs": None, **each.fields}
                        if body.copied:
                            (choice["copied"],) = await server.indexes.measure(served.model, [each.text], "copied")
                        self._written += each.symbols
                        yield choice
                        index += 1

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

    async def _turn(self, function: Callable[[], Value]) -> Value:
        """Runs a function in the engine's thread, at the start of a turn. Raises ApiError."""
        if time.monotonic() > self._until:
            raise timed_out(self.completion.server.limits.seconds)
        try:
            return await asyncio.wrap_future(self.completion.served.engine.call(function))
        except InputError:
            raise overflow() from None


class FoundChoice(NamedTuple):
    """A text that was found, its number of symbols, and the further fields of its choice."""

    text: str
    symbols: int
    fields: dict[str, Any]


def _start_search(server: ServerState, body: CompletionBody, param: str) -> CompletionRequest:
    """Returns a checked request whose prompts are read by a search. Raises ApiError if something is not possible."""
    served = server.model_named(body.model)
    context, characters = server.context(served, body.state)
    if isinstance(context, AdaptiveContext):
        words = f"{param}: not supported after a state that learns; send the prompt itself"
        raise ApiError(400, words, param, "not_offered")
    last = server.last_text(served, body.state)
    return CompletionRequest(server, served, body, context, characters, last=last)


@dataclass
class Infilling(TextSearch):
    """The middles between prompts and what follows."""

    after: Ids
    options: MiddleOptions

    @classmethod
    def of(cls, server: ServerState, body: CompletionBody) -> Infilling:
        """Returns what a request asks for. Raises ApiError if something in it is not possible."""
        completion = _start_search(server, body, "suffix")
        model, texts = completion.served.model, len(completion.prompts) * body.texts
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

    @property
    def read(self) -> int:
        """How many symbols are read, of prompts and the suffix."""
        prompts = self.completion.prompts
        return sum(len(each.ids) for each in prompts) + len(prompts) * len(self.after)

    async def _find_all(self, prompt: Prompt, context: Context) -> AsyncGenerator[FoundChoice]:
        body, vocabulary = self.completion.body, self.completion.served.model.vocabulary
        seed = first_seed(None) if body.seed is None else body.seed
        for n in range(body.texts):
            middle = await self._find(context, np.random.default_rng((seed + n) % (1 << 64)))
            fields = {"finish_reason": "stop", "effective_draws": middle.effective_draws}
            text = vocabulary.fit_between(self.completion.text_before(prompt), middle.text, body.suffix)
            yield FoundChoice(text, middle.symbols, fields)

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


@dataclass
class Likeliest(TextSearch):
    """The likeliest texts after prompts."""

    options: BeamOptions

    @classmethod
    def of(cls, server: ServerState, body: CompletionBody) -> Likeliest:
        """Returns what a request asks for. Raises ApiError if something in it is not possible."""
        completion, most = _start_search(server, body, "beam"), server.limits.beam_prompts
        if len(completion.prompts) > most:
            words = f"prompt: {len(completion.prompts):,} prompts; with beam, send at most {most:,}"
            raise ApiError(400, words, "prompt", "too_large")
        until_end = completion.served.model.ends_texts and not body.ignore_eos
        return cls(completion, BeamOptions(body.beam, body.length, body.stops, until_end, body.rule))

    @property
    def read(self) -> int:
        """How many symbols are read."""
        return sum(len(each.ids) for each in self.completion.prompts)

    async def _find_all(self, prompt: Prompt, context: Context) -> AsyncGenerator[FoundChoice]:
        completion = self.completion
        predictor, place = completion.served.model.predictor, completion.rule
        options = replace(self.options, after=completion.text_before(prompt))
        search = await self._turn(lambda: BeamSearch(predictor, context, options, place=place))
        while await self._turn(search.advance):
            pass
        for found in await self._turn(partial(self._choose, search)):
            reason = "stop" if found.ended or found.stopped else "length"
            yield FoundChoice(found.text, found.symbols, {"finish_reason": reason, "log_probability": -found.nats})

    def _choose(self, search: BeamSearch) -> list[FoundText]:
        """Returns the texts that a search found, and counts them. Runs in the engine's thread."""
        texts = search.choose()[: self.completion.body.n]
        self.completion.served.engine.written += sum(each.symbols for each in texts)
        return texts


async def _whole(search: TextSearch) -> dict[str, Any]:
    """The answer in one piece."""
    found = [each async for each in search.choices()]
    return search.completion.response(found, search.usage())


async def _events(search: TextSearch) -> AsyncGenerator[bytes]:
    """Server-sent events: one for each choice, which is whole."""
    async with contextlib.aclosing(search.choices()) as choices:
        async for choice in choices:
            yield search.completion.event(choice)

"""POST /v1/completions and GET /v1/models, as OpenAI's API has them; a token is a symbol: a character, or a byte."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from scriven.arrays import Ids
from scriven.inference.generation import Generation
from scriven.inference.predictor import Context
from scriven.server.jobs import Job, JobUpdate
from scriven.server.prefill import Details
from scriven.server.requests import CompletionBody
from scriven.server.responses import LEAST, ApiError, answer, json_text, long_answer, pieces, run_apart
from scriven.server.shared import (
    DisconnectAwareResponse,
    RequestHandle,
    ServedModel,
    ServerState,
    beginning,
    body_of,
    known_ids,
    server_of,
    unless_gone,
)
from scriven.session import first_seed
from scriven.settings import SamplingSettings
from scriven.surrogates import WRITTEN
from scriven.vocabulary import Vocabulary

Logprobs = dict[str, list[Any] | None]


class Tokens:
    """The tokens of one text, in the order of the text, with what was told of each."""

    def __init__(self, vocabulary: Vocabulary, likeliest: int, offset: int = 0, *, begins: bool = False) -> None:
        """They begin after `offset` characters of a prompt that is not told.

        `begins`: the first token is the one that begins a text, which nothing foretells.
        """
        self._vocabulary = vocabulary
        self._likeliest = likeliest
        self._decoder = vocabulary.decoder()
        self._names: dict[int, str] = {}
        self._told = self._known = offset  # characters of text: told, and that the tokens so far make
        self._waiting: deque[tuple[int, int, str, float | None, dict[str, float] | None]] = deque()
        if begins:
            self._waiting.append((0, 0, "<bos>", None, None))

    def add(self, details: Details) -> None:
        """More symbols, whose text comes later or at once."""
        tops: list[dict[str, float] | None] = [None] * len(details.ids)
        if details.likeliest is not None:
            pairs = zip(*(each.tolist() for each in details.likeliest), strict=True)
            tops = [self._named_top(ids, values) for ids, values in pairs]
        for symbol, nats, top in zip(details.ids.tolist(), details.nats.tolist(), tops, strict=True):
            begin, name = self._known, self._name(symbol)
            self._known += self._length(symbol)
            if top is not None:
                top.setdefault(name, -nats)
            self._waiting.append((self._known, begin, name, -nats, top))

    def take(self, characters: int, ended: bool = False) -> Logprobs:
        """The tokens of the next so many characters of text; where a document ended with them, that of its end too.

        Clients count on it: lm-eval leaves out the last token, the one that was written.
        """
        self._told += characters
        taken = []
        while self._waiting and (ended or self._waiting[0][0] <= self._told):
            taken.append(self._waiting.popleft())
        _, offsets, names, values, tops = map(list, zip(*taken, strict=True)) if taken else ([],) * 5
        return {
            "tokens": names,
            "token_logprobs": values,
            "top_logprobs": tops if self._likeliest else None,
            "text_offset": offsets,
        }

    def _named_top(self, ids: list[int], values: list[float]) -> dict[str, float]:
        """The likeliest first. Of two that read alike, a byte and the boundary, the likelier one counts."""
        top: dict[str, float] = {}
        for symbol, value in zip(ids, values, strict=True):
            top.setdefault(self._name(symbol), value)
        return top

    def _length(self, symbol: int) -> int:
        """How many characters of text are whole with one more symbol."""
        vocabulary = self._vocabulary
        if vocabulary.unit == "byte":
            return len(self._decoder.feed([symbol]))
        return len(vocabulary.separator or "") if symbol == vocabulary.boundary else 1

    def _name(self, symbol: int) -> str:
        """A token's text: each symbol has one of its own."""
        if symbol not in self._names:
            self._names[symbol] = token_name(self._vocabulary, symbol)
        return self._names[symbol]


def token_name(vocabulary: Vocabulary, symbol: int) -> str:
    """The text that a symbol is called by: its own, but `bytes:` and bytes where it is no character by itself."""
    if symbol == vocabulary.unknown:
        return "<unk>"
    if vocabulary.unit == "byte" and 128 <= symbol < 256:
        return _bytes_name(bytes([symbol]))
    text = vocabulary.decode([symbol])
    return character_name(text) if len(text) == 1 else text


def character_name(character: str) -> str:
    """A character itself; of half a one, as a byte that was not UTF-8 is read, the bytes that it is written as."""
    half = "\ud800" <= character <= "\udfff"
    return _bytes_name(character.encode("utf-8", WRITTEN)) if half else character


def _bytes_name(data: bytes) -> str:
    return "bytes:" + "".join(f"\\x{each:02x}" for each in data)


__all__ = ["Logprobs", "Tokens", "character_name", "token_name"]


EVENT_SECONDS = 0.02  # at least, between two events of a stream
EVENTS = "text/event-stream; charset=utf-8"
NAMED = 10  # characters that the model does not know, told at most

Usage = dict[str, int]


async def completions(request: Request) -> Response:
    """Write texts."""
    body = await body_of(request, CompletionBody)
    server = server_of(request)
    served = server.model_named(body.model)
    context, read = server.context(served, body.state)
    asked = await run_apart(_size(body), lambda: CompletionRequest(server, served, body, context, read))
    work = RequestHandle(asked.server, asked.served, asked.jobs)
    if body.stream:
        return DisconnectAwareResponse(_events(asked, work), EVENTS, within=work)
    told = await unless_gone(request, _whole(asked, work))
    return await long_answer(asked.size, lambda: told)


async def models(request: Request) -> Response:
    """The models served."""
    server = server_of(request)
    return answer({"object": "list", "data": [_model(served) for served in server.models.values()]})


async def model(request: Request) -> Response:
    """One of them."""
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


def _size(body: CompletionBody) -> int:
    """About how much there is to understand of a request: characters, ids, and texts to write."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    return sum(1 if isinstance(each, int) else len(each) + LEAST * body.texts for each in prompts)


class Prompt(NamedTuple):
    """The ids (T,) of a prompt, and whether the id before them was given that begins a text."""

    ids: Ids
    begins: bool = False


class CompletionRequest:
    """A request, understood: its prompts as ids, its jobs, and how its answer begins."""

    def __init__(
        self, server: ServerState, served: ServedModel, body: CompletionBody, context: Context, read: int
    ) -> None:
        """It goes on from a context that has `read` so many characters.

        Raises Refused where something in it cannot be done.
        """
        self.server, self.served, self.body = server, served, body
        self.context, self.characters = context, read
        self.id = "cmpl-" + secrets.token_hex(12)
        self.created = int(time.time())
        self._begun: float | None = time.monotonic()  # None once a symbol was written
        self.prompts = list(self._prompts())
        self._check()
        if body.state and any(prompt.begins for prompt in self.prompts):
            raise ApiError(400, "prompt: its first id begins a text; leave it out, or state", "prompt", "invalid_value")

    @cached_property
    def jobs(self) -> list[Job]:
        """What is to be done: one job a prompt."""
        body = self.body
        told = body.logprobs if body.echo else None
        likeliest = 0 if body.logprobs is None and body.texts > body.n else body.logprobs
        return [Job(each.ids, self.context, tuple(self._lines()), told, likeliest) for each in self.prompts]

    @cached_property
    def choices(self) -> list[Choice]:
        """The texts to come, those of the first prompt first."""
        return [
            Choice(self, number * self.body.texts + n, line, prompt)
            for number, (prompt, job) in enumerate(zip(self.prompts, self.jobs, strict=True))
            for n, line in enumerate(job.lines)
        ]

    def note_first(self, news: list[JobUpdate]) -> None:
        """Count how long the first symbol took, once."""
        if self._begun is not None and any(each.line is not None and each.symbols for each in news):
            self.server.first.add(self.served.name, time.monotonic() - self._begun)
            self._begun = None

    async def take_in_all(self, news: list[JobUpdate]) -> list[Choice]:
        """Take in what has come, in another thread where that is much; the choices that it is about, each once."""
        self.note_first(news)
        symbols = sum(len(self.prompts[each.job].ids) if each.line is None else each.symbols for each in news)
        found = await run_apart(
            self.weight(symbols), lambda: [choice for each in news for choice in self.take_in(each)]
        )
        return list({id(choice): choice for choice in found}.values())

    def weight(self, symbols: int) -> int:
        """About how many characters and log-probabilities there are to tell of that many symbols."""
        likeliest = self.body.logprobs
        return symbols * (1 if likeliest is None else 10 * (1 + likeliest))

    def take_in(self, news: JobUpdate) -> list[Choice]:
        """Take in what has come; the choices that it is about: all of a prompt's where it is about the prompt."""
        first = news.job * self.body.texts
        last = first + self.body.texts
        about = self.choices[first:last] if news.line is None else [self.choices[first + news.line]]
        for choice in about:
            choice.take_in(news)
        return about

    def best(self) -> list[Choice]:
        """The n texts of each prompt that are given: of more, the likeliest ones a symbol, the likeliest first."""
        texts, chosen = self.body.texts, self.choices
        if texts > self.body.n:
            groups = [self.choices[first : first + texts] for first in range(0, len(self.choices), texts)]
            ranked = [sorted(group, key=lambda choice: choice.mean_nats) for group in groups]
            chosen = [choice for group in ranked for choice in group[: self.body.n]]
        for index, choice in enumerate(chosen):
            choice.index = index
        return chosen

    def response(self, choices: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        """The object that an answer, or an event, is; an empty `usage` is left out."""
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}
        head["system_fingerprint"] = self.served.fingerprint
        unknown = {"unknown_characters": self.unknown} if self.unknown else {}
        counted = {} if usage == {} else {"usage": usage}
        return {**head, **unknown, "choices": choices, **counted}

    @cached_property
    def unknown(self) -> list[str]:
        """The first characters of the prompts that the model does not know, each once."""
        unseen = self.served.model.vocabulary.unseen_characters(np.concatenate([each.ids for each in self.prompts]))
        return [character_name(each) for each in unseen[:NAMED]]

    def usage(self) -> Usage:
        """How many symbols were read and written so far."""
        prompt, written = self._length(), sum(choice.symbols for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def _prompts(self) -> Iterator[Prompt]:
        prompt = self.body.prompt
        if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
            yield self._prompt(prompt)  # type: ignore[arg-type]
        else:
            for each in prompt:
                yield self._prompt(each)

    def _prompt(self, prompt: str | list[int]) -> Prompt:
        model = self.served.model
        if isinstance(prompt, str):
            self._check_length(len(prompt))  # before it is made ids, which takes a while
            return Prompt(model.read_ids(prompt))
        begins = prompt[:1] == [beginning(model.vocabulary)]
        return Prompt(known_ids(model, prompt[begins:], "prompt"), begins)

    def _check_length(self, characters: int) -> None:
        most = self.server.limits.prompt_characters
        if characters > most:
            words = f"prompt: {characters:,} characters of prompts; ask for {most:,} at most"
            raise ApiError(400, words, "prompt", "too_large")

    def _length(self) -> int:
        """How many symbols the prompts have."""
        return sum(len(each.ids) for each in self.prompts)

    def _check(self) -> None:
        body, limits = self.body, self.server.limits
        texts, length = len(self.prompts) * body.texts, self._length()
        places = texts * body.length + (length * body.texts if body.echo else 0)
        values = 0 if body.logprobs is None else places * (1 + body.logprobs)
        self.size = max(places, values)  # of an answer in one piece, at most
        self._check_length(length)
        for param, name, value, most in (
            ("n" if body.texts == body.n else "best_of", "texts", texts, min(limits.texts, limits.rows)),
            ("logprobs", "log-probabilities", values, limits.logprobs_values),
            ("stop", "strings to stop at", len(body.stops), limits.stops),
        ):
            if value > most:
                raise ApiError(400, f"{param}: {value:,} {name}; ask for {most:,} at most", param, "too_large")

    def _lines(self) -> Iterator[Generation]:
        body, model = self.body, self.served.model
        top_k, top_p = (max(0, body.top_k), body.top_p) if body.top_p else (1, 1.0)
        choices = SamplingSettings(temperature=body.temperature, top_k=top_k, top_p=top_p, min_p=body.min_p)
        until_end = model.vocabulary.boundary is not None and not body.ignore_eos
        seed = first_seed(None) if body.seed is None else body.seed
        for n in range(body.texts):
            random = np.random.default_rng((seed + n) % (1 << 64))  # OpenAI's seeds may be below 0
            yield Generation(random, choices, body.length, model.pen(body.stops, until_end), body.save_state)


@dataclass
class Choice:
    """A text to come: what of it is certain and not told yet."""

    asked: CompletionRequest
    index: int
    line: Generation
    prompt: Prompt
    text: str = ""
    symbols: int = 0  # written
    nats: float = 0.0  # that they cost, where that is known
    done: bool = False
    after: Context | None = None  # all of it, where that is kept

    @property
    def news(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.text) or self.done

    @property
    def mean_nats(self) -> float:
        """What a symbol of it costs."""
        return self.nats / max(1, self.symbols)

    @cached_property
    def _tokens(self) -> Tokens | None:
        body, vocabulary = self.asked.body, self.asked.served.model.vocabulary
        if body.logprobs is None:
            return None
        offset = 0 if body.echo else len(vocabulary.decode(self.prompt.ids))
        return Tokens(vocabulary, body.logprobs, offset, begins=body.echo and self.prompt.begins)

    def take_in(self, news: JobUpdate) -> None:
        """What became of it."""
        if news.details is not None and self._tokens is not None:
            self._tokens.add(news.details)
        if news.line is None:
            if news.done and self.asked.body.echo:
                self.text += self.asked.served.model.decode(self.prompt.ids)
            return
        self.text += news.text
        self.symbols += news.symbols
        self.nats += 0.0 if news.details is None else float(news.details.nats.sum())
        self.done, self.after = news.done, news.context

    def keep(self) -> dict[str, str | None]:
        """Keep the state after it, where that is wanted and it is done: its handle, None where it cannot be used."""
        if self.after is None:
            return {}
        asked, symbols = self.asked, len(self.prompt.ids) + self.symbols
        return {"state": asked.server.keep(asked.served, self.after, asked.characters + symbols)}

    def take(self) -> dict[str, Any]:
        """What can be told now, as a choice of OpenAI's."""
        text, self.text = self.text, ""
        ended = self.done and self.line.pen.ended
        return {
            "index": self.index,
            "text": text,
            "logprobs": None if self._tokens is None else self._tokens.take(len(text), ended),
            "finish_reason": self._reason() if self.done else None,
        }

    def _reason(self) -> str:
        pen = self.line.pen
        return "stop" if pen.ended or pen.stopped else "length"


async def _whole(asked: CompletionRequest, work: RequestHandle) -> dict[str, Any]:
    """The answer in one piece."""
    async with work:
        while not all(choice.done for choice in asked.choices):
            await asked.take_in_all(await work.news())
    best = asked.best()
    states = [choice.keep() for choice in best]
    choices = await run_apart(asked.size, lambda: [choice.take() for choice in best])
    return asked.response([{**choice, **state} for choice, state in zip(choices, states, strict=True)], asked.usage())


async def _events(asked: CompletionRequest, work: RequestHandle) -> AsyncGenerator[bytes]:
    """The answer as events, one for each choice of which anything has come since the last ones; within the work."""
    usage = asked.body.stream_options.include_usage
    try:
        while not all(choice.done for choice in asked.choices):
            telling = [choice for choice in await asked.take_in_all(await work.news()) if choice.news]
            size = asked.weight(sum(len(choice.text) for choice in telling))
            states = [choice.keep() for choice in telling]
            yield await run_apart(size, partial(_response_json, asked, telling, states, None if usage else {}))
            await asyncio.sleep(EVENT_SECONDS)
    except ApiError as refused:
        yield b"data: " + refused.body + b"\n\n"
        return
    if usage:
        yield f"data: {json_text(asked.response([], asked.usage()))}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _response_json(
    asked: CompletionRequest, choices: list[Choice], states: list[dict[str, str | None]], usage: Usage | None
) -> bytes:
    told = ({**choice.take(), **state} for choice, state in zip(choices, states, strict=True))
    events = (pieces(asked.response([each], usage)) for each in told)
    return "".join(part for event in events for part in ("data: ", *event, "\n\n")).encode()


__all__ = ["completions", "model", "models"]

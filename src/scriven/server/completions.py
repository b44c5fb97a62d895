"""POST /v1/completions, compatible with OpenAI's API. A token is a character, or a byte."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from scriven.arguments import first_seed
from scriven.arrays import Float32s, Ids
from scriven.errors import UsageError
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.generation import Generation, begin_rule
from scriven.penalties import Followers, begin_past
from scriven.rules import Rule
from scriven.rules.automaton import LargeRuleError, RulePlace
from scriven.server.client_tokens import Tokens, character_name, check_ids, start_id
from scriven.server.disconnects import DisconnectAwareResponse, run_unless_disconnected
from scriven.server.engine import Engine
from scriven.server.jobs import Job, JobUpdate
from scriven.server.responses import (
    EVENTS,
    LONG_ANSWER,
    SHORTEST_ANSWER,
    UTF8,
    ApiError,
    finish_events,
    json_in_pieces,
    json_text,
    long_answer,
    run_apart,
)
from scriven.server.shared import (
    RequestHandle,
    ServedModel,
    ServerState,
    server_of,
)
from scriven.server.writing_requests import CompletionBody

EVENT_SECONDS = 0.02  # between two events of a stream at least
UNKNOWN_CHARACTERS = 10  # in an answer at most

Usage = dict[str, int]
Shape = Callable[[dict[str, Any]], dict[str, Any]]  # of an answer or an event


def _unshaped(reply: dict[str, Any]) -> dict[str, Any]:
    return reply


async def respond(request: Request, body: CompletionBody, shape: Shape = _unshaped) -> Response:
    """Answers a request for completions. Answers and events are given the `shape` of another API, if it has one."""
    server = server_of(request)
    served = server.model_named(body.model)
    context, characters = server.context(served, body.state)
    last = server.last_text(served, body.state)
    if isinstance(context, AdaptiveContext):
        learned = context
        served, context = await run_apart(LONG_ANSWER, lambda: _writing_model(server, served, learned))
    training = await run_unless_disconnected(request, find_training(server, served, body))
    completion = await run_apart(
        _estimate_size(body),
        lambda: CompletionRequest(server, served, body, context, characters, shape, training=training, last=last),
    )
    own = served.learned is not None
    with server.run_adapted(served) if own else contextlib.nullcontext():
        work = RequestHandle(completion.server, completion.served, completion.jobs)
    if body.stream:
        return completion.stream(_events(completion, work), completion.usage, within=work)
    response = await run_unless_disconnected(request, _whole(completion, work))
    return await long_answer(completion.size, lambda: response)


async def find_training(server: ServerState, served: ServedModel, body: CompletionBody) -> Followers | None:
    """Returns the index of the training text for `novel`, if it is wanted. Raises ApiError if there is none.

    It does so for `copied` too, which needs the index once the texts are there.
    """
    if body.copied:
        await server.indexes.find(served.model, "copied")
        server.indexes.check_queue()
    return (await server.indexes.find(served.model, "novel")).suffixes if body.novel else None


def _writing_model(server: ServerState, served: ServedModel, context: AdaptiveContext) -> tuple[ServedModel, Context]:
    """Returns the model with the weights that learned, and the context to write after. Its engine is not started."""
    reader = served.model.adaptive
    adapted, learned = copy.copy(served), reader.settle(context)
    paused = reader.pause(learned)
    adapted.learned, adapted.engine = learned, Engine(served.name, reader.writer(paused), server.limits)
    return adapted, Context(paused.logits, paused.state)


def _estimate_size(body: CompletionBody) -> int:
    """About how much work it is to parse a request: its characters, ids and texts to generate."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    size = LONG_ANSWER if body.rule_fields else 0  # an automaton may take a while
    return size + sum(1 if isinstance(each, int) else len(each) + SHORTEST_ANSWER * body.texts for each in prompts)


class Prompt(NamedTuple):
    """The ids (T,) of a prompt, its text, and whether it began with the id that marks the start of a text."""

    ids: Ids
    text: str
    begins: bool = False


class CompletionRequest:
    """A checked request for completions: its prompts as ids, its jobs, and its choices."""

    def __init__(
        self,
        server: ServerState,
        served: ServedModel,
        body: CompletionBody,
        context: Context,
        characters: int,
        shape: Shape = _unshaped,
        *,
        training: Followers | None = None,
        last: str = "",
    ) -> None:
        """The prompts continue from a context of this many `characters`, which end with the text `last`.

        `training` is the index for `novel`.

        Raises ApiError if something in the request is not possible.
        """
        self.server, self.served, self.body = server, served, body
        self.context, self.characters, self.last = context, characters, last
        self._shape = shape
        self.id = "cmpl-" + secrets.token_hex(12)
        self.created = int(time.time())
        self._received: float | None = time.monotonic()  # None once a symbol was generated
        self.prompts = list(self._prompts())
        self._check()
        self._check_stops()
        self.rule, self._bias = self._begin_rule(), self._read_bias()
        self._training = training
        if training is not None and self.rule is not None:
            raise ApiError(400, "novel: a rule might be broken; send only one of them", "novel", "invalid_value")
        if body.state and any(prompt.begins for prompt in self.prompts):
            raise ApiError(
                400,
                "prompt: its first id marks the start of a text, which a state already has; leave out one of them",
                "prompt",
                "invalid_value",
            )

    @cached_property
    def jobs(self) -> list[Job]:
        """One job for each prompt."""
        body = self.body
        prompt_logprobs = body.logprobs if body.echo else None
        logprobs = 0 if body.logprobs is None and body.texts > body.n else body.logprobs
        return [
            Job(each.ids, self.context, tuple(self._generations(self.text_before(each))), prompt_logprobs, logprobs)
            for each in self.prompts
        ]

    @cached_property
    def choices(self) -> list[Choice]:
        """The texts to generate, in the order of the prompts."""
        return [
            Choice(self, number * self.body.texts + n, generation, prompt)
            for number, (prompt, job) in enumerate(zip(self.prompts, self.jobs, strict=True))
            for n, generation in enumerate(job.generations)
        ]

    def time_first_symbol(self, updates: list[JobUpdate]) -> None:
        """Records once how long the first symbol took."""
        if self._received is not None and any(each.generation is not None and each.symbols for each in updates):
            self.server.first.add(self.served.name, time.monotonic() - self._received)
            self._received = None

    async def add_updates(self, updates: list[JobUpdate]) -> list[Choice]:
        """Adds updates, in another thread if that is much work. Returns the choices that changed, each once."""
        self.time_first_symbol(updates)
        symbols = sum(len(self.prompts[each.job].ids) if each.generation is None else each.symbols for each in updates)
        changed = await run_apart(
            self.weight(symbols), lambda: [choice for each in updates for choice in self.add_update(each)]
        )
        return list({id(choice): choice for choice in changed}.values())

    def weight(self, symbols: int) -> int:
        """About how many characters and log-probabilities an answer about this many symbols has."""
        logprobs = self.body.logprobs
        return symbols * (1 if logprobs is None else 10 * (1 + logprobs))

    def add_update(self, update: JobUpdate) -> list[Choice]:
        """Adds an update. Returns the choices that changed: all of a prompt's choices if it is about the prompt."""
        first = update.job * self.body.texts
        last = first + self.body.texts
        changed = self.choices[first:last]
        if update.generation is not None:
            changed = [self.choices[first + update.generation]]
        for choice in changed:
            choice.add_update(update)
        return changed

    def select_best(self) -> list[Choice]:
        """The n choices of each prompt to return: if more were generated, those with the least mean surprisal."""
        texts, chosen = self.body.texts, self.choices
        if texts > self.body.n:
            groups = [self.choices[first : first + texts] for first in range(0, len(self.choices), texts)]
            ranked = [sorted(group, key=lambda choice: choice.mean_nats) for group in groups]
            chosen = [choice for group in ranked for choice in group[: self.body.n]]
        for index, choice in enumerate(chosen):
            choice.index = index
        return chosen

    def response(self, choices: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        """The object of an answer or an event. An empty `usage` is left out."""
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}
        head["system_fingerprint"] = self.served.fingerprint
        unknown = {"unknown_characters": self.unknown} if self.unknown else {}
        counted = {} if usage == {} else {"usage": usage}
        return self._shape({**head, **unknown, "choices": choices, **counted})

    def event(self, choice: dict[str, Any]) -> bytes:
        """Returns the event of a stream that has a choice. Its usage is null if an event with that is to come.

        Without log-probabilities an event becomes JSON at once: 11 µs for a short one, 62 µs in pieces.
        Log-probabilities of a long prompt become JSON in pieces: all at once would keep the interpreter's lock from
        other threads.
        """
        to_json = json_text if self.body.logprobs is None else json_in_pieces
        return f"data: {to_json(self.response([choice], None if self._ends_with_usage else {}))}\n\n".encode()

    def stream(
        self,
        events: AsyncGenerator[bytes],
        usage: Callable[[], Usage],
        within: AbstractAsyncContextManager[object] | None = None,
    ) -> Response:
        """Returns an answer of these events, then one with the `usage` if that is wanted, and the end."""
        last = (lambda: self.response([], usage())) if self._ends_with_usage else None
        return DisconnectAwareResponse(finish_events(events, last), EVENTS + UTF8, within=within)

    @property
    def _ends_with_usage(self) -> bool:
        return self.body.stream_options.include_usage

    @cached_property
    def unknown(self) -> list[str]:
        """Characters of the prompts that the model does not know, each once and not all if there are many."""
        unseen = self.served.model.vocabulary.unseen_characters(np.concatenate([each.ids for each in self.prompts]))
        return [character_name(each) for each in unseen[:UNKNOWN_CHARACTERS]]

    def usage(self) -> Usage:
        """How many symbols have been read and generated."""
        prompt, written = self._prompt_symbols(), sum(choice.symbols for choice in self.choices)
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
            self._check_length(len(prompt))  # before it is turned into ids, which takes time
            return Prompt(model.read_ids(prompt), prompt)
        begins = prompt[:1] == [start_id(model.vocabulary)]
        ids = check_ids(model.vocabulary, prompt[begins:], "prompt")
        return Prompt(ids, model.decode(ids[-1:]), begins)

    def _check_length(self, characters: int) -> None:
        most = self.server.limits.prompt_characters
        if characters > most:
            words = f"prompt: {characters:,} characters in all prompts; send at most {most:,}"
            raise ApiError(400, words, "prompt", "too_large")

    def _prompt_symbols(self) -> int:
        """How many symbols the prompts have together."""
        return sum(len(each.ids) for each in self.prompts)

    def _check(self) -> None:
        body, limits = self.body, self.server.limits
        texts, length = len(self.prompts) * body.texts, self._prompt_symbols()
        places = texts * body.length + (length * body.texts if body.echo else 0)
        values = 0 if body.logprobs is None else places * (1 + body.logprobs)
        self.size = max(places, values)  # of an answer in one piece at most
        self._check_length(length)
        for param, name, value, most in (
            ("n" if body.texts == body.n else "best_of", "texts", texts, min(limits.texts, limits.rows)),
            ("logprobs", "log-probabilities", values, limits.logprobs_values),
            ("stop", "stop strings", len(body.stops), limits.stops),
            ("copied", "characters", len(self.prompts) * body.n * body.length * body.copied, limits.novelty_characters),
        ):
            if value > most:
                raise ApiError(400, f"{param}: {value:,} {name}; ask for at most {most:,}", param, "too_large")

    def _check_stops(self) -> None:
        """Raises ApiError, 400, for a stop string that the model can never write."""
        try:
            self.served.model.pen(self.body.stops)
        except UsageError as error:
            raise ApiError(400, str(error)[:500], "stop", "invalid_value") from None

    @property
    def _until_end(self) -> bool:
        """Whether texts end with their documents."""
        return self.served.model.vocabulary.boundary is not None and not self.body.ignore_eos

    def _begin_rule(self) -> RulePlace | None:
        """Returns where texts begin in their rule, if they have one. Raises ApiError, 400, if none can obey it."""
        try:
            return self._place_in(self.body.rule)
        except UsageError as error:
            name, problem = self._find_fault(error)
            raise ApiError(400, f"{name}: {problem}", name, "invalid_value") from None

    def _place_in(self, rule: Rule | None) -> RulePlace | None:
        """Returns the place in a rule after the end of the prompt that obeys it. Raises UsageError as `begin_rule`."""
        body, vocabulary, states = self.body, self.served.model.vocabulary, self.server.limits.rule_states
        begun = self.served.model.read_ids(self._text_begun()) if body.rule_begun else None
        return begin_rule(rule, vocabulary, self._until_end, body.length, begun=begun, states=states)

    def _text_begun(self) -> str:
        """Returns the end of the prompt that the rules hold for. Raises ApiError, 400, for several prompts."""
        if not isinstance(self.body.prompt, str):
            words = "rule_begun is about the end of one text; give one as the prompt, or leave it out"
            raise ApiError(400, words, "rule_begun", "invalid_value")
        return self.body.prompt[-self.body.rule_begun :]

    def _find_fault(self, error: UsageError) -> tuple[str, UsageError]:
        """Returns the field of the first rule that no text can obey by itself, or else the first field, and why.

        Rules that took too much work are not tried again by themselves, which might take as much for each.
        """
        if isinstance(error, LargeRuleError):
            return self.body.rule_fields[0], error
        for name in self.body.rule_fields if len(self.body.rule_fields) > 1 else ():
            try:
                self._place_in(self.body.rule_of(name))
            except UsageError as own:
                return name, own
        return self.body.rule_fields[0], error

    def _read_bias(self) -> Float32s | None:
        """Returns what is added to the logits (V,), if anything. Raises ApiError, 400, for an unknown id."""
        vocabulary, bias = self.served.model.vocabulary, np.zeros(self.served.model.vocabulary.size, np.float32)
        for name, value in self.body.logit_bias.items():
            symbol = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else vocabulary.size
            if symbol >= vocabulary.unknown:
                words = f"logit_bias {name[:20]!r}: give ids of this model, below {vocabulary.unknown:,}; see /tokenize"
                raise ApiError(400, words, "logit_bias", "invalid_value")
            bias[symbol] = value
        return bias if self.body.logit_bias else None

    def text_before(self, prompt: Prompt) -> str:
        """Returns the text that an answer follows, which ends as that does: the prompt's, or one of a saved state."""
        text = self.served.model.decode(prompt.ids[-1:]) if self.body.echo else prompt.text
        return text or self.last

    def _generations(self, before: str) -> Iterator[Generation]:
        body, model = self.body, self.served.model
        choices = body.sampling
        seed = first_seed(None) if body.seed is None else body.seed
        for n in range(body.texts):
            random = np.random.default_rng((seed + n) % (1 << 64))  # OpenAI's seeds may be below 0
            pen = model.pen(body.stops, self._until_end, after=before)
            past = begin_past(choices, self._bias, self._training)
            yield Generation(random, choices, body.length, pen, body.save_state, rule=self.rule, past=past)


@dataclass
class Choice:
    """A text that is being generated, and the part of it that was not sent yet."""

    completion: CompletionRequest
    index: int
    generation: Generation
    prompt: Prompt
    text: str = ""
    written: str = ""  # all that was generated, if its copies are looked for
    symbols: int = 0  # generated
    nats: float = 0.0  # their surprisal, if log-probabilities are wanted
    done: bool = False
    after: Context | None = None  # the context after the text, if its state is saved

    @property
    def has_output(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.text) or self.done

    @property
    def mean_nats(self) -> float:
        """The mean surprisal of its symbols."""
        return self.nats / max(1, self.symbols)

    @cached_property
    def _tokens(self) -> Tokens | None:
        body, vocabulary = self.completion.body, self.completion.served.model.vocabulary
        if body.logprobs is None:
            return None
        begins = body.echo and self.prompt.begins
        if body.echo:
            return Tokens(vocabulary, body.logprobs, begins=begins)
        offset = len(vocabulary.decode(self.prompt.ids))
        return Tokens(vocabulary, body.logprobs, offset, after=self.completion.text_before(self.prompt))

    def add_update(self, update: JobUpdate) -> None:
        """Adds an update about this text or its prompt."""
        if update.surprisals is not None and self._tokens is not None:
            self._tokens.add(update.surprisals)
        if update.generation is None:
            if update.done and self.completion.body.echo:
                self.text += self.completion.served.model.decode(self.prompt.ids)
            return
        self.text += update.text
        self.written += update.text * self.completion.body.copied
        self.symbols += update.symbols
        self.nats += 0.0 if update.surprisals is None else float(update.surprisals.nats.sum())
        self.done, self.after = update.done, update.context

    def save_state(self) -> dict[str, str | None]:
        """Saves the state after the text if that is wanted and the text is done. Returns the field with its handle."""
        if self.after is None:
            return {}
        completion, context = self.completion, self.after
        if completion.served.learned is not None:
            ids = np.concatenate((self.prompt.ids, *self.generation.written))
            context = replace(completion.served.learned, written=ids) if len(ids) else completion.served.learned
        symbols = len(self.prompt.ids) + self.symbols
        pen, prompt = self.generation.pen, self.prompt.ids[-1:]
        last = completion.served.model.decode(prompt if pen.last is None else [pen.last]) or completion.last
        state = completion.server.save_state(completion.served, context, completion.characters + symbols, last)
        return {"state": state}

    def take(self) -> dict[str, Any]:
        """The output not yet returned, as a choice in OpenAI's format."""
        text, self.text = self.text, ""
        ended = self.done and self.generation.pen.ended
        return {
            "index": self.index,
            "text": text,
            "logprobs": None if self._tokens is None else self._tokens.take(len(text), ended),
            "finish_reason": self._finish_reason() if self.done else None,
        }

    def _finish_reason(self) -> str:
        pen = self.generation.pen
        return "stop" if pen.ended or pen.stopped else "length"


async def _whole(completion: CompletionRequest, work: RequestHandle) -> dict[str, Any]:
    """The answer in one piece."""
    async with work:
        while not all(choice.done for choice in completion.choices):
            await completion.add_updates(await work.updates())
    best = completion.select_best()
    further = await _finish(completion, best)
    choices = await run_apart(completion.size, lambda: [choice.take() for choice in best])
    merged = [choice | more for choice, more in zip(choices, further, strict=True)]
    return completion.response(merged, completion.usage())


async def _finish(completion: CompletionRequest, choices: list[Choice]) -> list[dict[str, Any]]:
    """Returns the fields that choices have besides, once they are done: the handle of a state, and what is copied."""
    found: list[dict[str, Any]] = [choice.save_state() for choice in choices]
    done = [row for row, choice in enumerate(choices) if choice.done]
    if completion.body.copied and done:
        texts = [choices[row].written for row in done]
        copies = await completion.server.indexes.measure(completion.served.model, texts, "copied")
        for row, copied in zip(done, copies, strict=True):
            found[row]["copied"] = copied
    return found


async def _events(completion: CompletionRequest, work: RequestHandle) -> AsyncGenerator[bytes]:
    """Server-sent events, one for each choice that has new output. Must run within `work`."""
    while not all(choice.done for choice in completion.choices):
        changed = await completion.add_updates(await work.updates())
        choices = [choice for choice in changed if choice.has_output]
        size = completion.weight(sum(len(choice.text) for choice in choices))
        further = await _finish(completion, choices)
        yield await run_apart(size, partial(_event_bytes, completion, choices, further))
        await asyncio.sleep(EVENT_SECONDS)


def _event_bytes(completion: CompletionRequest, choices: list[Choice], further: list[dict[str, Any]]) -> bytes:
    """One event for each choice, with its new output and its further fields."""
    return b"".join(completion.event(choice.take() | more) for choice, more in zip(choices, further, strict=True))


__all__ = ["CompletionRequest", "Prompt", "find_training", "respond"]

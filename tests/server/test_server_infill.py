"""Completions with a suffix, against what the library finds."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from test_server_completions import ask, events, post_refused
from test_server_engine import WAYS, line, model_of, run_jobs, serve

from live_server import serving
from scriven.rules import Rule
from scriven.server.jobs import Job
from scriven.server.limits import LIMITS
from scriven.server.requests import validate_body
from scriven.server.responses import ApiError
from scriven.server.searches import Infilling, Likeliest
from scriven.server.shared import ServedModel, ServerState
from scriven.server.writing_requests import CompletionBody
from served_models import guarded_app, names_model, text_model, tokens_model

MODELS = {"text": text_model(), "names": names_model(), "tokens": tokens_model()}
BOTH: dict[str, Any] = {"prompt": "a bad", "suffix": "cab a", "max_tokens": 9, "draws": 20}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    limits = replace(LIMITS, scores=2)
    with serving(guarded_app(MODELS, limits), limits) as place, httpx.Client(base_url=place.url, timeout=60) as client:
        yield client


def test_a_middle_is_what_the_library_finds(client: httpx.Client) -> None:
    found = [
        MODELS["text"].infill("a bad", "cab a", length=9, draws=20, seed=4 + n, temperature=0.9, top_k=5)
        for n in range(2)
    ]
    told = ask(client, **BOTH, seed=4, n=2, temperature=0.9, top_k=5)
    assert told["choices"] == [
        {
            "index": n,
            "text": text,
            "logprobs": None,
            "finish_reason": "stop",
            "effective_draws": pytest.approx(text.effective_draws),
        }
        for n, text in enumerate(found)
    ]
    written = sum(map(len, found))
    assert told["usage"] == {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 10 + written}
    rule = Rule.regex("[a-d]{2,5}")
    told = ask(client, **BOTH, seed=4, guided_regex="[a-d]{2,5}", temperature=0)
    assert told["choices"][0]["text"] == MODELS["text"].infill(
        "a bad", "cab a", length=9, draws=20, temperature=0, rule=rule
    )


def test_the_suffix_of_a_name_ends_it(client: httpx.Client) -> None:
    for ignored in (False, True):
        told = ask(client, **{**BOTH, "model": "names"}, seed=2, ignore_eos=ignored, temperature=0.8)
        found = MODELS["names"].infill("a bad", "cab a", length=9, draws=20, seed=2, until_end=not ignored)
        assert told["choices"][0]["text"] == found


def test_a_stream_has_each_text_in_one_event(client: httpx.Client) -> None:
    whole = ask(client, **BOTH, seed=4, n=3)
    told = events(client, **BOTH, seed=4, n=3, stream_options={"include_usage": True})
    assert [each["choices"][0] for each in told[:-1]] == whole["choices"]
    assert told[-1]["usage"] == whole["usage"]


def test_a_prompt_may_be_a_state(client: httpx.Client) -> None:
    state = client.post("/states", json={"model": "text", "text": "a bad"}).json()["state"]
    told = ask(client, **{**BOTH, "prompt": ""}, state=state, seed=4)
    assert told["choices"] == ask(client, **BOTH, seed=4)["choices"]


@pytest.mark.parametrize("how", [{"suffix": "C", "draws": 9}, {"beam": 4}])
def test_tokens_after_a_state_begin_with_a_space(how: dict[str, Any], client: httpx.Client) -> None:
    state = client.post("/states", json={"model": "tokens", "text": "A B"}).json()["state"]
    asked: dict[str, Any] = {"model": "tokens", "max_tokens": 4, **how}
    asked |= {"seed": 1} if "suffix" in how else {}
    (whole,) = ask(client, **asked, prompt="A B")["choices"]
    assert whole["text"][0] in " \n"
    (after,) = ask(client, **asked, prompt="", state=state)["choices"]
    assert after == whole


def test_other_texts_are_written_meanwhile(client: httpx.Client) -> None:
    expected = ask(client, prompt="a", max_tokens=50, seed=1)["choices"]
    found: list[Any] = []
    search = threading.Thread(target=lambda: found.append(ask(client, **{**BOTH, "max_tokens": 40, "draws": 40})))
    search.start()
    assert ask(client, prompt="a", max_tokens=50, seed=1)["choices"] == expected
    search.join()
    assert found[0]["choices"][0]["finish_reason"] == "stop"


def infilling(server: ServerState, **body: Any) -> Infilling:
    return Infilling.of(server, validate_body(CompletionBody, {**BOTH, **body}))


def test_a_text_is_whole_long_before_two_searches_are() -> None:
    model, ended = model_of(WAYS[-1]), list[str]()

    async def search(server: ServerState, seed: int) -> int:
        asked = infilling(server, max_tokens=60, draws=200, seed=seed)
        _ = [choice async for choice in asked.choices()]
        ended.append("search")
        return asked.usage()["completion_tokens"]

    async def write(server: ServerState, served: ServedModel) -> int:
        told = await run_jobs(server, served, [Job(model.read_ids("ab"), served.start, (line(model, 0, 20),))])
        ended.append("text")
        return sum(news.symbols for news in told)

    async def use(server: ServerState, served: ServedModel) -> None:
        written = await asyncio.gather(search(server, 1), search(server, 2), write(server, served))
        assert ended == ["text", "search", "search"]  # each search takes many more turns than the text
        assert (served.engine.read, served.engine.written) == (2 * len("a bad") + len("ab"), sum(written))

    serve(model, LIMITS, use)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_search_compiles_its_rule_once(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(server: ServerState, served: ServedModel) -> str:
        asked = infilling(server, guided_regex="[a-d]{2,5}", temperature=temperature, seed=1)
        with monkeypatch.context() as patched:
            patched.setattr(Rule, "compile", Mock(side_effect=AssertionError))
            return "".join([choice["text"] async for choice in asked.choices()])

    assert re.fullmatch("[a-d]{2,5}", serve(model_of(WAYS[-1]), LIMITS, use))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"echo": True}, "echo cannot be combined with suffix"),
        ({"logprobs": 1}, "logprobs cannot be combined with suffix"),
        ({"save_state": True}, "save_state cannot be combined with suffix"),
        ({"best_of": 2}, "best_of cannot be combined with suffix"),
        ({"stop": "a"}, "stop cannot be combined with suffix"),
        ({"logit_bias": {"1": 1}}, "logit_bias cannot be combined with suffix"),
        ({"novel": 9}, "novel cannot be combined with suffix"),
        ({"max_tokens": 501}, "max_tokens 501: with suffix, send at most 500"),
        ({"n": 17}, "17 texts; with suffix, ask for at most 16"),
        ({"guided_regex": "[ab]{12}"}, "the shortest text that obeys has 12 characters"),
    ],
)
def test_what_a_suffix_does_not_go_with(client: httpx.Client, body: dict[str, Any], said: str) -> None:
    assert said in post_refused(client, 400, **{**BOTH, **body})


# --- the likeliest texts


@pytest.mark.parametrize("more", [{}, {"guided_regex": "[a-d]{2,5}"}, {"stop": ["c", "ad"]}, {"acrostic": "ab"}])
def test_a_beam_finds_what_the_library_finds(client: httpx.Client, more: dict[str, Any]) -> None:
    own: dict[str, Any] = {"stop": more["stop"]} if "stop" in more else {}
    own |= {"rule": Rule.regex(more["guided_regex"])} if "guided_regex" in more else {}
    own |= {"rule": Rule.acrostic(more["acrostic"])} if "acrostic" in more else {}
    for model in ("text",) if "acrostic" in more else ("text", "names"):
        found = MODELS[model].find_likeliest("a b" if model == "text" else "a", beam=8, count=3, length=7, **own)
        asked = {"model": model, "prompt": "a b" if model == "text" else "a", "max_tokens": 7, "n": 3, "beam": 8}
        told = ask(client, **asked, **more)
        assert [each["text"] for each in told["choices"]] == [*found]
        assert [each["log_probability"] for each in told["choices"]] == pytest.approx(
            [text.log_probability for text in found], abs=1e-6
        )
        assert [each["index"] for each in told["choices"]] == [*range(len(found))]
        reasons = [each["finish_reason"] for each in told["choices"]]
        assert all(reason == "stop" for reason, text in zip(reasons, found, strict=True) if text.ended)
        streamed = events(client, **asked, **more)
        assert [each["choices"][0] for each in streamed] == told["choices"]


def test_a_beam_reads_each_prompt(client: httpx.Client) -> None:
    told = ask(client, prompt=["a b", "ca"], max_tokens=5, n=2, beam=4)
    expected = [
        text for prompt in ("a b", "ca") for text in MODELS["text"].find_likeliest(prompt, beam=4, count=2, length=5)
    ]
    assert [each["text"] for each in told["choices"]] == expected
    assert told["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"temperature": 0.5}, "temperature: a beam draws nothing"),
        ({"draws": 7}, "draws: a beam draws nothing"),
        ({"dry_multiplier": 1.0}, "dry_multiplier: a beam draws nothing"),
        ({"logprobs": 1}, "logprobs: a beam draws nothing"),
        ({"save_state": True}, "save_state: a beam draws nothing"),
        ({"suffix": "a"}, "beam cannot be combined with suffix"),
        ({"n": 9}, "n 9: a beam of 8 finds no more"),
        ({"beam": 65}, "less than or equal to 64"),
        ({"max_tokens": 501}, "max_tokens 501: with beam, send at most 500"),
        ({"prompt": ["a"] * 17}, "17 prompts; with beam, send at most 16"),
        ({"guided_regex": "[ab]{12}", "max_tokens": 9}, "the shortest text that obeys has 12 characters"),
    ],
)
def test_what_a_beam_does_not_go_with(client: httpx.Client, body: dict[str, Any], said: str) -> None:
    assert said in post_refused(client, 400, **{"model": "text", "prompt": "a", "beam": 8, **body})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"beam": 2, "temperature": 0.5}, "temperature"),
        ({"beam": 2, "logit_bias": {"1": 1.0}}, "logit_bias"),
        ({"beam": 2, "n": 3}, "n"),
        ({"beam": 2, "max_tokens": 501}, "max_tokens"),
        ({"beam": 2, "suffix": "a"}, "beam"),
        ({"suffix": "a", "echo": True}, "echo"),
        ({"stream": True, "best_of": 3}, "best_of"),
        ({"guided_regex": "a", "stop": "b"}, "stop"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"contains": ["a"] * 17}, "contains"),
    ],
)
def test_fields_that_do_not_go_together_are_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        validate_body(CompletionBody, body)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, "invalid_value")


def test_a_text_is_whole_long_before_two_beams_are() -> None:
    model, ended = model_of(WAYS[-1]), list[str]()

    async def search(server: ServerState) -> None:
        asked = Likeliest.of(server, validate_body(CompletionBody, {"prompt": "ab", "beam": 40, "max_tokens": 80}))
        assert len([choice async for choice in asked.choices()]) == 1
        assert asked.usage()["completion_tokens"] == 80
        ended.append("search")

    async def write(server: ServerState, served: ServedModel) -> None:
        await run_jobs(server, served, [Job(model.read_ids("ab"), served.start, (line(model, 0, 20),))])
        ended.append("text")

    async def use(server: ServerState, served: ServedModel) -> None:
        await asyncio.gather(search(server), search(server), write(server, served))
        assert ended == ["text", "search", "search"]

    serve(model, LIMITS, use)

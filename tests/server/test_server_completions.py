"""Completions over a real socket, against what the library writes and scores."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from live_server import serving
from scriven.rules import Rule
from scriven.server.limits import LIMITS
from served_models import guarded_app, names_model, text_model

MODELS = {"text": text_model(), "names": names_model()}
PROMPT = "a bad cab"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    limits = replace(LIMITS, rows=16)
    with serving(guarded_app(MODELS, limits), limits) as place, httpx.Client(base_url=place.url, timeout=20) as client:
        yield client


def ask(client: httpx.Client, **body: Any) -> Any:
    answer = client.post("/v1/completions", json={"model": "text", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def post_refused(client: httpx.Client, status: int, **body: Any) -> str:
    answer = client.post("/v1/completions", json={"model": "text", **body})
    assert answer.status_code == status
    message: str = answer.json()["error"]["message"]
    return message


def events(client: httpx.Client, **body: Any) -> list[Any]:
    with client.stream("POST", "/v1/completions", json={"model": "text", "stream": True, **body}) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = answer.read().decode("ascii")
    *parts, end, rest = text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def text_of(told: list[Any], index: int = 0) -> str:
    return "".join(choice["text"] for each in told for choice in each["choices"] if choice["index"] == index)


def test_a_text_is_what_the_library_writes(client: httpx.Client) -> None:
    told = ask(client, prompt=PROMPT, max_tokens=60, seed=3, temperature=0.9, top_k=5, min_p=0.01)
    expected = MODELS["text"].sample(PROMPT, length=60, seed=3, temperature=0.9, top_k=5, min_p=0.01)
    assert told["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    assert told["usage"] == {"prompt_tokens": 9, "completion_tokens": 60, "total_tokens": 69}
    assert (told["object"], told["model"]) == ("text_completion", "text")


def test_prompts_times_n_come_in_their_order(client: httpx.Client) -> None:
    prompts = [PROMPT, "", "dead"]
    told = ask(client, prompt=prompts, max_tokens=20, seed=7, n=2)
    expected = [
        MODELS["text"].sample(prompt, length=20, seed=7 + n, temperature=1.0) for prompt in prompts for n in range(2)
    ]
    assert [choice["text"] for choice in told["choices"]] == expected
    assert [choice["index"] for choice in told["choices"]] == list(range(6))
    ids = [MODELS["text"].encode(prompt).tolist() for prompt in prompts]
    again = ask(client, prompt=ids, max_tokens=20, seed=7, n=2)
    assert again["choices"] == told["choices"]
    assert ask(client, prompt=ids[0], max_tokens=20, seed=7)["choices"][0] == told["choices"][0]


def test_streams_tell_the_same(client: httpx.Client) -> None:
    body = {"prompt": PROMPT, "max_tokens": 200, "seed": 5, "n": 2, "stop": ["ab", "d,"], "echo": True, "logprobs": 2}
    whole = ask(client, **body)
    told = events(client, **body, stream_options={"include_usage": True})
    assert told[-1]["choices"] == []
    assert told[-1]["usage"] == whole["usage"]
    assert all(each["usage"] is None for each in told[:-1])
    for choice in whole["choices"]:
        parts = [each["choices"][0] for each in told[:-1] if each["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [value for part in parts for value in part["logprobs"][name]] == values
        assert [part["finish_reason"] for part in parts][-1] == choice["finish_reason"]


def test_a_stop_string_ends_a_text_before_it(client: httpx.Client) -> None:
    told = ask(client, prompt=PROMPT, max_tokens=500, seed=2, stop="ab", logprobs=0)["choices"][0]
    expected = MODELS["text"].sample(PROMPT, length=500, seed=2, stop=["ab"], temperature=1.0)
    assert (told["text"], told["finish_reason"]) == (expected, "stop")
    assert "".join(told["logprobs"]["tokens"]) == expected


def test_a_document_ends_its_text_but_where_that_is_ignored(client: httpx.Client) -> None:
    told = ask(client, model="names", max_tokens=500, seed=2)["choices"][0]
    expected = MODELS["names"].sample("", length=500, seed=2, until_end=True, temperature=1.0)
    assert (told["text"], told["finish_reason"]) == (expected, "stop")
    told = ask(client, model="names", max_tokens=500, seed=2, ignore_eos=True)["choices"][0]
    assert (told["text"].count("\n") > 1, told["finish_reason"]) == (True, "length")


def test_log_probabilities_of_a_given_text(client: httpx.Client) -> None:
    text = PROMPT + "€"
    told = ask(client, prompt=text, max_tokens=0, echo=True, logprobs=3)["choices"][0]
    assert told["text"] == text
    logprobs = told["logprobs"]
    assert logprobs["tokens"] == list(text)
    assert logprobs["text_offset"] == list(range(len(text)))
    assert np.allclose(-np.array(logprobs["token_logprobs"]), MODELS["text"].score(text).surprisals, atol=1e-4)
    for token, value, top in zip(text, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[token] == value
        assert len(top) in {3, 4}
        assert list(top.values())[:3] == sorted(top.values(), reverse=True)[:3]


def test_the_id_that_begins_a_text_is_read_as_its_beginning(client: httpx.Client) -> None:
    begin, text = MODELS["text"].vocabulary.ids, "\na bad cab"
    prompts = [[begin, *MODELS["text"].encode(text).tolist()], [begin]]
    told = ask(client, prompt=prompts, max_tokens=1, seed=1, echo=True, logprobs=2)["choices"]
    expected = ask(client, prompt=[text, ""], max_tokens=1, seed=1, echo=True, logprobs=2)["choices"]
    for mine, other in zip(told, expected, strict=True):
        assert mine["text"] == other["text"]
        for name, first in (("tokens", "<bos>"), ("token_logprobs", None), ("top_logprobs", None), ("text_offset", 0)):
            assert mine["logprobs"][name] == [first, *other["logprobs"][name]]
    streamed = events(client, prompt=prompts[0], max_tokens=1, seed=1, echo=True, logprobs=2)
    parts = [each["choices"][0]["logprobs"]["tokens"] for each in streamed]
    assert [token for part in parts for token in part] == told[0]["logprobs"]["tokens"]
    state = client.post("/states", json={"model": "text", "text": "a"}).json()["state"]
    assert "marks the start of a text" in post_refused(client, 400, prompt=prompts[0], state=state)
    assert "unknown id" in post_refused(client, 400, prompt=[1, begin])
    assert "unknown id" in post_refused(client, 400, model="names", prompt=[MODELS["names"].vocabulary.ids])


def test_log_probabilities_of_what_is_written_are_those_of_reading_it(client: httpx.Client) -> None:
    written = ask(client, prompt=PROMPT, max_tokens=40, seed=1, logprobs=2)["choices"][0]
    read = ask(client, prompt=PROMPT + written["text"], max_tokens=0, echo=True, logprobs=2)["choices"][0]
    told, expected = (each["logprobs"]["token_logprobs"] for each in (written, read))
    assert np.allclose(told, expected[len(PROMPT) :], atol=1e-4)


def test_a_state_goes_on_as_if_the_text_had_been_read(client: httpx.Client) -> None:
    state = client.post("/states", json={"model": "text", "text": PROMPT}).json()
    assert state["characters"] == len(PROMPT)
    expected = ask(client, prompt=PROMPT + "ab", max_tokens=30, seed=4)["choices"][0]["text"]
    for _ in range(2):  # as often as one likes
        told = ask(client, state=state["state"], prompt="ab", max_tokens=30, seed=4, save_state=True)["choices"][0]
        assert told["text"] == expected
    on = ask(client, state=told["state"], max_tokens=30, seed=5)["choices"][0]["text"]
    assert on == ask(client, prompt=PROMPT + "ab" + expected, max_tokens=30, seed=5)["choices"][0]["text"]
    assert "no such saved state" in post_refused(client, 404, model="names", state=state["state"])
    assert client.delete(f"/states/{state['state']}").status_code == 200
    assert "no such saved state" in post_refused(client, 404, state=state["state"])


def test_what_cannot_be_done_is_refused(client: httpx.Client) -> None:
    assert "no such model; this server has text, names" in post_refused(client, 404, model="other")
    assert "name one of text, names" in post_refused(client, 400, model=None)
    assert "unknown id 2000000; this model's ids are below" in post_refused(client, 400, prompt=[2_000_000])
    assert "n: 18 texts; ask for at most 16" in post_refused(client, 400, prompt=["a", "b"], n=9)
    assert "log-probabilities" in post_refused(client, 400, prompt="a", max_tokens=99_999, logprobs=20)
    assert "characters in all prompts" in post_refused(client, 400, prompt="a" * (LIMITS.prompt_characters + 1))


def test_a_client_that_goes_away_frees_its_rows(client: httpx.Client) -> None:
    body = {"model": "text", "max_tokens": LIMITS.max_tokens, "stream": True, "n": 16}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        assert gauge(client, "rows") == 16
    for _ in range(1000):
        if not gauge(client, "rows"):
            break
        time.sleep(0.02)
    assert gauge(client, "rows") == gauge(client, "waiting") == 0


def gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f'scriven_{name}{{model="text"}}')).split()[-1])


def test_characters_that_the_model_does_not_know_are_named(client: httpx.Client) -> None:
    prompts = ["a€b☃€", "zyxwvutsr"]
    named = ["€", "☃", *"zyxwvuts"]
    assert ask(client, prompt=prompts)["unknown_characters"] == named
    assert [each["unknown_characters"] for each in events(client, prompt=prompts)] != []
    assert all(each["unknown_characters"] == named for each in events(client, prompt=prompts))
    assert "unknown_characters" not in ask(client, prompt=PROMPT)
    ids = MODELS["text"].encode("a€").tolist()
    assert ask(client, prompt=ids)["unknown_characters"] == ["€"]


def test_models_are_listed(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert [each["id"] for each in listed["data"]] == ["text", "names"]
    assert client.get("/v1/models/names").json() == listed["data"][1]
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_guided_text_is_what_the_library_writes_by_its_rule(client: httpx.Client, *, stream: bool) -> None:
    rule = Rule.regex("[a-d]{3,6} [a-d]+")
    body = {
        "prompt": PROMPT,
        "max_tokens": 30,
        "seed": 3,
        "n": 3,
        "temperature": 0.9,
        "guided_regex": "[a-d]{3,6} [a-d]+",
    }
    expected = list(MODELS["text"].samples(3, PROMPT, length=30, seed=3, temperature=0.9, rule=rule))
    told = events(client, **body) if stream else [ask(client, **body)]
    assert [text_of(told, index) for index in range(3)] == expected
    ends = {each["index"]: each["finish_reason"] for one in told for each in one["choices"] if each["finish_reason"]}
    assert [ends[index] for index in range(3)] == ["stop" if each.ended else "length" for each in expected]


def test_a_guided_choice_is_one_of_them_also_with_log_probabilities(client: httpx.Client) -> None:
    for model, texts in (("text", ["bad", "a cab"]), ("names", ["ab", "abba"])):
        body = {"model": model, "guided_choice": texts, "n": 9, "seed": 1, "logprobs": 2, "max_tokens": 9}
        choices = ask(client, **body)["choices"]
        assert {each["text"] for each in choices} <= {*texts}
        for each in choices:
            assert each["finish_reason"] == "stop"
            assert "".join(each["logprobs"]["tokens"]).removesuffix("\n") == each["text"]
            assert len(each["logprobs"]["token_logprobs"]) == len(each["logprobs"]["tokens"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"guided_regex": "(a"}, "guided_regex: pattern '(a', character 1: this group is never closed"),
        ({"guided_regex": "(a|b)*a(a|b){20}"}, "guided_regex: the rule needs more than 1,000 states"),
        ({"guided_regex": "x{9}"}, "guided_regex: regex 'x{9}': the model does not know 'x'"),
        ({"guided_regex": "a{99}", "max_tokens": 9}, "has 99 characters, and length is 9; give at least 99"),
        ({"guided_choice": ["xyz"]}, "guided_choice: choice ('xyz',): the model does not know 'x'"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "give one of them"),
        ({"guided_regex": "a", "stop": "b"}, "stop may end a text before it matches"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(client: httpx.Client, body: dict[str, Any], said: str) -> None:
    assert said in post_refused(client, 400, **body)

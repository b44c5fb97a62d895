"""Tokens, scores, states, health, counters and the OpenAPI document, over a real socket."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.routing import Route

from live_server import serving
from page_server import make_run
from scriven.server.app import OPEN, STREAMED, make_app, page
from scriven.server.limits import LIMITS
from scriven.server.openapi import OPERATIONS, document
from scriven.server.replies import CompletionReply, DeletedReply, ErrorReply
from scriven.server.security import Guard, policy
from scriven.server.shared import BUCKET_SECONDS
from served_models import guarded_app, names_model, text_model

MODELS = {"text": text_model(), "names": names_model()}
SMALL = replace(LIMITS, score_characters=3000, body_bytes=40_000)
GETS = [each.path for each in OPERATIONS if each.method == "get" and each.reply is not None]
LINES = {"accept": "application/x-ndjson"}
PLAIN = {"content-type": "text/plain; charset=utf-8"}
TEXT = "a bad cab, €\ndead " * 100


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(guarded_app(MODELS, SMALL), SMALL) as place, httpx.Client(base_url=place.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server that shows a run, too."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    app = Guard(make_app(MODELS, runs={"run": run}), policy("127.0.0.1", open_paths=OPEN, streamed=STREAMED))
    with serving(app) as place, httpx.Client(base_url=place.url, timeout=20) as client:
        yield client


def post(client: httpx.Client, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_tokens_are_symbols(client: httpx.Client) -> None:
    told = post(client, "/tokenize", model="text", prompt="ab€", return_token_strs=True)
    assert told["tokens"] == MODELS["text"].encode("ab€").tolist()
    assert (told["count"], told["token_strs"]) == (3, ["a", "b", "€"])
    assert post(client, "/detokenize", model="text", tokens=told["tokens"]) == {"prompt": "ab€"}
    assert "unknown id" in post(client, "/detokenize", 400, model="text", tokens=[1 << 31])["error"]["message"]


@pytest.mark.parametrize(("model", "size"), [("text", 11), ("names", 5)])
def test_what_begins_and_ends_a_text_is_one_token(client: httpx.Client, model: str, size: int) -> None:
    told = client.get("/tokenizer_info", params={"model": model}).json()
    assert told["vocab_size"] == MODELS[model].vocabulary.size == size
    first, *more = post(client, "/tokenize", model=model, prompt=told["eos_token"])["tokens"]
    assert [first] == post(client, "/tokenize", model=model, prompt=told["bos_token"])["tokens"]
    assert not more
    if model == "names":
        assert (told["bos_token"], first) == ("\n", MODELS[model].vocabulary.boundary)
    else:  # it has no end: this is never written
        assert (told["bos_token"], first) == ("\uffff", MODELS[model].vocabulary.ids)
        strings = post(client, "/tokenize", model=model, prompt=told["bos_token"], return_token_strs=True)
        assert strings == {"count": 1, "tokens": [first], "token_strs": ["\uffff"]}
        assert post(client, "/detokenize", model=model, tokens=[first, 1]) == {"prompt": "\uffff "}
        assert "unknown id" in post(client, "/detokenize", 400, model=model, tokens=[1, first])["error"]["message"]


def test_long_texts_become_tokens_and_text_again(client: httpx.Client) -> None:
    text = "a bad cab, €\ndead " * 1000
    told = post(client, "/tokenize", model="text", prompt=text, return_token_strs=True)
    assert told["tokens"] == MODELS["text"].read_ids(text).tolist()
    assert "".join(told["token_strs"]) == text


def test_ids_belong_to_a_model_that_is_named_in_any_way(client: httpx.Client) -> None:
    """These two have two vocabularies: ids of one that are given to the other would be silently wrong."""
    assert "name one of" in post(client, "/tokenize", 400, prompt="a")["error"]["message"]
    for name, model in MODELS.items():
        told = client.post("/tokenize", params={"model": name}, json={"prompt": "abc"}).json()
        assert told["tokens"] == model.encode("abc").tolist()


def test_where_all_models_have_one_vocabulary_none_needs_to_be_named() -> None:
    with (
        serving(guarded_app({"one": text_model(), "two": text_model()})) as place,
        httpx.Client(base_url=place.url, timeout=20) as client,
    ):
        ids = MODELS["text"].encode("abc").tolist()
        assert post(client, "/tokenize", prompt="abc")["tokens"] == ids
        assert post(client, "/detokenize", tokens=ids)["prompt"] == "abc"
        assert client.get("/tokenizer_info").json()["vocab_size"] == MODELS["text"].vocabulary.size
        assert "name one of" in post(client, "/score", 400, text="a")["error"]["message"]


@pytest.mark.parametrize(("model", "text"), [("text", TEXT), ("names", "ab\n\nabba\nc"), ("text", "")])
def test_a_text_costs_what_the_library_says_in_every_form(client: httpx.Client, model: str, text: str) -> None:
    expected = MODELS[model].score(text)
    whole = post(client, "/score", model=model, text=text)
    assert np.allclose(whole.pop("surprisal"), expected.surprisals, atol=1e-4)
    assert whole["nats"] == pytest.approx(expected.nats)
    assert whole["end_nats"] == pytest.approx(expected.end_nats)
    assert (whole["characters"], whole["unseen"]) == (expected.characters, expected.unseen)
    path, data = f"/score?model={model}", text.encode()
    assert_near(client.post(path, content=data, headers=PLAIN).json(), whole)
    for answer in (
        client.post(path, content=data, headers=PLAIN | LINES),
        client.post("/score", json={"model": model, "text": text}, headers=LINES),
    ):
        *blocks, sums = map(json.loads, answer.text.splitlines())
        assert_near(sums, whole)
        assert np.allclose([nats for block in blocks for nats in block["surprisal"]], expected.surprisals, atol=1e-4)
        places = np.cumsum([0, *(len(block["surprisal"]) for block in blocks)])[:-1]
        assert [block["offset"] for block in blocks] == places.tolist()


def assert_near(told: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert told[name] == pytest.approx(value), name


def test_only_lines_may_be_of_any_length(client: httpx.Client) -> None:
    text = "abc, " * 20_000  # more than a body may have
    refused = client.post("/score?model=text", content=text, headers=PLAIN)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_large")
    told = client.post("/score?model=text", content=text, headers=PLAIN | LINES).text.splitlines()
    assert json.loads(told[-1])["characters"] == 100_000


@pytest.mark.parametrize("headers", [PLAIN, PLAIN | LINES])
def test_a_text_that_is_not_utf_8_is_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    refused = client.post("/score?model=text", content=b"ab\xffc", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_text")


def test_where_a_text_is_no_utf_8_after_a_while_a_line_says_so(client: httpx.Client) -> None:
    told = client.post("/score?model=text", content=b"ab" * 200_000 + b"\xff", headers=PLAIN | LINES)
    assert told.status_code == 200
    assert json.loads(told.text.splitlines()[-1])["error"]["code"] == "invalid_text"


def test_too_many_scores_are_refused() -> None:
    limits = replace(LIMITS, scores=0)
    with serving(guarded_app(MODELS, limits), limits) as place:
        refused = httpx.post(f"{place.url}/score", json={"model": "text", "text": "a"}, timeout=20)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


def test_health_and_counters(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "ok"}
    assert client.get("/health/ready").json() == {"status": "ok"}  # names are for those who have the token
    before = counter(client, 'written_total{model="text"}')
    post(client, "/v1/completions", model="text", max_tokens=7)
    assert counter(client, 'written_total{model="text"}') == before + 7
    assert counter(client, 'answers_total{method="GET",status="200"}') > 3


def counter(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"scriven_{name}")))


def test_counters_are_openmetrics_where_that_is_accepted(client: httpx.Client) -> None:
    """By the rules of its text format, which Prometheus refuses all of where one is broken."""
    post(client, "/v1/completions", model="names", prompt="ab", max_tokens=2, ignore_eos=True)
    accept = {"accept": "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"}
    told = client.get("/metrics", headers=accept)
    assert told.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    *lines, end, rest = told.text.split("\n")
    assert (end, rest) == ("# EOF", "")
    kinds: dict[str, str] = {}
    values: dict[str, float] = {}
    for line in lines:
        if line.startswith("# TYPE "):
            *_, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif line.startswith("# HELP "):
            assert re.fullmatch(r"# HELP scriven_[a-z_]+ [A-Z][^\n]+\.", line)
        else:  # within the family whose type was told last
            found = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? (\d[-\de.]*)', line)
            assert found and line not in values
            suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}[kind]
            assert found[1] in {name + suffix for suffix in suffixes}
            values[found[1] + (found[2] or "")] = float(found[3])
    assert set(kinds.values()) == {"counter", "gauge", "histogram"}
    assert not any(name.endswith("_total") for name in kinds)
    for name, labels in (("request_seconds", 'path="/v1/completions"'), ("first_token_seconds", 'model="names"')):
        buckets = [value for each, value in values.items() if each.startswith(f"scriven_{name}_bucket{{{labels}")]
        bounds = re.findall(rf'scriven_{name}_bucket{{{labels},le="([^"]+)"}}', told.text)
        assert [float(each) for each in bounds] == [*BUCKET_SECONDS, math.inf]
        assert all(re.fullmatch(r"\d+\.\d+|\+Inf", each) for each in bounds)
        assert buckets == sorted(buckets)
        assert buckets[-1] == values[f"scriven_{name}_count{{{labels}}}"] > 0
        assert values[f"scriven_{name}_sum{{{labels}}}"] > 0
    assert values['scriven_step{model="text"}'] == 3


def test_counters_are_prometheus_else(client: httpx.Client) -> None:
    told = client.get("/metrics")
    assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\n# TYPE scriven_answers_total counter\nscriven_answers_total{" in told.text
    assert "# EOF" not in told.text


def test_the_document_names_every_route_and_nothing_else() -> None:
    routes = {
        (route.path, method.lower())
        for route in make_app(MODELS).routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    told = {(path, method) for path, operations in document()["paths"].items() for method in operations}
    assert told == {(path, method) for path, method in routes if path not in page()}
    fields = document()["components"]["schemas"]["CompletionBody"]["properties"]
    assert fields["max_tokens"]["anyOf"][1] == {"type": "null"}


MESSAGE = {"role": "user", "content": "ab"}
ANSWERS: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/completions", "/v1/completions", {"model": "text", "prompt": "a€b", "save_state": True, "max_tokens": 3}),
    ("/v1/completions", "/v1/completions", {"model": "names", "prompt": "ab", "logprobs": 2, "echo": True}),
    ("/v1/completions", "/v1/completions", {"model": "text", "prompt": [MODELS["text"].vocabulary.ids], "logprobs": 0}),
    (
        "/v1/chat/completions",
        "/v1/chat/completions",
        {"model": "text", "messages": [{"role": "user", "content": "ab"}]},
    ),
    ("/tokenize", "/tokenize", {"model": "text", "prompt": "ab", "return_token_strs": True}),
    ("/detokenize", "/detokenize", {"model": "text", "tokens": [1]}),
    ("/score", "/score", {"model": "names", "text": "ab\nc", "save_state": True}),
    ("/score", "/score", {"model": "text", "text": ""}),
    ("/tokenizer_info", "/tokenizer_info?model=text", {}),
    ("/tokenizer_info", "/tokenizer_info?model=names", {}),
    ("/states", "/states", {"model": "text", "text": "ab"}),
    *((path, path.format(model="text", name="run"), {}) for path in GETS if path != "/tokenizer_info"),
]


@pytest.mark.parametrize(("told", "path", "body"), ANSWERS)
def test_answers_are_as_the_document_tells(told: str, path: str, body: dict[str, Any], runs: httpx.Client) -> None:
    answer = runs.post(path, json=body) if body else runs.get(path)
    assert answer.status_code == 200, answer.text
    operation = next(each for each in OPERATIONS if each.path == told and each.method == ("post" if body else "get"))
    assert operation.reply is not None
    operation.reply.model_validate_json(answer.text)


def test_events_refusals_and_ends_are_as_the_document_tells(client: httpx.Client) -> None:
    body = {"model": "text", "prompt": "ab", "max_tokens": 9, "stream": True, "logprobs": 1, "save_state": True}
    lines = client.post("/v1/completions", json=body).text.split("\n\n")
    for line in lines[:-2]:
        CompletionReply.model_validate_json(line.removeprefix("data: "))
    ErrorReply.model_validate_json(client.post("/v1/completions", json={"model": "other"}).text)
    state = post(client, "/states", model="text", text="ab")["state"]
    DeletedReply.model_validate_json(client.delete(f"/states/{state}").text)


def test_every_answer_in_json_is_held_against_its_schema() -> None:
    held = {told for told, _, _ in ANSWERS} | {
        "/states/{handle}",
        "/trainings/{name}",  # in test_server_trainings.py
        "/novelty",  # in test_server_novelty.py, as is a text's `copied`
    }
    assert held == {each.path for each in OPERATIONS if each.reply is not None}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/docs", 404), ("POST", "/v1/chat", 404), ("GET", "/v1/completions", 405)],
)
def test_what_is_not_there_has_a_way_out(client: httpx.Client, method: str, path: str, status: int) -> None:
    refused = client.request(method, path)
    assert refused.status_code == status
    message = refused.json()["error"]["message"]
    assert "POST /v1/completions" in message and "/openapi.json" in message
    assert "allows POST" in message if status == 405 else repr(path) in message

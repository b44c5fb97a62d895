"""What a server tells is JSON that any client reads: no NaN, no Infinity, no half characters, whatever the model."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import scriven.server
from live_server import serving
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.server import scoring
from scriven.server.app import OPEN, STREAMED, make_app
from scriven.server.responses import json_text
from scriven.server.security import Guard, policy
from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary
from served_models import LETTERS
from small_model import predictor_of

HUGE = 3e38
SETTINGS: Settings = validate({"model": {"width": 8}})
HALVES, BYTES = Vocabulary.of("\n ab\ud83d\udcff\udce2"), Vocabulary.of_bytes()  # of texts with `corpus.invalid bytes`
STRAY = "a\udcffb\udce2\ud800"  # in which the last one is known to nobody
NATIVE = native_library.level() != "off"
OVERFLOWING = ["all", "later", *(["head"] if NATIVE else [])]
LINES = {"accept": "application/x-ndjson"}


def overflowing(only: str, writing: str | None) -> Model:
    """A model whose weights, those of one array alone where it is named, are finite and too large."""
    made = predictor_of(Vocabulary.of(LETTERS))
    with torch.no_grad():
        for name, weights in made.model.named_parameters():
            if only in name:
                weights.copy_(weights.sign() * HUGE)
    return Model(Predictor(made.model, made.vocabulary, "fp32", 0, writing), SETTINGS)


def overflowing_later() -> Model:
    """A model that computes well until it reads a `c`, as one may whose weights are too large for that one alone."""
    model = overflowing("none", None)
    with torch.no_grad():
        model.predictor.model.get_parameter("embedding.weight")[model.encode("c")[0]] = float("nan")
    return model


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("run")
    losses = [f'{{"event":"stepped","step":{n},"loss":{{"nats":{v},"characters":1}}}}' for n, v in enumerate(VALUES)]
    (run / "metrics.jsonl").write_text("\n".join([*losses, ""]))
    (run / "samples.jsonl").write_text('{"step":1,"prompt":"\\udcff","text":"a\\ud800b","temperature":0.8}\n' * 2)
    models = {"halves": Model(predictor_of(HALVES), SETTINGS), "bytes": Model(predictor_of(BYTES), SETTINGS)}
    models |= {"all": overflowing("", None), "later": overflowing_later()}
    if NATIVE:
        models["head"] = overflowing("head.weight", "int8")
    app = Guard(make_app(models, runs={"run": run}), policy("127.0.0.1", open_paths=OPEN, streamed=STREAMED))
    with serving(app) as place, httpx.Client(base_url=place.url, timeout=20) as client:
        yield client


VALUES = ("1.5", "NaN", "Infinity", "1e999", "-1e999", "3e299", "3e299")


def strictly(text: str) -> Any:
    """The value of JSON, which has no number that is not finite and no half character."""

    def wrong(name: str) -> Any:
        raise AssertionError(f"{name} in {text[:200]}")

    value = json.loads(text, parse_constant=wrong)
    json.dumps(value, ensure_ascii=False).encode()  # raises where there is a half character
    return value


@pytest.mark.parametrize("model", OVERFLOWING)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "abc", "max_tokens": 5}),
        ("/v1/completions", {"prompt": "abc", "max_tokens": 0, "echo": True, "logprobs": 3}),
        ("/v1/completions", {"prompt": "abc", "max_tokens": 5, "logprobs": 2, "n": 2}),
        ("/v1/completions", {"prompt": ["abc", "c"], "max_tokens": 5, "stream": True, "logprobs": 2}),
        ("/v1/completions", {"prompt": "abc", "max_tokens": 5, "save_state": True}),
        ("/score", {"text": "abc"}),
        ("/states", {"text": "abc"}),
    ],
)
def test_a_model_that_overflows_is_told_of_in_a_sentence(
    client: httpx.Client, model: str, path: str, body: dict[str, Any]
) -> None:
    told = client.post(path, json={"model": model, **body})
    events = told.text.removeprefix("data: ").split("\n\ndata: ") if body.get("stream") else [told.text]
    error = strictly(events[-1])["error"]
    assert [strictly(each) for each in events]
    assert (error["code"], error["type"]) == ("model_overflows", "server_error")
    assert "overflow" in error["message"] and "another checkpoint" in error["message"]
    assert told.status_code == (200 if body.get("stream") else 500)


def test_lines_of_scores_end_with_the_sentence(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PIECE_SIZE", 64)
    told = client.post("/score", json={"model": "later", "text": "ab" * 32 + "c" * 9}, headers=LINES)
    assert told.status_code == 200
    *lines, last = map(strictly, told.text.splitlines())
    assert lines and last["error"]["code"] == "model_overflows"


def test_other_requests_to_the_same_model_go_on(client: httpx.Client) -> None:
    body = {"model": "later", "prompt": ["a", "b"], "max_tokens": 0, "echo": True, "logprobs": 1}
    with client.stream("POST", "/v1/completions", json={"model": "later", "prompt": "c", "stream": True}) as refused:
        assert client.post("/v1/completions", json=body).status_code == 200
        assert "model_overflows" in refused.read().decode()
    assert client.get("/metrics").text.count('scriven_rows{model="later"} 0\n') == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/all",
        "/tokenizer_info?model=all",
        "/runs",
        "/runs/run/metrics",
        "/runs/run/samples",
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/runs/none/metrics",
        "/states",
    ],
)
def test_every_other_answer_is_json(client: httpx.Client, path: str) -> None:
    assert strictly(client.get(path).text)


def test_what_is_followed_is_json(client: httpx.Client) -> None:
    with client.stream("GET", "/runs/run/events") as answer:
        first = next(line for line in answer.iter_lines() if line)
    assert len(strictly(first.removeprefix("data: "))["steps"]) == 3


def test_counters_are_finite(client: httpx.Client) -> None:
    values = [line.rpartition(" ")[2] for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    assert all(abs(float(value)) < float("inf") for value in values)


def ask(client: httpx.Client, path: str, **body: Any) -> httpx.Response:
    """A request in ASCII."""
    return client.post(path, content=json.dumps(body))


@pytest.mark.parametrize("model", ["halves", "bytes"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"max_tokens": 0, "echo": True, "logprobs": 4}),
        ("/v1/completions", {"max_tokens": 60, "echo": True, "logprobs": 4, "seed": 1, "stop": ["\udcff\udcff"]}),
        ("/v1/completions", {"max_tokens": 60, "echo": True, "logprobs": 4, "seed": 1, "stream": True}),
        ("/tokenize", {"return_token_strs": True}),
        ("/score", {"text": STRAY, "prompt": None}),
        ("/states", {"text": STRAY, "prompt": None}),
        ("/v1/completions", {"logit_bias": {STRAY: 1}}),
        ("/v1/completions", {STRAY: 1}),
        ("/v1/completions", {"model": STRAY}),
    ],
)
def test_bytes_that_are_no_text_are_no_half_characters(
    client: httpx.Client, model: str, path: str, body: dict[str, Any]
) -> None:
    """They come in as JSON can have them, escaped, and go out as U+FFFD, or as tokens that are called bytes."""
    given = {"model": model, "prompt": STRAY, **body}
    told = ask(client, path, **{name: value for name, value in given.items() if value is not None})
    events = told.text.removeprefix("data: ").split("\n\ndata: ") if body.get("stream") else [told.text]
    for event in events:
        assert event.startswith("[DONE]") or strictly(event)


def test_halves_are_called_by_their_bytes(client: httpx.Client) -> None:
    body = {"model": "halves", "prompt": STRAY, "max_tokens": 0, "echo": True, "logprobs": 2}
    told = ask(client, "/v1/completions", **body).json()
    names = ["a", r"bytes:\xff", "b", r"bytes:\xe2", r"bytes:\xed\xa0\x80"]
    assert told["choices"][0]["text"] == "a�b��"
    assert told["choices"][0]["logprobs"]["tokens"] == names
    assert told["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]
    assert told["unknown_characters"] == names[-1:]
    asked = {"model": "halves", "prompt": STRAY, "return_token_strs": True}
    tokens = ask(client, "/tokenize", **asked).json()
    assert tokens["token_strs"] == names
    given = {"model": "halves", "tokens": tokens["tokens"]}
    assert client.post("/detokenize", json=given).json() == {"prompt": "a�b��"}


def test_half_characters_are_shown_as_what_is_no_character() -> None:
    text = 'a\udcff"\\ud800\\\ud83d \ud800\U0001f600\\'
    told = json_text({text: [text, 1.5]})
    shown = text.replace("\udcff", "�").replace("\ud83d", "�").replace("\ud800", "�")
    assert (told.isascii(), strictly(told)) == (True, {shown: [shown, 1.5]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text([float("nan")])


def test_there_is_one_way_to_json() -> None:
    """So that nobody forgets to forbid NaN."""
    found = []
    for path in Path(*scriven.server.__path__).glob("*.py"):
        calls = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)]
        found += [path.name for each in calls if ast.unparse(each.func) in {"json.dumps", "json.dump", "JSONResponse"}]
    assert found == []  # answers.py writes by strictjson

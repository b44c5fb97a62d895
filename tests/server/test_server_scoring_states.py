"""A long text can be scored in pieces, each after the state of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from live_server import serving
from scriven.server.limits import LIMITS
from served_models import guarded_app, names_model, text_model

TEXT = "a bad cab, a dab\nbad ace\n" * 40


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        serving(guarded_app({"text": text_model(), "names": names_model()})) as place,
        httpx.Client(base_url=place.url) as client,
    ):
        yield client


def score(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/score", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize("cuts", [[1], [17], [300, 301], [0, 999]])
@pytest.mark.parametrize("model", ["text", "names"])
def test_pieces_cost_what_the_whole_costs(client: httpx.Client, model: str, cuts: list[int]) -> None:
    whole = score(client, model=model, text=TEXT)
    state, parts, ends = "", [], 0
    for begin, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True):
        told = score(client, model=model, text=TEXT[begin:end], state=state, save_state=True)
        state = told["state"]
        parts += told["surprisal"]
        ends += told["ends"]
    assert np.allclose(parts, whole["surprisal"], atol=1e-4)
    assert ends == whole["ends"]


def test_a_byte_order_mark_is_no_part_of_a_text_or_of_a_body(client: httpx.Client) -> None:
    plain = score(client, model="text", text="a bad cab")
    marked = score(client, model="text", text="\ufeffa bad cab")
    assert marked["surprisal"] == plain["surprisal"]
    headers = {"content-type": "text/plain"}
    sent = client.post("/score?model=text", content="a bad cab".encode("utf-8-sig"), headers=headers).json()
    assert sent["surprisal"] == plain["surprisal"]


def test_a_text_that_does_not_go_on_keeps_no_state(client: httpx.Client) -> None:
    assert "state" not in score(client, model="text", text="a")


def test_scoring_with_completions_keeps_no_state() -> None:
    """As lm-eval scores: many more texts than states are kept, of which one was kept on purpose."""
    limits = replace(LIMITS, states=2)
    with (
        serving(guarded_app({"text": text_model()}, limits), limits) as place,
        httpx.Client(base_url=place.url) as client,
    ):
        kept = client.post("/states", json={"text": "a bad "}).json()["state"]
        for max_tokens in (0, 1):
            body = {"prompt": ["a"] * 99, "max_tokens": max_tokens, "echo": True, "logprobs": 1}
            told = client.post("/v1/completions", json=body).json()
            assert not any("state" in choice for choice in told["choices"])
        assert "scriven_states 1\n" in client.get("/metrics").text
        assert score(client, text="cab", state=kept)["characters"] == 3
        body = {"prompt": ["a"], "max_tokens": 0, "save_state": True}
        asked_for = client.post("/v1/completions", json=body).json()["choices"][0]["state"]
        assert score(client, text="cab", state=asked_for)["nats"] == score(client, text="cab", state=asked_for)["nats"]


def test_lines_end_with_the_state(client: httpx.Client) -> None:
    body = {"model": "text", "text": TEXT, "save_state": True}
    answer = client.post("/score", json=body, headers={"accept": "application/x-ndjson"})
    assert '"state":' in answer.text.splitlines()[-1]


def test_an_unknown_state_is_refused(client: httpx.Client) -> None:
    assert client.post("/score", json={"model": "text", "text": "a", "state": "other"}).status_code == 404


def test_states_are_of_their_model(client: httpx.Client) -> None:
    state = score(client, model="text", text="a", save_state=True)["state"]
    assert client.post("/score", json={"model": "names", "text": "a", "state": state}).status_code == 404

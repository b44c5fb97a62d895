"""States that learn while they read: own labels, the same numbers as in Python, bounded in number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from live_server import serving
from scriven.server.requests import LIMITS
from served_models import guarded_app, names_model, text_model

TEXT = "a bad cab, a dab\nbad ace\n" * 12
LIMIT = 3


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    limits = replace(LIMITS, adaptive_states=LIMIT)
    with (
        serving(guarded_app({"text": text_model(), "names": names_model()}, limits), limits) as place,
        httpx.Client(base_url=place.url) as client,
    ):
        yield client


def post(client: httpx.Client, path: str, code: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json={"model": "text", **body})
    assert answer.status_code == code, answer.text
    found: dict[str, Any] = answer.json()
    return found if code == 200 else found["error"]


def forget(client: httpx.Client, *states: str) -> None:
    for state in states:
        assert client.delete(f"/states/{state}").status_code == 200


def test_a_score_that_learns_says_so(client: httpx.Client) -> None:
    adaptive, static = post(client, "/score", text=TEXT, adapt=True), post(client, "/score", text=TEXT)
    assert adaptive["protocol"] == "adaptive"
    assert "protocol" not in static
    expected = text_model().score(TEXT, adapt=True)
    assert adaptive["nats"] == expected.nats != static["nats"]
    plain = client.post("/score?model=text&adapt=true", content=TEXT, headers={"content-type": "text/plain"}).json()
    assert (plain["nats"], plain["protocol"]) == (adaptive["nats"], "adaptive")


@pytest.mark.parametrize("cut", [1, 40, 64, 299])
def test_pieces_cost_what_the_whole_costs(client: httpx.Client, cut: int) -> None:
    whole = post(client, "/score", text=TEXT, adapt=True)
    first = post(client, "/score", text=TEXT[:cut], adapt=True, save_state=True)
    second = post(client, "/score", text=TEXT[cut:], state=first["state"])
    assert second["protocol"] == "adaptive"
    assert first["surprisal"] + second["surprisal"] == whole["surprisal"]
    state = post(client, "/states", text=TEXT[:cut], adapt=True)["state"]
    assert post(client, "/score", text=TEXT[cut:], state=state)["surprisal"] == second["surprisal"]
    forget(client, first["state"], state)


def test_a_completion_is_written_with_what_was_learned(client: httpx.Client) -> None:
    model = text_model()
    session = model.session(adapt=True, seed=5)
    session.read(TEXT)
    state = post(client, "/states", text=TEXT, adapt=True)["state"]
    body = {"state": state, "seed": 5, "max_tokens": 50, "temperature": 0.8}
    choice = post(client, "/v1/completions", **body, save_state=True)["choices"][0]
    assert choice["text"] == "".join(session.write(50))
    score = post(client, "/score", text="a bad cab", state=choice["state"])
    assert np.allclose(score["surprisal"], session.score("a bad cab").surprisals, atol=1e-4)
    streamed = client.post("/v1/completions", json={"model": "text", **body, "stream": True}).text
    assert "[DONE]" in streamed
    forget(client, state, choice["state"])


def test_documents_learn_too(client: httpx.Client) -> None:
    text = "ab\nca\n" * 30
    score = post(client, "/score", model="names", text=text, adapt=True)
    assert score["ends"] == 60
    assert score["nats"] == pytest.approx(names_model().score(text, adapt=True).nats)


def test_more_states_are_refused(client: httpx.Client) -> None:
    states = [post(client, "/states", text="a", adapt=True)["state"] for _ in range(LIMIT)]
    for path in ("/states", "/score"):
        refused = post(client, path, 429, text="a", adapt=True, **({"save_state": True} if path == "/score" else {}))
        assert refused["code"] == "too_many_states"
        assert f"{LIMIT} saved states have weights of their own" in refused["message"]
    assert post(client, "/score", text="a", adapt=True)["characters"] == 1  # saves none
    assert post(client, "/states", text="a")["state"]
    forget(client, states[0])
    states[0] = post(client, "/states", text="a", adapt=True)["state"]
    forget(client, *states)


def test_what_cannot_be_meant_is_refused(client: httpx.Client) -> None:
    static = post(client, "/states", text="a")["state"]
    assert "did not learn" in post(client, "/score", 400, text="a", state=static, adapt=True)["message"]
    assert "adapt" in post(client, "/score", 400, text="a", adapt="yes")["message"]
    plain = client.post("/score?model=text&adapt=yes", content="a", headers={"content-type": "text/plain"})
    assert plain.status_code == 400
    assert "give true or false" in plain.json()["error"]["message"]


def counted(client: httpx.Client, name: str) -> int:
    """A counter of the model of a text."""
    lines = client.get("/metrics").text.splitlines()
    return int(
        float(next(line for line in lines if line.startswith(f'scriven_{name}_total{{model="text"}}')).split()[1])
    )


def test_metrics_count_what_is_read_and_written(client: httpx.Client) -> None:
    read, written = counted(client, "read"), counted(client, "written")
    state = post(client, "/states", text=TEXT, adapt=True)["state"]
    post(client, "/score", text=TEXT[:50], state=state)
    assert counted(client, "read") - read == len(TEXT) + 50
    for _ in range(2):  # engines of their own, of which the first has stopped when the second begins
        post(client, "/v1/completions", state=state, prompt="a bad", max_tokens=40)
    assert counted(client, "read") - read == len(TEXT) + 50 + 2 * len("a bad")
    assert counted(client, "written") - written == 80
    forget(client, state)

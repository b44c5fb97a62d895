"""States that learn while they read: own labels, the same numbers as in Python, bounded in number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from live_server import serving
from scriven.errors import InputError
from scriven.inference.chunks import StoredText
from scriven.kernels import native_library
from scriven.server.limits import LIMITS
from scriven.server.security import Guard
from scriven.trained_model import Model
from served_models import guarded_app, mixed_model, names_model, text_model

TEXT = "a bad cab, a dab\nbad ace\n" * 12
LIMIT = 3


MODELS = ["text", "mixed"] if native_library.library() else ["text"]
needs_counts = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    models = {"text": text_model(), "names": names_model()}
    return models | ({"mixed": mixed_model()} if "mixed" in MODELS else {})


@pytest.fixture(scope="module")
def app(models: dict[str, Model]) -> Guard:
    return guarded_app(models, replace(LIMITS, adaptive_states=LIMIT))


@pytest.fixture(scope="module")
def client(app: Guard) -> Iterator[httpx.Client]:
    with serving(app, replace(LIMITS, adaptive_states=LIMIT)) as place, httpx.Client(base_url=place.url) as client:
        yield client


def post(client: httpx.Client, path: str, code: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json={"model": "text", **body})
    assert answer.status_code == code, answer.text
    found: dict[str, Any] = answer.json()
    return found if code == 200 else found["error"]


def forget(client: httpx.Client, *states: str) -> None:
    for state in states:
        assert client.delete(f"/states/{state}").status_code == 200


@pytest.mark.parametrize("name", MODELS)
def test_a_score_that_learns_says_so(name: str, client: httpx.Client, models: dict[str, Model]) -> None:
    adaptive, static = (post(client, "/score", text=TEXT, adapt=adapt, model=name) for adapt in (True, False))
    assert adaptive["protocol"] == "adaptive"
    assert "protocol" not in static
    expected = models[name].score(TEXT, adapt=True)
    assert adaptive["nats"] == pytest.approx(expected.nats, rel=1e-12)  # the server adds them up in other pieces
    assert adaptive["nats"] != static["nats"]
    headers = {"content-type": "text/plain"}
    plain = client.post(f"/score?model={name}&adapt=true", content=TEXT, headers=headers).json()
    assert (plain["nats"], plain["protocol"]) == (adaptive["nats"], "adaptive")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cut", [1, 40, 64, 299])
def test_pieces_cost_what_the_whole_costs(name: str, cut: int, client: httpx.Client) -> None:
    whole = post(client, "/score", text=TEXT, adapt=True, model=name)
    first = post(client, "/score", text=TEXT[:cut], adapt=True, save_state=True, model=name)
    second = post(client, "/score", text=TEXT[cut:], state=first["state"], model=name)
    assert second["protocol"] == "adaptive"
    assert first["surprisal"] + second["surprisal"] == whole["surprisal"]
    state = post(client, "/states", text=TEXT[:cut], adapt=True, model=name)["state"]
    assert post(client, "/score", text=TEXT[cut:], state=state, model=name)["surprisal"] == second["surprisal"]
    forget(client, first["state"], state)


@pytest.mark.parametrize("name", MODELS)
def test_a_completion_is_written_with_what_was_learned(
    name: str, client: httpx.Client, models: dict[str, Model]
) -> None:
    session = models[name].session(adapt=True, seed=5)
    session.read(TEXT)
    state = post(client, "/states", text=TEXT, adapt=True, model=name)["state"]
    body = {"model": name, "state": state, "seed": 5, "max_tokens": 50, "temperature": 0.8}
    choice = post(client, "/v1/completions", **body, save_state=True)["choices"][0]
    assert choice["text"] == "".join(session.write(50))
    scores = [post(client, "/score", text="a bad cab", state=choice["state"], model=name) for _ in range(2)]
    expected = session.score("a bad cab").surprisals
    assert scores[0]["surprisal"] == scores[1]["surprisal"] == expected.round(5).tolist()
    streamed = client.post("/v1/completions", json={**body, "stream": True}).text
    assert "[DONE]" in streamed
    forget(client, state, choice["state"])


@needs_counts
def test_only_states_used_last_hold_counts(app: Guard, client: httpx.Client) -> None:
    states = [post(client, "/states", text=TEXT[:count], adapt=True, model="mixed")["state"] for count in (30, 40, 50)]

    assert isinstance(app.app, Starlette)
    saved = app.app.state.server.states._states

    def _hold() -> list[bool]:
        return [saved[each].context.partners.copy() is not None for each in states]

    assert _hold() == [False, True, True]
    for _ in range(2):  # it is read again
        score = post(client, "/score", text=TEXT[30:], state=states[0], model="mixed")
        assert score["surprisal"] == post(client, "/score", text=TEXT, adapt=True, model="mixed")["surprisal"][30:]
        assert _hold() == [True, False, True]
    forget(client, *states)


@needs_counts
def test_a_model_whose_training_text_is_gone_says_so() -> None:
    def missing() -> StoredText:
        raise InputError("/secret/corpus is gone")

    model = mixed_model()
    model.predictor.training_text = missing
    with serving(guarded_app({"text": model})) as place, httpx.Client(base_url=place.url) as client:
        for path in ("/score", "/states"):
            refused = post(client, path, 400, text="a", adapt=True)
            assert "served with --counts none, the network alone can learn" in refused["message"]
            assert "secret" not in str(refused)
        assert post(client, "/score", text="a")["characters"] == 1


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

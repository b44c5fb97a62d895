"""A server that has no model yet: it lists none, and says how to get one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from scriven.server.app import make_app
from scriven.server.replies import ModelListReply
from scriven.server.shared import NO_MODEL


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(make_app({})) as client:
        yield client


def test_it_is_ready_and_lists_no_model(client: TestClient) -> None:
    assert ModelListReply.model_validate_json(client.get("/v1/models").text).data == []
    assert client.get("/runs").json() == []
    assert [client.get(path).status_code for path in ("/health/ready", "/metrics", "/openapi.json", "/")] == [200] * 4


@pytest.mark.parametrize("name", ["", "novel"])
def test_what_needs_a_model_is_a_404_that_says_how_to_get_one(client: TestClient, name: str) -> None:
    query = {"model": name}
    answers = [
        client.post("/v1/completions", json={**query, "prompt": "It"}),
        client.post("/v1/completions", json={**query, "prompt": "It", "stream": True}),
        client.post("/score", json={**query, "text": "It"}),
        client.post("/score", params=query, content=b"It", headers={"content-type": "text/plain"}),
        client.post("/states", json={**query, "text": "It"}),
        client.post("/tokenize", json={**query, "prompt": "It"}),
        client.post("/detokenize", json={**query, "tokens": [1]}),
        client.get("/tokenizer_info", params=query),
        client.get(f"/v1/models/{name or 'novel'}"),
    ]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["message"]) == (404, "model_not_found", NO_MODEL)

"""Trainings that pages start: real processes of `scriven train` on tiny texts, asked for over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import Place, serving
from page_server import make_run
from scriven.runs import open_run
from scriven.server.app import OPEN, STREAMED, make_app
from scriven.server.limits import LIMITS
from scriven.server.renewal import ServedCheckpoint
from scriven.server.replies import TrainingReply
from scriven.server.security import Guard, policy
from scriven.server.trainings import TrainingPolicy, why_refused
from scriven.trained_model import load

TEXT = "It was a dark night, and the rain fell on the roof.\n" * 60
TOKEN = "a-token-of-24-characters"
SECONDS = 120.0  # after which a test that waits for a training has failed


def new(name: str = "night", **fields: Any) -> dict[str, Any]:
    return {"name": name, "text": TEXT, "minutes": 5} | fields


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A server of one run that lets people train, in a folder of its own."""
    with serving_trainings(tmp_path, monkeypatch) as place:
        yield place


def serving_trainings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = None, refusal: str = ""
) -> Any:
    monkeypatch.chdir(folder)
    run = make_run(folder / "runs" / "old")
    texts = folder / "texts"
    texts.mkdir()
    (texts / "story.txt").write_text(TEXT, "utf-8")
    (texts / ".secret").write_text(TEXT, "utf-8")
    (texts / "link.txt").symlink_to(folder / "runs" / "old.txt")
    trainings = TrainingPolicy(ServedCheckpoint, texts, refusal)
    app = make_app({"old": load(run)}, runs={"old": run}, trainings=trainings, report=lambda line: None)
    return serving(Guard(app, policy("127.0.0.1", token=token, open_paths=OPEN, streamed=STREAMED)))


def ask(method: str, url: str, **rest: Any) -> httpx.Response:
    return httpx.request(method, url, timeout=SECONDS, **rest)


def wait_for(what: Callable[[], Any]) -> Any:
    """What `what()` gives once it is true."""
    until = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)
    return found


def states(place: Place) -> dict[str, str]:
    return {each["name"]: each["state"] for each in ask("get", f"{place.url}/trainings").json()["trainings"]}


def steps(place: Place, name: str) -> int:
    return len(ask("get", f"{place.url}/runs/{name}/metrics").json()["steps"])


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- from start to end


def test_a_text_is_trained_on_stopped_and_gone_on_with(place: Place, tmp_path: Path) -> None:
    url = f"{place.url}/trainings"
    started = ask("post", url, json=new())
    assert TrainingReply.model_validate_json(started.text).state == "training"
    assert code_of(ask("post", url, json=new())) == (409, "already_training")
    assert code_of(ask("post", url, json=new("another"))) == (429, "queue_full")
    assert not (tmp_path / "runs" / "another.txt").exists()
    wait_for(lambda: steps(place, "night") > 2)
    assert TrainingReply.model_validate_json(ask("delete", f"{url}/night").text).state == "stopping"
    assert ask("delete", f"{url}/night").status_code in (200, 404)  # once more does no harm
    wait_for(lambda: states(place) == {"night": "ended"})
    saved = open_run(tmp_path / "runs" / "night").checkpoint("last").step
    assert saved > 2
    assert (tmp_path / "runs" / "night.txt").read_text("utf-8") == TEXT
    wait_for(lambda: "night" in [each["id"] for each in ask("get", f"{place.url}/v1/models").json()["data"]])
    written = ask("post", f"{place.url}/v1/completions", json={"model": "night", "prompt": "It", "max_tokens": 5})
    assert len(written.json()["choices"][0]["text"]) == 5
    resumed = ask("post", url, json={"name": "night", "resume": True, "minutes": 5})
    assert resumed.status_code == 200
    wait_for(lambda: steps(place, "night") > saved + 2)
    ask("delete", f"{url}/night")
    wait_for(lambda: states(place) == {"night": "ended"})
    assert open_run(tmp_path / "runs" / "night").checkpoint("last").step > saved
    assert code_of(ask("post", url, json=new())) == (409, "name_taken")


def test_the_end_of_the_server_saves_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_trainings(tmp_path, monkeypatch) as place:
        assert ask("post", f"{place.url}/trainings", json=new(text="", file="story.txt")).status_code == 200
        wait_for(lambda: steps(place, "night") > 2)
    assert open_run(tmp_path / "runs" / "night").checkpoint("last").step > 2
    last = (tmp_path / "runs" / "night" / "metrics.jsonl").read_text("utf-8").splitlines()[-1]
    assert json.loads(last)["reason"] == "interrupted"


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_server_leaves_no_orphan_and_loses_no_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "old")
    command = [sys.executable, "-m", "scriven", "serve", "old", "--port", "0"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        url = wait_for(lambda: re.search(r"http://\S+", server.stderr.readline()))[0]  # type: ignore[union-attr]
        assert ask("post", f"{url}/trainings", json=new()).status_code == 200
        wait_for(lambda: len(ask("get", f"{url}/runs/night/metrics").json()["steps"]) > 2)
    finally:
        server.send_signal(signal.SIGKILL)
        server.communicate()
    log = tmp_path / "runs" / "night" / "metrics.jsonl"
    wait_for(lambda: '"event":"finished"' in log.read_text("utf-8"))
    assert open_run(tmp_path / "runs" / "night").checkpoint("last").step > 2


def test_a_training_that_fails_says_why_and_frees_its_name(place: Place, tmp_path: Path) -> None:
    assert ask("post", f"{place.url}/trainings", json=new(text="a")).status_code == 200
    wait_for(lambda: states(place) == {"night": "failed"})
    error = ask("get", f"{place.url}/trainings").json()["trainings"][0]["error"]
    assert "character" in error
    assert str(tmp_path) not in error
    wait_for(lambda: "night" not in [each["name"] for each in ask("get", f"{place.url}/runs").json()])
    assert not (tmp_path / "runs" / "night.txt").exists()
    assert ask("post", f"{place.url}/trainings", json=new(text="b")).status_code == 200
    wait_for(lambda: states(place) == {"night": "failed"})


def test_the_reason_of_a_failure_names_no_folder(place: Place, tmp_path: Path) -> None:
    assert ask("post", f"{place.url}/trainings", json=new(text="\0" * 500)).status_code == 200
    wait_for(lambda: states(place) == {"night": "failed"})
    error = ask("get", f"{place.url}/trainings").json()["trainings"][0]["error"]
    assert error.startswith("night.txt")
    assert str(tmp_path) not in error


# --- refusals


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "missing_field")),
        (new("../old"), (400, "invalid_value")),
        (new(".."), (400, "invalid_value")),
        (new(""), (400, "invalid_value")),
        (new("x" * 61), (400, "invalid_value")),
        (new(minutes=0), (400, "invalid_value")),
        (new(minutes=-1), (400, "invalid_value")),
        (new(minutes=1e9), (400, "invalid_value")),
        (new(minutes="5"), (400, "invalid_value")),
        (new(documents="files"), (400, "invalid_value")),
        (new(settings={"model": {}}), (400, "unknown_field")),
        (new(text=""), (400, "invalid_value")),
        (new(file="story.txt"), (400, "invalid_value")),
        (new(resume=True), (400, "invalid_value")),
        (new(text="half \ud800"), (400, "invalid_value")),
        (new(text="", file="missing.txt"), (404, "not_found")),
        (new(text="", file="../runs/old.txt"), (404, "not_found")),
        (new(text="", file=".secret"), (404, "not_found")),
        (new(text="", file="link.txt"), (404, "not_found")),
        (new("old"), (409, "name_taken")),
        ({"name": "missing", "resume": True, "minutes": 1}, (404, "not_found")),
    ],
)
def test_what_cannot_be_trained_is_refused(place: Place, body: dict[str, Any], expected: tuple[int, str]) -> None:
    answer = ask("post", f"{place.url}/trainings", content=json.dumps(body))
    assert code_of(answer) == expected
    assert states(place) == {}


def test_a_text_that_is_too_large_is_refused(place: Place, tmp_path: Path) -> None:
    answer = ask("post", f"{place.url}/trainings", json=new(text="a" * LIMITS.body_bytes))
    assert code_of(answer) == (413, "body_too_large")
    assert not (tmp_path / "runs" / "night.txt").exists()


def test_nothing_that_is_there_is_replaced(place: Place, tmp_path: Path) -> None:
    (tmp_path / "runs" / "night.txt").write_text("mine")
    assert code_of(ask("post", f"{place.url}/trainings", json=new())) == (409, "name_taken")
    assert (tmp_path / "runs" / "night.txt").read_text() == "mine"
    mine = tmp_path / "runs" / "notes"
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    assert ask("post", f"{place.url}/trainings", json=new("notes")).status_code == 200
    wait_for(lambda: states(place) == {"notes": "failed"})
    assert (mine / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["old", "missing", "..%2Fold"])
def test_what_does_not_run_cannot_be_stopped(place: Place, name: str) -> None:
    assert ask("delete", f"{place.url}/trainings/{name}").status_code == 404


def test_other_sites_and_strangers_can_start_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_trainings(tmp_path, monkeypatch, TOKEN) as place:
        url = f"{place.url}/trainings"
        assert code_of(ask("post", url, json=new())) == (401, "invalid_api_key")
        assert code_of(ask("get", url)) == (401, "invalid_api_key")
        assert code_of(ask("delete", f"{url}/old")) == (401, "invalid_api_key")
        key = {"Authorization": f"Bearer {TOKEN}"}
        elsewhere = key | {"Origin": "http://evil.example"}
        assert code_of(ask("post", url, json=new(), headers=elsewhere)) == (403, "origin_not_allowed")
        listed = ask("get", url, headers=key).json()
        assert listed == {"refusal": "", "texts": ["story.txt"], "trainings": []}


def test_an_owner_can_forbid_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_trainings(tmp_path, monkeypatch, refusal="not here") as place:
        assert code_of(ask("post", f"{place.url}/trainings", json=new())) == (403, "training_not_allowed")
        listed = ask("get", f"{place.url}/trainings").json()
        assert listed == {"refusal": "not here", "texts": [], "trainings": []}


@pytest.mark.parametrize(
    ("host", "token", "others", "allowed"),
    [
        ("127.0.0.1", None, [], True),
        ("::1", None, [], True),
        ("127.0.0.1", None, ["models.example.org"], False),  # a proxy passes requests of other machines on
        ("127.0.0.1", TOKEN, ["models.example.org"], True),
        ("0.0.0.0", TOKEN, [], True),
        ("0.0.0.0", None, [], False),
    ],
)
def test_beyond_this_machine_a_training_needs_the_token(
    host: str, token: str | None, others: list[str], allowed: bool
) -> None:
    assert bool(why_refused(host, token, others)) is not allowed

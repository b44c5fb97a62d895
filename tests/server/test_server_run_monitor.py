"""A run's files are followed as they grow; what they tell is thinned, and never a mean of means."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from fake_run import make_evaluated, make_finished, make_sampled, make_started, make_stepped, training
from scriven.errors import InputError
from scriven.events import Event
from scriven.report.files import FilesReport
from scriven.server import run_monitor
from scriven.server.limits import Limits
from scriven.server.responses import ApiError
from scriven.server.run_monitor import MOST_STEPS, QUIET_SECONDS, RunHistory, thin_out


@pytest.fixture
def report() -> Iterable[FilesReport]:
    made = FilesReport()
    yield made
    made.close()


def say(report: FilesReport, *events: Event) -> None:
    for event in events:
        report.handle(event)


def steps(news: dict[str, Any] | None) -> list[int]:
    return [each["step"] for each in news["steps"]] if news else []


def test_the_first_news_are_the_whole_story(tmp_path: Path, report: FilesReport) -> None:
    say(report, *training(tmp_path))
    news = RunHistory(tmp_path).changes()
    assert news is not None
    assert news["again"] and not news["training"]
    assert steps(news) == list(range(1, 101))
    assert [each["step"] for each in news["evaluations"]] == [20, 40, 60, 80, 100]
    assert [each["step"] for each in news["samples"]] == [20, 40, 60, 80, 100]
    assert news["samples"][0]["text"] == "It was a dark night.\n"
    assert news["facts"]["started"]["name"] == "lstm 2x192"
    assert news["facts"]["started"]["counts"] is False
    finished = news["facts"]["finished"]
    assert [finished[name] for name in ("step", "nats", "characters", "network_alone")] == [100, 1400.0, 1000, False]


def test_later_news_are_what_was_added(tmp_path: Path, report: FilesReport) -> None:
    say(report, make_started(tmp_path), make_stepped(1))
    story = RunHistory(tmp_path)
    assert steps(story.changes()) == [1]
    assert story.changes() is None
    say(report, make_stepped(2), make_evaluated(2), make_sampled(2))
    news = story.changes()
    assert news is not None
    assert (steps(news), news["again"], news["training"]) == ([2], False, True)
    assert len(news["evaluations"]) == len(news["samples"]) == 1
    say(report, make_finished(2))
    ended = story.changes()
    assert ended is not None
    assert not ended["training"]


def test_a_run_that_goes_back_is_told_again(tmp_path: Path, report: FilesReport) -> None:
    say(report, make_started(tmp_path), *map(make_stepped, range(1, 6)))
    story = RunHistory(tmp_path)
    assert steps(story.changes()) == [1, 2, 3, 4, 5]
    say(report, make_started(tmp_path, step=3), make_stepped(4))
    news = story.changes()
    assert news is not None
    assert news["again"]
    assert steps(news) == [1, 2, 3, 4]


def test_a_line_is_read_once_it_is_whole(tmp_path: Path, report: FilesReport) -> None:
    say(report, make_started(tmp_path), make_stepped(1))
    path = tmp_path / "metrics.jsonl"
    story = RunHistory(tmp_path)
    story.changes()
    line = json.dumps({"event": "stepped", "step": 2, "loss": {"nats": 3.0, "characters": 2}})
    with path.open("a") as file:
        file.write(line[:20])
        file.flush()
        assert story.changes() is None
        file.write(line[20:] + "\n")
    assert steps(story.changes()) == [2]


@pytest.mark.parametrize(
    "line",
    [
        b"[1]",
        b"{",
        b"\xff\xfe",
        b'{"event":"stepped"}',
        b'{"event":"stepped","step":"1"}',
        b'{"event":"stepped","step":2}',
        b'{"event":"stepped","step":2,"loss":7}',
        b'{"event":"stepped","step":2,"loss":{"nats":NaN,"characters":2}}',
        b'{"event":"stepped","step":2,"loss":{"nats":1,"characters":0}}',
        b'{"event":"evaluated","step":2,"loss":{"nats":"1","characters":2}}',
        b"[" * 100_000,
    ],
)
def test_lines_that_tell_nothing_are_left_out(tmp_path: Path, line: bytes, report: FilesReport) -> None:
    say(report, make_started(tmp_path), make_stepped(1))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    news = RunHistory(tmp_path).changes()
    assert news is not None
    assert steps(news) == [1]
    assert news["evaluations"] == []
    json.dumps(news, allow_nan=False)


@given(st.binary(max_size=400))
def test_any_bytes_are_told_as_json(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    for name in ("metrics.jsonl", "samples.jsonl"):
        (folder / name).write_bytes(data)
    json.dumps(RunHistory(folder).changes(), allow_nan=False)


def test_a_run_without_files_tells_nothing_yet(tmp_path: Path, report: FilesReport) -> None:
    story = RunHistory(tmp_path)
    news = story.changes()
    assert news is not None
    assert not news["steps"] and not news["training"]
    say(report, make_started(tmp_path), make_stepped(1))
    assert steps(story.changes()) == [1]


def test_a_run_that_wrote_nothing_for_long_is_not_in_training(tmp_path: Path, report: FilesReport) -> None:
    say(report, make_started(tmp_path), make_stepped(1))
    story = RunHistory(tmp_path)
    news = story.changes()
    assert news is not None
    assert news["training"]
    past = time.time() - QUIET_SECONDS - 1
    os.utime(tmp_path / "metrics.jsonl", (past, past))
    later = story.changes()
    assert later is not None
    assert not later["training"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="symbolic link"):
        RunHistory(tmp_path).changes()


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 100)), max_size=60), st.integers(1, 20))
def test_thinning_keeps_the_sums_and_the_last_step(losses: list[tuple[float, int]], points: int) -> None:
    told = [{"step": step, "nats": nats, "characters": count} for step, (nats, count) in enumerate(losses)]
    thin = thin_out(told, points)
    assert len(thin) <= points
    assert sum(each["characters"] for each in thin) == sum(each["characters"] for each in told)
    assert sum(each["nats"] for each in thin) == pytest.approx(sum(each["nats"] for each in told))
    assert [each["step"] for each in thin[-1:]] == [each["step"] for each in told[-1:]]


def test_long_runs_are_thinned(tmp_path: Path, report: FilesReport) -> None:
    say(report, *training(tmp_path, last=3 * MOST_STEPS, every=10**6))
    news = RunHistory(tmp_path).changes()
    assert news is not None
    assert len(news["steps"]) == MOST_STEPS


# --- over HTTP


async def _answer_error(request: Request, error: ApiError) -> Response:
    return Response(error.body, error.status, error.headers)


@pytest.fixture
def client(tmp_path: Path, report: FilesReport, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(run_monitor, "CHECK_SECONDS", 0.01)
    say(report, *training(tmp_path / "book"))
    runs = {"book": tmp_path / "book", "empty": tmp_path / "empty"}
    handlers: Any = {ApiError: _answer_error}
    limits = Limits(followers=1, follow_seconds=0.5)
    return TestClient(Starlette(routes=run_monitor.RunMonitor(runs, limits).routes(), exception_handlers=handlers))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in ("book", "empty"):
        (tmp_path / name).mkdir()


def test_runs_are_listed(client: TestClient) -> None:
    book = {"name": "book", "training": False, "steps": 100}
    assert client.get("/runs").json() == [book, {"name": "empty", "training": False, "steps": 0}]


def test_losses_and_samples_are_given(client: TestClient) -> None:
    told = client.get("/runs/book/metrics").json()
    assert len(told["steps"]) == 100
    assert told["steps"][0]["nats"] == 256.0
    assert len(client.get("/runs/book/samples").json()) == 5
    later = client.get("/runs/book/metrics", params={"after": 60}).json()
    assert [each["step"] for each in later["evaluations"]] == [80, 100]
    assert later["steps"][0]["step"] == 61


@pytest.mark.parametrize("path", ["/runs/other/metrics", "/runs/..%2fbook/samples", "/runs/other/events"])
def test_other_runs_cannot_be_asked_for(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_step_is_a_number(client: TestClient) -> None:
    answer = client.get("/runs/book/metrics", params={"after": "x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_what_cannot_be_read_is_refused(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "empty" / "samples.jsonl").mkdir()
    refused = client.get("/runs/empty/samples")
    assert refused.status_code == 404
    assert str(tmp_path) not in refused.text  # where it is on this machine is nobody's business
    assert "error" in json.loads(client.get("/runs/empty/events").text.removeprefix("data: "))
    assert len(client.get("/runs").json()) == 2


def test_news_come_as_events(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_monitor, "KEEP_ALIVE_SECONDS", 0.1)
    answer = client.get("/runs/book/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *rest = answer.text.split("\n\n")
    assert len(json.loads(first.removeprefix("data: "))["steps"]) == 100
    assert set(rest) == {":", ""}


def test_half_characters_are_told(client: TestClient, tmp_path: Path) -> None:
    """No bytes can stand for them; the answer was a mistake of the server."""
    sample = {"event": "sampled", "step": 1, "prompt": "", "text": "a\ud83d\udc80\udc80"}
    (tmp_path / "empty" / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    assert client.get("/runs/empty/samples").json()[0]["text"] == "a\U0001f480�"


async def ask(app: Starlette, method: str, over: asyncio.Event, statuses: list[int]) -> None:
    """Follow a run until it is over."""
    asked = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            statuses.append(message["status"])

    scope = {"type": "http", "method": method, "path": "/runs/book/events", "headers": [], "query_string": b""}
    await app(scope, receive, send)


def test_only_so_many_may_follow(client: TestClient) -> None:
    """Also where all of them come at once, and some only ask whether they could."""
    app = cast(Starlette, client.app)

    async def follow(*methods: str) -> list[int]:
        over, statuses = asyncio.Event(), list[int]()
        tasks = [asyncio.create_task(ask(app, method, over, statuses)) for method in methods]
        while len(statuses) < len(methods):
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.gather(*tasks)
        return sorted(statuses)

    assert asyncio.run(follow(*["GET"] * 5)) == [200, 429, 429, 429, 429]
    assert asyncio.run(follow("HEAD", "HEAD", "GET")) == [200, 200, 200]  # and the first one has let go

"""What a text copies, over HTTP: the same as on the command line and in Python, and nobody waits for an index."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from conftest import Command
from live_server import post_and_leave, serving
from page_server import TEXT, make_run
from scriven.errors import InputError
from scriven.inference.novelty import choose_stretches
from scriven.kernels.suffixes import SuffixTable
from scriven.runs.folder import open_run
from scriven.server import indexes
from scriven.server.app import make_app
from scriven.server.indexes import TrainingIndexes
from scriven.server.limits import LIMITS, Limits
from scriven.server.replies import CompletionReply, NoveltyReply
from scriven.server.responses import ApiError, LimitedCount
from scriven.trained_model import Model, load
from served_models import text_model

LETTERS = "".join(sorted({*TEXT}))  # of the training text, so that the model has its alphabet
ASKING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/novelty", {"text": "a"}),
    ("/v1/completions", {"copied": True}),
    ("/v1/completions", {"novel": 3}),
)
WRITTEN = "a tiny text.\nits new lines end\nexcept a tiny last 😀"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "text": make_run(folder / "text", letters=LETTERS),
        "lines": make_run(folder / "lines", documents="lines", letters=LETTERS.replace("\n", "")),
        "bytes": make_run(folder / "bytes", unit="byte"),
    }


@pytest.fixture(scope="module")
def models(runs: dict[str, Path]) -> dict[str, Model]:
    return {name: load(run, precision="fp32", device="cpu") for name, run in runs.items()}


def connect(models: dict[str, Model], limits: Limits = LIMITS, refusal: str = "") -> Iterator[httpx.Client]:
    app = make_app(models, limits, novelty_refusal=refusal)
    with serving(app, limits) as place, httpx.Client(base_url=place.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(models: dict[str, Model]) -> Iterator[httpx.Client]:
    yield from connect({**models, "alone": text_model()})


def ask(client: httpx.Client, path: str = "/novelty", **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refuse(client: httpx.Client, path: str = "/novelty", status: int = 400, **body: Any) -> str:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("name", ["text", "lines", "bytes"])
def test_a_text_copies_as_much_as_the_command_line_and_python_say(
    name: str, client: httpx.Client, models: dict[str, Model], runs: dict[str, Path], command: Command, tmp_path: Path
) -> None:
    (tmp_path / "written.txt").write_text(WRITTEN, "utf-8")
    done = command("novelty", str(runs[name]), str(tmp_path / "written.txt"), "--stretches", "3", "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    del printed["text"]
    found = ask(client, model=name, text=WRITTEN, stretches=3)
    NoveltyReply.model_validate(found)
    assert found.pop("model") == name
    del found["system_fingerprint"]
    assert models[name].novelty(WRITTEN, stretches=3).values() == printed
    for theirs, ours in zip(printed["stretches"], found["stretches"], strict=True):
        assert theirs["source"].endswith(ours["source"])
        assert "/" not in ours["source"]  # a folder of the server is nobody's business
        theirs["source"] = ours["source"]
    assert found == printed
    assert found["longest"] >= len("a tiny text.")


def test_a_byte_is_sent_as_half_a_character(client: httpx.Client) -> None:
    content = '{"model": "bytes", "text": "a tiny\\udcff"}'
    told = client.post("/novelty", content=content, headers={"content-type": "application/json"})
    assert (told.json()["characters"], told.json()["longest"]) == (7, 6)
    schema = client.get("/openapi.json").json()["components"]["schemas"]["NoveltyBody"]["properties"]["text"]
    assert schema["maxLength"] == LIMITS.novelty_characters


def test_each_written_text_says_what_it_copies(client: httpx.Client, models: dict[str, Model]) -> None:
    asked = {"model": "text", "prompt": "a tiny ", "max_tokens": 40, "seed": 3, "n": 2, "copied": True}
    texts = models["text"].samples(2, "a tiny ", length=40, seed=3, temperature=1.0)
    expected = [models["text"].novelty(text).values()["novel"] for text in texts]
    told = ask(client, "/v1/completions", **asked, echo=True)
    assert [choice["copied"]["novel"] for choice in told["choices"]] == expected  # without the prompt
    CompletionReply.model_validate(told)
    events = client.post("/v1/completions", json={**asked, "stream": True}).text.split("\n\n")
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in events if "index" in line]
    ends = {choice["index"]: choice["copied"]["novel"] for choice in choices if choice["finish_reason"]}
    assert [ends[0], ends[1]] == expected
    assert all(("copied" in choice) is bool(choice["finish_reason"]) for choice in choices)
    for search in ({"suffix": "its", "draws": 4}, {"beam": 2}):
        (choice,) = ask(client, "/v1/completions", **{**asked, "n": 1}, **search)["choices"]
        assert choice["copied"] == client_novelty(client, choice["text"])


def client_novelty(client: httpx.Client, text: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(client, model="text", text=text)
    return {name: found[name] for name in ("characters", "longest", "stretches", "novel")}


def test_what_is_beyond_a_bound_is_refused(client: httpx.Client) -> None:
    assert "at most 200000 characters" in refuse(client, model="text", text="a" * 200_001)
    assert "less than or equal to 20" in refuse(client, model="text", text="a", stretches=21)
    many: dict[str, Any] = {"model": "text", "copied": True, "n": 3, "max_tokens": 100_000}
    assert "copied: 300,000 characters; ask for at most 200,000" in refuse(client, "/v1/completions", **many)
    for path, body in (
        ("/novelty", {"text": "a"}),
        ("/v1/completions", {"copied": True}),
        ("/v1/completions", {"novel": 3}),
    ):
        said = refuse(client, path, model="alone", **body)
        assert "scriven novelty RUN FILE builds it on the server" in said


def test_an_owner_may_let_nobody_ask(models: dict[str, Model]) -> None:
    for client in connect({"text": models["text"]}, refusal="this server was started with --no-novelty"):
        for path, body in (
            ("/novelty", {"text": "a"}),
            ("/v1/completions", {"copied": True}),
            ("/v1/completions", {"novel": 3}),
        ):
            assert "started with --no-novelty" in refuse(client, path, 403, **body)
        ask(client, "/v1/completions", prompt="a", max_tokens=3)


def test_a_long_training_text_is_left_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "REFUSAL_SECONDS", 0.0)
    run = make_run(tmp_path / "run", letters=LETTERS, training_text=TEXT + "a text of its own list")
    for client in connect({"run": load(run)}, replace(LIMITS, index_characters=1000)):
        said = refuse(client, text="a tiny")
        assert "characters, more than 1,000; scriven novelty RUN FILE builds it" in said
        load(run).find_index()
        assert ask(client, text="a tiny")["longest"] == 6


def test_a_text_that_is_gone_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(make_run(tmp_path / "run", letters=LETTERS))

    def lack(**_: Any) -> None:
        raise InputError("/home/ann/secret.txt is missing")

    monkeypatch.setattr(model, "find_index", lack)
    for client in connect({"run": model}):
        assert "secret" not in refuse(client, text="a")


def slow_index(begun: threading.Event, go_on: threading.Event, model: Model) -> Callable[..., Any]:
    find = type(model).find_index

    def find_index(**options: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return find(model, **options)

    return find_index


def test_others_are_answered_while_an_index_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, begun, go_on = load(make_run(tmp_path / "run", letters=LETTERS)), threading.Event(), threading.Event()
    monkeypatch.setattr(model, "find_index", slow_index(begun, go_on, model))
    for client in connect({"run": model}):
        with ThreadPoolExecutor(3) as others:
            waiting = [others.submit(ask, client, text="a tiny") for _ in range(3)]
            assert begun.wait(30)
            assert len(ask(client, "/v1/completions", prompt="a", max_tokens=20)["choices"][0]["text"]) == 20
            assert ask(client, "/score", text="a tiny")["characters"] == 6
            assert not any(each.done() for each in waiting)
            go_on.set()
            assert [each.result()["longest"] for each in waiting] == [6, 6, 6]


def test_who_waits_for_an_index_takes_no_place_of_a_text_that_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, begun, go_on = load(make_run(tmp_path / "run", letters=LETTERS)), threading.Event(), threading.Event()
    limits = replace(LIMITS, index_waiters=LIMITS.scores)
    app, all_wait = make_app({"run": model}, limits), threading.Event()
    hold = LimitedCount.hold

    @contextlib.contextmanager
    def hold_waiting(count: LimitedCount) -> Iterator[None]:
        with hold(count):
            if count is app.state.server.indexes._waiting and count.now == limits.index_waiters:
                all_wait.set()
            yield

    monkeypatch.setattr(model, "find_index", slow_index(begun, go_on, model))
    monkeypatch.setattr(LimitedCount, "hold", hold_waiting)
    with (
        serving(app, limits) as place,
        httpx.Client(base_url=place.url, timeout=60) as client,
        ThreadPoolExecutor(limits.index_waiters) as others,
    ):
        waiting = [others.submit(ask, client, text="a tiny") for _ in range(limits.index_waiters)]
        try:
            assert all_wait.wait(30)
            assert ask(client, "/score", text="a tiny")["characters"] == 6
            assert len(ask(client, "/v1/completions", beam=2, max_tokens=3)["choices"]) == 1
            for path, body in ASKING:
                said = refuse(client, path, 429, **body)
                assert f"{limits.index_waiters} requests wait for the index of a training text already" in said
        finally:
            go_on.set()
        assert {each.result()["longest"] for each in waiting} == {6}


def test_a_corpus_that_is_gone_is_left_to_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "REFUSAL_SECONDS", 0.0)
    run = make_run(tmp_path / "run", letters=LETTERS)
    corpus = open_run(run).corpus_path
    assert isinstance(corpus, Path)
    (corpus / "corpus.json").unlink()
    for client in connect({"run": load(run)}):
        assert "scriven novelty RUN FILE builds it on the server, or says why not" in refuse(client, text="a tiny")
        assert not (corpus / "corpus.json").exists()


class Searched:
    """A model whose index is looked for in a list of answers, one for each time."""

    def __init__(self, text_hash: str, *answers: Any) -> None:
        self.text_hash, self.vocabulary = text_hash, text_model().vocabulary
        self.answers = [*answers]

    def find_index(self, **_: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read_ids(self, text: str) -> Any:
        return self.vocabulary.encode(text)


def test_a_refusal_holds_for_some_seconds() -> None:
    now = [100.0]
    found, answer = TrainingIndexes(LIMITS, clock=lambda: now[0]), SimpleNamespace(is_cut=False)
    model = Searched("", InputError("no corpus"), answer)

    async def find() -> Any:
        return await found.find(model, "text")

    for seconds in (0.0, 9.9):
        now[0] = 100 + seconds
        with pytest.raises(ApiError, match="none can be built"):
            asyncio.run(find())
    assert len(model.answers) == 1  # it was looked for once
    now[0] = 110.0
    assert asyncio.run(find()) is answer
    assert asyncio.run(find()) is answer and not model.answers


def test_checkpoints_of_one_text_share_its_index() -> None:
    found, first, second = TrainingIndexes(LIMITS), SimpleNamespace(is_cut=False), SimpleNamespace(is_cut=False)
    models = [Searched("a", first), Searched("a"), Searched("b", second), Searched("a"), Searched("", second)]
    shared = [asyncio.run(found.find(each, "text")) for each in models]
    assert shared == [first, first, second, first, second]
    first.is_cut = True  # a file of it, so that it is of no use any more
    models[0].answers.append(other := SimpleNamespace(is_cut=False))
    again: list[Any] = [asyncio.run(found.find(each, "text")) for each in models[:2]]
    assert again == [other, other] and again[0] is not first


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_an_index_that_is_damaged_while_it_is_served_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """The system ends a process that reads a mapped file where it was cut off."""
    monkeypatch.setattr("scriven.inference.novelty.KEPT_BYTES", kept)
    model = load(make_run(tmp_path / "run", letters=LETTERS, training_text=TEXT + "an index to damage"))
    index = model.find_index()
    assert index is not None
    for client in connect({"run": model}):
        before = ask(client, text=WRITTEN)
        for path in index.folder.iterdir():
            os.truncate(path, 3)
        assert ask(client, text=WRITTEN) == before
        shutil.rmtree(index.folder)
        assert ask(client, text=WRITTEN) == before


def test_a_wait_that_is_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, begun, go_on = load(make_run(tmp_path / "run", letters=LETTERS)), threading.Event(), threading.Event()
    monkeypatch.setattr(model, "find_index", slow_index(begun, go_on, model))
    for client in connect({"run": model}, replace(LIMITS, seconds=0.2)):
        assert "took longer" in refuse(client, status=503, text="a tiny")
        go_on.set()
        for _ in range(100):
            answer = client.post("/novelty", json={"text": "a tiny"})
            if answer.status_code == 200:
                break
            time.sleep(0.05)
        assert answer.json()["longest"] == 6


def test_stretches_that_are_chosen_do_not_overlap() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        lengths = random.integers(0, 9, 40)
        lengths = np.minimum(lengths, np.arange(40, 0, -1))
        chosen = choose_stretches(lengths, 5)
        expected: list[int] = []
        order = sorted(range(40), key=lambda place: (-int(lengths[place]), place))
        for place in order:
            length = int(lengths[place])
            whole = length > 0 and (not place or length >= lengths[place - 1])
            apart = all(place + length <= other or other + lengths[other] <= place for other in expected)
            if whole and apart and len(expected) < 5:
                expected.append(place)
        assert chosen == expected


class EndlessMatch:
    """Stands for the match of a text that takes for ever. It counts how many have begun, and how many were ended."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def __call__(self, _: object, check_stop: Callable[[], object]) -> Any:
        self.begun += 1
        try:
            while True:
                check_stop()
                time.sleep(0.005)
        finally:
            self.ended += 1


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> EndlessMatch:
    match = EndlessMatch()
    monkeypatch.setattr(SuffixTable, "match", lambda self, ids, check_stop: match(ids, check_stop))
    return match


COPYING = {"prompt": "a", "max_tokens": 3, "copied": True}


def test_a_text_is_looked_up_no_longer_than_a_request_may_take(
    models: dict[str, Model], endless: EndlessMatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app({"text": models["text"]})
    monkeypatch.setattr(app.state.server.indexes, "_clock", lambda: endless.begun * 2 * LIMITS.seconds)
    late = f"took longer than {LIMITS.seconds:g} s"  # whenever a search has begun
    with serving(app) as place, httpx.Client(base_url=place.url, timeout=60) as client:
        assert late in refuse(client, status=503, text="a tiny")
        assert late in refuse(client, "/v1/completions", 503, **COPYING)
        events = client.post("/v1/completions", json={**COPYING, "stream": True}).text
        assert late in events.split("\n\n")[-2]
    assert endless.begun == endless.ended == 3


def test_a_client_that_leaves_ends_the_search(models: dict[str, Model], endless: EndlessMatch) -> None:
    with serving(make_app({"text": models["text"]})) as place:
        post_and_leave(f"{place.url}/novelty", {"text": "a tiny"}, lambda: endless.begun == 1)
        wait_until(lambda: endless.begun == endless.ended == 1)


def test_a_server_that_stops_ends_all_searches(models: dict[str, Model], endless: EndlessMatch) -> None:
    app = make_app({"text": models["text"]})
    with serving(app) as place, httpx.Client(base_url=place.url, timeout=60) as client, ThreadPoolExecutor(3) as others:
        waiting = [others.submit(refuse, client, status=503, text="a tiny") for _ in range(2)]
        waiting.append(others.submit(refuse, client, "/v1/completions", 503, **COPYING))
        wait_until(lambda: app.state.server.indexes.measured.now == 3)
        app.state.end()
        assert {each.result() for each in waiting} == {"the server is stopping; try again later"}
        assert "stopping" in refuse(client, status=503, text="a tiny")
    assert endless.begun == endless.ended == 1  # others never began


def test_who_finds_too_many_others_is_refused(models: dict[str, Model], endless: EndlessMatch) -> None:
    limits = replace(LIMITS, novelties=2)
    app = make_app({"text": models["text"]}, limits)
    with (
        serving(app, limits) as at,
        httpx.Client(base_url=at.url, timeout=60) as client,
        ThreadPoolExecutor(2) as others,
    ):
        waiting = [others.submit(refuse, client, status=503, text="a tiny") for _ in range(2)]
        wait_until(lambda: app.state.server.indexes.measured.now == 2)
        for path, body in (("/novelty", {"text": "a"}), ("/v1/completions", COPYING)):
            assert "2 requests are looking for what is copied already" in refuse(client, path, 429, **body)
        app.state.end()
        assert all("stopping" in each.result() for each in waiting)

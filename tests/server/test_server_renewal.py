"""A server takes up newer checkpoints of the runs that it serves, between requests."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import scriven
from live_server import serving
from page_server import make_run
from scriven.errors import InputError
from scriven.runs import open_run
from scriven.runs.folder import Which
from scriven.server import renewal
from scriven.server.app import make_app
from scriven.server.engine import Engine
from scriven.server.limits import LIMITS
from scriven.server.renewal import ServedCheckpoint
from scriven.server.shared import ServedModel, ServerState, fingerprint
from scriven.trained_model import Model, load

SECONDS = 20
PROMPT = "a tiny "
AGAIN = "trying again"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "book")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "book"))


def save(run: Path, step: int, *, best: int, scale: float = -1.0) -> None:
    """Saves a checkpoint as a training that goes on does; its weights are the last ones times `scale`."""
    opened = open_run(run)
    weights = {name: scale * each for name, each in opened.checkpoint("last").weights().items()}
    manifest = {"step": step, "characters": 1, "validation": {"nats": 1.0, "characters": 1, "bytes": 1}}
    opened.save(weights, {}, manifest, best=best)


def open_scaled(run: Path) -> Model:
    save(run, 200, best=100)
    return load(run, which=200, device="cpu", precision="fp32")


class Client(httpx.Client):
    """A client, and what the server told on standard error."""

    said: list[str]
    fails = False  # whether what it is told cannot be written

    def tell(self, line: str) -> None:
        if self.fails:
            raise OSError("No space left on device")
        self.said.append(line)

    def model(self) -> dict[str, Any]:
        told: dict[str, Any] = self.get("/v1/models/book").json()
        return told

    def write(self, **more: Any) -> Any:
        return self.post("/v1/completions", json={"prompt": PROMPT, "seed": 1, "max_tokens": 30, **more}).json()


@contextmanager
def serve(run: Path, which: Which = "best") -> Iterator[Client]:
    source = ServedCheckpoint(run, which, "cpu", "fp32")
    with Client(timeout=SECONDS) as client:
        app = make_app({"book": source.open()}, sources={"book": source}, report=client.tell)
        with serving(app) as place:
            client.said, client.base_url = [], httpx.URL(place.url)
            yield client


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(renewal, "CHECK_SECONDS", 0.02)


def until(condition: Callable[[], object]) -> None:
    for _ in range(int(SECONDS / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def text_of(model: Model) -> str:
    return model.sample(PROMPT, length=30, seed=1, temperature=1.0)


def test_a_request_builds_no_corpus_that_is_gone(tmp_path: Path) -> None:
    """It could take any time, and reads the files that the run names."""
    (tmp_path / "book.txt").write_text("a tiny book of words\n" * 40)
    settings = {"model": {"width": 16, "layers": 1}, "training": {"workers": 1}}
    trained = scriven.train(tmp_path / "book.txt", steps=1, output=tmp_path / "run", settings=settings, reports=())
    corpus = Path(open_run(trained.path).corpus_path)
    opened = ServedCheckpoint(trained.path, device="cpu").open().predictor.training_text
    assert opened is not None
    assert opened().characters > 0
    shutil.rmtree(corpus)
    with pytest.raises(InputError, match=r"is missing.*--counts none"):
        opened()
    assert not corpus.exists()


def test_a_fingerprint_is_that_of_the_weights_and_of_how_they_are_used(run: Path) -> None:
    one = fingerprint(load(run, device="cpu", precision="fp32"))
    assert one == fingerprint(load(run, device="cpu", precision="fp32"))
    save(run, 200, best=200, scale=1.0)
    assert one == fingerprint(load(run, device="cpu", precision="fp32"))
    save(run, 300, best=300, scale=1.001)
    assert one != fingerprint(load(run, device="cpu", precision="fp32"))
    model = load(run, device="cpu", precision="fp32")
    before = fingerprint(model)
    model.predictor.precision = "bf16"
    assert before != fingerprint(model)


def test_a_newer_best_checkpoint_is_taken_up_and_told_of(run: Path) -> None:
    with serve(run) as client:
        before = client.model()
        assert (before["step"], client.write()["system_fingerprint"]) == (100, before["system_fingerprint"])
        save(run, 200, best=200)
        until(lambda: client.model()["step"] == 200)
        after, told = client.model(), client.write()
        assert after["system_fingerprint"] != before["system_fingerprint"]
        assert told["system_fingerprint"] == after["system_fingerprint"]
        assert told["choices"][0]["text"] == text_of(load(run, device="cpu", precision="fp32"))
        (line,) = client.said
        assert line == f"book: now serving step 200 ({after['system_fingerprint']}) instead of 100"
        save(run, 300, best=200)  # which is not the best: nothing changes
        time.sleep(0.2)
        assert (client.model(), client.said) == (after, [line])


def test_a_request_that_is_under_way_keeps_its_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(run, device="cpu", precision="fp32").sample(PROMPT, length=900, seed=1, temperature=1.0)
    body = {"prompt": PROMPT, "seed": 1, "max_tokens": 900, "stream": True, "save_state": True, "logprobs": 0}
    is_taken_up, decode = threading.Event(), Engine._decode

    def _decode(self: Engine) -> None:
        if self.written:  # the first of many blocks is told of before that
            is_taken_up.wait(SECONDS)
        decode(self)

    monkeypatch.setattr(Engine, "_decode", _decode)
    with serve(run) as client:
        fingerprint = client.model()["system_fingerprint"]
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            save(run, 200, best=200)
            until(lambda: client.model()["step"] == 200)
            is_taken_up.set()
            events += lines
        told = [json.loads(line.removeprefix("data: ")) for line in events if line.startswith("data: {")]
        assert {each["system_fingerprint"] for each in told} == {fingerprint}
        assert "".join(each["choices"][0]["text"] for each in told) == expected
        assert told[-1]["choices"][0]["state"] is None  # nothing could go on from it
        assert "scriven_states 0\n" in client.get("/metrics").text
        until(lambda: len(client._transport._pool.connections) < 9)  # type: ignore[attr-defined]


def test_one_that_cannot_be_taken_up_does_not_keep_back_the_next(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where no thread can be started for it, nor where its line cannot be written."""
    start, failed = Engine.start, threading.Event()

    def _start(self: Engine) -> None:
        monkeypatch.setattr(Engine, "start", start)
        failed.set()
        raise RuntimeError("can't start new thread")

    with serve(run) as client:
        assert client.model()["step"] == 100  # the engine that it begins with is started
        monkeypatch.setattr(Engine, "start", _start)
        save(run, 200, best=200)
        until(failed.is_set)
        assert client.write()["choices"][0]["text"]
        until(lambda: client.model()["step"] == 200)  # which is tried again
        client.fails = True
        save(run, 300, best=300, scale=0.9)
        until(lambda: client.model()["step"] == 300)
        save(run, 400, best=400, scale=0.9)
        until(lambda: client.model()["step"] == 400)


def test_states_of_an_earlier_checkpoint_are_gone(run: Path) -> None:
    with serve(run) as client:
        state = client.post("/states", json={"text": PROMPT}).json()["state"]
        assert "choices" in client.write(state=state)
        save(run, 200, best=200)
        until(lambda: client.model()["step"] == 200)
        assert "earlier checkpoint" in client.write(state=state)["error"]["message"]
        assert "scriven_states 0\n" in client.get("/metrics").text


@pytest.mark.parametrize(("path", "code"), [("/score", 200), ("/states", 503)])
def test_no_state_is_kept_of_a_checkpoint_that_is_replaced_meanwhile(
    run: Path, monkeypatch: pytest.MonkeyPatch, path: str, code: int
) -> None:
    with serve(run) as client:
        put = ServerState.save_state

        def keep(
            server: ServerState, served: ServedModel, *state: Any
        ) -> str | None:  # as if it had been replaced just before
            server.models["book"] = replaced
            return put(server, served, *state)

        replaced = ServedModel("book", open_scaled(run), LIMITS)
        monkeypatch.setattr(ServerState, "save_state", keep)
        body = {"text": PROMPT, **({"save_state": True} if path == "/score" else {})}
        answer = client.post(path, json=body)
        assert answer.status_code == code
        told = answer.json()
        assert told["state"] is None if code == 200 else told["error"]["code"] == "replaced"
        assert "scriven_states 0\n" in client.get("/metrics").text


def test_a_checkpoint_for_which_memory_is_short_is_tried_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []

    def _load(*given: Any, **named: Any) -> Model:
        times.append(given)
        if len(times) < 4:
            raise MemoryError
        return load(*given, **named)

    with serve(run) as client:
        monkeypatch.setattr(renewal, "load", _load)
        save(run, 200, best=200)
        until(lambda: client.model()["step"] == 200)
        until(lambda: len(client.said) == 2)
        short, taken_up = client.said
    assert short == "book: still serving step 100: there is not enough memory for the newer checkpoint; " + AGAIN
    assert taken_up.startswith("book: now serving step 200 ")
    assert len(times) == 4


def test_counters_go_on_when_the_checkpoint_changes(run: Path) -> None:
    def written() -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith("scriven_written_total")))

    with serve(run) as client:
        client.write()
        assert written() == 30
        save(run, 200, best=200)
        until(lambda: client.model()["step"] == 200)
        client.write()
        assert written() == 60


@pytest.mark.parametrize(("which", "step"), [("last", 200), (100, 100)])
def test_the_last_one_is_followed_where_that_is_asked_for_and_a_step_stays(run: Path, which: Which, step: int) -> None:
    with serve(run, which) as client:
        save(run, 200, best=100)
        until(lambda: client.model()["step"] == step)
        time.sleep(0.1)
        assert client.model()["step"] == step


@pytest.mark.parametrize("harm", ["damaged", "symbols", "overflow"])
def test_what_cannot_be_served_is_not_taken_up(run: Path, tmp_path: Path, harm: str) -> None:
    with serve(run) as client:
        before = client.model()
        if harm == "symbols":
            other = make_run(tmp_path / "other" / "book", letters="\n abc")
            shutil.rmtree(run)
            other.rename(run)
        elif harm == "damaged":
            save(run, 200, best=100)
            (run / "checkpoints" / "step-00000200" / "model.safetensors").write_bytes(b"no model")
            index = run / "checkpoints" / "index.json"
            index.write_text(index.read_text().replace('"best": 100', '"best": 200'))
        else:
            save(run, 200, best=200, scale=1e38 if harm == "overflow" else -1.0)
        until(lambda: client.said)
        assert client.said[0].startswith("book: still serving step 100: ")
        time.sleep(0.1)
        assert (client.model(), len(client.said)) == (before, 1)
        assert client.write()["choices"][0]["text"]

"""`scriven serve` as a process: what it says, how it ends, and what it refuses to begin with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from conftest import Command
from page_server import make_run

TOKEN = "a-token/of+24=characters"
SECONDS = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("served") / "book")


@contextmanager
def start_server(run: Path, token: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server in a process of its own, and the line that it shows."""
    command = [sys.executable, "-m", "scriven", "serve", str(run), "--port", "0"]
    environment = os.environ | {"SCRIVEN_TOKEN": token}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as made:
        assert made.stderr
        try:
            yield made, made.stderr.readline()
        finally:
            made.kill()


@contextmanager
def killed_in_time(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a process at the end, or after some time: nobody waits for ever for a line that it does not write."""
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_shows_its_address_and_ends_when_told_so(run: Path, number: signal.Signals, code: int) -> None:
    """A stream that is under way says so, and ends as streams end."""
    with start_server(run, TOKEN) as (process, line):
        found = re.fullmatch(r"serving book at (http://127\.0\.0\.1:\d+)/#token=(\S+)\n", line)
        assert found, line
        assert unquote(found[2]) == TOKEN
        with httpx.Client(base_url=found[1], timeout=SECONDS, headers={"authorization": f"Bearer {TOKEN}"}) as client:
            assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["book"]
            asked = {"max_tokens": 100_000, "stream": True, "logprobs": 0}
            with client.stream("POST", "/v1/completions", json=asked) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: {")
                process.send_signal(number)
                *_, last = filter(None, lines)
                assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == code, err
        assert out == ""
        assert err.count("\n") <= 1, err


def test_a_port_that_is_taken_is_one_sentence(run: Path, command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("serve", str(run), "--port", str(taken.getsockname()[1]))
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "try another --port" in done.err


def test_a_run_that_is_not_there_is_one_sentence(tmp_path: Path, command: Command) -> None:
    done = command("serve", str(tmp_path / "nothing"))
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "nothing" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "RUN"], "two runs are called book"),
        (["--no-training"], "there are no runs in runs; train one with scriven train book.txt --minutes 5"),
        (["--allow-host", "a.example"], "the page cannot train one, as other machines can reach this server"),
        (["RUN", "--host", "0.0.0.0"], "--token"),
        (["RUN", "--token", "short"], "16"),
        (["RUN", "--port", "x"], "--port"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    words: list[str], said: str, run: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("serve", *(str(run) if word == "RUN" else word for word in words))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert said in done.err


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that has the addresses that were opened, one per line, instead of a browser."""
    opened, program = tmp_path / "opened", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(program))
    return opened


def wait_for(path: Path) -> str:
    """The text of a file that is written soon."""
    for _ in range(SECONDS * 20):
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


@pytest.mark.skipif(os.name == "nt", reason="browsers are named otherwise there")
def test_all_runs_are_served_and_the_page_is_opened(
    tmp_path: Path, browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that has no checkpoint yet there is a note. A run that is being trained is watched."""
    monkeypatch.chdir(tmp_path)
    for name in ("book", "letters"):
        make_run(tmp_path / "runs" / name)
    begun = tmp_path / "runs" / "begun"
    shutil.copytree(tmp_path / "runs" / "book", begun)
    shutil.rmtree(begun / "checkpoints")
    words = [sys.executable, "-m", "scriven", "serve", "--open", "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        with killed_in_time(process):
            lines = process.stderr.readline(), process.stderr.readline()
            address = wait_for(browser)
    assert lines[0].startswith("note: begun is not served: ")
    assert lines[1] == f"serving letters, book at {address.strip()}\n"


def test_runs_that_cannot_be_served_are_noted(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("book", "letters"):
        shutil.rmtree(make_run(tmp_path / "runs" / name) / "checkpoints")
    done = command("serve", "--port", "0", "--no-training")
    assert done.code == 3
    assert done.err.count("is not served: ") == 2
    assert "none of the 2 runs can be served" in done.err


def test_without_a_run_it_says_so_and_a_first_one_can_be_trained(tmp_path: Path) -> None:
    """A run that has no checkpoint yet is watched, and would be served from its first one on."""
    words = [sys.executable, "-m", "scriven", "serve", "--port", "0"]
    for runs in ([], ["begun"]):
        for name in runs:
            shutil.rmtree(make_run(tmp_path / "runs" / name) / "checkpoints")
        with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            with killed_in_time(process):
                said = [process.stderr.readline() for _ in (*runs, "address")]
                url = re.fullmatch(r"there is no model yet; train a first one at (http://.*)\n", said[-1])
                assert url
                assert [each["name"] for each in httpx.get(f"{url[1]}/runs").json()] == runs
                assert httpx.get(f"{url[1]}/trainings").json()["refusal"] == ""


@pytest.mark.skipif(os.name == "nt", reason="browsers are named otherwise there")
def test_a_browser_gets_no_token_that_others_could_see(run: Path, browser: Path) -> None:
    words = [sys.executable, "-m", "scriven", "serve", str(run), "--open", "--port", "0"]
    environment = {**os.environ, "SCRIVEN_TOKEN": TOKEN}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = wait_for(browser)
        finally:
            process.kill()
    assert "#" not in address


@pytest.mark.skipif(os.name == "nt", reason="browsers are named otherwise there")
def test_a_training_is_watched_from_its_first_checkpoint(
    tmp_path: Path, browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no terminal, the page ends with the training."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("a tiny text\n" * 400)
    words = "train book.txt --watch --steps 1000000 --monitor.every-steps 20 --model.width 8 --training.workers 1"
    with subprocess.Popen([sys.executable, "-m", "scriven", *words.split()], stderr=subprocess.PIPE, text=True) as made:
        address = wait_for(browser).strip()
        page, _, view = address.partition("#")
        assert view == "watch"
        assert [each["name"] for each in httpx.get(f"{page}runs", timeout=SECONDS).json()] == ["book"]
        made.send_signal(signal.SIGTERM)
        _, told = made.communicate(timeout=SECONDS)
    assert made.returncode == 143, told
    assert f"serving book at {page.rstrip('/')}\n" in told
    with pytest.raises(httpx.ConnectError):
        httpx.get(page, timeout=SECONDS)


def test_watching_needs_what_serving_needs(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scriven.cli.common.find_spec", lambda name: None)
    for words in (["train", "book.txt", "--minutes", "1", "--watch"], ["serve", "book"]):
        done = command(*words)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "starlette is not installed; to serve, pip install 'scriven[serve]'" in done.err


def test_a_port_out_of_range_is_one_sentence(run: Path, command: Command) -> None:
    done = command("serve", str(run), "--port", "70000")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err

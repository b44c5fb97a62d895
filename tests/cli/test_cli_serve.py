"""`scriven serve` as a process: what it says, how it ends, and what it refuses to begin with."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
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
        (["runs/book", "other/book"], "two runs are called book"),
        ([], "needs the folder of a run"),
        (["runs/book", "--host", "0.0.0.0"], "--token"),
        (["runs/book", "--token", "short"], "16"),
        (["runs/book", "--port", "x"], "--port"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(words: list[str], said: str, command: Command) -> None:
    done = command("serve", *words)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert said in done.err


def test_a_port_out_of_range_is_one_sentence(run: Path, command: Command) -> None:
    done = command("serve", str(run), "--port", "70000")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err

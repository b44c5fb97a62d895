"""What a client, or a folder of a run, may do to harm: each is refused in the shape of all errors, and all goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from live_server import Place, serving
from scriven.server.app import OPEN, STREAMED, make_app
from scriven.server.security import Guard, policy
from served_models import names_model, text_model

SECONDS = 20  # of any answer: a bound that a hang, or work that grows with the file, passes by far
POSTS = ("/v1/completions", "/score", "/states", "/tokenize", "/detokenize")
HUGE = b"9" * 4000
RUNS = ("good", "bad")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in RUNS:
        (folder / name).mkdir()
    (folder / "secret.txt").write_text("secret")
    return {name: folder / name for name in RUNS}


@pytest.fixture(scope="module")
def place(folders: dict[str, Path]) -> Iterator[Place]:
    app = make_app({"good": text_model(), "bad": names_model()}, runs=folders)
    with serving(Guard(app, policy("127.0.0.1", open_paths=OPEN, streamed=STREAMED))) as place:
        yield place


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=place.url, timeout=SECONDS) as client:
        yield client


def assert_refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(answer.json()["error"]["message"]) < 400


BODIES = {
    "deep lists": b'{"model": "good", "prompt": ' + b"[" * 400_000,
    "deep objects": b'{"a":' * 100_000,
    "closed depth": b'{"model": "good", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "half a character": b'{"model": "good", "prompt": "\xe2\x82"}',
    "overlong": b'{"model": "good", "prompt": "\xc0\xaf"}',
    "encoded surrogate": b'{"model": "good", "prompt": "\xed\xa0\x80"}',
    "utf-16": '{"model": "good", "prompt": "a"}'.encode("utf-16"),
    "nul": b"\0" * 1000,
    "huge number": b'{"model": "good", "prompt": "a", "text": "a", "tokens": [1], "seed": ' + HUGE + b"}",
    "number of a million digits": b'{"model": "good", "max_tokens": ' + b"9" * 1_000_000 + b"}",
    "huge exponent": b'{"model": "good", "temperature": 1e99999}',
    "huge id": b'{"model": "good", "prompt": [' + HUGE + b'], "tokens": [' + HUGE + b"]}",
    "a key of its own": b'{"model": "good", "__class__": 1}',
    "model of surrogates": rb'{"model": "\ud800", "prompt": "a", "text": "a", "tokens": [1]}',
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", BODIES)
def test_hostile_bodies_are_refused(client: httpx.Client, path: str, name: str) -> None:
    assert_refused(client.post(path, content=BODIES[name], headers={"content-type": "application/json"}))


def test_lone_surrogates_are_characters_that_no_model_knows(client: httpx.Client) -> None:
    text = r'"a\ud800\udc00\ude00b"'  # a pair, and one alone
    told = client.post("/v1/completions", content=f'{{"model": "good", "prompt": {text}, "echo": true, "stop": "x"}}')
    if told.status_code == 200:
        assert told.json()["choices"][0]["text"].startswith("a")
    else:
        assert_refused(told)


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/page/../../secret.txt",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/app.js/../../errors.py",
        "/app.js%00.html",
        "/..\\secret.txt",
        *(f"/runs/{quote(name, safe='')}/{what}" for name in ("..", "../good", "/etc", "good/..", "\0", "é" * 2000)
          for what in ("metrics", "samples", "events")),
        "/runs/../secret.txt/metrics",
        "/states/..%2f..",
        "/v1/models/..%2fgood",
        "/runs/good/metrics?after=" + "9" * 5000,
        "/runs/good/metrics?after=nan",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(place: Place, path: str) -> None:
    """Spoken byte by byte, since clients tidy such paths up."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nConnection: close\r\n\r\n"
    head, _, body = place.say(request.encode("utf-8", "surrogateescape")).partition(b"\r\n\r\n")
    assert head.split()[1] in {b"400", b"404", b"405"}, head
    assert b"secret" not in body.replace(b"secret.txt", b"") and b"root:" not in body
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


LINE = '{"event":"stepped","step":%d,"loss":{"nats":%s,"characters":%s}}\n'
DEEP = "[" * 900 + "]" * 900


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


FILES: dict[str, Callable[[Path], None]] = {
    "link": lambda path: path.symlink_to(path.parent.parent / "secret.txt"),
    "link in a circle": lambda path: path.symlink_to(path),
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "sparse line of 10 GB": sparse,
    "ends of lines": lambda path: _fill(path, b"\n" * (16 << 20)),
    "empty objects": lambda path: _fill(path, b"{}\n" * (4 << 20)),
    "huge losses": lambda path: _fill(path, (LINE % (1, "1.5", 2) + LINE % (2, "9" * 400, 2) * 3000).encode()),
    "huge counts": lambda path: _fill(path, (LINE % (1, "1.5", "9" * 400) * 3000).encode()),
    "deep facts": lambda path: _fill(path, f'{{"event":"started","step":1,"name":{DEEP}}}\n'.encode()),
    "deep times": lambda path: _fill(
        path, (LINE % (1, "1.5", "2")).replace("}}", f'}},"seconds":{DEEP},"progress":{DEEP}}}').encode()
    ),
}


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_hostile_files_of_a_run_do_no_harm(
    client: httpx.Client, folders: dict[str, Path], kind: str, name: str
) -> None:
    path = folders["bad"] / name
    FILES[kind](path)
    try:
        for what in ("metrics", "samples"):
            told = client.get(f"/runs/bad/{what}")
            assert told.status_code in {200, 404}, told.text
            assert "secret" not in told.text.replace("secret.txt", "")
        assert {each["name"] for each in client.get("/runs").json()} == set(RUNS)
        assert client.get("/runs/good/metrics").status_code == 200
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

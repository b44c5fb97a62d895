"""The text of a .docx or .epub file that is sent: as `scriven train` reads it, or a clear 400."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from fake_books import docx, epub, paragraph, write_archive
from live_server import SECONDS, Place, serving
from scriven.corpus import zipped
from scriven.corpus.decoding import read_text
from scriven.corpus.sources import find
from scriven.server import utility_routes
from scriven.server.app import OPEN, UPLOADS, make_app
from scriven.server.limits import LIMITS, Limits
from scriven.server.security import Guard, policy
from scriven.settings import CorpusSettings

SMALL = dataclasses.replace(LIMITS, body_bytes=1000, file_bytes=100_000, file_xml_bytes=1 << 20, file_characters=5000)
WORDS = ("It was a dark night,", "“and the rain” fell — ß 天", "")


def application(limits: Limits) -> Guard:
    rules = policy("127.0.0.1", open_paths=OPEN, uploads=UPLOADS, limits=limits, allow_host=["testserver"])
    return Guard(make_app({}, limits), rules)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(application(SMALL)) as client:
        yield client


@pytest.fixture
def place() -> Iterator[Place]:
    with serving(application(SMALL), SMALL) as place:
        yield place


def ask(client: TestClient, path: Path, **headers: str) -> Any:
    return client.post("/extract", params={"name": path.name}, content=path.read_bytes(), headers=headers)


def assert_refused(client: TestClient, path: Path, words: str) -> None:
    answer = ask(client, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unreadable_file")
    assert words in error["message"]


def test_the_text_is_that_which_a_training_reads(client: TestClient, tmp_path: Path) -> None:
    body = "".join(map(paragraph, WORDS))
    files = [
        docx(tmp_path / "A Novel.DOCX", body),
        docx(tmp_path / "utf 16.docx", body, encoding="utf-16"),
        epub(tmp_path / "a.epub", [f"<p>{words}</p>" for words in WORDS]),
    ]
    for path in files:
        answer = ask(client, path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text == "".join(read_text(find([str(path)]).sources, CorpusSettings()))
        assert WORDS[0] in answer.text


def test_hostile_files_are_refused_with_what_is_wrong(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes(b"PK\3\4\0\0")
    assert_refused(client, path, "a.docx is damaged and cannot be read")
    assert_refused(client, docx(path, "<w:p>"), "in its XML, mismatched tag")
    assert_refused(client, docx(path, paragraph("a"), encoding="shift-jis"), "in its XML, ")
    assert_refused(client, write_archive(path, {"a.txt": "words"}), "_rels/.rels is not in it")
    assert_refused(client, docx(path, "<w:p/>"), "a.docx has no text in it")
    assert_refused(client, docx(path, paragraph("words") * 2000), "a.docx has over 5,000 characters")
    bomb = docx(path, "<!-- words -->" * 100_000)
    assert bomb.stat().st_size < 10_000
    assert_refused(client, bomb, "a.docx has over 1,048,576 bytes of XML in it")
    head = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    assert_refused(client, docx(path, paragraph("a"), head), "entities are declared")
    monkeypatch.setattr(zipped, "MOST_ENTRIES", 100)
    assert_refused(client, docx(path, paragraph("a")), "too many files in it")


def test_a_file_that_takes_too_long_is_refused(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no text comes: the time is looked at after each piece of XML, of which few are read here."""
    looks = count(0, 10)  # seconds
    monkeypatch.setattr(utility_routes, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    assert_refused(client, epub(tmp_path / "a.epub", [""] * 50), "a.epub takes over 30 seconds to read")
    assert next(looks) == 50


@pytest.mark.parametrize("name", ["", "a.txt", "a.doc", "docx", "a.docx.gz", "x" * 300 + ".docx"])
def test_other_files_are_refused_by_their_names(client: TestClient, name: str) -> None:
    answer = client.post("/extract", params={"name": name}, content=b"words")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "name"


def test_a_file_that_is_too_large_is_refused(place: Place) -> None:
    answer = httpx.post(f"{place.url}/extract", params={"name": "a.docx"}, content=bytes(100_001))
    assert answer.status_code == 413
    assert "100,000 bytes" in answer.json()["error"]["message"]


def test_only_so_many_files_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has not arrived yet is none of them."""
    reading, goes_on = Event(), Event()

    def read_slowly(*given: Any) -> Iterator[str]:
        reading.set()
        assert goes_on.wait(SECONDS)
        return zipped.read_zipped(*given)

    monkeypatch.setattr(utility_routes, "read_zipped", read_slowly)
    data = docx(tmp_path / "a.docx", paragraph("a")).read_bytes()
    limits = dataclasses.replace(SMALL, files=1)
    with serving(application(limits), limits) as place, ThreadPoolExecutor() as others, place.connection() as slow:
        slow.sendall(b"POST /extract?name=a.docx HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nPK")

        def upload() -> int:
            return httpx.post(f"{place.url}/extract?name=a.docx", content=data, timeout=SECONDS).status_code

        first = others.submit(upload)
        assert reading.wait(SECONDS)
        assert upload() == 429
        goes_on.set()
        assert (first.result(), upload()) == (200, 200)


def test_other_sites_have_no_file_read(client: TestClient, tmp_path: Path) -> None:
    path = docx(tmp_path / "a.docx", paragraph("a"))
    assert ask(client, path, origin="http://evil.example").status_code == 403

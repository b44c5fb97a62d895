"""The page's files: small, whole, offline, without anything inline, and sent once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from scriven.server.app import MEDIA_TYPES, PAGE_FOLDER, page, page_routes

LARGEST = 135 * 1024  # bytes of the whole page, before it is compressed


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=page_routes()))


def test_the_page_is_small() -> None:
    assert sum(len(file.data) for file in page().values()) <= LARGEST


def test_every_file_in_the_folder_is_served() -> None:
    assert {path.suffix for path in PAGE_FOLDER.iterdir()} <= set(MEDIA_TYPES)
    assert len(page()) == len(list(PAGE_FOLDER.iterdir()))


@pytest.mark.parametrize("path", page())
def test_files_name_no_other_place_and_only_files_that_are_there(path: str) -> None:
    text = page()[path].data.decode()
    there = {name.removeprefix("/") for name in page()}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    named = re.findall(r'from "\./([^"]+)"|(?:src|href)="([^"]+)"', text)
    assert {left or right for left, right in named} <= there


@pytest.mark.parametrize("path", sorted(set(PAGE_FOLDER.iterdir()) - {PAGE_FOLDER / "style.css"}), ids=str)
def test_only_comments_and_indentation_are_left_out(path: Path) -> None:
    """Lines keep their numbers, which errors name."""
    written = path.read_text("utf-8").split("\n")
    served = page()["/" if path.name == "index.html" else f"/{path.name}"].data.decode().split("\n")
    assert len(served) == len(written)
    for shown, source in zip(served, written, strict=True):
        assert source.lstrip().startswith(shown)
        left_out = source.lstrip().removeprefix(shown).strip()
        assert re.fullmatch(r"(//|/\*|\*/|\*(?= |[A-Z])).*|\*|", left_out)


def test_a_style_sheet_has_all_but_comments_spaces_and_last_semicolons() -> None:
    written = re.sub(r"/\*.*?\*/", "", (PAGE_FOLDER / "style.css").read_text("utf-8"), flags=re.DOTALL)
    served = page()["/style.css"].data.decode()
    assert re.sub(r"\s|;\s*(?=})", "", written) == re.sub(r"\s", "", served)
    assert " 28px 20px" in served  # spaces between values are still there


def test_nothing_is_inline() -> None:
    text = page()["/"].data.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)


def test_a_file_is_sent_once(client: TestClient) -> None:
    first = client.get("/app.js", headers={"accept-encoding": "identity"})
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.content == page()["/app.js"].data
    packed = client.get("/app.js", headers={"accept-encoding": "gzip"})
    assert packed.content == first.content
    assert packed.headers["content-encoding"] == "gzip"
    again = client.get("/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/app.js", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/index.htm", "/..%2fwatch.py", "/page/app.js"])
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404

"""A small text, and a corpus cache of each test's own."""

from pathlib import Path

import pytest

import scriven  # noqa: F401 - before torch, whose threads then sleep while they wait; see scriven.openmp

WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of 5,000 characters that a small model learns a little of in a few steps."""
    path = tmp_path / "book.txt"
    path.write_text((WORDS * 52)[:5000], encoding="utf-8")
    return path

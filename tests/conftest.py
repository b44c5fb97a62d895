"""A small text, a corpus cache of each test's own, and one thread unless a test is about threads."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

import scriven  # noqa: F401 - before torch, whose threads then sleep while they wait; see scriven.openmp

# isort: split
import torch

from scriven.cli import main

# Threads that wait for one another are slow where the machine has other work, as other tests. Processes that tests
# start have as many as they choose.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
settings.register_profile("scriven", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("scriven")

pytest_plugins = ["browsing"]

WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process take the machine to be of one speed: to measure it takes longer than they do."""
    monkeypatch.setattr("scriven.training.start.measure_speed", lambda *_: 1e5)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process save when they evaluate, however long they take; a test of the clock sets its own."""
    monkeypatch.setattr("scriven.training.save_clock.SaveClock.is_due", lambda _: False)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of 5,000 characters that a small model learns a little of in a few steps."""
    path = tmp_path / "book.txt"
    path.write_text((WORDS * 52)[:5000], encoding="utf-8")
    return path


class Done(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, where a new one would import torch first for seconds."""

    def run(*words: str) -> Done:
        capfd.readouterr()
        try:
            main(list(words))
        except SystemExit as end:
            return Done(int(end.code or 0), *capfd.readouterr())
        return Done(0, *capfd.readouterr())

    return run

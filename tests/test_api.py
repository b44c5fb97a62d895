"""What a program or a notebook calls."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import scriven
from scriven.events import Event, Finished, Started

SMALL = {"model": {"width": 16}, "reader": {"batch": 4, "length": 16}, "training": {"workers": 1, "threads": 1}}


class Recorder:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def test_train_load_sample_and_score(book: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    run = scriven.train(book, steps=20, output=tmp_path / "run", settings=SMALL, reports=[recorder])
    assert isinstance(recorder.events[0], Started)
    assert isinstance(recorder.events[-1], Finished)
    assert run.best.nats_per_char < 3.4
    assert not run.interrupted
    model = scriven.load(run.path)
    assert len(model.sample("the ", length=40, temperature=0.8, seed=1)) == 40
    assert "".join(model.stream("the ", length=40, seed=1)) == model.sample("the ", length=40, seed=1)
    assert model.score("the quick brown fox").bits_per_char > 0
    assert model.decode(model.encode("any t\u00e9xt \U0001f600")) == "any t\u00e9xt \U0001f600"
    assert run.load().sample(length=5, seed=1) == model.sample(length=5, seed=1)
    assert re.fullmatch(r"TrainedRun\('.*run', step 20: .* bits per character, .* at step 20\)", repr(run))
    for name in ("metrics.jsonl", "samples.jsonl", "loss.png"):
        assert (run.path / name).exists()


@pytest.mark.parametrize("wrong", [{"minutes": 1, "steps": 1}, {"settings": {"model": {"widht": 1}}, "steps": 1}])
def test_mistakes_are_explained(book: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(scriven.UsageError):
        scriven.train(book, output=tmp_path / "run", reports=[], **wrong)


def test_a_run_is_resumed(book: Path, tmp_path: Path) -> None:
    scriven.train(book, steps=2, output=tmp_path / "run", settings=SMALL, reports=[])
    run = scriven.train(steps=4, output=tmp_path / "run", resume="last", reports=[])
    assert run.finished.step == 4


def test_importing_scriven_takes_no_time() -> None:
    code = "import sys, scriven; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); scriven.load"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert set(scriven.__all__) >= {"train", "load"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scriven.nonsense


def test_completion_finds_all_public_names_before_they_are_imported() -> None:
    code = "import scriven; print(*dir(scriven)); print(scriven.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    names, version = done.stdout.splitlines()
    assert set(scriven.__all__) <= set(names.split())
    assert version == scriven.__version__ == metadata.version("scriven")


@pytest.mark.parametrize("name", scriven.__all__)
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    assert getattr(scriven, name).__doc__

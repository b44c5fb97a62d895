"""Files and folders that may not be read or written: one sentence, exit code 3, and nothing is lost."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Command
from rights import file_modes_hold
from scriven.corpus.build import build
from scriven.runs import open_run
from scriven.runs.doctor import examine
from scriven.settings import CorpusSettings, MonitorSettings
from scriven.training.request import Request
from scriven.training.start import train
from small_settings import SMALL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
FLAGS = ["--model.width=8", "--model.layers=1", "--reader.batch=2", "--reader.length=8", "--training.workers=1"]


@contextmanager
def forbidden(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with file_modes_hold():
            yield
    finally:
        path.chmod(before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, its corpus and a run, for tests to copy."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "book.txt").write_text("the quick brown fox\n" * 100)
    build([str(folder / "book.txt")], CorpusSettings(), folder / "corpus")
    monitor = MonitorSettings(sample_length=0, every_steps=1, keep="all")
    settings = SMALL.model_copy(update={"monitor": monitor})
    list(train(Request((str(folder / "corpus"),), settings, folder / "run")))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place"))


@pytest.fixture
def run(place: Path) -> Path:
    return place / "run"


CASES = {
    "a text": ("{book}", 0o000, "train {book} --steps 1 -o new"),
    "a text to score": ("{book}", 0o000, "score {run} {book}"),
    "a settings file": ("{mine}", 0o000, "train {book} --steps 1 --settings {mine} -o new"),
    "a prompt": ("{book}", 0o000, "sample {run} --prompt-file {book}"),
    "a run": ("{run}", 0o000, "sample {run}"),
    "a run to score with": ("{run}", 0o000, "score {run} {book}"),
    "a run to serve": ("{run}", 0o000, "serve {run}"),
    "a run to look at": ("{run}", 0o000, "info {run}"),
    "a run for the doctor": ("{run}", 0o000, "doctor {run}"),
    "a run to resume": ("{run}", 0o000, "train --resume --steps 9 -o {run}"),
    "a run not to be written to": ("{run}", 0o500, "train --resume --steps 9 -o {run}"),
    "settings of a run": ("{run}/settings.toml", 0o000, "sample {run}"),
    "a vocabulary": ("{run}/vocabulary.json", 0o000, "sample {run}"),
    "all checkpoints": ("{run}/checkpoints", 0o000, "sample {run}"),
    "all checkpoints, resumed": ("{run}/checkpoints", 0o000, "train --resume --steps 9 -o {run}"),
    "a checkpoint": ("{run}/checkpoints/step-00000003", 0o000, "sample {run} --checkpoint 3"),
    "weights": ("{run}/checkpoints/step-00000003/model.safetensors", 0o000, "sample {run} --checkpoint 3"),
    "an index": ("{run}/checkpoints/index.json", 0o000, "sample {run}"),
    "a log": ("{run}/metrics.jsonl", 0o000, "train --resume --steps 9 -o {run}"),
    "a log not to be written to": ("{run}/metrics.jsonl", 0o400, "train --resume --steps 9 -o {run}"),
    "a corpus": ("{corpus}", 0o000, "train {corpus} --steps 1 -o new"),
    "a corpus to check": ("{corpus}", 0o000, "corpus check {corpus}"),
    "a shard": ("{corpus}/training-00000.npy", 0o000, "train {corpus} --steps 1 -o new"),
    "the cache": ("{cache}", 0o000, "train {book} --steps 1 --corpus.lowercase -o new"),
    "the cache not to be written to": ("{cache}", 0o500, "train {book} --steps 1 --corpus.lowercase -o new"),
    "where a run is to be": ("{folder}", 0o500, "train {book} --steps 1 -o {folder}/new"),
    "where a corpus is to be": ("{folder}", 0o500, "corpus build {book} -o {folder}/new"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_may_not_be_read_or_written_is_named(
    case: str, place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "mine.toml").write_text("[model]\nwidth = 8\n")
    (place / "folder").mkdir()
    (place / "cache").mkdir()
    (place / "run" / "metrics.jsonl").touch()
    monkeypatch.setenv("SCRIVEN_CACHE", str(place / "cache"))
    before = contents(place)
    what, mode, words = CASES[case]
    names = {"book": place / "book.txt", "mine": place / "mine.toml"}
    names |= {name: place / name for name in ("run", "corpus", "folder", "cache")}
    arguments = [word.format(**names) for word in words.split()]
    flags = FLAGS if "train" in arguments and "--resume" not in arguments else []
    with forbidden(Path(what.format(**names)), mode):
        done = command(*arguments, *flags)
    assert done.code == 3, done
    errors = [line for line in done.err.splitlines() if line.startswith("scriven: ")]
    assert len(errors) == 1, done.err
    assert "ermission denied" in errors[0] or "not be" in errors[0], errors
    assert "bug in Scriven" not in done.err and "Traceback" not in done.err
    after = contents(place)
    assert {name: after.get(name) for name in before} == before


def test_a_checkpoint_that_may_not_be_read_is_kept_when_its_step_is_reached_again(run: Path, command: Command) -> None:
    """Training goes on from the one before, and says so; in time there is another one of that step."""
    last = run / "checkpoints" / "step-00000003"
    before, weights = contents(last), last / "model.safetensors"
    mode = weights.stat().st_mode
    weights.chmod(0)
    with file_modes_hold():
        done = command("train", "--resume", "--steps", "4", "-o", str(run))
    kept = last.with_name("step-00000003.unread")
    (kept / "model.safetensors").chmod(mode)
    assert done.code == 0
    assert "The checkpoint of step 3 is kept, but cannot be read now: " in done.err
    assert contents(kept) == before
    assert open_run(run).steps() == [1, 2, 3, 4]
    assert {finding.state for finding in examine(run)} == {"good"}


def test_checkpoints_that_cannot_be_saved_leave_those_before(run: Path, command: Command) -> None:
    before = contents(run / "checkpoints")
    with forbidden(run / "checkpoints", 0o500):
        done = command("train", "--resume", "--steps", "9", "-o", str(run))
    assert done.code == 3
    assert contents(run / "checkpoints") == before
    assert len([line for line in done.err.splitlines() if line.startswith("scriven: ")]) == 1

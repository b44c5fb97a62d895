"""The power fails at any instant: what was saved is there, the rest is the old or the new."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_faults import SETTINGS, save, saved
from test_training import request

from power_loss import Recorder, states, write_tree
from scriven.corpus.build import build
from scriven.corpus.store import Corpus
from scriven.errors import InputError
from scriven.report.files import FilesReport
from scriven.runs import create_run, open_run
from scriven.runs.journal import PROGRESS_FILE, ProgressLog, read_replay_log
from scriven.runs.recovery import recover
from scriven.settings import CorpusSettings, ModelSettings
from scriven.training.request import Request
from scriven.training.start import train
from scriven.vocabulary import Vocabulary

FEWER = 40  # states that are tried of each work; all of them with --thorough
Check = Callable[[Path, bool], None]

__all__ = ["saved"]  # the fixture


@pytest.fixture
def most(request: pytest.FixtureRequest) -> int:
    return 1_000_000 if request.config.getoption("--thorough") else FEWER


def survives(folder: Path, work: Callable[[], object], check: Check, most: int) -> None:
    """Does the work in a folder, and checks what may be found of it after the power failed."""
    recorder = Recorder(folder)
    with recorder.recording():
        work()
    found = list(states(recorder))
    assert len(found) > 5
    for story, done, tree in found[:: max(1, len(found) // most)]:
        shutil.rmtree(folder)
        write_tree(tree, folder)
        try:
            check(folder, done)
        except Exception as error:
            error.add_note(story)
            raise


@pytest.mark.parametrize("step", [3, 2], ids=["a new step", "a step saved again"])
def test_a_checkpoint_is_there_or_the_one_before(saved: Path, tmp_path: Path, step: int, most: int) -> None:
    path = tmp_path / "run"
    shutil.copytree(saved, path)

    def check(path: Path, done: bool) -> None:
        run = open_run(path)
        last = recover(run).checkpoint
        assert last.step in ({step} if done else {2, step})
        assert float(last.weights(run.shapes())["head.bias"][0]) == last.step

    survives(path, lambda: save(open_run(path), step), check, most)


def test_settings_are_the_old_or_the_new_ones(saved: Path, tmp_path: Path, most: int) -> None:
    path, longer = tmp_path / "run", SETTINGS.model_copy(update={"model": ModelSettings(width=4, layers=1, norm="rms")})
    shutil.copytree(saved, path)

    def check(path: Path, done: bool) -> None:
        settings = open_run(path).settings
        assert settings == longer if done else settings in (SETTINGS, longer)

    survives(path, lambda: create_run(path, longer, Vocabulary.of("abc"), {"corpus": "c"}), check, most)


def test_a_log_has_every_line_up_to_the_checkpoint(book: Path, tmp_path: Path, most: int) -> None:
    path = tmp_path / "run"
    path.mkdir()

    def work() -> None:
        report = FilesReport()
        over = {"budget": {"steps": 4}, "monitor": {"every_steps": 2, "sample_length": 0}}
        for event in train(request(book, path, over)):
            report.handle(event)
        report.close()

    def check(path: Path, done: bool) -> None:
        try:
            step = recover(open_run(path)).checkpoint.step
        except InputError:
            assert not done  # nothing had been saved
            return
        assert step == 4 or not done
        ProgressLog(path / PROGRESS_FILE, step).close()  # as going on does: of later steps any line may be lost
        assert read_replay_log(path).steps == step

    survives(path, work, check, most)


def test_a_run_goes_on_from_what_is_left(book: Path, tmp_path: Path) -> None:
    """The state with nothing but what was flushed, of a whole training: it trains on."""
    path = tmp_path / "run"
    path.mkdir()
    over = {"budget": {"steps": 2}, "monitor": {"sample_length": 0}}
    recorder = Recorder(path)
    with recorder.recording():
        list(train(request(book, path, over)))
    *_, (_, done, tree) = states(recorder)
    assert done
    shutil.rmtree(path)
    write_tree(tree, path)
    events = list(
        train(Request(output=path, resume="last", settings=request(book, path, {"budget": {"steps": 3}}).settings))
    )
    assert getattr(events[-1], "step", 0) == 3


@pytest.mark.parametrize("cached", [True, False])
def test_a_corpus_is_whole_or_not_there(
    book: Path, tmp_path: Path, cached: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setenv("SCRIVEN_CACHE", str(folder))
    settings = CorpusSettings(documents="lines")
    target = None if cached else folder / "corpus"

    def work() -> Path:
        return build([str(book)], settings, target)

    def check(folder: Path, done: bool) -> None:
        whole = [path.parent for path in folder.rglob("corpus.json") if not path.parent.name.startswith(".")]
        assert whole or cached or not done  # the cache may be lost as a whole
        if whole and not cached:
            Corpus.open(whole[0]).verify()
        Corpus.open(work()).verify()

    survives(folder, work, check, most)

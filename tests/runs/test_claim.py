"""Nothing that Scriven did not make is written over or removed, wherever a run or a corpus is to be made."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scriven
from conftest import Command
from scriven.corpus.header import Shard
from scriven.corpus.shard_reader import ShardCache
from scriven.errors import InputError, ScrivenError, UsageError
from scriven.report.metrics import read_metrics
from scriven.report.plot import plot_losses
from scriven.runs import Run, checkpoints, create_run, writing
from scriven.runs.claim import WRITTEN_FILES, check_new_run, hold_claim
from scriven.safe_files import staging_folder
from scriven.settings import Settings
from scriven.vocabulary import Vocabulary

OURS = ["settings.toml", "vocabulary.json", "metrics.jsonl", "samples.jsonl", "progress.jsonl", "loss.svg"]


def make_run(path: Path) -> Run:
    return create_run(path, Settings(), Vocabulary.of("ab\n"), {"corpus": "c"})


def contents(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def assert_refused(path: Path) -> str:
    before = contents(path)
    with pytest.raises(InputError) as error, hold_claim(path):
        pass
    assert contents(path) == before
    return str(error.value)


@pytest.mark.parametrize("name", [*OURS, "checkpoints/index.json", "loss.svg/holiday.png", "thesis.tex", ".hidden"])
def test_a_folder_that_is_not_empty_and_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert "is not empty and is not the folder of a run" in assert_refused(tmp_path)


@pytest.mark.parametrize("folder", ["", "..", "/", "sub/.."])
def test_names_of_folders_that_are_in_use_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="is not empty"):
        check_new_run(Path(folder))


def test_the_command_refuses_before_it_reads_the_text(tmp_path: Path, book: Path, command: Command) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "settings.toml").write_text("mine = 1")
    before = contents(tmp_path)
    for output in ("thesis", "", "book.txt"):
        done = command("train", str(book), "--steps", "1", "-o", output and str(tmp_path / output))
        assert (done.code, done.out, done.err.count("\n")) == (3 if output else 2, "", 1), done.err
    assert contents(tmp_path) == before
    for words in (["corpus", "build", str(book)], ["corpus", "merge", str(tmp_path)]):
        done = command(*words, "--output", "")
        assert (done.code, done.err.count("--output is empty")) == (2, 1), done.err
    with pytest.raises(UsageError, match="output is empty"):
        scriven.train(book, steps=1, output="", reports=[])
    with pytest.raises(InputError, match="is not empty"):
        scriven.train(book, steps=1, output=tmp_path, reports=[])


def test_an_empty_folder_is_taken_and_so_is_what_a_run_left_that_saved_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):
        with hold_claim(run):
            make_run(run)
            (run / "metrics.jsonl").touch()
    (run / "my notes.txt").write_text("mine")
    with hold_claim(run):
        pass
    (run / "checkpoints" / "step-00000001").mkdir()
    with pytest.raises(UsageError, match="already has a run"):
        check_new_run(run)


@pytest.mark.parametrize("stage", range(6))
def test_what_a_start_leaves_that_is_killed_is_a_run_of_ours(tmp_path: Path, stage: int) -> None:
    """After each thing that it makes, from the first one on."""
    make_run(tmp_path / "whole")
    run = tmp_path / "run"
    run.mkdir()
    making: list[Callable[[], object]] = [
        (run / ".lock").touch,
        (run / "checkpoints").mkdir,
        lambda: (run / ".vocabulary.json.tmp").write_text("{"),
        (run / ".vocabulary.json.tmp").unlink,
        lambda: (run / "vocabulary.json").write_bytes((tmp_path / "whole" / "vocabulary.json").read_bytes()),
        lambda: (run / ".settings.toml.tmp").write_text("["),
    ]
    for make in making[: stage + 1]:
        make()
    with hold_claim(run):
        make_run(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "vocabulary.json").write_text('{"the": 0, "a": 1}'),
        lambda path: (path / "vocabulary.json").unlink(),
        lambda path: (path / "settings.toml").write_text("[model]\nwidth = 3"),
        lambda path: (path / "settings.toml").unlink(),
        lambda path: ((path / "checkpoints").rmdir(), (path / "checkpoints").write_text("mine")),
    ],
)
def test_files_that_only_have_the_names_of_a_run_are_not_one(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    run = make_run(tmp_path / "run")
    (run.path / ".lock").touch()
    (run.path / "notes.txt").touch()
    change(run.path)
    assert_refused(run.path)


def test_nothing_is_removed_through_a_link_to_checkpoints(tmp_path: Path) -> None:
    run, outside = make_run(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / "index.json").write_text("mine")
    (run.path / "checkpoints").rmdir()
    (run.path / "checkpoints").symlink_to(outside)
    assert_refused(run.path)
    assert (outside / "index.json").read_text() == "mine"


@pytest.mark.parametrize("name", WRITTEN_FILES)
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_refused_where_a_run_writes_a_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir()
    makers: dict[str, Callable[[Path], object]] = {
        "folder": Path.mkdir,
        "link": lambda path: path.symlink_to(tmp_path),
        "pipe": os.mkfifo,
    }
    makers[kind](path)
    with pytest.raises(InputError, match="is not a plain file"), writing(path.parent):
        pass
    assert os.path.lexists(path)


def test_a_picture_takes_the_place_of_files_alone(tmp_path: Path) -> None:
    loss: dict[str, Any] = {"nats": 1.0, "characters": 1}
    stepped = {"event": "stepped", "step": 1, "characters": 1, "loss": loss}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(stepped) + "\n")
    plot, path = plot_losses([read_metrics(tmp_path)]), tmp_path / "loss.svg"
    path.mkdir()
    with pytest.raises(InputError, match="is not a plain file"):
        plot.save(path)
    path.rmdir()
    assert plot.save(path).stat().st_size > 1000
    assert not list(tmp_path.glob("*.new"))


# --- where corpora are made, and what is kept of them


def test_only_what_builders_named_themselves_is_swept(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".scriven-building-notes", ".scriven-building-0123456789abcdef.lock")]
    for path in mine:
        path.touch()
        os.utime(path, (0, 0))
    with staging_folder(tmp_path):
        pass
    assert all(path.exists() for path in mine)


def test_a_cache_makes_room_by_what_it_fetched_alone(tmp_path: Path) -> None:
    """SCRIVEN_CACHE may name a folder in which a user keeps a folder `shards` too."""
    (tmp_path / "pixels.npy").write_bytes(bytes(1000))
    (tmp_path / ("a" * 64 + ".npy")).write_bytes(bytes(1000))
    shelf = ShardCache(tmp_path, 600)
    shelf._make_room(Shard(file="training-00000.npy", length=1, size=500, sha256="b" * 64))
    assert [path.name for path in tmp_path.glob("*.npy")] == ["pixels.npy"]


def test_checkpoints_are_swept_by_the_names_that_saves_give(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".step-by-step.tmp", ".step-00000001.tmp.bak", ".step-1.old")]
    for path in mine:
        path.mkdir()
    (tmp_path / ".step-00000001.tmp").mkdir()
    checkpoints.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(mine)


@pytest.mark.parametrize("folder", [".", "../here"])
def test_a_corpus_does_not_take_the_place_of_the_folder_that_one_is_in(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch, command: Command, folder: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = command("corpus", "build", str(book), "-o", folder)
    assert (done.code, "is the current folder" in done.err) == (3, True), done.err
    assert list((tmp_path / "here").iterdir()) == []


def test_every_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ScrivenError, match=r"choose a new folder, such as .*run$"):
        check_new_run(tmp_path)

"""Which checkpoint training goes on from, when not all are as they should be."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_faults import SETTINGS, weights

from scriven.errors import InputError
from scriven.runs import Run, create_run, open_run
from scriven.runs.doctor import examine
from scriven.runs.folder import has_checkpoints
from scriven.runs.journal import METRICS_FILE, SAMPLES_FILE
from scriven.runs.recovery import recover
from scriven.settings import MonitorSettings
from scriven.vocabulary import Vocabulary


def run_of(path: Path, *steps: int, best: int = 0, keep: str = "all") -> Run:
    """A run with the checkpoints of these steps, saved in this order; the best is each one where not given."""
    settings = SETTINGS.model_copy(update={"monitor": MonitorSettings(keep=keep)})
    run = create_run(path / "run", settings, Vocabulary.of("abc"), {"corpus": "c"})
    for step in steps:
        save(run, step, best or step)
    return run


def save(run: Run, step: int, best: int) -> None:
    told = {"step": step, "validation": {"nats": 1.0}, "best": {"step": best, "loss": {}}}
    run.save(weights(step), {"state": torch.ones(2)}, told, best=best)


def damage(run: Run, step: int) -> None:
    path = run.checkpoint(step).path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def test_the_newest_is_taken_and_nothing_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2, 3)
    before = run.index()
    assert (recover(run).checkpoint.step, recover(run).notes) == (3, ())
    assert run.index() == before


def test_a_damaged_one_is_left_out_and_it_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2, 3, 4)
    damage(run, 4)
    (run.checkpoint(3).path / "manifest.json").write_text("{")
    found = recover(run)
    assert found.checkpoint.step == 2
    told = " ".join(found.notes)
    assert "step 3 is damaged" in told and "step 4 is damaged" in told and "continues from step 2" in told
    assert (run.index().last, run.index().best) == (2, 2)


def test_the_last_saved_is_the_newest_whatever_its_step(tmp_path: Path) -> None:
    """A run that was resumed from step 1 saved step 2, and was killed before later steps were removed."""
    run = run_of(tmp_path, 1, 5, 9)
    told = run.checkpoint(5).path / "manifest.json"
    values = json.loads(told.read_text())
    told.write_text(json.dumps(values | {"number": 4}))
    assert recover(run).checkpoint.step == 5
    assert run.index().last == 5


@pytest.mark.parametrize("content", [None, "", "[]", '{"best": 7, "last": 7, "validation": {}}'])
def test_the_index_is_made_anew(tmp_path: Path, content: str | None) -> None:
    run = run_of(tmp_path, 1, 2, 3)
    before, path = run.index(), run.path / "checkpoints" / "index.json"
    path.unlink() if content is None else path.write_text(content)
    assert recover(run).checkpoint.step == 3
    assert run.index() == before


def test_a_best_model_that_is_damaged_is_replaced_and_it_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2, best=1)
    damage(run, 1)
    found = recover(run)
    assert found.checkpoint.step == 2
    assert "step 1, is missing or damaged; that of step 2 replaces it" in found.notes[0]
    assert run.index().best == 2


def test_a_step_that_is_named_must_be_whole(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2)
    assert recover(run, 1).checkpoint.step == 1
    damage(run, 1)
    with pytest.raises(InputError, match="damaged"):
        recover(run, 1)


def test_nothing_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was saved"):
        recover(run_of(tmp_path))
    run = run_of(tmp_path, 1)
    damage(run, 1)
    with pytest.raises(InputError, match="all checkpoints are damaged"):
        recover(open_run(run.path))


# --- a step that is named


@pytest.mark.parametrize("content", [None, "[]", "of two saves"])
def test_a_step_that_is_named_has_the_index_put_right(tmp_path: Path, content: str | None) -> None:
    """The index was damaged, or a kill came after the third checkpoint and before it told of that."""
    run = run_of(tmp_path, 1, 2)
    path = run.path / "checkpoints" / "index.json"
    stale = path.read_text()
    save(run, 3, 3)
    before = run.index()
    path.unlink() if content is None else path.write_text(stale if content == "of two saves" else content)
    assert recover(run, 1).checkpoint.step == 1
    assert run.index() == before
    save(run, 2, 2)
    assert run.checkpoint(2).number == 4
    assert recover(run).checkpoint.step == 2


def test_a_newest_one_that_is_damaged_is_not_written_down_as_the_last(tmp_path: Path) -> None:
    """Only what was named was verified."""
    run = run_of(tmp_path, 1, 2, 3)
    damage(run, 3)
    assert recover(run, 1).checkpoint.step == 1
    assert (run.index().last, run.index().best) == (2, 2)
    found = recover(run, 2)
    assert found.checkpoint.step == 2
    assert "step 3 is damaged" in " ".join(found.notes)


# --- the logs of a way that training left


def logs_of(run: Run) -> set[str]:
    return {path.name for path in run.path.iterdir() if "logs" in path.name}


def test_logs_are_put_back_where_nothing_was_saved_since(tmp_path: Path) -> None:
    """Whatever the kill came upon: also in the midst of putting them back, or of setting them aside."""
    run = run_of(tmp_path, 1, 2, 3)
    metrics, samples = run.path / METRICS_FILE, run.path / SAMPLES_FILE
    metrics.write_text("old")
    samples.write_text("old too")
    recover(run, 2)
    assert metrics.read_text() == "old"
    for path in (metrics, samples):
        path.write_text("new")
    (aside,) = (run.path / name for name in logs_of(run))
    (aside / METRICS_FILE).replace(metrics)
    (run.path / ".logs.tmp").mkdir()
    recover(run)
    assert (metrics.read_text(), samples.read_text()) == ("old", "old too")
    recover(run, 2)
    recover(run)
    assert logs_of(run) == set()


def test_logs_are_not_put_back_once_something_was_saved(tmp_path: Path) -> None:
    """Also where the kill came before they were removed."""
    run = run_of(tmp_path, 1, 2, 3)
    metrics = run.path / METRICS_FILE
    metrics.write_text("old")
    recover(run, 1)
    (aside,) = (run.path / name for name in logs_of(run))
    shutil.copytree(aside, tmp_path / "kept")
    metrics.write_text("new")
    save(run, 2, 2)
    assert logs_of(run) == set()
    shutil.copytree(tmp_path / "kept", aside)
    recover(run)
    assert metrics.read_text() == "new"
    assert logs_of(run) == set()


def test_logs_that_are_no_files_are_neither_kept_nor_put_back(tmp_path: Path) -> None:
    run, outside = run_of(tmp_path, 1, 2), tmp_path / "outside"
    outside.mkdir()
    (outside / METRICS_FILE).write_text("mine")
    (run.path / METRICS_FILE).symlink_to(outside / METRICS_FILE)
    os.mkfifo(run.path / SAMPLES_FILE)
    recover(run, 1)
    (aside,) = (run.path / name for name in logs_of(run))
    assert list(aside.iterdir()) == []
    aside.rmdir()
    aside.symlink_to(outside)
    recover(run)
    assert (outside / METRICS_FILE).read_text() == "mine"
    assert (run.path / METRICS_FILE).is_symlink()
    assert logs_of(run) == set()


def test_a_disk_that_is_full_is_told_before_anything_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, 1, 2)
    (run.path / METRICS_FILE).write_text("old")

    def _full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", _full)
    with pytest.raises(InputError, match="No space left"):
        recover(run, 1)
    assert recover(run).checkpoint.step == 2
    assert (run.path / METRICS_FILE).read_text() == "old"


# --- one truth


def edit_manifest(run: Run, change: Callable[[dict[str, Any]], Any]) -> Callable[[int], None]:
    def _tell(step: int) -> None:
        path = run.path / "checkpoints" / f"step-{step:08d}" / "manifest.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return _tell


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no validation": lambda values: values.pop("validation"),
    "a validation that is text": lambda values: values.update(validation={"nats": "1"}),
    "a validation of 10**30 characters": lambda values: values.update(validation={"characters": 10**30}),
    "a best step that is text": lambda values: values.update(best={"step": "2", "loss": {}}),
    "a best that is a list": lambda values: values.update(best=[2]),
    "a number that is negative": lambda values: values.update(number=-1),
    "a step of another": lambda values: values.update(step=2),
    "a hash that is none": lambda values: values["files"]["model.safetensors"].update(sha256="x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_doctor_and_recovery_agree_on_what_is_whole(tmp_path: Path, change: str) -> None:
    run = run_of(tmp_path, 1, 2, 3)
    edit_manifest(run, CHANGES[change])(3)
    assert [finding.part for finding in examine(run.path) if finding.state == "bad"] == ["checkpoints, step 3"]
    found = recover(run)
    assert found.checkpoint.step == 2
    assert "step 3 is damaged" in found.notes[0]


# --- what only cannot be read now


def failing(patch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """Opening or listing what has that in its path fails."""
    for function in ("open", "listdir"):
        real = getattr(os, function)

        def _open(path: Any, *arguments: Any, real: Callable[..., Any] = real, **more: Any) -> Any:
            if name in str(path):
                raise OSError(code, os.strerror(code))
            return real(path, *arguments, **more)

        patch.setattr(os, function, _open)


PASSING = [errno.EIO, errno.EACCES, errno.EMFILE]


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "manifest.json"])
@pytest.mark.parametrize("code", PASSING)
def test_what_cannot_be_read_now_is_kept_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, code: int
) -> None:
    run = run_of(tmp_path, 1, 2, 3, keep="2")
    with monkeypatch.context() as patch:
        failing(patch, f"step-00000003/{file}", code)
        found = recover(run)
        assert found.checkpoint.step == 2
        assert f"step 3 is kept, but cannot be read now: cannot read {run.path}" in found.notes[0]
        for step in (4, 5, 6):
            save(run, step, step)
    assert run.steps() == [3, 5, 6]
    assert recover(run).checkpoint.step == 6
    save(run, 7, 7)
    assert run.steps() == [6, 7]


def test_a_best_model_that_cannot_be_read_now_is_kept_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, 1, 2, best=1, keep="best")
    with monkeypatch.context() as patch:
        failing(patch, "step-00000001/model.safetensors", errno.EIO)
        found = recover(run)
    assert (found.checkpoint.step, found.best) == (2, 2)
    assert "The best model, of step 1, is kept, but cannot be read now" in found.notes[0]
    save(run, 3, 2)
    assert run.steps() == [1, 2, 3]
    assert float(run.checkpoint(1).weights()["head.bias"][0]) == 1


@pytest.mark.parametrize("code", PASSING)
def test_where_nothing_can_be_read_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    run = run_of(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        failing(patch, "model.safetensors", code)
        with pytest.raises(InputError, match="no checkpoint can be read"):
            recover(run)
    with monkeypatch.context() as patch:
        failing(patch, "run/checkpoints", code)
        for look in (lambda: recover(run), lambda: has_checkpoints(run.path), run.steps):
            with pytest.raises(InputError, match=r"checkpoints: .*; allow it, or try again"):
                look()
    assert recover(run).checkpoint.step == 2


def test_a_checkpoint_of_a_newer_format_is_kept(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2, keep="2")
    edit_manifest(run, lambda values: values.update(format=99))(2)
    assert recover(run).checkpoint.step == 1
    for step in (3, 4):
        save(run, step, step)
    assert run.steps() == [2, 3, 4]


def test_what_was_the_best_of_an_earlier_one_stays_where_that_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, 1, 2, best=1, keep="2")
    with monkeypatch.context() as patch:
        failing(patch, "step-00000002/manifest.json", errno.EIO)
        save(run, 3, 3)
    assert run.steps() == [1, 2, 3]


# --- what else is in the folder


def test_a_save_that_was_killed_between_two_renames_is_gone_on_with(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1)
    folder = run.path / "checkpoints"
    (folder / "step-00000001").rename(folder / ".step-00000001.old")
    assert has_checkpoints(run.path)
    assert recover(run).checkpoint.step == 1
    assert not has_checkpoints(tmp_path / "nowhere")


def test_temporary_names_that_are_no_folders_are_in_nobodys_way(tmp_path: Path) -> None:
    """A file, a pipe, links to a file and to a folder that are not the run's."""
    run = run_of(tmp_path, 1)
    folder, outside = run.path / "checkpoints", tmp_path / "outside"
    outside.mkdir()
    (outside / "manifest.json").write_text("mine")
    (folder / ".step-00000002.tmp").write_text("a file")
    (folder / ".step-00000003.tmp").symlink_to(outside)
    (folder / ".step-00000004.old").symlink_to(outside)
    (folder / ".step-00000005.old").write_text("a file")
    os.mkfifo(folder / ".index.json.tmp")
    for name in (".settings.toml.tmp", ".vocabulary.json.tmp"):
        (run.path / name).symlink_to(outside / "manifest.json")
    create_run(run.path, run.settings, run.vocabulary, run.origin)
    assert recover(run).checkpoint.step == 1
    for step in (2, 3, 4, 5):
        save(run, step, step)
    assert run.steps() == [1, 2, 3, 4, 5]
    assert (outside / "manifest.json").read_text() == "mine"
    assert sorted(path.name for path in folder.glob(".*")) == []


def test_nothing_is_swept_beyond_a_link(tmp_path: Path) -> None:
    run, outside = run_of(tmp_path, 1), tmp_path / "outside"
    (run.path / "checkpoints").rename(outside)
    (outside / ".step-00000009.tmp").mkdir()
    (run.path / "checkpoints").symlink_to(outside)
    with pytest.raises(InputError, match="symbolic link"):
        recover(run)
    assert (outside / ".step-00000009.tmp").is_dir()


def test_an_index_of_checkpoints_that_are_gone_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "index.json").write_text("[]")
    assert recover(run_of(tmp_path, 1)).checkpoint.step == 1

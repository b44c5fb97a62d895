"""Every file operation of a save fails once, in every way: what was saved is never lost, and training can go on."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from faulty import KINDS, Faults
from scriven.errors import InputError
from scriven.runs import Run, Saver, create_run, open_run
from scriven.runs.journal import LOGS
from scriven.runs.recovery import recover
from scriven.settings import ModelSettings, MonitorSettings, Settings
from scriven.vocabulary import Vocabulary

SETTINGS = Settings(model=ModelSettings(width=4, layers=1), monitor=MonitorSettings(keep="2"))


def weights(step: int, settings: ModelSettings = SETTINGS.model) -> dict[str, torch.Tensor]:
    from scriven.model.shapes import weight_shapes

    return {name: torch.full(shape, float(step)) for name, shape in weight_shapes(settings, 4).items()}


def save(run: Run, step: int) -> None:
    best = {"step": step, "loss": {}}
    run.save(weights(step), {"state": torch.ones(2, 3)}, {"step": step, "validation": {}, "best": best}, best=step)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints of steps 1 and 2, which has written something down."""
    run = create_run(tmp_path_factory.mktemp("saved") / "run", SETTINGS, Vocabulary.of("abc"), {"corpus": "c"})
    for name in LOGS:
        (run.path / name).touch()
    for step in (1, 2):
        save(run, step)
    return run.path


def count_operations(saved: Path, folder: Path, step: int) -> list[str]:
    shutil.copytree(saved, folder)
    run, faults = open_run(folder), Faults()
    with pytest.MonkeyPatch.context() as patch, faults.injected(patch):
        save(run, step)
    shutil.rmtree(folder)
    return faults.done


@pytest.mark.parametrize(
    "step", [pytest.param(3, id="a new step"), pytest.param(2, id="a step saved again", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_of_a_save_may_fail(saved: Path, tmp_path: Path, kind: str, step: int) -> None:
    operations = count_operations(saved, tmp_path / "run", step)
    assert {"open", "write", "fsync", "mkdir", "rename", "replace"} <= set(operations)
    for number in range(len(operations)):
        shutil.copytree(saved, tmp_path / "run")
        run, refused = open_run(tmp_path / "run"), False
        faults = Faults(number, kind)
        with pytest.MonkeyPatch.context() as patch, faults.injected(patch):
            try:
                save(run, step)
            except InputError:
                refused = True
        assert faults.fallen
        assert not (refused and kind == "short write" and operations[number] == "write")
        assert_survives(run.path, step, refused, f"{kind} at {operations[number]} {number} of {operations}")
        shutil.rmtree(run.path)


def assert_survives(path: Path, step: int, refused: bool, case: str) -> None:
    """The run opens, its last checkpoint is whole and the one that it should be, and the next save goes well."""
    run = open_run(path)
    for which in ("last", "best"):
        assert run.checkpoint(which).weights(run.shapes()), case
    last = recover(run).checkpoint
    value = float(last.weights()["head.bias"][0])
    assert last.step in ({2, step} if refused else {step}), case
    assert value == last.step, case
    save(run, 9)
    assert recover(run).checkpoint.step == 9, case
    assert not list((path / "checkpoints").glob(".step-*")), case


def test_an_error_in_the_background_is_told_at_the_next_call(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "run")
    run, manifest = open_run(tmp_path / "run"), {"step": 3, "validation": {}}
    with Saver(run) as saver:
        with monkeypatch.context() as patch, Faults(0).injected(patch):
            saver.save(weights(3), {}, manifest, best=3)
            with pytest.raises(InputError, match="No space left on device"):
                saver.take_saved(wait=True)
        saver.save(weights(3), {}, manifest, best=3)
        assert saver.take_saved(wait=True) == [(3, run.path / "checkpoints" / "step-00000003", False)]
        assert saver.take_saved(wait=True) == []


def test_without_a_thread_training_waits_for_the_disk(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have no more threads for the user."""
    path = tmp_path / "run"
    shutil.copytree(saved, path)
    run = open_run(path)

    def _start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", _start)
    with Saver(run) as saver:
        saver.save(weights(3), {"state": torch.ones(2)}, {"step": 3, "validation": {}}, best=3)
        assert [step for step, _, _ in saver.take_saved()] == [3]
        assert saver.newest == str(run.checkpoint(3).path)
        with monkeypatch.context() as patch, Faults(0).injected(patch):
            saver.save(weights(4), {}, {"step": 4, "validation": {}}, best=4)
        with pytest.raises(InputError, match="No space left on device"):
            saver.take_saved(wait=True)


def test_what_is_saved_is_what_was_there_when_it_was_asked_for(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    run, changing = open_run(tmp_path / "run"), weights(3)
    with Saver(run) as saver:
        saver.save(changing, {}, {"step": 3, "validation": {}}, best=3)
        for value in changing.values():
            value.zero_()
        saver.take_saved(wait=True)
    assert float(run.checkpoint(3).weights()["head.bias"][0]) == 3


# --- a disk that is really full


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = Path(tempfile.mkdtemp())
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "scriven-test", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(words, capture_output=True, check=False, timeout=10)
    if not mounted or mounted.returncode:
        folder.rmdir()
        pytest.skip("only root may mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)
        folder.rmdir()


def test_a_disk_that_fills_up_keeps_what_was_saved(small_disk: Path) -> None:
    """About 100 kB a checkpoint, all kept, on 1 MB: some saves go well, then the disk is full, then space is made."""
    settings = Settings(model=ModelSettings(width=48, layers=1), monitor=MonitorSettings(keep="all"))
    run = create_run(small_disk / "run", settings, Vocabulary.of("abc"), {"corpus": "c"})

    def fill(step: int) -> None:
        manifest: dict[str, Any] = {"step": step, "validation": {}, "best": {"step": step, "loss": {}}}
        run.save(weights(step, settings.model), {"m": torch.ones(5000)}, manifest, best=step)

    last = 0
    with pytest.raises(InputError, match="No space left on device"):
        for step in range(1, 100):
            fill(step)
            last = step
    assert 3 < last < 99
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize < 200_000
    assert recover(open_run(run.path)).checkpoint.step == last
    shutil.rmtree(run.path / "checkpoints" / "step-00000001")
    fill(100)
    assert recover(open_run(run.path)).checkpoint.step == 100

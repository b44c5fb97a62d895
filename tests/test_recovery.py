"""Which checkpoint training goes on from, when not all are as they should be."""

import json
from pathlib import Path

import pytest
import torch

from scriven.errors import InputError
from scriven.runs import Run, create_run, open_run
from scriven.runs.recovery import recover
from scriven.settings import MonitorSettings
from scriven.vocabulary import Vocabulary
from test_faults import SETTINGS, weights


def run_of(path: Path, *steps: int, best: int = 0) -> Run:
    """A run with the checkpoints of these steps, saved in this order; the best is each one where not given."""
    settings = SETTINGS.model_copy(update={"monitor": MonitorSettings(keep="all")})
    run = create_run(path / "run", settings, Vocabulary.of("abc"), {"corpus": "c"})
    for step in steps:
        told = {"step": step, "validation": {"nats": 1.0}, "best": {"step": best or step, "loss": {}}}
        run.save(weights(step), {"state": torch.ones(2)}, told, best=best or step)
    return run


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
    assert "step 3 is damaged" in told and "step 4 is damaged" in told and "goes on from step 2" in told
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
    assert "step 1, is gone or damaged; that of step 2 takes its place" in found.notes[0]
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
    with pytest.raises(InputError, match="no checkpoint is whole"):
        recover(open_run(run.path))

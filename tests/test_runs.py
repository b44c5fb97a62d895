"""Checkpoints exist whole or not at all; damage is noticed and named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scriven.errors import InputError
from scriven.runs import Run, checkpoints, create_run, open_run, writing
from scriven.settings import ModelSettings, Settings
from scriven.vocabulary import Vocabulary

WEIGHTS = {"w": torch.arange(6.0).view(2, 3)}
TRAINING = {"state.0.0": torch.ones(2, 4)}


def made(path: Path) -> Run:
    return create_run(path / "run", Settings(model=ModelSettings(width=5)), Vocabulary.of("ab\n"), {"corpus": "c"})


def save(run: Run, step: int, best: bool) -> None:
    manifest: dict[str, Any] = {"step": step, "validation": {"nats": 1.0, "characters": 1, "bytes": 1}}
    run.save(WEIGHTS, TRAINING, manifest, best=best)


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = made(tmp_path)
    save(run, 3, best=True)
    again = open_run(run.path)
    assert again == run
    checkpoint = again.checkpoint("best")
    assert checkpoint.step == 3
    assert torch.equal(checkpoint.weights()["w"], WEIGHTS["w"])
    assert torch.equal(checkpoint.training()["state.0.0"], TRAINING["state.0.0"])


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    run = made(tmp_path)
    for step, best in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        save(run, step, best)
    assert run.steps() == [3, 5]
    assert run.checkpoint("best").step == 3
    assert run.checkpoint("last").step == 5
    assert set(run.index().validation) == {"3", "5"}
    with pytest.raises(InputError, match="steps 3, 5"):
        run.checkpoint(4)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_weights_are_named(tmp_path: Path, damage: str) -> None:
    run = made(tmp_path)
    save(run, 1, best=True)
    path = run.checkpoint("best").path / checkpoints.MODEL_FILE
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-5] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        run.checkpoint("best").weights()


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    save(run, 1, best=True)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_flushed", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(run, 2, best=True)
    monkeypatch.undo()
    assert run.checkpoint("last").step == 1
    assert [path.name for path in (run.path / "checkpoints").iterdir() if path.is_dir()] == ["step-00000001"]


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)
    run = made(tmp_path)
    with pytest.raises(InputError, match="nothing was saved"):
        run.checkpoint("best")
    (run.path / "settings.toml").write_text("model = [")
    with pytest.raises(InputError, match=r"settings\.toml"):
        open_run(run.path)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    save(run, 1, best=True)
    path = run.checkpoint("best").path / "manifest.json"
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format"):
        run.checkpoint("best").weights()


def test_one_run_has_one_writer(tmp_path: Path) -> None:
    with writing(tmp_path / "run"), pytest.raises(InputError, match="in use"), writing(tmp_path / "run"):
        pass
    with writing(tmp_path / "run"):
        pass

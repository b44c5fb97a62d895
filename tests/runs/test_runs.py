"""Checkpoints exist whole or not at all; damage is noticed and named."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from scriven import safe_files
from scriven.errors import InputError
from scriven.runs import Run, checkpoints, create_run, load_weights, open_run, writing
from scriven.runs.checkpoints import settings_seal
from scriven.settings import ModelSettings, Settings
from scriven.vocabulary import Vocabulary

ORIGIN = {"corpus": "c"}
WEIGHTS = {"w": torch.arange(6.0).view(2, 3)}
TRAINING = {"state.0.0": torch.ones(2, 4)}


def make_run(path: Path) -> Run:
    return create_run(path / "run", Settings(model=ModelSettings(width=5)), Vocabulary.of("ab\n"), ORIGIN)


def save(run: Run, step: int, best: int) -> None:
    manifest: dict[str, Any] = {"step": step, "validation": {"nats": 1.0, "characters": 1, "bytes": 1}}
    run.save(WEIGHTS, TRAINING, manifest, best=best)


def checkpoint_folders(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / "checkpoints").iterdir() if path.is_dir())


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save(run, 3, best=3)
    again = open_run(run.path)
    assert again == run
    checkpoint = again.checkpoint("best")
    assert checkpoint.step == 3
    assert torch.equal(checkpoint.weights()["w"], WEIGHTS["w"])
    assert torch.equal(checkpoint.training()["state.0.0"], TRAINING["state.0.0"])


def test_a_run_with_settings_of_earlier_names_is_opened(tmp_path: Path) -> None:
    """Its checkpoints, which hold a hash of the settings as they were written, stay valid; also when it is extended."""
    path = make_run(tmp_path).path / "settings.toml"
    earlier = path.read_text().replace("max_rollbacks = 3", "returns = 2").replace("max_skipped_steps", "skips")
    values = tomllib.loads(earlier)
    values["run"]["seals"] = [settings_seal({name: each for name, each in values.items() if name != "run"}, ORIGIN)]
    path.write_text(tomli_w.dumps(values))
    run = open_run(path.parent)
    assert (run.settings.training.max_rollbacks, run.settings.training.max_skipped_steps) == (2, 5)
    assert list(run.setting_seals) == values["run"]["seals"]
    create_run(run.path, run.settings, run.vocabulary, run.origin, run.setting_seals)
    assert open_run(run.path).settings == run.settings
    assert open_run(run.path).setting_seals[:-1] == run.setting_seals


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3)):
        save(run, step, best)
    assert run.steps() == [3, 5]
    assert run.checkpoint("best").step == 3
    assert run.checkpoint("last").step == 5
    assert set(run.index().validation) == {"3", "5"}
    with pytest.raises(InputError, match="steps 3, 5"):
        run.checkpoint(4)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_weights_are_named(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)
    path = run.checkpoint("best").path / checkpoints.MODEL_FILE
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-5] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        run.checkpoint("best").weights()


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)

    def full(path: Path, *pieces: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_flushed", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(run, 2, best=2)
    monkeypatch.undo()
    assert run.checkpoint("last").step == 1
    assert checkpoint_folders(run) == ["step-00000001"]


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)
    run = make_run(tmp_path)
    with pytest.raises(InputError, match="nothing was saved"):
        run.checkpoint("best")
    (run.path / "settings.toml").write_text("model = [")
    with pytest.raises(InputError, match=r"settings\.toml"):
        open_run(run.path)


def test_who_names_no_run_is_told_which_there_are(tmp_path: Path) -> None:
    for name in ("book", "letters"):
        path = tmp_path / name
        path.mkdir()
        (path / "settings.toml").touch()
    with pytest.raises(InputError, match=r"bok does not exist; did you mean .*book\? there are .*book, .*letters$"):
        open_run(tmp_path / "bok")
    with pytest.raises(InputError, match=r"is not a run folder; there are .*book, .*letters$"):
        open_run(tmp_path)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)
    path = run.checkpoint("best").path / "manifest.json"
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format"):
        run.checkpoint("best").weights()


@pytest.mark.parametrize(
    "lost", [("step",), ("files",), ("files", "model.safetensors"), ("files", "training.safetensors", "sha256")]
)
def test_a_manifest_that_lacks_something_is_refused(tmp_path: Path, lost: tuple[str, ...]) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)
    path = run.checkpoint("best").path / "manifest.json"
    manifest = values = json.loads(path.read_text())
    for key in lost[:-1]:
        values = values[key]
    del values[lost[-1]]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        run.checkpoint("best").weights()


@pytest.mark.parametrize("damaged", ["{}", "[]", '{"best": 1, "last": "x", "validation": {}}'])
def test_a_damaged_index_is_refused_and_steps_can_still_be_named(tmp_path: Path, damaged: str) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)
    (run.path / "checkpoints" / "index.json").write_text(damaged)
    with pytest.raises(InputError, match=r"index\.json"):
        run.checkpoint("best")
    assert run.checkpoint(1).step == 1


def test_a_step_saved_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)
    run.save({"w": torch.zeros(2)}, TRAINING, {"step": 1, "validation": {}}, best=1)
    assert torch.equal(run.checkpoint("best").weights()["w"], torch.zeros(2))
    assert checkpoint_folders(run) == ["step-00000001"]


def test_what_a_killed_save_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """Also when the next process has the same number, as in a container; what was put aside alone goes back."""
    run = make_run(tmp_path)
    save(run, 1, best=1)
    folder = run.path / "checkpoints"
    (folder / "step-00000001").rename(folder / ".step-00000001.old")
    for left in (".step-00000002.tmp", ".step-00000003.tmp"):
        (folder / left).mkdir()
        (folder / left / "model.safetensors").touch()
    save(run, 2, best=1)
    assert checkpoint_folders(run) == ["step-00000001", "step-00000002"]
    assert torch.equal(run.checkpoint("best").weights()["w"], WEIGHTS["w"])


@pytest.mark.parametrize("name", ["settings.toml", "vocabulary.json"])
def test_a_disk_that_is_full_leaves_the_settings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = make_run(tmp_path)

    def half(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        if name in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(safe_files, "write_flushed", half)
    with pytest.raises(InputError, match="No space left on device"):
        make_run(tmp_path)
    assert open_run(run.path) == run
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "settings.toml", "vocabulary.json"]


def test_weights_of_another_shape_are_refused_in_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save(run, 1, best=1)
    with pytest.raises(InputError, match=r"step-00000001 do not fit the model's settings \(.*\)$") as refused:
        load_weights(torch.nn.Linear(2, 3), run.checkpoint("best"))
    assert "\n" not in str(refused.value)


def test_what_goes_wrong_while_a_run_is_written_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="something else"), writing(tmp_path / "run"):
        raise OSError("something else")
    with writing(tmp_path / "run"):  # and the run is free again
        pass


def test_one_run_has_one_writer(tmp_path: Path) -> None:
    with writing(tmp_path / "run"), pytest.raises(InputError, match="in use"), writing(tmp_path / "run"):
        pass
    with writing(tmp_path / "run"):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """In a folder from elsewhere it may lead to any file, which would be emptied."""
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run.mkdir()
    (run / ".lock").symlink_to(victim)
    with pytest.raises(InputError, match="cannot write to"), writing(run):
        pass
    assert victim.read_text() == "precious"

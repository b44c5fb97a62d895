"""Checkpoints vouch for the settings and the vocabulary beside them; what an earlier version saved still opens."""

import json
from pathlib import Path

import pytest
import torch

from conftest import Command
from scriven.errors import InputError
from scriven.model.shapes import weight_shapes
from scriven.runs import Run, create_run, open_run
from scriven.runs.checkpoints import SEALS_KEPT, extend_seals, vocabulary_seal
from scriven.runs.doctor import examine
from scriven.runs.recovery import recover
from scriven.safe_files import remove_folder
from scriven.settings import BudgetSettings, ModelSettings, MonitorSettings, Settings
from scriven.vocabulary import Vocabulary

SETTINGS = Settings(
    model=ModelSettings(width=4, layers=1), budget=BudgetSettings(steps=10), monitor=MonitorSettings(keep="all")
)
PLAYS = Vocabulary.of("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def save(run: Run, step: int, value: float = 0.5, **told: float) -> None:
    shapes = weight_shapes(run.settings.model, run.vocabulary.size)
    weights = {name: torch.full(shape, value) for name, shape in shapes.items()}
    run.save(weights, {"state": torch.ones(1)}, {"step": step, "validation": {}, **told}, best=step)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = create_run(tmp_path / "run", SETTINGS, PLAYS, {"corpus": "c", "texts": ["a", "b"]})
    save(made, 1)
    return made


def flip_bit(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refusal(path: Path) -> str:
    """Why the best model of a run cannot be opened; empty where it can."""
    try:
        found = open_run(path)
        found.checkpoint("best").weights(found.shapes())
    except InputError as error:
        return str(error)
    return ""


def test_what_was_written_is_opened(run: Run) -> None:
    assert open_run(run.path) == run
    assert refusal(run.path) == ""


def test_no_bit_of_a_vocabulary_changes_unnoticed(run: Run) -> None:
    """Some such vocabularies are read without complaint; of these the checkpoint knows that they are others."""
    path = run.path / "vocabulary.json"
    whole, seal, others = path.read_bytes(), vocabulary_seal(PLAYS), list[bytes]()
    assert len(whole) * 8 > 2500
    for bit in range(len(whole) * 8):
        data = flip_bit(whole, bit)
        try:
            found = Vocabulary.from_json(data.decode("utf-8", "surrogatepass"))
        except (InputError, UnicodeDecodeError):
            continue
        if vocabulary_seal(found) == seal:
            assert found == PLAYS
        else:
            others.append(data)
    assert others
    for data in others:
        path.write_bytes(data)
        assert refusal(run.path)
    assert "vocabulary.json has changed since step-00000001 was saved; restore it from a copy" in refusal(run.path)
    assert [finding.state for finding in examine(run.path)].count("bad") == 1
    with pytest.raises(InputError, match=r"all checkpoints are damaged: .*vocabulary\.json has changed"):
        recover(open_run(run.path))


def test_no_bit_of_the_settings_changes_unnoticed(run: Run) -> None:
    """Every 199th bit, and whatever is read as the same settings is no harm."""
    path = run.path / "settings.toml"
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 199):
        path.write_bytes(flip_bit(whole, bit))
        if not refusal(run.path):
            assert (open_run(run.path).settings, open_run(run.path).origin) == (run.settings, run.origin), bit


def test_settings_of_another_run_are_noticed(run: Run, tmp_path: Path) -> None:
    other = create_run(tmp_path / "other", SETTINGS, PLAYS, {"corpus": "d"})
    (run.path / "settings.toml").write_bytes((other.path / "settings.toml").read_bytes())
    assert "settings.toml has changed" in refusal(run.path)


def test_comments_and_space_do_not_count(run: Run) -> None:
    path = run.path / "settings.toml"
    path.write_text("# mine\n\n" + path.read_text())
    assert refusal(run.path) == ""


def test_a_run_that_is_extended_keeps_what_it_had(run: Run) -> None:
    """Killed at any time after its settings were replaced, and before it saved anything with them."""
    longer = SETTINGS.model_copy(update={"budget": BudgetSettings(steps=20)})
    again = create_run(run.path, longer, PLAYS, run.origin, open_run(run.path).setting_seals)
    assert refusal(run.path) == ""
    assert recover(open_run(run.path)).checkpoint.step == 1
    save(again, 2)
    for step in (1, 2):
        assert open_run(run.path).checkpoint(step).weights()
    assert len(open_run(run.path).setting_seals) == 2
    path = run.path / "settings.toml"
    path.write_text(path.read_text().replace("steps = 20", "steps = 30"))
    for step in (1, 2):
        with pytest.raises(InputError, match=r"settings\.toml has changed"):
            open_run(run.path).checkpoint(step).weights()


def test_settings_that_stay_the_same_need_no_seal_more(run: Run) -> None:
    before = (run.path / "settings.toml").read_bytes()
    create_run(run.path, SETTINGS, PLAYS, run.origin, open_run(run.path).setting_seals)
    assert (run.path / "settings.toml").read_bytes() == before
    assert extend_seals(("a", "b"), "a") == ("b", "a")
    assert len(extend_seals([str(number) for number in range(999)], "now")) == SEALS_KEPT


def test_a_checkpoint_of_an_earlier_version_is_opened(run: Run) -> None:
    path = run.path / "checkpoints" / "step-00000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["run"]
    path.write_text(json.dumps(manifest))
    text = (run.path / "settings.toml").read_text()
    begin, end = text.index("seals = ["), text.index("]", text.index("seals = [")) + 1
    (run.path / "settings.toml").write_text(text[:begin] + text[end:])
    assert refusal(run.path) == ""
    assert {finding.state for finding in examine(run.path)} == {"good"}


def test_the_doctor_says_what_is_bad_once(run: Run, tmp_path: Path, command: Command) -> None:
    nothing = command("doctor", str(tmp_path / "none"))
    assert (nothing.code, nothing.out, nothing.err.count("does not exist; ")) == (3, "", 1)
    assert command("doctor", str(tmp_path)).err.count("is not a run folder; ") == 1
    (run.path / "checkpoints" / "step-00000001" / "manifest.json").write_text("{")
    bad = command("doctor", str(run.path))
    assert bad.code == 3
    assert (bad.out + bad.err).count("manifest.json: ") == 1
    assert bad.err.endswith(f"{run.path} is damaged; details are above: checkpoints, step 1\n")


def test_the_checkpoints_that_a_run_has_are_named_as_one_or_as_several(run: Run) -> None:
    save(run, 2, epochs=0.5)
    with pytest.raises(InputError, match="no checkpoint of epoch 1; it has that of epoch 0 "):
        run.checkpoint("epoch:1")
    with pytest.raises(InputError, match=r"no checkpoint 7; it has those of steps 1, 2$"):
        run.checkpoint(7)
    remove_folder(run.path / "checkpoints" / "step-00000002")
    with pytest.raises(InputError, match=r"no checkpoint 7; it has that of step 1$"):
        run.checkpoint(7)


def test_the_doctor_runs_the_model_and_says_that_it_overflows(run: Run) -> None:
    save(run, 2, value=3e38)
    assert refusal(run.path) == ""
    (bad,) = (finding for finding in examine(run.path) if finding.state == "bad")
    assert bad.part == "checkpoints, step 2"
    assert "step-00000002 overflows: its weights are finite, but its predictions are not" in bad.text

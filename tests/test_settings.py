"""One definition of each setting: values from TOML, flags and Python are checked alike and explained by name."""

from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from scriven.errors import InputError, UsageError
from scriven.safe_files import read_toml
from scriven.settings import ModelSettings, Settings
from scriven.settings_checks import check_complete
from scriven.settings_values import merge_settings, validate, with_current_names


def test_settings_survive_toml(tmp_path: Path) -> None:
    settings = validate({"model": {"width": 77, "norm": "rms"}, "budget": {"minutes": 2.5}})
    path = tmp_path / "settings.toml"
    text = tomli_w.dumps(settings.model_dump())
    path.write_text(text, encoding="utf-8")
    assert validate(read_toml(path)) == settings
    path.write_text(text, encoding="utf-8-sig")  # as editors of Windows do
    assert validate(read_toml(path)) == settings


def test_only_what_was_set_counts_as_given() -> None:
    assert validate({"model": {"width": 192}}).explicit() == {"model": {"width": 192}}
    assert Settings(model=ModelSettings(layers=3)).explicit() == {"model": {"layers": 3}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": {"width": 0}}, ["model.width 0", "give 1 or more"]),
        ({"model": {"cell": "transformer"}}, ["model.cell 'transformer'", "'lstm', 'gru', 'rnn' or 'mingru'"]),
        ({"model": {"widht": 3}}, ["model.widht", "no such setting"]),
        ({"budget": {"minutes": 1, "steps": 2}}, ["--minutes", "--steps"]),
        ({"model": {"activation": "tanh;relu"}}, ["model.activation", "tanh or relu", "'tanh;relu'"]),
        ({"model": {"activation": "x" * 5000}}, ["model.activation", "tanh or relu"]),
    ],
)
def test_errors_name_the_setting_and_its_value(values: dict[str, dict[str, object]], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        validate(values)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_that_was_renamed_is_named_as_it_is_called_now() -> None:
    old: dict[str, dict[str, object]] = {"training": {"seed": 3, "returns": 1, "skips": 4}, "model": {"width": 7}}
    with pytest.raises(UsageError, match=r"training.returns is now called training.max_rollbacks; training.skips is"):
        validate(old)
    settings = validate(with_current_names(old))
    assert settings.explicit()["training"] == {"seed": 3, "max_rollbacks": 1, "max_skipped_steps": 4}
    assert settings.model.width == 7
    assert with_current_names({"training": "none"}) == {"training": "none"}
    both = {"training": {"skips": 1, "max_skipped_steps": 2}}
    assert with_current_names(both) == both


def test_the_batch_must_be_shared_out_evenly() -> None:
    with pytest.raises(UsageError, match=r"reader.batch \(6\) must be a multiple of training.groups \(4\)"):
        check_complete(validate({"reader": {"batch": 6}, "training": {"groups": 4}}))
    with pytest.raises(UsageError, match=r"training.groups \(3\) must be at least training.workers \(4\)"):
        check_complete(validate({"training": {"groups": 3, "workers": 4}}))


@pytest.mark.parametrize(
    "model",
    [
        {"activation": "tanh,relu", "layers": 3},
        {"input": "onehot", "embedding_scale": 0.5},
        {"tied": True, "embedding_initial": "uniform"},
        {"head": "none", "output_scale": 0.0},
    ],
)
def test_what_would_do_nothing_is_refused(model: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"model\.\w+"):
        check_complete(validate({"model": model}))


def test_one_activation_is_that_of_all_layers_as_in_files_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[model]\nactivation = "relu"\nlayers = 3\n', encoding="utf-8")
    assert validate(read_toml(path)).model.activations == ["relu", "relu", "relu"]
    assert validate({"model": {"activation": "tanh,relu"}}).model.activations == ["tanh", "relu"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ModelSettings().width = 3


nested = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6)
tables = st.dictionaries(st.sampled_from("abc"), nested)


@given(base=tables, over=tables)
def test_merging_keeps_everything_and_the_second_wins(base: dict[str, object], over: dict[str, object]) -> None:
    result = merge_settings(base, over)
    assert set(result) == set(base) | set(over)
    for key, value in over.items():
        if not isinstance(value, dict) or not isinstance(base.get(key), dict):
            assert result[key] == value


def test_what_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("= 3")
    with pytest.raises(InputError, match=r"x\.toml"):
        read_toml(path)
    with pytest.raises(InputError, match="nowhere"):
        read_toml(tmp_path / "nowhere.toml")


def test_every_setting_explains_itself() -> None:
    for section in Settings.model_fields.values():
        assert isinstance(section.default_factory or section.default, object)
        fields = type(section.default).model_fields
        assert all(len(field.description or "") > 10 for field in fields.values())

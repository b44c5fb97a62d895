"""Every recipe is a whole, valid set of settings; a wrong name is told with all right ones."""

import pytest

from scriven import recipes
from scriven.errors import UsageError
from scriven.model.shapes import parameter_count
from scriven.settings_checks import check_complete
from scriven.settings_values import validate


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_a_valid_file_of_settings_with_a_budget(name: str) -> None:
    settings = check_complete(validate(recipes.values(name)))
    assert settings.budget
    assert recipes.title(name)
    assert recipes.text(name).startswith("# ")


def test_the_english_major_has_as_many_parameters_as_in_the_article() -> None:
    """62,000 for 62 characters; here `<unk>` is a symbol too, read by four gates of 62 and with four of its own."""
    settings = validate(recipes.values("english-major"))
    assert (settings.model.activations, settings.budget.epochs) == (["tanh", "relu"], 256)
    assert parameter_count(settings.model, 62) == 2 * 4 * 62 * (62 + 62 + 1) == 62_000
    assert parameter_count(settings.model, 63) == 62_000 + 4 * 62 + 4 * (62 + 62 + 1 + 63)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="char-rnn"):
        recipes.text("char_rnn")
    with pytest.raises(UsageError, match="settings"):
        recipes.values("../settings")

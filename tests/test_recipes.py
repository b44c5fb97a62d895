"""Every recipe is a whole, valid set of settings; a wrong name is told with all right ones."""

import pytest

from scriven import recipes
from scriven.errors import UsageError
from scriven.settings import consistent, validated


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_a_valid_file_of_settings_with_a_budget(name: str) -> None:
    settings = consistent(validated(recipes.values(name)))
    assert settings.budget
    assert recipes.title(name)
    assert recipes.text(name).startswith("# ")


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="char-rnn"):
        recipes.text("char_rnn")
    with pytest.raises(UsageError, match="settings"):
        recipes.values("../settings")

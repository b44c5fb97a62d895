"""`scriven recipe`: shows the recipes, which train the way known systems did."""

from __future__ import annotations

import sys

from cyclopts import App

from scriven import recipes
from scriven.cli.common import Json, put_json
from scriven.cli.help import HELP_FLAGS

app = App(
    name="recipe", help_flags=HELP_FLAGS, help="Show the recipes: settings that train the way a known system did."
)


@app.command(name="list")
def show_all(*, as_json: Json = False) -> None:
    """List the recipes, one per line."""
    width = max(map(len, recipes.names())) + 2
    for name in recipes.names():
        title = recipes.title(name)
        if as_json:
            put_json({"name": name, "title": title})
        else:
            sys.stdout.write(f"{name:{width}}{title}\n")


@app.command
def show(name: str, /) -> None:
    """Print a recipe: a TOML file that you can save, change, and use with `scriven train --settings`.

    Parameters
    ----------
    name
        name of the recipe, as `scriven recipe list` shows it
    """
    sys.stdout.write(recipes.text(name))

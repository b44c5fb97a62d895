"""`scriven recipe` and `scriven starts`: show the recipes and the general models in this package."""

from __future__ import annotations

import sys

from cyclopts import App

from scriven import recipes, starts
from scriven.cli.common import Json, put_json
from scriven.cli.help import HELP_FLAGS

recipe_app = App(
    name="recipe", help_flags=HELP_FLAGS, help="Show the recipes: settings that train the way a known system did."
)


@recipe_app.command(name="list")
def list_recipes(*, as_json: Json = False) -> None:
    """List the recipes, one per line."""
    width = max(map(len, recipes.names())) + 2
    for name in recipes.names():
        title = recipes.title(name)
        if as_json:
            put_json({"name": name, "title": title})
        else:
            sys.stdout.write(f"{name:{width}}{title}\n")


@recipe_app.command(name="show")
def show_recipe(name: str, /) -> None:
    """Print a recipe: a TOML file that you can save, change, and use with `scriven train --settings`.

    Parameters
    ----------
    name
        name of the recipe, as `scriven recipe list` shows it
    """
    sys.stdout.write(recipes.text(name))


starts_app = App(
    name="starts",
    help_flags=HELP_FLAGS,
    help="Show the general models that training can start from: scriven train --from NAME.",
)


@starts_app.default
def list_starts(*, as_json: Json = False) -> None:
    """List the starts with their size, languages and licence."""
    if not starts.names() and not as_json:
        sys.stdout.write("this version of scriven comes without starts; training begins with random weights\n")
    for name in starts.names():
        start = starts.find(name)
        about = start.description
        values = {"title": about.title, "bytes": start.size, "languages": about.languages, "licence": about.licence}
        values |= {"trained_characters": about.trained_characters, "sha256": start.sha256}
        if as_json:
            put_json({"name": name, **values})
        else:
            sys.stdout.write(
                f"{name}: {about.title}\n"
                f"  {start.size / 1e6:.1f} MB, trained on {about.trained_characters:,} characters\n"
                f"  languages: {about.languages}\n"
                f"  licence: {about.licence}\n"
            )


@starts_app.command(name="show")
def show_start(name: str, /) -> None:
    """Print the card of a start: its texts, their licences, how it was trained, and its losses.

    Parameters
    ----------
    name
        name of the start, as `scriven starts` shows it
    """
    sys.stdout.write(starts.find(name).read_card())

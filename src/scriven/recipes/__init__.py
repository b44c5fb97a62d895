"""Recipes: files of settings that come with Scriven. Each trains the way a known system did."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from scriven.errors import UsageError, close_names, did_you_mean


def names() -> list[str]:
    """Returns the names of all recipes, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def text(name: str) -> str:
    """Returns the text of a recipe: TOML with comments.

    Raises UsageError for an unknown name.
    """
    if name not in names():
        raise UsageError(
            f"there is no recipe {name!r}; there are {', '.join(names())}; for a file of your own, give --settings"
            f"{did_you_mean(close_names(name.replace('_', '-'), names()))}"
        )
    return str((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def title(name: str) -> str:
    """Returns the first line of a recipe, which says what it is."""
    return text(name).splitlines()[0].lstrip("# ")


def values(name: str) -> dict[str, Any]:
    """Returns a recipe's settings as nested plain values."""
    return tomllib.loads(text(name))


def _folder() -> Any:
    return resources.files(__package__)

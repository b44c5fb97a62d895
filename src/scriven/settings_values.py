"""Settings as nested plain values, as in TOML files: merged, validated, with errors in plain words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from scriven.errors import MOST_SHOWN, UsageError, close_dotted, close_names, did_you_mean, shorten
from scriven.settings import REGISTERED_CELLS, REGISTERED_OPTIMIZERS, BudgetSettings, Frozen, Settings

PLAINER = {
    "float_parsing": "give a number, such as 5 or 0.5",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "literal_error": "give {expected}",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give {ge} or more",
    "less_than": "give less than {lt}",
    "less_than_equal": "give {le} or less",
}
MOST_NAMED = 5  # settings in an error
RENAMED = {  # settings by the names that files of earlier versions have
    "training.returns": "training.max_rollbacks",
    "training.skips": "training.max_skipped_steps",
}


def validate(values: dict[str, Any]) -> Settings:
    """Returns settings from nested plain values.

    Raises UsageError with the setting, its value and the values that it may have.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(describe_errors(error)) from None


def find_unregistered(values: dict[str, Any]) -> str | None:
    """Returns the first of nested values that names an unregistered cell or optimizer; None if all are known."""
    for registry in (REGISTERED_CELLS, REGISTERED_OPTIMIZERS):
        section, name = registry.setting.split(".")
        group = values.get(section)
        value = group.get(name) if isinstance(group, dict) else None
        if isinstance(value, str) and not registry.knows(value):
            return f"{registry.setting} {shorten(repr(value))}"
    return None


def describe_errors(error: ValidationError, prefix: str = "", *, flags: bool = False) -> str:
    """Returns one sentence per wrong setting, with its dotted name (or its flag) and value."""
    lines = []
    errors = error.errors(include_url=False)
    for item in errors[:MOST_NAMED]:
        name = ".".join([*([prefix] if prefix else []), *(str(part)[:MOST_SHOWN] for part in item["loc"])])
        name = f"--{name.replace('_', '-')}" if flags and name else name
        message = item["msg"].removeprefix("Value error, ")
        unshown = item["type"] in {"missing", "extra_forbidden"} or not item["loc"]
        if item["type"] in PLAINER:
            message = PLAINER[item["type"]].format(**{key: _plain(each) for key, each in item.get("ctx", {}).items()})
        shown = "" if unshown else f" {shorten(repr(item['input']))}"
        if item["type"] == "extra_forbidden":
            message = "there is no such setting" + did_you_mean(_close_settings(error.title, item["loc"]))
        if now := RENAMED.get(name):
            lines.append(f"{name} is now called {now}")
            continue
        lines.append(f"{name}{shown}: {message}" if name and item["type"] != "value_error" else message)
    more = [f"and {len(errors) - MOST_NAMED:,} more"] if len(errors) > MOST_NAMED else []
    return "; ".join([*map(shorten, lines), *more])


def with_current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Returns nested settings under their current names. If a file has both an old name and its new one, both stay."""
    result = dict(values)
    for old, new in RENAMED.items():
        (section, before), after = old.split("."), new.split(".")[1]
        group = result.get(section)
        if isinstance(group, dict) and before in group and after not in group:
            result[section] = {after if name == before else name: value for name, value in group.items()}
    return result


def _plain(value: object) -> object:
    """Returns a bound of a setting as people write it: 1, not 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _close_settings(title: str, place: tuple[int | str, ...]) -> list[str]:
    """Returns known settings that are close to an unknown name in the class with this title."""
    names = [f"{section}.{name}" for section, values in Settings() for name in type(values).model_fields]
    if title != Settings.__name__:
        names = [name for each in Frozen.__subclasses__() if each.__name__ == title for name in each.model_fields]
    name = ".".join(map(str, place))[:MOST_SHOWN]
    return close_dotted(name, names) or close_names(name, Settings.model_fields if title == Settings.__name__ else ())


def merge_settings(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merges nested dictionaries; values of `over` win."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge_settings(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


ALTERNATIVES = {"budget": set(BudgetSettings.model_fields), "monitor": {"every_steps", "every_epochs"}}


def overlay_settings(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merges nested settings; values of `over` win.

    There can be only one budget and one interval of evaluations, so one in `over` replaces that in `base`.
    """
    kept = dict(base)
    for section, names in ALTERNATIVES.items():
        if names & set(over.get(section, {})):
            kept[section] = {name: value for name, value in base.get(section, {}).items() if name not in names}
    return merge_settings(kept, over)

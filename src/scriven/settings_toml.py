"""Reads settings from TOML files, which anybody may have written."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from scriven.errors import InputError, close_paths, did_you_mean
from scriven.settings import shorten

MOST_DOTS = 1000  # in numbers and in keys like a.b.c: tomllib's time is quadratic in the length of a key
LONGEST_NUMBER = 1000  # digits: Python prints none of over 4,300, but reads longer ones if they are hexadecimal
_LONG_NUMBER = re.compile(rf"0[xob][0-9a-fA-F_]{{{LONGEST_NUMBER}}}")
_BASIC_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+"?')  # to the end of the line if it is not closed


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the nested values of a TOML file.

    Raises InputError if it cannot be read or is not TOML.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path} to read settings from{did_you_mean(close_paths(str(path)))}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read settings from {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read settings from {path}, which is not UTF-8 at byte {error.start}") from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Returns the nested values of TOML text. Errors name the file `path` that it came from.

    Raises InputError if it is not TOML.
    """
    try:
        rest = _BASIC_STRING.sub("", text)
        if rest.count(".") > MOST_DOTS:
            raise ValueError(f"it has more than {MOST_DOTS} dots outside of strings")
        if _LONG_NUMBER.search(rest):
            raise ValueError(f"it has a number of over {LONGEST_NUMBER} digits")
        return tomllib.loads(text.removeprefix("\ufeff"))  # editors on Windows write a byte order mark
    except ValueError as error:
        raise InputError(f"cannot read settings from {path}: {shorten(str(error))}") from None
    except RecursionError:
        raise InputError(f"cannot read settings from {path}: they are nested too deeply") from None

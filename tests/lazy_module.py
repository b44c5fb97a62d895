"""A package that takes long to import, for the tests of one file: each process of the suite collects all files."""

import importlib
from importlib.util import find_spec
from typing import Any

import pytest


class LazyModule:
    """A module that is imported when something of it is used. Without it, the file's tests are skipped."""

    __test__ = False  # pytest asks everything in a file

    def __init__(self, name: str) -> None:
        if find_spec(name.partition(".")[0]) is None:
            pytest.skip(f"needs {name}", allow_module_level=True)
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks at everything in a file for such names, when it collects tests
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)

"""Turns text files into a corpus: ids on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scriven.corpus.store import Corpus, Part, is_corpus

__all__ = ["Corpus", "Part", "is_corpus"]


def __getattr__(name: str) -> object:
    """Imports a name when it is first used: what only prepares a text needs no corpus."""
    if name not in __all__:
        raise AttributeError(f"module 'scriven.corpus' has no attribute {name!r}")
    return getattr(import_module("scriven.corpus.store"), name)

"""Text on disk -> ids on disk."""

from scriven.corpus.build import build as build
from scriven.corpus.store import Corpus as Corpus
from scriven.corpus.store import Part as Part

__all__ = ["Corpus", "Part", "build"]

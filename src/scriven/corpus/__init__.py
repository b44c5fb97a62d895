"""Turns text files into a corpus: ids on disk."""

from scriven.corpus.build import build as build
from scriven.corpus.store import Corpus as Corpus
from scriven.corpus.store import Part as Part
from scriven.corpus.store import is_corpus as is_corpus

__all__ = ["Corpus", "Part", "build", "is_corpus"]

"""Whether a text has its accents in another Unicode form than a model: composed (NFC) or apart (NFD)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from scriven.vocabulary import Vocabulary


def describe_form(form: str) -> str:
    """Words for what a text is like that a model would know in this form, "NFC" or "NFD"."""
    if form == "NFC":
        return "has letters and accents apart (NFD), and the model knows them as one (NFC)"
    return "has letters with their accents as one (NFC), and the model knows them apart (NFD)"


def other_form(vocabulary: Vocabulary, unseen: Iterable[str]) -> str:
    """The form, "NFC" or "NFD", in which the model would know one of the unseen characters; empty where it is none."""
    if vocabulary.unit == "byte":
        return ""
    known = set(map(chr, vocabulary.symbols))
    marks = {mark for character in known for mark in unicodedata.normalize("NFD", character)[1:]}
    for character in unseen:
        apart = unicodedata.normalize("NFD", character)
        if character in marks:
            return "NFC"
        if len(apart) > 1 and known.issuperset(apart):
            return "NFD"
    return ""

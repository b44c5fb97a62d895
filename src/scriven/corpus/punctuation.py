"""Typographic punctuation -> what a typewriter has: quotes, dashes, the ellipsis and spaces as ASCII."""

from __future__ import annotations

_PLAIN = {
    "'": "\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a",
    '"': "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb",
    "-": "\u2010\u2011\u2012\u2013\u2212\u2043",
    "--": "\u2014\u2015",
    "...": "\u2026",
    "*": "\u2022",
    " ": "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f",
    "": "\u00ad",  # a soft hyphen, which shows a place where a word may be broken
}
_TABLE = {ord(character): plain for plain, characters in _PLAIN.items() for character in characters}


def fold_punctuation(text: str) -> str:
    """A text with plain quotes, dashes, dots and spaces: “It’s” is "It's", an en dash "-", an em dash "--"."""
    return text if text.isascii() else text.translate(_TABLE)

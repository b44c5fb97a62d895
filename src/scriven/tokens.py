"""Tokens: what stands between white space, which is spaces, tabs and line ends.

A line end is a token too, and each of its three kinds is a line feed. Text made of tokens is in *plain form*: one space
between the tokens of a line, none at its ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from scriven.runtime import REPLACEMENT

LINE_FEED = "\n"
SPACES = " \t\n\r"  # end tokens; all other white space is a part of them
MOST_TOKENS = 1 << 14  # that a model knows
KEPT_UNKNOWN = 1 << 23  # characters of the unknown tokens that were looked up last, which are remembered
TOKEN_CHARACTERS = 32  # that each of them counts in addition, for the memory that it takes
MOST_UNKNOWN = 1 << 40  # numbers of unknown tokens; they never run out, so that none is given twice


def tokens_of(text: str) -> list[str]:
    """Returns the tokens of a text in order; each line end is one, too."""
    if "\r" in text:
        text = text.replace("\r\n", LINE_FEED).replace("\r", LINE_FEED)
    return [*filter(None, text.replace(LINE_FEED, " \n ").replace("\t", " ").split(" "))]


def join_tokens(tokens: Iterable[str]) -> str:
    """Returns the text of tokens in plain form."""
    return " ".join(tokens).replace(" \n", LINE_FEED).replace("\n ", LINE_FEED)


def is_token(text: object) -> bool:
    """Whether a value is a text of exactly one token."""
    return isinstance(text, str) and bool(text) and (text == LINE_FEED or not set(SPACES).intersection(text))


class TokenNumbers(dict[str, int]):
    """Gives tokens numbers from 0 on, in the order in which they are looked up first. `names` has the tokens."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.characters = 0  # of all names
        self._lock = threading.Lock()

    def __missing__(self, token: str) -> int:
        with self._lock:
            if (known := self.get(token)) is not None:  # another thread came first
                return known
            self.names.append(token)
            self.characters += len(token)
            self[token] = len(self.names) - 1
            return len(self.names) - 1


class _UnknownTokens:
    """Numbers the tokens that vocabularies lack. A line end is always 0, and no other number is given twice.

    Tokens are remembered in two halves. When the younger one is full, the older one is forgotten, so that texts cannot
    fill the memory. A token that was looked up is remembered until `KEPT_UNKNOWN` more characters of others were.
    """

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._names: tuple[dict[int, str], dict[int, str]] = {}, {}  # the same halves, by number
        self._next, self._characters = 1, 0  # the characters are those of the younger half
        self._lock = threading.Lock()

    def __getitem__(self, token: str) -> int:
        if token == LINE_FEED:
            return 0
        number = self._young.get(token)
        return self._keep(token) if number is None else number

    def _keep(self, token: str) -> int:
        """Returns the number of a token, which then is in the younger half."""
        with self._lock:
            if (number := self._young.get(token, self._old.get(token))) is None:
                number, self._next = self._next, self._next + 1
            size = len(token) + TOKEN_CHARACTERS
            if self._characters + size > KEPT_UNKNOWN:
                self._old, self._young, self._characters = self._young, {}, 0
                self._names = self._names[1], {}
            self._characters += size
            self._young[token] = number
            self._names[1][number] = token
            return number

    def name(self, number: int) -> str:
        """Returns the token with a number; U+FFFD if it was forgotten."""
        if number == 0:
            return LINE_FEED
        old, young = self._names
        return young.get(number) or old.get(number) or chr(REPLACEMENT)


UNKNOWN_TOKENS = _UnknownTokens()

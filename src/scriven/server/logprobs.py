"""Log-probabilities as OpenAI's completions tell them: a token a symbol, as far as the text with them is told."""

from __future__ import annotations

from collections import deque
from typing import Any

from scriven.server.reading import Details
from scriven.surrogates import WRITTEN
from scriven.vocabulary import Vocabulary

Logprobs = dict[str, list[Any] | None]


class Tokens:
    """The tokens of one text, in the order of the text, with what was told of each."""

    def __init__(self, vocabulary: Vocabulary, likeliest: int, offset: int = 0, *, begins: bool = False) -> None:
        """They begin after `offset` characters of a prompt that is not told.

        `begins`: the first token is the one that begins a text, which nothing foretells.
        """
        self._vocabulary = vocabulary
        self._likeliest = likeliest
        self._decoder = vocabulary.decoder()
        self._names: dict[int, str] = {}
        self._told = self._known = offset  # characters of text: told, and that the tokens so far make
        self._waiting: deque[tuple[int, int, str, float | None, dict[str, float] | None]] = deque()
        if begins:
            self._waiting.append((0, 0, "<bos>", None, None))

    def add(self, details: Details) -> None:
        """More symbols, whose text comes later or at once."""
        tops: list[dict[str, float] | None] = [None] * len(details.ids)
        if details.likeliest is not None:
            pairs = zip(*(each.tolist() for each in details.likeliest), strict=True)
            tops = [self._named_top(ids, values) for ids, values in pairs]
        for symbol, nats, top in zip(details.ids.tolist(), details.nats.tolist(), tops, strict=True):
            begin, name = self._known, self._name(symbol)
            self._known += self._length(symbol)
            if top is not None:
                top.setdefault(name, -nats)
            self._waiting.append((self._known, begin, name, -nats, top))

    def take(self, characters: int, ended: bool = False) -> Logprobs:
        """The tokens of the next so many characters of text; where a document ended with them, that of its end too.

        Clients count on it: lm-eval leaves out the last token, the one that was written.
        """
        self._told += characters
        taken = []
        while self._waiting and (ended or self._waiting[0][0] <= self._told):
            taken.append(self._waiting.popleft())
        _, offsets, names, values, tops = map(list, zip(*taken, strict=True)) if taken else ([],) * 5
        return {
            "tokens": names,
            "token_logprobs": values,
            "top_logprobs": tops if self._likeliest else None,
            "text_offset": offsets,
        }

    def _named_top(self, ids: list[int], values: list[float]) -> dict[str, float]:
        """The likeliest first. Of two that read alike, a byte and the boundary, the likelier one counts."""
        top: dict[str, float] = {}
        for symbol, value in zip(ids, values, strict=True):
            top.setdefault(self._name(symbol), value)
        return top

    def _length(self, symbol: int) -> int:
        """How many characters of text are whole with one more symbol."""
        vocabulary = self._vocabulary
        if vocabulary.unit == "byte":
            return len(self._decoder.feed([symbol]))
        return len(vocabulary.separator or "") if symbol == vocabulary.boundary else 1

    def _name(self, symbol: int) -> str:
        """A token's text: each symbol has one of its own."""
        if symbol not in self._names:
            self._names[symbol] = token_name(self._vocabulary, symbol)
        return self._names[symbol]


def token_name(vocabulary: Vocabulary, symbol: int) -> str:
    """The text that a symbol is called by: its own, but `bytes:` and bytes where it is no character by itself."""
    if symbol == vocabulary.unknown:
        return "<unk>"
    if vocabulary.unit == "byte" and 128 <= symbol < 256:
        return _bytes_name(bytes([symbol]))
    text = vocabulary.decode([symbol])
    return character_name(text) if len(text) == 1 else text


def character_name(character: str) -> str:
    """A character itself; of half a one, as a byte that was not UTF-8 is read, the bytes that it is written as."""
    half = "\ud800" <= character <= "\udfff"
    return _bytes_name(character.encode("utf-8", WRITTEN)) if half else character


def _bytes_name(data: bytes) -> str:
    return "bytes:" + "".join(f"\\x{each:02x}" for each in data)


__all__ = ["Logprobs", "Tokens", "character_name", "token_name"]

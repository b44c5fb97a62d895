"""How clients see symbols: their names, their ids, and their log-probabilities in OpenAI's format."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from scriven.arrays import Ids
from scriven.runtime import WRITTEN
from scriven.server.prefill import SymbolSurprisals
from scriven.server.responses import ApiError
from scriven.vocabulary import Vocabulary

UNKNOWN_NAME, BEGIN_NAME = "<unk>", "<bos>"  # of symbols that are no text
BYTES, TOKEN = "bytes:", "token:"  # before the names of bytes, and of tokens whose text could be another name

Logprobs = dict[str, list[Any] | None]


def start_id(vocabulary: Vocabulary) -> int | None:
    """The id that marks the start of a text, as the first id of a prompt. It is not a symbol and is never generated.

    Models that know documents have none (None): there the boundary starts a document.
    """
    return _ids_of_clients(vocabulary) if vocabulary.boundary is None else None


def _ids_of_clients(vocabulary: Vocabulary) -> int:
    """How many ids clients may give: of unknown tokens none, as those of one request would name tokens of another."""
    return vocabulary.size if vocabulary.unit == "token" else vocabulary.ids


def ids_for_clients(vocabulary: Vocabulary, ids: Ids) -> Ids:
    """Ids of a text (T,) as clients may give them back: an unknown token has that of `<unk>`."""
    return vocabulary.clamp(ids) if vocabulary.unit == "token" else ids


def check_ids(vocabulary: Vocabulary, ids: list[int], param: str) -> Ids:
    """Ids as an array (T,). Raises ApiError, 400, for an id that the model does not have."""
    array, most = np.array(ids, np.int64), _ids_of_clients(vocabulary)
    if array.size and array.max() >= most:
        message = f"{param}: unknown id {array.max()}; this model's ids are below {most:,}"
        raise ApiError(400, message, param, "invalid_value")
    return array


def token_name(vocabulary: Vocabulary, symbol: int) -> str:
    """The name of a symbol: its text, or `bytes:` and its bytes if it is not a character by itself.

    No other symbol has it, but for a boundary whose separator is one. A token whose text could be another name has
    `token:` before it.
    """
    if symbol == vocabulary.unknown:
        return UNKNOWN_NAME
    if vocabulary.unit == "byte" and 128 <= symbol < 256:
        return _bytes_name(bytes([symbol]))
    text = vocabulary.decode([symbol])
    if vocabulary.unit == "token" and symbol != vocabulary.boundary:
        if any("\ud800" <= each <= "\udfff" for each in text):
            return _bytes_name(text.encode("utf-8", WRITTEN))
        return f"{TOKEN}{text}" if text in (UNKNOWN_NAME, BEGIN_NAME) or text.startswith((BYTES, TOKEN)) else text
    return character_name(text) if len(text) == 1 else text


def character_name(character: str) -> str:
    """The character itself. For a lone surrogate, the name of the byte that was not UTF-8."""
    half = "\ud800" <= character <= "\udfff"
    return _bytes_name(character.encode("utf-8", WRITTEN)) if half else character


def _bytes_name(data: bytes) -> str:
    return BYTES + "".join(f"\\x{each:02x}" for each in data)


class Tokens:
    """Log-probabilities in OpenAI's format: one token per symbol, released with the text that it belongs to."""

    def __init__(
        self, vocabulary: Vocabulary, logprobs: int, offset: int = 0, *, begins: bool = False, after: str = ""
    ) -> None:
        """The tokens come after `offset` characters of a prompt that is not in the answer, which ends with `after`.

        `logprobs` is how many alternatives each token has. With `begins`, the first token marks the start of the text.
        """
        self._vocabulary = vocabulary
        self._logprobs = logprobs
        self._decoder = vocabulary.decoder(after=after)
        self._names: dict[int, str] = {}
        self._released = self._known = offset  # characters: of the text released, and of all tokens so far
        self._waiting: deque[tuple[int, int, str, float | None, dict[str, float] | None]] = deque()
        if begins:
            self._waiting.append((0, 0, BEGIN_NAME, None, None))

    def add(self, surprisals: SymbolSurprisals) -> None:
        """Adds symbols. Their text may be released later."""
        tops: list[dict[str, float] | None] = [None] * len(surprisals.ids)
        if surprisals.likeliest is not None:
            pairs = zip(*(each.tolist() for each in surprisals.likeliest), strict=True)
            tops = [self._top_by_name(ids, values) for ids, values in pairs]
        for symbol, nats, top in zip(surprisals.ids.tolist(), surprisals.nats.tolist(), tops, strict=True):
            begin, name = self._known, self._name(symbol)
            self._known += self._length(symbol)
            if top is not None:
                top.setdefault(name, -nats)
            self._waiting.append((self._known, begin, name, -nats, top))

    def take(self, characters: int, ended: bool = False) -> Logprobs:
        """Releases the tokens of the next `characters` of text, and if it `ended`, the one that ends its document.

        Clients rely on that last one: lm-eval leaves out the last token, the one that was generated.
        """
        self._released += characters
        released = []
        while self._waiting and (ended or self._waiting[0][0] <= self._released):
            released.append(self._waiting.popleft())
        _, offsets, names, values, tops = map(list, zip(*released, strict=True)) if released else ([],) * 5
        return {
            "tokens": names,
            "token_logprobs": values,
            "top_logprobs": tops if self._logprobs else None,
            "text_offset": offsets,
        }

    def _top_by_name(self, ids: list[int], values: list[float]) -> dict[str, float]:
        """Returns log-probabilities by name, highest first. If a byte and the boundary share one, the higher stays."""
        top: dict[str, float] = {}
        for symbol, value in zip(ids, values, strict=True):
            top.setdefault(self._name(symbol), value)
        return top

    def _length(self, symbol: int) -> int:
        """How many more characters of text are complete with this symbol."""
        vocabulary = self._vocabulary
        if vocabulary.unit != "character":
            return len(self._decoder.feed([symbol]))
        return len(vocabulary.separator or "") if symbol == vocabulary.boundary else 1

    def _name(self, symbol: int) -> str:
        """The token's name, which no other symbol has."""
        if symbol not in self._names:
            self._names[symbol] = token_name(self._vocabulary, symbol)
        return self._names[symbol]

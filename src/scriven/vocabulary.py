"""Characters, bytes or tokens <-> ids. Every text has ids, and the ids of a text give that text back.

Ids of one vocabulary, with C known symbols and V = C + 1, or C + 2 if texts are made of documents:

- `0 .. C-1`: the known symbols, sorted by code point (all 256 values if the unit is the byte; tokens as strings are);
- `C`, with documents only: the boundary. It is read as the start of a document, and predicted as its end;
- `V - 1`: `<unk>`, which the model reads and predicts in place of an unknown symbol;
- `V + code point`: an unknown symbol, kept so that nothing is lost; the model reads it as `<unk>`. An unknown token has
  a number of its own in place of the code point, which `UNKNOWN_TOKENS` gives it, and no other token later. The text
  that ids of tokens give back is in plain form; see `scriven.tokens`.

In a text, a byte that was not valid UTF-8 is one of the code points U+DC80..U+DCFF (Python's `surrogateescape`). It
counts as one byte.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from scriven import strict_json
from scriven.arguments import check_text
from scriven.arrays import Ids
from scriven.errors import InputError, UsageError
from scriven.runtime import REPLACEMENT, SHOWN, WRITTEN
from scriven.settings import Unit
from scriven.tokens import (
    LINE_FEED,
    MOST_TOKENS,
    MOST_UNKNOWN,
    SPACES,
    UNKNOWN_TOKENS,
    is_token,
    join_tokens,
    tokens_of,
)

UNICODE_SIZE = 0x110000  # code points: 1,114,112
Symbols = npt.NDArray[np.unsignedinteger]  # code points or bytes, in as few bytes as is quick


def code_points(text: str) -> Symbols:
    """Returns the code point of each character, (characters,), with lone surrogates; as uint8 if all are ASCII."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def utf8_lengths(points: Ids | Symbols) -> Ids:
    """Returns the bytes of UTF-8 that each code point takes; 1 for a surrogate that keeps an invalid byte."""
    lengths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    stray = (points >= 0xDC80) & (points <= 0xDCFF)
    return np.where(stray, 1, lengths).astype(np.int64)


def byte_places(text: str, places: Ids) -> Ids:
    """Converts places in a text (M,), counted in characters, to places in its UTF-8, counted in bytes."""
    if not places.size or text.isascii():
        return places
    return np.concatenate(([0], utf8_lengths(code_points(text)).cumsum()))[places]


def byte_values(text: str) -> Symbols:
    """Returns the bytes of a text's UTF-8. A surrogate that keeps an invalid byte becomes that byte again.

    Other lone surrogates take three bytes.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", WRITTEN)  # one call for each half character
    return np.frombuffer(data, np.uint8)  # (bytes,)


def token_places(text: str, places: Ids) -> Ids:
    """Converts places in a text (M,) from characters to tokens; each token has a space after it."""
    if not places.size:
        return places
    return np.searchsorted(np.flatnonzero(code_points(text) == ord(" ")), places).astype(np.int64)


def readable_json(values: Mapping[str, Any]) -> str:
    """Returns an object as JSON text, one line per key. Only characters without UTF-8 are escaped."""
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows: a value, equal to any other with the same unit, symbols and separator.

    `symbols` are code points, strictly rising; for the unit byte, all 256 values; for the unit token, the numbers of
    the `tokens`, which are strictly rising as strings. `separator` is the text between two documents, for the boundary;
    None if texts have no documents. Raises ValueError for other symbols.
    """

    unit: Unit
    symbols: tuple[int, ...]
    separator: str | None = None
    tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.unit == "token":
            self._check_tokens()
            return
        rising = all(a < b for a, b in zip((-1, *self.symbols), (*self.symbols, UNICODE_SIZE), strict=True))
        if not rising:
            raise ValueError("the symbols of a vocabulary must be code points, each once, sorted")
        if self.unit == "byte" and len(self.symbols) != 256:
            raise ValueError(f"a vocabulary of bytes has 256 symbols, not {len(self.symbols)}")
        if self.tokens:
            raise ValueError(f"a vocabulary of {self.unit}s has no tokens")

    def _check_tokens(self) -> None:
        if len(self.tokens) > MOST_TOKENS:
            raise ValueError(f"it has {len(self.tokens):,} tokens, and a model knows at most {MOST_TOKENS:,}")
        if self.symbols != tuple(range(len(self.tokens))):
            raise ValueError("the symbols of a vocabulary of tokens must be their numbers")
        if wrong := next((token for token in self.tokens if not is_token(token)), None):
            raise ValueError(f"{wrong!r} is not one token")
        if not all(a < b for a, b in itertools.pairwise(("", *self.tokens))):
            raise ValueError("the tokens of a vocabulary must be there once each, sorted")

    def __repr__(self) -> str:
        if self.unit == "byte":
            return f"Vocabulary(all bytes{'' if self.separator is None else ', of documents'})"
        shown = reprlib.repr((" " if self.unit == "token" else "").join(self.names))
        documents = "" if self.separator is None else ", of documents"
        return f"Vocabulary({len(self.symbols):,} {self.unit}s: {shown}{documents})"

    @classmethod
    def of(cls, text: str, separator: str | None = None) -> Vocabulary:
        """Returns the vocabulary of the characters of a text."""
        return cls("character", tuple(sorted(map(ord, set(text)))), separator)

    @classmethod
    def of_bytes(cls, separator: str | None = None) -> Vocabulary:
        """Returns the vocabulary of all 256 bytes."""
        return cls("byte", tuple(range(256)), separator)

    @classmethod
    def of_tokens(cls, tokens: Iterable[str], separator: str | None = None) -> Vocabulary:
        """Returns the vocabulary of some tokens, in any order and any number of times."""
        distinct = tuple(sorted(set(tokens)))
        return cls("token", tuple(range(len(distinct))), separator, distinct)

    @property
    def names(self) -> tuple[str, ...]:
        """The text of each known symbol (C,): a character or a token; for bytes, the character of the same number."""
        return self.tokens if self.unit == "token" else tuple(map(chr, self.symbols))

    @property
    def size(self) -> int:
        """V: the known symbols, the boundary if any, and `<unk>`. A model reads and predicts these ids."""
        return len(self.symbols) + 1 + (self.separator is not None)

    @property
    def ids(self) -> int:
        """The number of all ids, with those of unknown symbols."""
        unknown = {"byte": 0, "character": UNICODE_SIZE, "token": MOST_UNKNOWN}
        return self.size + unknown[self.unit]

    @property
    def boundary(self) -> int | None:
        """The id that starts and ends a document; None if texts have no documents."""
        return None if self.separator is None else len(self.symbols)

    @property
    def unknown(self) -> int:
        """The id of `<unk>`."""
        return self.size - 1

    @property
    def unseen_nats(self) -> float:
        """The cost of an unknown symbol in nats, in addition to -ln P of `<unk>`.

        It is as if all unknown ones were equally likely, and there were 1,114,112 symbols, of tokens too.
        """
        return math.log(UNICODE_SIZE - self.size)

    @cached_property
    def _ids(self) -> npt.NDArray[np.int32]:
        """The id of every code point, known or not."""
        ids = np.arange(self.size, self.size + UNICODE_SIZE, dtype=np.int32)
        ids[np.array(self.symbols, np.int64)] = np.arange(len(self.symbols))
        return ids

    @cached_property
    def _token_ids(self) -> _TokenIds:
        """The id of every token, known or not."""
        return _TokenIds(self)

    @cached_property
    def line_end(self) -> int:
        """The id of a line end among tokens; that of an unknown one if the vocabulary lacks it."""
        return self._token_ids[LINE_FEED]

    @cached_property
    def _shown(self) -> tuple[str, ...]:
        """The text that shows each id below V of tokens, (V,)."""
        return *self.tokens, *[chr(REPLACEMENT)] * (self.size - len(self.tokens))

    @cached_property
    def _token_sizes(self) -> Ids:
        """The bytes of each id below V of tokens, as `byte_lengths` counts them."""
        return np.array([*map(_token_size, self._shown)], np.int64)  # (V,)

    @cached_property
    def _points(self) -> Ids:
        """The code point that shows each id below V."""
        return np.array([*self.symbols, *[REPLACEMENT] * (self.size - len(self.symbols))], np.int64)  # (V,)

    def encode(self, text: str) -> Ids:
        """Returns the ids of a text: one per character or token, or per byte of its UTF-8 (three for a lone surrogate).

        Raises UsageError when it is not a str.
        """
        text = check_text("text", text)
        if self.unit == "token":
            tokens = tokens_of(text)
            return np.fromiter(map(self._token_ids.__getitem__, tokens), np.int64, len(tokens))
        if self.unit == "byte":
            return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64)
        return self._ids.take(code_points(text)).astype(np.int64)

    def encode_read(self, text: str) -> Ids:
        """Returns the ids of a text read from a file: like `encode`, but an invalid byte of UTF-8 is one byte.

        A corpus of bytes has these ids. Decoded again, an invalid byte becomes U+FFFD.
        """
        return byte_values(text).astype(np.int64) if self.unit == "byte" else self.encode(text)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Returns the text of ids; `decode(encode(text)) == text`. A boundary becomes the separator.

        The text of tokens is in plain form. `<unk>`, a token that is no longer remembered and bytes that are not UTF-8
        become U+FFFD. Raises ValueError when an id is below 0 or above the last.
        """
        known = np.asarray(ids, np.int64)
        if self.separator is None:
            return self._decode(known)
        at = np.flatnonzero(known == self.boundary)
        first, *others = np.split(known, at)
        return self._decode(first) + "".join(self.separator + self._decode(document[1:]) for document in others)

    def _decode(self, ids: Ids) -> str:
        """Like `decode`, for ids without boundaries."""
        if self.unit == "token":
            return join_tokens(self._names_of(ids))
        if self.unit == "byte":
            return _utf8(ids, self.size).decode("utf-8", SHOWN)
        return self._code_points(ids).astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def _names_of(self, ids: Ids) -> Iterable[str]:
        """Returns the tokens of ids (T,)."""
        self._check_ids(ids)
        names, size = self._shown, self.size
        return (names[each] if each < size else UNKNOWN_TOKENS.name(each - size) for each in ids.tolist())

    def clamp(self, ids: Ids) -> Ids:
        """Returns ids for the model, with `<unk>` in place of unknown symbols."""
        return np.minimum(ids, self.unknown)

    def unseen(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Returns True for each id of an unknown symbol."""
        return ids >= self.size

    def unknown_characters(self, text: str) -> list[str]:
        """Returns the distinct unknown characters, or tokens, of a text, in order of appearance."""
        return self.unseen_characters(self.encode(text))

    def unseen_characters(self, ids: Ids) -> list[str]:
        """Returns the distinct unknown characters, or tokens, among ids, in order of appearance."""
        found = np.array([*dict.fromkeys(ids[self.unseen(ids)].tolist())], np.int64)
        return [*self._names_of(found)] if self.unit == "token" else list(self.decode(found))

    def byte_lengths(self, ids: Ids) -> Ids:
        """Returns the bytes of UTF-8 that each symbol takes: 0 for the boundary; for `<unk>`, those of U+FFFD.

        A token has one more, for the space or the line end after it, and a line end none. So the bytes of an empty line
        are not counted.
        """
        if self.unit == "token":
            return self._byte_lengths_of_tokens(ids)
        sizes = np.ones(ids.shape, np.int64) if self.unit == "byte" else utf8_lengths(self._code_points(ids))
        return sizes if self.boundary is None else np.where(ids == self.boundary, 0, sizes)

    def _byte_lengths_of_tokens(self, ids: Ids) -> Ids:
        self._check_ids(ids)
        sizes, unseen = self._token_sizes[self.clamp(ids)], self.unseen(ids)
        if unseen.any():
            sizes[unseen] = [_token_size(UNKNOWN_TOKENS.name(each - self.size)) for each in ids[unseen].tolist()]
        return sizes if self.boundary is None else np.where(ids == self.boundary, 0, sizes)

    def decoder(self, *, after: str = "") -> Decoder:
        """Returns a decoder for ids that come piece by piece, and follow the text `after`.

        The text of tokens then begins with a space, unless `after` ends with white space or a document.
        """
        return Decoder(self, inside=self.ends_inside(after))

    def ends_inside(self, text: str) -> bool:
        """Whether a text ends with a token, after which a space has to come before another one."""
        ended = not text or text[-1] in SPACES or bool(self.separator and text.endswith(self.separator))
        return self.unit == "token" and not ended

    def ends_apart(self, text: str) -> bool:
        """Whether a text of tokens does not end with one, so that no space has to come before another."""
        return self.unit == "token" and not self.ends_inside(text)

    def fit_between(self, before: str, middle: str, after: str) -> str:
        """Returns the text of a middle with the spaces that its tokens need between the texts before and after it."""
        begins, ends = (bool(text) and text[0] not in SPACES for text in (middle, after))
        first = " " * (begins and self.ends_inside(before))
        return first + middle + " " * (ends and self.ends_inside(middle or before))

    def to_json(self) -> str:
        """Returns the vocabulary as readable JSON."""
        separator = {} if self.separator is None else {"separator": self.separator}
        symbols = {} if self.unit == "byte" else {"symbols": list(self.names)}
        return readable_json({"unit": self.unit, **separator, **symbols})

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Returns the vocabulary that `to_json` wrote.

        Raises InputError when the text is damaged.
        """
        try:
            values = strict_json.parse(text)
            separator = values.get("separator")
            if not (separator is None or isinstance(separator, str)):
                raise ValueError(f"separator {separator!r} is not a string")
            if values["unit"] == "byte":
                return cls.of_bytes(separator)
            if values["unit"] not in {"character", "token"}:
                raise ValueError(f"unit {values['unit']!r} is neither character nor byte nor token")
            symbols = values["symbols"]
            if not isinstance(symbols, list):
                raise ValueError("its symbols are not a list")
            if values["unit"] == "token":
                return cls("token", tuple(range(len(symbols))), separator, tuple(symbols))
            if len(symbols) > UNICODE_SIZE:
                raise ValueError(f"it has {len(symbols):,} symbols, more than there are characters")
            return cls("character", tuple(map(ord, symbols)), separator)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the vocabulary is damaged ({error}); restore it from a copy or build it again") from None

    def _check_ids(self, ids: Ids) -> int:
        """Returns the largest of ids, 0 if there are none. Raises ValueError for what is no id."""
        least, most = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
        if not 0 <= least <= most < self.ids:
            raise ValueError(f"ids must be in 0..{self.ids - 1}, not {least}..{most}")
        return most

    def _code_points(self, ids: Ids) -> Ids:
        if self._check_ids(ids) < self.size:
            return self._points[ids]
        return np.where(ids < self.size, self._points[self.clamp(ids)], ids - self.size)


class _TokenIds(dict[str, int]):
    """The ids of tokens in a vocabulary. An unknown one that is looked up gets its own."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(zip(vocabulary.tokens, range(len(vocabulary.tokens)), strict=True))
        self._size = vocabulary.size

    def __missing__(self, token: str) -> int:
        return self._size + UNKNOWN_TOKENS[token]


def _token_size(token: str) -> int:
    """Returns the bytes of a token with the space after it; 0 for a line end."""
    return 0 if token == LINE_FEED else byte_values(token).size + 1


class Decoder:
    """Decodes ids that come piece by piece; a character of several bytes is held back until it is complete.

    A token that follows another one in its line begins with a space.
    """

    def __init__(self, vocabulary: Vocabulary, *, inside: bool = False) -> None:
        """`inside` says whether a token comes before, in the same line."""
        self._vocabulary = vocabulary
        self._inside = inside
        self._bytes = codecs.getincrementaldecoder("utf-8")(SHOWN)

    def feed(self, ids: Sequence[int] | Ids) -> str:
        """Returns the text that these ids complete; empty inside a character."""
        ids, boundary = np.asarray(ids, np.int64), self._vocabulary.boundary
        if self._vocabulary.unit == "token":
            return self._feed_tokens(ids)
        if self._vocabulary.unit == "character":
            return self._vocabulary.decode(ids)
        if boundary is None:
            return self._bytes.decode(_utf8(ids, self._vocabulary.size))
        first, *others = np.split(ids, np.flatnonzero(ids == boundary))
        text = self._bytes.decode(_utf8(first, self._vocabulary.size))
        for document in others:
            text += self.flush() + self._vocabulary.decode([boundary])
            text += self._bytes.decode(_utf8(document[1:], self._vocabulary.size))
        return text

    def _feed_tokens(self, ids: Ids) -> str:
        if not ids.size:
            return ""
        breaks = self._vocabulary.line_end, self._vocabulary.boundary
        space = self._inside and int(ids[0]) not in breaks
        self._inside = int(ids[-1]) not in breaks
        return " " * space + self._vocabulary.decode(ids)

    def flush(self) -> str:
        """Ends the text: returns U+FFFD if a character was incomplete. The decoder can then be used again."""
        rest = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return rest

    def begin_after(self, text: str) -> Decoder:
        """Returns a new decoder of the same vocabulary for ids that follow a text."""
        return self._vocabulary.decoder(after=text)

    def copy(self) -> Decoder:
        """Returns an independent decoder that continues from here."""
        result = Decoder(self._vocabulary, inside=self._inside)
        result._bytes.setstate(self._bytes.getstate())
        return result


def check_ids(name: str, ids: object, count: int) -> Ids:
    """Returns ids (T,), int64. Raises UsageError unless they are whole numbers from 0 to `count` - 1."""
    try:
        array = np.asarray(ids)
    except (ValueError, TypeError, RuntimeError):  # lists of several lengths, and tensors that numpy cannot read
        array = np.empty((), object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UsageError(f"{name} {reprlib.repr(ids)}: give a list of whole numbers, as encode returns")
    if array.size and not 0 <= array.min() <= array.max() < count:
        wrong = array.max() if array.min() >= 0 else array.min()
        raise UsageError(f"{name}: {wrong} is no id; give numbers from 0 to {count - 1}, as encode returns")
    return array.astype(np.int64)


def _utf8(ids: Ids, size: int) -> bytes:
    """Returns the bytes of byte ids. `<unk>` becomes 0xFF, which is never UTF-8 and is shown as one U+FFFD."""
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise ValueError(f"ids of bytes must be in 0..{size - 1}, not {ids.min()}..{ids.max()}")
    return np.minimum(ids, 0xFF).astype(np.uint8).tobytes()

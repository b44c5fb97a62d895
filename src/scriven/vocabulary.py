"""Characters or bytes <-> ids. Every text has ids, and every id sequence made from a text gives that text back.

Ids of one vocabulary, with C known symbols and V = C + 1, or C + 2 if texts are made of documents:

- `0 .. C-1`: the known symbols, sorted by code point (all 256 values if the unit is the byte);
- `C`, with documents only: the boundary. It is read as the start of a document, and predicted as its end;
- `V - 1`: `<unk>`, which the model reads and predicts in place of an unknown symbol;
- `V + code point`: an unknown symbol, kept so that nothing is lost; the model reads it as `<unk>`.

In a text, a byte that was not valid UTF-8 is one of the code points U+DC80..U+DCFF (Python's `surrogateescape`). It
counts as one byte.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
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


def readable_json(values: Mapping[str, Any]) -> str:
    """Returns an object as JSON text, one line per key. Only characters without UTF-8 are escaped."""
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows: a value, equal to any other with the same unit, symbols and separator.

    `symbols` are code points, strictly rising; for the unit byte, all 256 values. `separator` is the text between two
    documents, for the boundary; None if texts have no documents. Raises ValueError for other symbols.
    """

    unit: Unit
    symbols: tuple[int, ...]
    separator: str | None = None

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((-1, *self.symbols), (*self.symbols, UNICODE_SIZE), strict=True))
        if not rising:
            raise ValueError("the symbols of a vocabulary must be code points, each once, sorted")
        if self.unit == "byte" and len(self.symbols) != 256:
            raise ValueError(f"a vocabulary of bytes has 256 symbols, not {len(self.symbols)}")

    def __repr__(self) -> str:
        if self.unit == "byte":
            return f"Vocabulary(all bytes{'' if self.separator is None else ', of documents'})"
        shown = reprlib.repr("".join(map(chr, self.symbols)))
        return (
            f"Vocabulary({len(self.symbols):,} characters: {shown}{'' if self.separator is None else ', of documents'})"
        )

    @classmethod
    def of(cls, text: str, separator: str | None = None) -> Vocabulary:
        """Returns the vocabulary of the characters of a text."""
        return cls("character", tuple(sorted(map(ord, set(text)))), separator)

    @classmethod
    def of_bytes(cls, separator: str | None = None) -> Vocabulary:
        """Returns the vocabulary of all 256 bytes."""
        return cls("byte", tuple(range(256)), separator)

    @property
    def size(self) -> int:
        """V: the known symbols, the boundary if any, and `<unk>`. A model reads and predicts these ids."""
        return len(self.symbols) + 1 + (self.separator is not None)

    @property
    def ids(self) -> int:
        """The number of all ids, with those of unknown symbols."""
        return self.size if self.unit == "byte" else self.size + UNICODE_SIZE

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
        """The cost of an unknown symbol in nats, in addition to -ln P of `<unk>`."""
        return math.log(UNICODE_SIZE - self.size)

    @cached_property
    def _ids(self) -> npt.NDArray[np.int32]:
        """The id of every code point, known or not."""
        ids = np.arange(self.size, self.size + UNICODE_SIZE, dtype=np.int32)
        ids[np.array(self.symbols, np.int64)] = np.arange(len(self.symbols))
        return ids

    @cached_property
    def _points(self) -> Ids:
        """The code point that shows each id below V."""
        return np.array([*self.symbols, *[REPLACEMENT] * (self.size - len(self.symbols))], np.int64)  # (V,)

    def encode(self, text: str) -> Ids:
        """Returns the ids of a text: one per character, or per byte of its UTF-8 (three for a lone surrogate).

        Raises UsageError when it is not a str.
        """
        text = check_text("text", text)
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

        `<unk>` and bytes that are not UTF-8 become U+FFFD. Raises ValueError when an id is below 0 or above the last.
        """
        known = np.asarray(ids, np.int64)
        if self.separator is None:
            return self._decode(known)
        at = np.flatnonzero(known == self.boundary)
        first, *others = np.split(known, at)
        return self._decode(first) + "".join(self.separator + self._decode(document[1:]) for document in others)

    def _decode(self, ids: Ids) -> str:
        """Like `decode`, for ids without boundaries."""
        if self.unit == "byte":
            return _utf8(ids, self.size).decode("utf-8", SHOWN)
        return self._code_points(ids).astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def clamp(self, ids: Ids) -> Ids:
        """Returns ids for the model, with `<unk>` in place of unknown symbols."""
        return np.minimum(ids, self.unknown)

    def unseen(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Returns True for each id of an unknown symbol."""
        return ids >= self.size

    def unknown_characters(self, text: str) -> list[str]:
        """Returns the distinct unknown characters of a text, in order of appearance."""
        return self.unseen_characters(self.encode(text))

    def unseen_characters(self, ids: Ids) -> list[str]:
        """Returns the distinct unknown characters among ids, in order of appearance."""
        return list(self.decode(list(dict.fromkeys(ids[self.unseen(ids)].tolist()))))

    def byte_lengths(self, ids: Ids) -> Ids:
        """Returns the bytes of UTF-8 that each symbol takes: 0 for the boundary; for `<unk>`, those of U+FFFD."""
        sizes = np.ones(ids.shape, np.int64) if self.unit == "byte" else utf8_lengths(self._code_points(ids))
        return sizes if self.boundary is None else np.where(ids == self.boundary, 0, sizes)

    def decoder(self) -> Decoder:
        """Returns a decoder for ids that come piece by piece."""
        return Decoder(self)

    def to_json(self) -> str:
        """Returns the vocabulary as readable JSON."""
        separator = {} if self.separator is None else {"separator": self.separator}
        symbols = {} if self.unit == "byte" else {"symbols": [chr(symbol) for symbol in self.symbols]}
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
            if values["unit"] != "character":
                raise ValueError(f"unit {values['unit']!r} is neither character nor byte")
            symbols = values["symbols"]
            if len(symbols) > UNICODE_SIZE:
                raise ValueError(f"it has {len(symbols):,} symbols, more than there are characters")
            return cls("character", tuple(map(ord, symbols)), separator)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the vocabulary is damaged ({error}); restore it from a copy or build it again") from None

    def _code_points(self, ids: Ids) -> Ids:
        least, most = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
        if not 0 <= least <= most < self.ids:
            raise ValueError(f"ids must be in 0..{self.ids - 1}, not {least}..{most}")
        if most < self.size:
            return self._points[ids]
        return np.where(ids < self.size, self._points[self.clamp(ids)], ids - self.size)


class Decoder:
    """Decodes ids that come piece by piece; a character of several bytes is held back until it is complete."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = codecs.getincrementaldecoder("utf-8")(SHOWN)

    def feed(self, ids: Sequence[int] | Ids) -> str:
        """Returns the text that these ids complete; empty inside a character."""
        ids, boundary = np.asarray(ids, np.int64), self._vocabulary.boundary
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

    def flush(self) -> str:
        """Ends the text: returns U+FFFD if a character was incomplete. The decoder can then be used again."""
        rest = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return rest

    def copy(self) -> Decoder:
        """Returns an independent decoder that continues from here."""
        result = Decoder(self._vocabulary)
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

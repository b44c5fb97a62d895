"""Reads pretrained embeddings of characters: word2vec's text format, safetensors, or another model's."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scriven.errors import InputError, UsageError
from scriven.model.language_model import CharLM
from scriven.safe_files import refuse_stream
from scriven.settings import Unit
from scriven.vocabulary import Vocabulary

ESCAPE = re.compile(r"\\([abfnrtv\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4})")
SAFETENSORS = ".safetensors"
BYTES_AS_CHARACTERS = 128  # bytes below this are the same symbols as characters
COUNT_DIGITS = 18  # at most, in a number of rows or columns, so that it fits 64 bits
LONGEST_LINE = 1 << 24  # characters
LINE_SHOWN = 40  # characters of a wrong line that are shown


@dataclass(frozen=True)
class Embeddings:
    """A vector for each of S symbols."""

    symbols: tuple[int, ...]  # code points, or bytes
    values: Tensor  # (S, D)
    skipped: int = 0  # entries that are not a single character, or repeat one
    unit: Unit = "character"
    source: str = "the pretrained embeddings"  # how errors name them

    @property
    def width(self) -> int:
        """The width D of each vector."""
        return self.values.shape[1]


def read_embeddings(path: str) -> Embeddings:
    """Reads the embeddings in a file: safetensors if its name ends like that, or else word2vec's text format.

    - Text: one line per symbol, `symbol v1 .. vD`, separated by single spaces. The first line may be two whole numbers:
      rows and D. The symbol may be a space, or an escape as in Python: `\\n`, `\\t`, `\\\\`, `\\u2028`. An empty line
      and then a line without a symbol mean a line feed, as other programs write it.
    - safetensors: one array (S, D), and in the metadata `symbols`, a JSON list of S strings.

    Raises InputError if it cannot be read, has another format, or has no single character.
    """
    refuse_stream(Path(path), "save the embeddings as a plain file")
    rows, skipped = _read_safetensors(path) if path.endswith(SAFETENSORS) else _read_text(path)
    if not rows:
        raise InputError(f"{path} has no embedding of a single character among {skipped:,} entries; give another file")
    return Embeddings(tuple(rows), torch.stack(list(rows.values())), skipped, source=path)


def from_rows(vocabulary: Vocabulary, weight: Tensor, source: str = "the other model") -> Embeddings:
    """Makes embeddings of a model's known symbols from its vocabulary and its `embedding.weight` (V, D)."""
    values = weight[: len(vocabulary.symbols)].float()
    return Embeddings(vocabulary.symbols, values, unit=vocabulary.unit, source=source)


@torch.no_grad()
def place(model: CharLM, vocabulary: Vocabulary, embeddings: Embeddings) -> list[int]:
    """Copies embeddings into a model. Returns the vocabulary's symbols without one, which keep their random values.

    If one has characters and the other bytes, they share the ASCII ones. Raises InputError if the embeddings have
    another width than the model, or none of its symbols; UsageError if the model has no embedding, or has tokens.
    """
    if "token" in (vocabulary.unit, embeddings.unit):
        raise UsageError(
            f"{embeddings.source}: pretrained embeddings are for characters and bytes, not for tokens; leave them out, "
            "or start a model of tokens from the weights of another one with --from RUN"
        )
    if model.embedding is None:
        raise UsageError("model.input onehot has no embedding to put pretrained ones into; drop one of them")
    weight = model.embedding.weight
    if embeddings.width != weight.shape[1]:
        raise InputError(
            f"{embeddings.source}: embeddings of width {embeddings.width} do not fit a model whose embedding is "
            f"{weight.shape[1]} wide; set the width that they must have, or give others"
        )
    known = {symbol: row for row, symbol in enumerate(embeddings.symbols)}
    if embeddings.unit != vocabulary.unit:
        known = {symbol: row for symbol, row in known.items() if symbol < BYTES_AS_CHARACTERS}
    found = [(row, known[symbol]) for row, symbol in enumerate(vocabulary.symbols) if symbol in known]
    if not found:
        raise InputError(f"{embeddings.source}: none of the text's {len(vocabulary.symbols)} symbols has an embedding")
    here, there = map(list, zip(*found, strict=True))
    weight[here] = embeddings.values[there].to(weight)
    return [symbol for symbol in vocabulary.symbols if symbol not in known]


def code_point(token: str) -> int | None:
    """The code point of a token that is one character, as it is or as an escape; None for any other token."""
    if ESCAPE.fullmatch(token):
        token = codecs.decode(token, "unicode_escape")
    return ord(token) if len(token) == 1 else None


# --- word2vec's text format


def _read_text(path: str) -> tuple[dict[int, Tensor], int]:
    """The vector (D,) of each code point in a text file, and how many entries were skipped."""
    rows: dict[int, Tensor] = {}
    entries = 0
    with _open_text(path) as file:
        count, width = _head(path, file)
        for number, token, values in _entries(path, file, width, 1 if count is None else 2):
            entries += 1
            point = code_point(token)
            if point is not None and point not in rows:
                rows[point] = _numbers(values)
                if not bool(rows[point].isfinite().all()):
                    raise _wrong(path, number, width, f"{token} {' '.join(values)}")
    if count not in (None, entries):
        raise InputError(f"{path} says that it has {count:,} rows, but has {entries:,}; restore it from a whole copy")
    return rows, entries - len(rows)


@contextmanager
def _open_text(path: str) -> Iterator[TextIO]:
    try:
        # Only a line feed ends a line, as other line ends may be symbols. An invalid byte is a symbol, as in texts.
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read embeddings from {path}: {error.strerror}; give a file of embeddings") from None


def _head(path: str, file: TextIO) -> tuple[int | None, int]:
    """The number of rows that the first line states (or None), and the width D. Leaves `file` at the first row."""
    first = file.readline(LONGEST_LINE)
    fields = first.split()
    if len(fields) == 2 and all(map(_is_count, fields)):
        count, width = map(int, fields)
    else:
        while first and not first.strip():
            first = file.readline(LONGEST_LINE)
        numbers = takewhile(_is_number, reversed(first.rstrip(" \r\n").split(" ")[1:]))
        count, width = None, sum(1 for _ in numbers)
        file.seek(0)
    if not width:
        raise InputError(f"{path} has no embeddings: its first line should be a symbol and numbers, not {_show(first)}")
    return count, width


def _entries(path: str, file: TextIO, width: int, first: int) -> Iterator[tuple[int, str, list[str]]]:
    """The number, symbol and values of every line. The values come last, so that a symbol may be a space."""
    after_empty = False
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), first):
        text = line.rstrip(" \r\n")
        if len(line) == LONGEST_LINE:
            raise _wrong(path, number, width, text)
        if text:
            token, *values = text.rsplit(" ", width)
            if len(values) < width or (" " in token and _is_number(token.rsplit(" ", 1)[1])):
                raise _wrong(path, number, width, text)
            yield number, token or "\n" * after_empty, values
        after_empty = not text


def _wrong(path: str, number: int, width: int, text: str) -> InputError:
    return InputError(f"line {number:,} of {path} must be a symbol and {width} finite numbers, not {_show(text)}")


def _show(text: str) -> str:
    return repr(text[:LINE_SHOWN]) + (" ..." if len(text) > LINE_SHOWN else "")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= COUNT_DIGITS


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(texts: list[str]) -> Tensor:
    """The numbers (D,) in some texts; all NaN if one is not a number."""
    try:
        return torch.tensor([float(text) for text in texts], dtype=torch.float64).float()
    except ValueError:
        return torch.full((len(texts),), math.nan)


# --- safetensors


def _read_safetensors(path: str) -> tuple[dict[int, Tensor], int]:
    """The vector (D,) of each code point in a safetensors file, and how many entries were skipped."""
    with _open_safetensors(path) as file:
        values = file.get_tensor(_array_name(path, file))  # (S, D)
        if not values.is_floating_point():
            raise InputError(f"{path} has an array of {values.dtype}, but embeddings are floating-point numbers")
        values = values.float()
        try:
            symbols = json.loads((file.metadata() or {})["symbols"])
        except (KeyError, ValueError, RecursionError):
            symbols = None
    if not (isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols)):
        raise InputError(f'{path} does not name its symbols; its metadata needs "symbols", a JSON list of texts')
    if len(symbols) != len(values):
        raise InputError(f"{path} names {len(symbols):,} symbols for {len(values):,} rows; make it again")
    if not bool(values.isfinite().all()):
        raise InputError(f"{path} has values that are not finite numbers; make it again")
    rows: dict[int, Tensor] = {}
    for symbol, row in zip(symbols, values, strict=True):
        if (point := code_point(symbol)) is not None:
            rows.setdefault(point, row)
    return rows, len(symbols) - len(rows)


@contextmanager
def _open_safetensors(path: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read embeddings from {path}: {error.strerror or 'no such file'}") from None
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None


def _array_name(path: str, file: Any) -> str:
    """The name of the file's one array."""
    names = list(file.keys())
    if len(names) != 1 or len(file.get_slice(names[0]).get_shape()) != 2:
        raise InputError(f"{path} must have one array (symbols, width), but has {', '.join(names) or 'none'}")
    return str(names[0])

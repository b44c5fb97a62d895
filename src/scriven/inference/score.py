"""How surprising a given text is: nats for each character, each counted exactly once, in constant memory.

A symbol that the vocabulary does not have costs what `<unk>` costs, plus `Vocabulary.unseen_nats`. The first character
of a text is foretold from the context that `Predictor.start` gives: after a newline, or uniformly over all V symbols
where the vocabulary has no newline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from scriven.events import Loss
from scriven.inference.generate import Context, Predictor
from scriven.inference.sampling import Floats, Ids
from scriven.vocabulary import Vocabulary

WINDOW = 256  # predictions of one window of the protocol `window-256`
WINDOWS_AT_ONCE = 64


class Reader(Protocol):
    """A text on the disk, as ids, readable at any place."""

    @property
    def characters(self) -> int:
        """How many characters there are."""

    def read(self, start: int, length: int) -> Ids:
        """The ids (length,) from character `start` on."""


@dataclass(frozen=True)
class Tally:
    """A sum over characters: their loss, and how many of them the vocabulary does not have."""

    loss: Loss = field(default_factory=lambda: Loss(0.0, 0))
    unseen: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.loss + other.loss, self.unseen + other.unseen)

    def values(self) -> dict[str, float]:
        """The sums and their means by name, for tables and JSON; there must be a character."""
        loss = self.loss
        return {
            "characters": loss.characters,
            "bytes": loss.bytes,
            "unseen": self.unseen,
            "nats": loss.nats,
            "nats_per_char": loss.nats_per_char,
            "bits_per_char": loss.bits_per_char,
            "bits_per_byte": loss.bits_per_byte,
        }


@dataclass(frozen=True)
class Scored:
    """Ids (T,), the nats (T,) that each cost in its context, and the context after them."""

    ids: Ids
    nats: Floats
    context: Context


def surprisals(predictor: Predictor, chunks: Iterable[Ids], context: Context) -> Iterator[Scored]:
    """The surprisal of every id of one text, given in chunks of any length, read from `context` (of one row) on."""
    for ids in blocks(chunks, predictor.chunk_length(1)):
        nats, context = _nats(predictor, ids[:, None], context)
        yield Scored(ids, nats[:, 0], context)


def stream(predictor: Predictor, chunks: Iterable[Ids]) -> Tally:
    """Protocol `stream`: the whole text once, in order, the state carried, every character counted once."""
    return summed(predictor.vocabulary, surprisals(predictor, chunks, predictor.start()))


def windows(predictor: Predictor, chunks: Iterable[Ids], length: int = WINDOW) -> Tally:
    """Protocol `window-256`: windows of `length` predictions, each from a zero state that was given one character.

    Window k is given character `length` k and foretells the next `length`; the last window may be shorter.
    The first character of the text is never foretold and not counted.
    """
    total = Tally()
    for ids in blocks(chunks, WINDOWS_AT_ONCE * length, overlap=1):
        index = np.arange(0, len(ids) - 1, length) + np.arange(length + 1)[:, None]  # (T, N)
        counted = index < len(ids)
        counted[0] = False
        rows = ids[np.minimum(index, len(ids) - 1)]
        nats, _ = _nats(predictor, rows, predictor.blank(rows.shape[1]))
        total += tally(predictor.vocabulary, rows[counted], nats[counted])
    return total


def lanes(predictor: Predictor, reader: Reader, numbers: Sequence[int], count: int, warm_up: int = WINDOW) -> Tally:
    """A fast estimate of `stream`: the text is cut into `count` lanes of equal length, read side by side.

    Before its own characters a lane reads up to `warm_up` characters that come before them, uncounted. Only the lanes
    whose `numbers` are given are read: shared among workers, their sums add up to every character counted once.
    With one lane this is `stream`.
    """
    opening = predictor.opening
    edges = [reader.characters * lane // count for lane in range(count + 1)]
    first, end = (np.array([edges[lane + shift] for lane in numbers], dtype=np.int64) for shift in (0, 1))
    begin = np.maximum(first - warm_up, -len(opening))  # the opening stands before character 0
    step = predictor.chunk_length(len(numbers))
    context = predictor.blank(len(numbers))
    total = Tally()
    for offset in range(0, int((end - begin).max()), step):
        ids = np.zeros((step, len(numbers)), np.int64)  # (T, N)
        for row, (start, stop) in enumerate(zip(begin + offset, np.minimum(begin + offset + step, end), strict=True)):
            text = _read(reader, opening, int(start), int(stop))
            ids[: len(text), row] = text
        nats, context = _nats(predictor, ids, context)
        position = begin + offset + np.arange(step)[:, None]  # (T, N)
        counted = (position >= first) & (position < end)
        total += tally(predictor.vocabulary, ids[counted], nats[counted])
    return total


PROTOCOLS: dict[str, Callable[[Predictor, Iterable[Ids]], Tally]] = {"stream": stream, "window-256": windows}


def chunks_of(reader: Reader, length: int = 1 << 20) -> Iterator[Ids]:
    """The whole text in chunks."""
    for start in range(0, reader.characters, length):
        yield reader.read(start, min(length, reader.characters - start))


def blocks(chunks: Iterable[Ids], length: int, overlap: int = 0) -> Iterator[Ids]:
    """The same text in blocks of `length + overlap` ids, each beginning with the `overlap` last of the one before.

    Only the last block may be shorter; it has more than `overlap` ids.
    """
    rest = np.empty(0, np.int64)
    for chunk in chunks:
        rest = np.concatenate((rest, chunk))
        while len(rest) >= length + overlap:
            yield rest[: length + overlap]
            rest = rest[length:]
    if len(rest) > overlap:
        yield rest


def summed(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Tally:
    """The sum over all pieces."""
    return sum((tally(vocabulary, piece.ids, piece.nats) for piece in pieces), Tally())


def lines(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Iterator[Tally]:
    """The sum over each line of a text, its line feed included; the last line may have none."""
    line_feed = vocabulary.encode("\n")[0]
    line = Tally()
    for piece in pieces:
        cuts = np.flatnonzero(piece.ids == line_feed) + 1
        *complete, rest = zip(np.split(piece.ids, cuts), np.split(piece.nats, cuts), strict=True)
        for ids, nats in complete:
            yield line + tally(vocabulary, ids, nats)
            line = Tally()
        line += tally(vocabulary, *rest)
    if line.loss.characters:
        yield line


def tally(vocabulary: Vocabulary, ids: Ids, nats: Floats) -> Tally:
    """The sums over ids and their nats, both (T,)."""
    size = int(vocabulary.byte_lengths(ids).sum())
    return Tally(Loss(float(nats.sum()), ids.size, size), int(vocabulary.unseen(ids).sum()))


def _nats(predictor: Predictor, ids: Ids, context: Context) -> tuple[Floats, Context]:
    """The nats (T, N) that ids (T, N), any T, cost after `context`, and the context after them."""
    step = predictor.chunk_length(ids.shape[1])
    costs = []
    for begin in range(0, len(ids), step):
        part = ids[begin : begin + step]
        logits, context = predictor.predict(context, part)  # (t, N, V)
        targets = torch.from_numpy(predictor.vocabulary.clamp(part)).to(logits.device)
        costs.append(functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none"))
    nats: Floats = torch.cat(costs).cpu().double().numpy().reshape(ids.shape)
    nats[predictor.vocabulary.unseen(ids)] += predictor.vocabulary.unseen_nats
    return nats, context


def _read(reader: Reader, opening: Ids, start: int, stop: int) -> Ids:
    """The characters from `start` to `stop`, where the opening has the places before 0; none where stop <= start."""
    if start >= stop:
        return np.empty(0, np.int64)
    text = reader.read(max(start, 0), stop - max(start, 0))
    return text if start >= 0 else np.concatenate((opening[start:], text))

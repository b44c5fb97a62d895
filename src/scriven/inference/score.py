"""How surprising a given text is: nats for each character, each counted exactly once, in constant memory.

A symbol that the vocabulary does not have costs what `<unk>` costs, plus `Vocabulary.unseen_nats`. The first character
of a text is foretold from the context that `Predictor.start` gives: after a newline, or uniformly over all V symbols
where the vocabulary has no newline. Where texts are made of documents, each is read from its start and followed by the
boundary, whose cost is that of the document's end; it is counted beside the characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scriven.events import Loss
from scriven.inference.chunks import blocks, gathered
from scriven.inference.generate import Context, Predictor
from scriven.inference.sampling import Floats, Ids
from scriven.vocabulary import Vocabulary

GATHERED = 1 << 20  # characters of documents that are read side by side; a longer document is read alone
ROWS = 128  # documents read side by side


@dataclass(frozen=True)
class Tally:
    """A sum over characters and ends: their loss, and how many characters the vocabulary does not have."""

    loss: Loss = field(default_factory=lambda: Loss(0.0, 0))
    unseen: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.loss + other.loss, self.unseen + other.unseen)

    def values(self) -> dict[str, float]:
        """The sums and their means by name, for tables and JSON; there must be a character.

        What ends cost is among them where there are any; the means are over characters alone.
        """
        loss = self.loss
        ends = {"ends": loss.ends, "end_nats": loss.end_nats, "total_nats": loss.total_nats} if loss.ends else {}
        return {
            "characters": loss.characters,
            "bytes": loss.bytes,
            "unseen": self.unseen,
            "nats": loss.nats,
            **ends,
            "nats_per_char": loss.nats_per_char,
            "bits_per_char": loss.bits_per_char,
            "bits_per_byte": loss.bits_per_byte,
        }


@dataclass(frozen=True)
class Scored:
    """Ids (T,), boundaries among them, the nats (T,) that each cost in its context, and the context after them."""

    ids: Ids
    nats: Floats
    context: Context


def foretold(predictor: Predictor, chunks: Iterable[Ids]) -> Iterator[Scored]:
    """The surprisal of every id of one text from its start on; where it is made of documents, by `documents`."""
    if predictor.vocabulary.boundary is None:
        return surprisals(predictor, chunks, predictor.start())
    return documents(predictor, chunks)


def surprisals(predictor: Predictor, chunks: Iterable[Ids], context: Context) -> Iterator[Scored]:
    """The surprisal of every id of one text, given in chunks of any length, read from `context` (of one row) on."""
    for ids in blocks(chunks, predictor.chunk_length(1)):
        nats, context = side_by_side(predictor, ids[:, None], context)
        yield Scored(ids, nats[:, 0], context)


def documents(predictor: Predictor, chunks: Iterable[Ids]) -> Iterator[Scored]:
    """The same as `surprisals` from the start on, of documents that the boundary ends: many are read side by side.

    Reading a boundary empties the memory, so that what a document costs has nothing to do with the others. A document
    of more than about `GATHERED` characters is read alone, in constant memory.
    """
    boundary, start = predictor.vocabulary.boundary, predictor.start()
    rest, context = np.empty(0, np.int64), start  # what is not read yet, and the context before it
    for chunk in gathered(chunks, GATHERED):
        rest = np.concatenate((rest, chunk))
        ends = np.flatnonzero(rest == boundary) + 1  # (M,)
        # The first ids belong to a document that was begun, or to one that is too long to wait for its end.
        alone = len(rest) if not ends.size else 0 if context is start else int(ends[0])
        for scored in surprisals(predictor, [rest[:alone]], context):
            yield scored
            context = scored.context
        if ends.size:
            context, last = start, int(ends[-1])
            yield Scored(rest[alone:last], _whole(predictor, start, rest[alone:last]), start)
            alone = last
        rest = rest[alone:]
    yield from surprisals(predictor, [rest], context)


def _whole(predictor: Predictor, start: Context, ids: Ids) -> Floats:
    """The nats (T,) of ids that are whole documents, each with its boundary; similar lengths are read together."""
    ends = np.flatnonzero(ids == predictor.vocabulary.boundary) + 1  # (M,)
    lengths = np.diff(ends, prepend=0)
    order = np.argsort(-lengths, kind="stable")
    nats = np.empty(len(ids))
    for begin in range(0, len(order), ROWS):
        rows = order[begin : begin + ROWS]
        _score_rows(predictor, start, ids, nats, ends[rows] - lengths[rows], lengths[rows])
    return nats


def _score_rows(predictor: Predictor, start: Context, ids: Ids, nats: Floats, firsts: Ids, lengths: Ids) -> None:
    """Puts the nats of documents, the longest first, where they belong; rows that have ended are left out."""
    context, begin = start.rows([0] * len(firsts)), 0
    while begin < lengths[0]:
        rows = int((lengths > begin).sum())
        if rows < len(context.logits):
            context = context.rows(range(rows))
        length = min(predictor.chunk_length(rows), int(lengths[0]) - begin)
        place = begin + np.arange(length)[:, None]  # (T, 1)
        index = np.minimum(firsts[:rows] + place, len(ids) - 1)  # (T, N)
        # No boundary need be read at a document's end: padding after it is read from no matter what memory.
        read = np.where(place < lengths[:rows] - 1, ids[index], 0)
        costs, context = side_by_side(predictor, ids[index], context, read)
        inside = place < lengths[:rows]
        nats[index[inside]] = costs[inside]
        begin += length


def summed(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Tally:
    """The sum over all pieces."""
    return sum((tally(vocabulary, piece.ids, piece.nats) for piece in pieces), Tally())


def lines(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> Iterator[Tally]:
    """The sum over each line of a text, its line feed included; over each document where it is made of documents.

    The last one may have no end.
    """
    end = vocabulary.encode("\n")[0] if vocabulary.boundary is None else vocabulary.boundary
    line = Tally()
    for piece in pieces:
        cuts = np.flatnonzero(piece.ids == end) + 1
        *complete, rest = zip(np.split(piece.ids, cuts), np.split(piece.nats, cuts), strict=True)
        for ids, nats in complete:
            yield line + tally(vocabulary, ids, nats)
            line = Tally()
        line += tally(vocabulary, *rest)
    if line.loss.characters:
        yield line


def tally(vocabulary: Vocabulary, ids: Ids, nats: Floats) -> Tally:
    """The sums over ids and their nats, both (T,); boundaries are ends, not characters."""
    size = int(vocabulary.byte_lengths(ids).sum())
    unseen = int(vocabulary.unseen(ids).sum())
    end = ids == vocabulary.boundary
    ends, end_nats = int(end.sum()), float(nats[end].sum())
    return Tally(Loss(float(nats[~end].sum()), ids.size - ends, size, ends, end_nats), unseen)


def costs(logits: Tensor, ids: Ids, vocabulary: Vocabulary) -> Tensor:
    """What ids (M,) that logits (M, V) foretold cost in nats (M,), unseen symbols as `<unk>`; see `priced`."""
    targets = torch.from_numpy(vocabulary.clamp(ids)).to(logits.device)
    return functional.cross_entropy(logits, targets, reduction="none")


def priced(nats: Tensor, ids: Ids, vocabulary: Vocabulary) -> Floats:
    """The nats (M,) that `costs` gave, with what unseen symbols among the ids (M,) cost above `<unk>`."""
    added: Floats = nats.cpu().double().numpy()
    added[vocabulary.unseen(ids)] += vocabulary.unseen_nats
    return added


def side_by_side(predictor: Predictor, ids: Ids, context: Context, read: Ids | None = None) -> tuple[Floats, Context]:
    """The nats (T, N) that ids (T, N), any T, cost after `context`, and the context after them.

    What the model reads is `read` (T, N), where it is given, instead.
    """
    read = ids if read is None else read
    step = predictor.chunk_length(ids.shape[1])
    parts = []
    for begin in range(0, len(ids), step):
        logits, context = predictor.predict(context, read[begin : begin + step])  # (t, N, V)
        parts.append(costs(logits.flatten(0, 1), ids[begin : begin + step].flatten(), predictor.vocabulary))
    return priced(torch.cat(parts), ids.flatten(), predictor.vocabulary).reshape(ids.shape), context

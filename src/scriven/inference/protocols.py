"""Protocols: the named ways to read a text and to sum its cost, so that models can be compared.

- `stream`: the whole text once, in order, the state carried, every character counted once;
- `window-L`, such as `window-256`: windows of L characters to predict, each from a zero state given one character;
- `last-L`: each character predicted from a zero state after exactly the L characters before it;
- `documents`: each document alone, from its start, its end counted apart from its characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from scriven.arrays import Ids
from scriven.errors import UsageError
from scriven.inference.chunks import StoredIdsReader, StoredText, blocks, chunks_of, documents_of, open_chunks
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import (
    SurprisalSum,
    cost_of_unseen,
    costs,
    likeliest,
    read_judged,
    sum_pieces,
    surprisals,
    surprisals_of_text,
    tally,
)
from scriven.settings import ReaderSettings

Protocol = Callable[[Predictor, Iterable[Ids]], SurprisalSum]
FORMS = "stream, documents, window-LENGTH or last-LENGTH, such as window-256"
LONGEST = 65_536  # characters of a window
WINDOWS_AT_ONCE = 64
READ_AHEAD = 1 << 14  # characters, of all windows together, that `last` reads at once
LANES = 64
CHARACTERS_PER_LANE = 1024
WARM_UP = 256  # characters that a lane reads before its own


@dataclass(frozen=True)
class Head:
    """The first characters of a text, as a text."""

    text: StoredIdsReader
    characters: int

    def read(self, start: int, length: int) -> Ids:
        """The ids (length,) from `start` on."""
        return self.text.read(start, length)


def protocol(name: str) -> Protocol:
    """The protocol of that name: a function of a predictor and a text in chunks, as `scriven.inference.chunks` gives.

    Raises UsageError when there is no such protocol.
    """
    kind, length = parse_protocol(name)
    if kind == "window":
        return partial(windows, length=length)
    if kind == "last":
        return partial(last, length=length)
    return stream if kind == "stream" else documents


def parse_protocol(name: str) -> tuple[str, int]:
    """The kind of a protocol, and the length in its name (0 where it has none).

    Raises UsageError when there is no such protocol.
    """
    found = re.fullmatch(r"(stream|documents)|(window|last)-([1-9]\d{0,8})", name, re.ASCII)
    if not found:
        raise UsageError(f"protocol {name}: there is none of that name; give {FORMS}")
    if int(found[3] or 0) > LONGEST:
        raise UsageError(f"protocol {name}: windows are at most {LONGEST:,} characters long, as for reader.length")
    return found[1] or found[2], int(found[3] or 0)


def own_protocol(reader: ReaderSettings) -> str:
    """The name of the protocol that reads a text as this reader does: what a model so trained knows to do."""
    if reader.kind == "windows":
        return f"{'last' if reader.loss == 'last' else 'window'}-{reader.length}"
    return reader.kind


def stream(predictor: Predictor, chunks: Iterable[Ids]) -> SurprisalSum:
    """Protocol `stream`: the whole text once, in order, the state carried, every character counted once."""
    return sum_pieces(predictor.vocabulary, surprisals(predictor, chunks, predictor.start()))


def documents(predictor: Predictor, chunks: Iterable[Ids]) -> SurprisalSum:
    """Protocol `documents`: each document alone, from its start; the cost of its end is counted apart.

    Raises UsageError when the model's texts are not made of documents.
    """
    if predictor.vocabulary.boundary is None:
        raise UsageError("protocol documents: this model knows no documents; use stream, or train with documents")
    return sum_pieces(predictor.vocabulary, surprisals_of_text(predictor, chunks))


def windows(predictor: Predictor, chunks: Iterable[Ids], length: int) -> SurprisalSum:
    """Protocol `window-L`: windows of L = `length` predictions, each from a zero state that was given one character.

    Window k is given character L k and predicts the next L; the last window may be shorter. The first character of
    the text is never predicted and not counted.
    """
    total = SurprisalSum()
    for ids in blocks(chunks, max(1, min(WINDOWS_AT_ONCE, (1 << 20) // length)) * length, overlap=1):
        size = min(length, len(ids) - 1)
        index = np.arange(0, len(ids) - 1, length) + np.arange(size + 1)[:, None]  # (T, N)
        counted = index < len(ids)
        counted[0] = False
        rows = ids[np.minimum(index, len(ids) - 1)]
        nats, right, _ = read_judged(predictor, rows, predictor.blank(rows.shape[1]))
        total += tally(predictor.vocabulary, rows[counted], nats[counted], None if right is None else right[counted])
    return total


def last(predictor: Predictor, chunks: Iterable[Ids], length: int) -> SurprisalSum:
    """Protocol `last-L`: each character predicted from a zero state after exactly the L = `length` ones before it.

    The first L characters of the text are predicted as by `stream`.
    """
    head, chunks = open_chunks(chunks, length)
    return stream(predictor, [head]) + _after_exactly(predictor, chunks, length)


def _after_exactly(predictor: Predictor, chunks: Iterable[Ids], length: int) -> SurprisalSum:
    """The characters that have `length` ones before them, each predicted after exactly those."""
    vocabulary, total = predictor.vocabulary, SurprisalSum()
    for ids in blocks(chunks, max(1, READ_AHEAD // length), overlap=length):
        before, targets = sliding_window_view(ids[:-1], length).T, ids[length:]  # (L, N), (N,)
        context = predictor.carry(predictor.blank(len(targets)), before)
        nats = cost_of_unseen(costs(context.logits, targets, vocabulary), targets, vocabulary)
        right = None if predictor.scorer() else likeliest(context.logits, targets)
        total += tally(vocabulary, targets, nats, right)
    return total


def lane_count(characters: int) -> int:
    """The number of lanes for the estimate of a text of this number of characters."""
    return max(1, min(LANES, characters // CHARACTERS_PER_LANE))


def lanes(
    predictor: Predictor, reader: StoredIdsReader, numbers: Sequence[int], count: int, warm_up: int = WARM_UP
) -> SurprisalSum:
    """A fast estimate of `stream`: the text is cut into `count` lanes of equal length, read side by side.

    Before its own characters a lane reads up to `warm_up` characters that come before them, uncounted. Only the lanes
    whose `numbers` are given are read: shared among workers, their sums add up to every character counted once.
    With one lane this is `stream`.
    """
    if not numbers:
        return SurprisalSum()
    opening = predictor.opening
    edges = [reader.characters * lane // count for lane in range(count + 1)]
    first, end = (np.array([edges[lane + shift] for lane in numbers], dtype=np.int64) for shift in (0, 1))
    begin = np.maximum(first - warm_up, -len(opening))  # the opening stands before character 0
    step = predictor.chunk_length(len(numbers))
    context = predictor.blank(len(numbers))
    total = SurprisalSum()
    for offset in range(0, int((end - begin).max()), step):
        ids = np.zeros((step, len(numbers)), np.int64)  # (T, N)
        for row, (start, stop) in enumerate(zip(begin + offset, np.minimum(begin + offset + step, end), strict=True)):
            text = _read_ids(reader, opening, int(start), int(stop))
            ids[: len(text), row] = text
        nats, right, context = read_judged(predictor, ids, context)
        position = begin + offset + np.arange(step)[:, None]  # (T, N)
        counted = (position >= first) & (position < end)
        total += tally(predictor.vocabulary, ids[counted], nats[counted], None if right is None else right[counted])
    return total


def measure(
    name: str,
    predictor: Predictor,
    text: StoredText,
    *,
    rank: int = 0,
    size: int = 1,
    limit_characters: int = 0,
    lanes_at_most: int = LANES,
) -> SurprisalSum:
    """One worker's part of a text by the protocol of that name: the sum over ranks counts every character once.

    `limit_characters` above 0 reads the first ones only; a document that is cut there has no end. `stream` is
    estimated by `lanes`, in up to `lanes_at_most` of them; with 1 it is exact, as all other protocols always are.
    Raises UsageError when there is no such protocol, or the model's texts are not made of documents.
    """
    kind, length = parse_protocol(name)
    characters = min(text.characters, limit_characters or text.characters)
    if predictor.vocabulary.boundary is not None or kind == "documents":
        return _measure_documents(name, predictor, text, characters, rank, size)
    if kind == "stream":
        count = min(lane_count(characters), lanes_at_most)
        return lanes(predictor, Head(text, characters), range(count)[rank::size], count)
    if kind == "window":
        count = max(0, -(-(characters - 1) // length))
        begin, end = (length * edge for edge in _share(count, rank, size))
        return windows(predictor, chunks_of(text, begin, min(end + 1, characters)), length)
    begin, end = _share(max(0, characters - length), rank, size)
    head = chunks_of(text, 0, min(length, characters)) if rank == 0 else ()
    return stream(predictor, head) + _after_exactly(
        predictor, chunks_of(text, begin, min(end + length, characters)), length
    )


def _measure_documents(
    name: str, predictor: Predictor, text: StoredText, characters: int, rank: int, size: int
) -> SurprisalSum:
    """As `measure`, for the documents that begin within the first `characters`; `stream` is `documents` here."""
    kind, _ = parse_protocol(name)
    count = _beginning_within(text, characters)
    shared = kind in {"stream", "documents"}
    begin, end = _share(count, rank, size) if shared else (0, 0 if rank else count)
    boundary = predictor.vocabulary.boundary
    chunks: Iterator[Ids] = iter(()) if boundary is None else documents_of(text, boundary, begin, end, characters)
    return protocol("documents" if shared else name)(predictor, chunks)


def _beginning_within(text: StoredText, characters: int) -> int:
    """How many documents begin in the first characters, by bisection."""
    low, high = 0, text.documents
    while low < high:
        middle = (low + high) // 2
        if int(text.bounds(np.array([middle]))[0][0]) < characters:
            low = middle + 1
        else:
            high = middle
    return low


def _share(count: int, rank: int, size: int) -> tuple[int, int]:
    """The first of `count` things that is a worker's, and the first that is the next worker's."""
    return count * rank // size, count * (rank + 1) // size


def _read_ids(reader: StoredIdsReader, opening: Ids, start: int, stop: int) -> Ids:
    """The characters from `start` to `stop`, with the opening at the places before 0; empty if stop <= start."""
    if start >= stop:
        return np.empty(0, np.int64)
    text = reader.read(max(start, 0), stop - max(start, 0))
    return text if start >= 0 else np.concatenate((opening[start:], text))

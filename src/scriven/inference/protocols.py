"""Protocols: named ways to read a text and to sum up its surprisal, so that models can be compared.

- `stream`: the whole text once, in order; the state is carried, and every character counts once.
- `window-L`, such as `window-256`: windows of L predictions, each from a zero state given one character.
- `last-L`: each character predicted from a zero state after exactly the L characters before it.
- `documents`: each document alone, from its start; its end is counted separately from its characters.
- `adaptive`: like `stream` or, for a model of documents, `documents`, but the weights learn from each segment of the
  text after it was scored. A document begins with what was learned before it; with `adaptive-documents`, it begins with
  the trained weights. These losses are not comparable with those of the other protocols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from scriven.arrays import Ids
from scriven.errors import UsageError
from scriven.inference.adaptive_mixture import adaptive_reader, has_ongoing_counts, network_reader
from scriven.inference.chunks import (
    StoredIdsReader,
    StoredText,
    blocks,
    chunks_of,
    count_beginning_in,
    documents_of,
    open_chunks,
)
from scriven.inference.context import RULE, AdaptiveRule
from scriven.inference.ongoing_counts import LEARNED_AT_ONCE, CountsOfTraining
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import (
    Scored,
    SurprisalSum,
    cost_of_unseen,
    read_rows,
    sum_pieces,
    surprisals,
    surprisals_of_text,
    tally,
)
from scriven.settings import ReaderSettings

if TYPE_CHECKING:
    from scriven.inference.adaptive_mixture import AnyReader

Protocol = Callable[[Predictor, Iterable[Ids]], SurprisalSum]
FORMS = "stream, documents, window-LENGTH or last-LENGTH, such as window-256; adaptive or adaptive-documents"
ADAPTIVE, ADAPTIVE_DOCUMENTS = "adaptive", "adaptive-documents"
LONGEST = 65_536  # characters of a window
WINDOWS_AT_ONCE = 64
READ_AHEAD = 1 << 14  # characters, of all windows together, that `last` reads at once
LANES = 64
CHARACTERS_PER_LANE = 1024
WARM_UP = 256  # characters that a lane reads before its own


@dataclass(frozen=True)
class Head:
    """The first characters of a text, as a text of their own."""

    text: StoredIdsReader
    characters: int

    def read(self, start: int, length: int) -> Ids:
        """Reads the ids (length,) from `start` on."""
        return self.text.read(start, length)


def protocol(name: str) -> Protocol:
    """Returns the protocol of that name: a function of a predictor and of a text in chunks of ids.

    Raises UsageError if there is no such protocol.
    """
    kind, length = parse_protocol(name)
    if kind == "window":
        return partial(windows, length=length)
    if kind == "last":
        return partial(last, length=length)
    if is_adaptive(kind):
        return partial(adaptive, name=name)
    return stream if kind == "stream" else documents


def is_adaptive(name: str) -> bool:
    """Whether the model learns while it reads by the protocol of this name."""
    return name in (ADAPTIVE, ADAPTIVE_DOCUMENTS)


def reading_precision(name: str, predictor: Predictor) -> str:
    """Returns the precision that a text is read in by the protocol of this name."""
    return "fp32" if is_adaptive(name) else predictor.reading


def parse_protocol(name: str) -> tuple[str, int]:
    """Returns the kind of a protocol, and the length in its name (0 if it has none).

    Raises UsageError if there is no such protocol.
    """
    found = re.fullmatch(r"(stream|(?:adaptive-)?documents|adaptive)|(window|last)-([1-9]\d{0,8})", name, re.ASCII)
    if not found:
        raise UsageError(f"protocol {name}: there is none of that name; give {FORMS}")
    if int(found[3] or 0) > LONGEST:
        raise UsageError(f"protocol {name}: windows are at most {LONGEST:,} characters long, as for reader.length")
    return found[1] or found[2], int(found[3] or 0)


def own_protocol(reader: ReaderSettings) -> str:
    """Returns the name of the protocol that reads a text as this reader does, and so as the model was trained."""
    if reader.kind == "windows":
        return f"{'last' if reader.loss == 'last' else 'window'}-{reader.length}"
    return reader.kind


def stream(predictor: Predictor, chunks: Iterable[Ids]) -> SurprisalSum:
    """Measures by `stream`: the whole text once, in order; the state is carried, and every character counts once."""
    return sum_pieces(predictor.vocabulary, surprisals(predictor, chunks, predictor.start()))


def documents(predictor: Predictor, chunks: Iterable[Ids]) -> SurprisalSum:
    """Measures by `documents`: each document alone, from its start; the cost of its end is counted separately.

    Raises UsageError if the model knows no documents.
    """
    check_protocol("documents", predictor)
    return sum_pieces(predictor.vocabulary, surprisals_of_text(predictor, chunks))


def adaptive(predictor: Predictor, chunks: Iterable[Ids], name: str = ADAPTIVE) -> SurprisalSum:
    """Measures by `adaptive` or `adaptive-documents`: the whole text once, learning from each segment after its score.

    Raises UsageError if the model cannot learn while it reads, or knows no documents and the protocol needs them.
    """
    return sum_pieces(predictor.vocabulary, text_reader(name, predictor)(chunks))


def text_reader(
    name: str, predictor: Predictor, reader: AnyReader | None = None
) -> Callable[[Iterable[Ids]], Iterator[Scored]]:
    """Returns a function that yields the surprisal of every id of one text, by an adaptive protocol, or as it is read.

    A model of documents reads each from its start. An adaptive protocol may use a `reader` that is there.
    Raises UsageError as `check_protocol` does.
    """
    check_protocol(name, predictor)
    if not is_adaptive(name):
        return partial(surprisals_of_text, predictor)
    return AdaptiveTexts(predictor, documents_alone=name == ADAPTIVE_DOCUMENTS, reader=reader).surprisals


class AdaptiveTexts:
    """Reads whole texts, learning from each: by a network, by ongoing counts, or by a mixture of both.

    A predictor without counts is a network alone. With `documents_alone` it is, too, and each document is read with the
    trained weights at its start.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        documents_alone: bool = False,
        rule: AdaptiveRule = RULE,
        reader: AnyReader | None = None,
    ) -> None:
        """Makes a reader, unless one is given. Raises UsageError for a model that cannot learn while it reads."""
        self.predictor, self.vocabulary = predictor, predictor.vocabulary
        self.documents_alone = documents_alone
        counts_alone = predictor.is_counts_alone and has_ongoing_counts(predictor) and not documents_alone
        self._counts = CountsOfTraining(predictor, None) if counts_alone else None
        if reader is None and self._counts is None:
            reader = network_reader(predictor, rule) if documents_alone else adaptive_reader(predictor, rule)
        self._reader = reader

    def surprisals(self, chunks: Iterable[Ids]) -> Iterator[Scored]:
        """Yields the surprisal of every id of one text. With counts, it is unknown which ids were the most likely.

        Raises InputError if counts need the training text, and it is gone.
        """
        pieces = blocks(chunks, LEARNED_AT_ONCE)
        return self._learn(self._reader, pieces) if self._reader else self._count(pieces)

    def _learn(self, reader: AnyReader, pieces: Iterable[Ids]) -> Iterator[Scored]:
        context = start = reader.start(history=False)
        boundary = self.vocabulary.boundary
        for piece in pieces:
            ends = np.flatnonzero(piece == boundary) + 1  # (M,)
            for ids in np.split(piece, ends) if self.documents_alone else [piece]:
                nats, right, context = reader.read(context, ids, reuse=True)
                yield Scored(ids, nats, context, right)
                if self.documents_alone and len(ids) and ids[-1] == boundary:
                    context = start

    def _count(self, pieces: Iterable[Ids]) -> Iterator[Scored]:
        counts = None
        for ids in pieces:
            assert self._counts is not None
            counts = counts or self._counts.copy()  # an empty text needs none
            self.predictor.check_stop()
            nats = counts.read(self.vocabulary.clamp(ids))
            yield Scored(ids, cost_of_unseen(nats, ids, self.vocabulary), self.predictor.blank(), None)


def check_protocol(name: str, predictor: Predictor) -> None:
    """Raises UsageError if the model cannot read by the protocol of this name."""
    if name in ("documents", ADAPTIVE_DOCUMENTS) and predictor.vocabulary.boundary is None:
        way_out = "stream" if name == "documents" else ADAPTIVE
        raise UsageError(f"protocol {name}: this model knows no documents; use {way_out}, or train with documents")


def windows(predictor: Predictor, chunks: Iterable[Ids], length: int) -> SurprisalSum:
    """Measures by `window-L`: windows of L = `length` predictions, each from a zero state that was given one character.

    Window k is given character L k and predicts the next L; the last window may be shorter. The first character of the
    text is never predicted and does not count.
    """
    total = SurprisalSum()
    for ids in blocks(chunks, max(1, min(WINDOWS_AT_ONCE, (1 << 20) // length)) * length, overlap=1):
        size = min(length, len(ids) - 1)
        index = np.arange(0, len(ids) - 1, length) + np.arange(size + 1)[:, None]  # (T, N)
        counted = index < len(ids)
        counted[0] = False
        rows = ids[np.minimum(index, len(ids) - 1)]
        nats, right, _ = read_rows(predictor, rows, predictor.blank(rows.shape[1]))
        total += tally(predictor.vocabulary, rows[counted], nats[counted], right[counted])
    return total


def last(predictor: Predictor, chunks: Iterable[Ids], length: int) -> SurprisalSum:
    """Measures by `last-L`: each character predicted from a zero state after exactly the L = `length` ones before it.

    The first L characters of the text are predicted as by `stream`.
    """
    head, chunks = open_chunks(chunks, length)
    return stream(predictor, [head]) + _measure_after_exactly(predictor, chunks, length)


def _measure_after_exactly(predictor: Predictor, chunks: Iterable[Ids], length: int) -> SurprisalSum:
    """Measures the characters that have `length` characters before them, each predicted after exactly those."""
    vocabulary, total = predictor.vocabulary, SurprisalSum()
    for ids in blocks(chunks, max(1, READ_AHEAD // length), overlap=length):
        before, targets = sliding_window_view(ids[:-1], length).T, ids[length:]  # (L, N), (N,)
        context = predictor.carry(predictor.blank(len(targets)), before)
        nats, right, _ = read_rows(predictor, targets[None], context)
        total += tally(vocabulary, targets, nats[0], right[0])
    return total


def lane_count(characters: int) -> int:
    """Returns the number of lanes for an estimate of a text with this number of characters."""
    return max(1, min(LANES, characters // CHARACTERS_PER_LANE))


def lanes(
    predictor: Predictor, reader: StoredIdsReader, numbers: Sequence[int], count: int, warm_up: int = WARM_UP
) -> SurprisalSum:
    """Estimates `stream` quickly: the text is cut into `count` lanes of equal length, which are read at the same time.

    Before its own characters, a lane reads up to `warm_up` earlier characters, which do not count. Only the lanes in
    `numbers` are read. If workers share the lanes, their sums together count every character once. With one lane this
    is `stream`.
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
        nats, right, context = read_rows(predictor, ids, context)
        position = begin + offset + np.arange(step)[:, None]  # (T, N)
        counted = (position >= first) & (position < end)
        total += tally(predictor.vocabulary, ids[counted], nats[counted], right[counted])
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
    """Measures one worker's part of a text by a protocol. The sum over all ranks counts every character once.

    With `limit_characters` above 0, only the first characters are read; a document that is cut there has no end.
    `stream` is estimated by `lanes`, in up to `lanes_at_most` of them; with 1 it is exact. All other protocols are
    always exact. Raises UsageError if there is no such protocol, or if it needs documents and the model knows none.
    """
    kind, length = parse_protocol(name)
    characters = min(text.characters, limit_characters or text.characters)
    if predictor.vocabulary.boundary is not None or kind in ("documents", ADAPTIVE_DOCUMENTS):
        return _measure_documents(name, predictor, text, characters, rank, size)
    if kind == "stream":
        count = min(lane_count(characters), lanes_at_most)
        return lanes(predictor, Head(text, characters), range(count)[rank::size], count)
    if kind == ADAPTIVE:
        return adaptive(predictor, chunks_of(text, 0, 0 if rank else characters))
    if kind == "window":
        count = max(0, -(-(characters - 1) // length))
        begin, end = (length * edge for edge in _share(count, rank, size))
        return windows(predictor, chunks_of(text, begin, min(end + 1, characters)), length)
    begin, end = _share(max(0, characters - length), rank, size)
    head = chunks_of(text, 0, min(length, characters)) if rank == 0 else ()
    return stream(predictor, head) + _measure_after_exactly(
        predictor, chunks_of(text, begin, min(end + length, characters)), length
    )


def _measure_documents(
    name: str, predictor: Predictor, text: StoredText, characters: int, rank: int, size: int
) -> SurprisalSum:
    """Measures like `measure`, for the documents that begin in the first `characters`; `stream` means `documents`."""
    kind, _ = parse_protocol(name)
    count = count_beginning_in(text, characters)
    shared = kind in {"stream", "documents"}
    begin, end = _share(count, rank, size) if shared else (0, 0 if rank else count)
    boundary = predictor.vocabulary.boundary
    chunks: Iterator[Ids] = iter(()) if boundary is None else documents_of(text, boundary, begin, end, characters)
    return protocol("documents" if shared else name)(predictor, chunks)


def _share(count: int, rank: int, size: int) -> tuple[int, int]:
    """Returns the first of `count` items that a worker owns, and the first one of the next worker."""
    return count * rank // size, count * (rank + 1) // size


def _read_ids(reader: StoredIdsReader, opening: Ids, start: int, stop: int) -> Ids:
    """Reads the characters from `start` to `stop`, with the opening at places before 0; empty if stop <= start."""
    if start >= stop:
        return np.empty(0, np.int64)
    text = reader.read(max(start, 0), stop - max(start, 0))
    return text if start >= 0 else np.concatenate((opening[start:], text))

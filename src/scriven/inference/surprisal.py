"""How surprising a text is: nats for each character, in constant memory. Each character counts exactly once.

A symbol that the vocabulary lacks costs as much as `<unk>`, plus `Vocabulary.unseen_nats`. The first character of a
text is predicted from the context of `Predictor.start`: after a newline, or, if the vocabulary has none, uniformly over
all V symbols. In texts of documents, each document is read from its start, and the boundary follows it. The cost of the
boundary is the cost of the document's end, and is counted separately from the characters.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from scriven.arrays import Bools, Float64s, Ids
from scriven.errors import InputError
from scriven.inference.chunks import DOCUMENTS_AT_ONCE, StoredText, blocks, gather_chunks
from scriven.inference.context import Context
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library, sampler
from scriven.kernels.counts import NgramTable
from scriven.loss import Loss
from scriven.vocabulary import Vocabulary

GATHERED = 1 << 20  # characters of documents that are read together; a longer document is read alone
ROWS = 512  # documents read at the same time


@dataclass(frozen=True)
class SurprisalSum:
    """A sum over characters and ends: their loss, and the number of characters that the vocabulary lacks."""

    loss: Loss = field(default_factory=lambda: Loss(0.0, 0))
    unseen: int = 0

    def __add__(self, other: SurprisalSum) -> SurprisalSum:
        return SurprisalSum(self.loss + other.loss, self.unseen + other.unseen)

    def measures(self) -> dict[str, float | None]:
        """Returns the values of `SurprisalSums.measures` by name, with None for a mean over nothing."""
        return {name: list_numbers(measure())[0] for name, measure in SurprisalSums.of(self).measures().items()}

    def values(self) -> dict[str, float | None]:
        """Returns the sums and their means by name, for JSON, with None for a mean over nothing.

        The cost of ends is included if there are any; means are over characters only.
        """
        measures = self.measures()
        return {name: measures[name] for name in SUMS if name not in ENDS or self.loss.ends}


@dataclass(frozen=True)
class Scored:
    """Ids (T,) with boundaries, the nats (T,) that each cost in its context, and the context after them.

    `right` (T,) says whether each was the most likely one, or is None because nobody knows. Where units end may be
    known already: `ends` (M,) are the places after them, and `entropy` (T,) has the nats of entropy before the first id
    of each unit, other places being nan; see `inference.units`.
    """

    ids: Ids
    nats: Float64s
    context: Context
    right: Bools | None
    ends: Ids | None = None
    entropy: Float64s | None = None


def surprisals_of_text(predictor: Predictor, chunks: Iterable[Ids], *, live: bool = False) -> Iterator[Scored]:
    """Yields the surprisal of every id of one text from its start on; for a model of documents, as `documents` does.

    If the text is `live`, the surprisals of a chunk are there before the next chunk is asked for.
    """
    if predictor.vocabulary.boundary is None:
        return surprisals(predictor, chunks, predictor.start(), live=live)
    return documents(predictor, chunks, 1 if live else GATHERED)


def surprisals(
    predictor: Predictor, chunks: Iterable[Ids], context: Context, *, live: bool = False
) -> Iterator[Scored]:
    """Yields the surprisal of every id of one text, in chunks of any length, from `context` (of one row) on."""
    length = predictor.chunk_length(1)
    texts = ([chunk] for chunk in chunks) if live else [chunks]
    for ids in (block for text in texts for block in blocks(text, length)):
        nats, right, context = read_rows(predictor, ids[:, None], context)
        yield Scored(ids, nats[:, 0], context, right[:, 0])


def documents(predictor: Predictor, chunks: Iterable[Ids], gathered: int = GATHERED) -> Iterator[Scored]:
    """Yields the same as `surprisals`, for documents that the boundary ends. Many are read at the same time.

    Reading a boundary clears the memory, so the cost of a document does not depend on the others. A document of more
    than about `gathered` characters is read alone, in constant memory.
    """
    boundary, start = predictor.vocabulary.boundary, predictor.start()
    rest, context = np.empty(0, np.int64), start  # the ids that are not read yet, and the context before them
    for chunk in gather_chunks(chunks, gathered):
        rest = np.concatenate((rest, chunk))
        ends = np.flatnonzero(rest == boundary) + 1  # (M,)
        # The first ids may belong to a document that was begun before, or is too long to wait for its end.
        alone = len(rest) if not ends.size else 0 if context is start else int(ends[0])
        for scored in surprisals(predictor, [rest[:alone]], context):
            yield scored
            context = scored.context
        if ends.size:
            context, last = start, int(ends[-1])
            nats, right = _whole(predictor, start, rest[alone:last])
            yield Scored(rest[alone:last], nats, start, right)
            alone = last
        rest = rest[alone:]
    yield from surprisals(predictor, [rest], context)


def entropies(predictor: Predictor, context: Context) -> Float64s:
    """Returns the entropy (N,), in nats, of each row's next symbol, among the known ones."""
    logits = predictor.next_logits(context).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    chances = np.exp(logits)
    totals = chances.sum(-1)
    found: Float64s = np.log(totals) - (chances * logits).sum(-1) / totals
    return found


def check_scored(pieces: Iterable[Scored]) -> Iterator[Scored]:
    """Yields the same pieces.

    Raises InputError at a piece with a surprisal that is not a finite number.
    """
    for piece in pieces:
        check_finite(piece.nats)
        yield piece


def check_finite(nats: npt.ArrayLike) -> None:
    """Raises InputError if a surprisal is not a finite number: finite weights may be too large."""
    if not np.isfinite(nats).all():
        raise overflow()


def overflow() -> InputError:
    """Returns the error for a model that computes numbers that are not finite."""
    return InputError(
        "the model overflows: its weights are finite, but its results are not; use another "
        "checkpoint, or train it again with a lower learning rate"
    )


def _whole(predictor: Predictor, start: Context, ids: Ids) -> tuple[Float64s, Bools]:
    """Returns the nats (T,) of ids that are whole documents, each with its boundary, and which of them were right.

    Documents of similar lengths are read together.
    """
    ends = np.flatnonzero(ids == predictor.vocabulary.boundary) + 1  # (M,)
    lengths = np.diff(ends, prepend=0)
    order = np.argsort(-lengths, kind="stable")
    nats, right = np.empty(len(ids)), np.empty(len(ids), np.bool_)
    for begin in range(0, len(order), ROWS):
        rows = order[begin : begin + ROWS]
        for index, *found in _score_rows(predictor, start, ids, ends[rows] - lengths[rows], lengths[rows]):
            nats[index], right[index] = found
    return nats, right


def _score_rows(
    predictor: Predictor, start: Context, ids: Ids, firsts: Ids, lengths: Ids
) -> Iterator[tuple[Ids, Float64s, Bools]]:
    """Yields places in ids (T,), their nats and which were right, all (t,), of documents, given the longest first.

    All begin in the context `start`. Rows whose documents have ended are left out.
    """
    context, begin = start.rows([0] * len(firsts)), 0
    while begin < lengths[0]:
        rows = int((lengths > begin).sum())
        if rows < len(context.logits):
            context = context.rows(range(rows))
        length = min(predictor.chunk_length(rows), int(lengths[0]) - begin)
        place = begin + np.arange(length)[:, None]  # (T, 1)
        index = np.minimum(firsts[:rows] + place, len(ids) - 1)  # (T, N)
        # A boundary at the end of a document need not be read: the padding after it does not count.
        read = np.where(place < lengths[:rows] - 1, ids[index], 0)
        costs, right, context = read_rows(predictor, ids[index], context, read)
        inside = place < lengths[:rows]
        yield index[inside], costs[inside], right[inside]
        begin += length


SUMS = (
    *("characters", "bytes", "unseen", "nats", "ends", "end_nats", "total_nats"),
    *("nats_per_char", "bits_per_char", "bits_per_byte"),
)
ENDS = frozenset(["ends", "end_nats", "end_bits", "total_nats", "total_bits"])  # of texts of documents alone


@dataclass(frozen=True)
class SurprisalSums:
    """Sums like those of a `SurprisalSum`, (M,) each, for M lines or documents."""

    nats: Float64s
    characters: Ids
    bytes: Ids
    ends: Ids
    end_nats: Float64s
    unseen: Ids

    @classmethod
    def of(cls, one: SurprisalSum) -> SurprisalSums:
        """Returns the sums of a single line."""
        loss = one.loss
        sums = (loss.nats, loss.characters, loss.bytes, loss.ends, loss.end_nats, one.unseen)
        return cls(*(np.array([each]) for each in sums))

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All sums, in the order of `Loss`, then `unseen`."""
        return self.nats, self.characters, self.bytes, self.ends, self.end_nats, self.unseen

    def measures(self) -> dict[str, Callable[[], npt.NDArray[Any]]]:
        """Returns functions by the names of columns; each gives the values (M,), nan for a mean over no characters.

        `nats` and `bits` are sums over characters, `end_nats` over ends, `total_nats` over both. `perplexity` is that
        of a character: exp of `nats_per_char`.
        """
        bit = math.log(2)
        return {
            "characters": lambda: self.characters,
            "bytes": lambda: self.bytes,
            "unseen": lambda: self.unseen,
            "nats": lambda: self.nats,
            "bits": lambda: self.nats / bit,
            "ends": lambda: self.ends,
            "end_nats": lambda: self.end_nats,
            "end_bits": lambda: self.end_nats / bit,
            "total_nats": lambda: self.nats + self.end_nats,
            "total_bits": lambda: (self.nats + self.end_nats) / bit,
            "nats_per_char": lambda: _mean(self.nats, self.characters),
            "bits_per_char": lambda: _mean(self.nats, self.characters) / bit,
            "bits_per_byte": lambda: _mean(self.nats, self.bytes) / bit,
            "perplexity": lambda: _exp(_mean(self.nats, self.characters)),
        }

    def __iter__(self) -> Iterator[SurprisalSum]:
        """Yields the sums one by one."""
        for *loss, unseen in zip(*(each.tolist() for each in self.arrays), strict=True):
            yield SurprisalSum(Loss(*loss), unseen)


def _mean(sums: Float64s, counts: Ids) -> Float64s:
    """Returns the means (M,) of sums (M,) over counts (M,); nan where nothing was counted."""
    means = np.full(sums.shape, math.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _exp(values: Float64s) -> Float64s:
    """Returns e to the power of values (M,): inf where that is too large for a number."""
    with np.errstate(over="ignore"):
        powers: Float64s = np.exp(values)
    return powers


def list_numbers(column: npt.NDArray[Any]) -> list[Any]:
    """Returns a column (M,) as a list, with None for what is not a finite number."""
    values: list[Any] = column.tolist()
    return values if np.isfinite(column).all() else [value if math.isfinite(value) else None for value in values]


def sum_pieces(vocabulary: Vocabulary, pieces: Iterable[Scored]) -> SurprisalSum:
    """Returns the sum over all pieces."""
    return sum((tally(vocabulary, piece.ids, piece.nats, piece.right) for piece in pieces), SurprisalSum())


def tally(vocabulary: Vocabulary, ids: Ids, nats: Float64s, right: Bools | None = None) -> SurprisalSum:
    """Returns the sum over ids and their nats, both (T,), and over which were `right` (T,), if known.

    Boundaries are ends, not characters.
    """
    *loss, unseen = (each.sum().item() for each in counts_of(vocabulary, ids, nats))
    judged = (0, 0) if right is None else (int(right[ids != vocabulary.boundary].sum()), loss[1])
    return SurprisalSum(Loss(*loss, *judged), unseen)


def counts_of(vocabulary: Vocabulary, ids: Ids, nats: Float64s) -> tuple[npt.NDArray[Any], ...]:
    """Returns what each of ids (T,), with its nats (T,), adds to the sums of `SurprisalSums`."""
    ends = ids == vocabulary.boundary
    sizes, unseen = vocabulary.byte_lengths(ids), vocabulary.unseen(ids)
    end_nats = np.where(ends, nats, 0.0)
    return nats - end_nats, (~ends).astype(np.int64), sizes, ends.astype(np.int64), end_nats, unseen.astype(np.int64)


def cost_of_unseen(nats: Float64s, ids: Ids, vocabulary: Vocabulary) -> Float64s:
    """Returns the nats (...) of known ids, with the additional cost of unseen symbols among the ids (...)."""
    return nats + vocabulary.unseen_nats * vocabulary.unseen(ids)


def read_rows(
    predictor: Predictor, ids: Ids, context: Context, read: Ids | None = None
) -> tuple[Float64s, Bools, Context]:
    """Returns the nats (T, N) that ids (T, N), any T, cost after `context`, and the context after them.

    The second value says whether each id was the most likely one (T, N); an unseen symbol never is. With `read` (T, N)
    the model reads those ids instead. With a native scorer, a row's numbers are the same, to the bit, in any batch and
    in pieces of any size.
    """
    read, vocabulary, native = ids if read is None else read, predictor.vocabulary, predictor.scorer()
    known = vocabulary.clamp(ids)
    if predictor.counts is not None and predictor.is_counts_alone:
        nats, right = _read_by_counts(predictor.counts.table, known, context)
        context = predictor.carry(context, read)
    elif native is None:
        nats, right, context = _read_in_pieces(predictor, known, context, read)
    else:
        nats, right, logits, state = sampler.score(
            native,
            context.logits,
            context.state or native.zero_state(ids.shape[1]),
            vocabulary.clamp(read),
            known,
            native_library.threads(),
            recent=context.recent,
            mixture=predictor.counts,
        )
        context = Context(logits, state, predictor.remember(context, read))
    return cost_of_unseen(nats, ids, vocabulary), right & (known == ids), context


def _read_by_counts(table: NgramTable, ids: Ids, context: Context) -> tuple[Float64s, Bools]:
    """Returns the nats (T, N) of ids (T, N) by the counts alone, and which were the most likely ones (T, N)."""
    seen = context.join_recent(ids)
    by_row, right_by_row = table.judge(seen.T, len(seen) - len(ids), native_library.threads())
    nats, right = by_row.T, right_by_row.T
    if len(seen) == len(ids):  # nothing was read before the first ones
        nats[:1], right[:1] = math.log(table.symbols), ids[:1] == 0
    return nats, right


def _read_in_pieces(predictor: Predictor, ids: Ids, context: Context, read: Ids) -> tuple[Float64s, Bools, Context]:
    """Computes like `read_rows` without native code, for known ids; the state is carried from piece to piece."""
    step = predictor.chunk_length(ids.shape[1])
    parts, right = [np.empty((0, ids.shape[1]))], np.zeros(ids.shape, np.bool_)
    for begin in range(0, len(ids), step):
        some = slice(begin, begin + step)
        nats, right[some], context = predictor.judge(context, read[some], ids[some])
        parts.append(nats)
    return np.concatenate(parts), right, context


def find_known(text: StoredText, samples: Sequence[Ids]) -> list[bool]:
    """Returns for each sample, ids (T,) of any length, whether it is exactly one of the documents of a text.

    Reads the documents that are as long as one of the samples, once, in bounded memory.
    """
    wanted = {sample.tobytes() for sample in samples}
    sizes = np.unique([len(sample) for sample in samples])
    found = wanted.intersection(document.tobytes() for document in _documents_of_length(text, sizes))
    return [sample.tobytes() in found for sample in samples]


def _documents_of_length(text: StoredText, sizes: Ids) -> Iterator[Ids]:
    """Yields the documents that have one of these lengths."""
    for number in range(0, text.documents, DOCUMENTS_AT_ONCE):
        firsts, lengths = text.bounds(np.arange(number, min(number + DOCUMENTS_AT_ONCE, text.documents)))
        fitting = np.isin(lengths, sizes)
        for first, length in zip(firsts[fitting].tolist(), lengths[fitting].tolist(), strict=True):
            yield text.read(first, length)


def describe_form(form: str) -> str:
    """Describes a text that the model would know in this form, "NFC" or "NFD"."""
    if form == "NFC":
        return "has letters and accents apart (NFD), and the model knows them as one (NFC)"
    return "has letters with their accents as one (NFC), and the model knows them apart (NFD)"


def other_form(vocabulary: Vocabulary, unseen: Iterable[str]) -> str:
    """Returns the form, "NFC" or "NFD", that would make one of the unseen characters known; "" if there is none."""
    if vocabulary.unit != "character":
        return ""
    known = set(map(chr, vocabulary.symbols))
    marks = {mark for character in known for mark in unicodedata.normalize("NFD", character)[1:]}
    for character in unseen:
        apart = unicodedata.normalize("NFD", character)
        if character in marks:
            return "NFC"
        if len(apart) > 1 and known.issuperset(apart):
            return "NFD"
    return ""

"""Counts a training text, and fits the weights of a mixture of a network with these counts, on other text.

The validation text is cut into halves. The weights make samples of its first half most probable. They are kept if they
also make samples of the second half more probable than the network alone does; otherwise the network stays alone.

A weight is a linear function of the length of the context that the counts know: where they know only a short one, the
text is new, and both are trusted less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scriven.arrays import Bools, Float32s, Float64s, Ids
from scriven.corpus.store import Corpus
from scriven.inference.chunks import StoredText, chunks_of, documents_of
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.kernels.counts import (
    USUAL_LONGEST,
    Counted,
    NgramCounter,
    NgramMixture,
    NgramTable,
    longest_context,
)
from scriven.runs.ngrams import Line, MixtureWeights
from scriven.settings import BudgetSettings, Settings
from scriven.signals import raise_if_stopped

POSITIONS = 4096  # predictions in a half's samples, at most
VALUES = 1 << 22  # logits of a half's samples, at most, which bounds the memory
ROWS, WARM_UP, COUNTED = 32, 128, 128  # pieces of a stream: their number, and the characters read before others count
LONGEST_DOCUMENT = 512  # characters of a document that are read
READ = 1 << 15  # characters that are read for a half's samples, at most, if each prediction needs many
FEWEST = 1000  # characters of a validation text that weights are fitted on
WORTHWHILE = 0.002  # nats per character: mixing costs time, and a smaller gain is not worth it
WRITE_ORDER = 6  # characters of context that counts look at when they write: longer contexts copy the text
STEPS = 20  # of Newton's method, at most
DISCOUNT = 0.85  # of the counts' discounts: what is rare says more beside a network, which knows the usual
DIGITS = 3  # of weights, which are then the same on machines that round sums in another way
AT_ONCE = 1 << 18  # values that the fit computes with
DEVIATION = 0.25  # of the difference of the weights for known contexts and for unknown ones, before they are fitted
NETWORK_ALONE = np.array([[1.0, 1.0], [0.0, 0.0]])

COUNTED_CHARACTERS = 64_000_000  # of a text, at most, beside a network: counting them takes about 15 seconds
COUNTED_A_MINUTE = 20_000_000  # of the time budget: a twelfth of it, at most
PARTS = 64  # of a text that is not counted whole, from all over it
LONG_CONTEXTS = 10  # characters: better than the usual ones for a long text, and twice as slow to count
LONG_FROM, LONG_TO = 1_500_000, 16_000_000  # characters of such a text: more do not fit into the memory to count in
LONG_A_MINUTE = 9_000_000  # characters of it, at most, for each minute of the time budget


def has_partner(settings: Settings, corpus: Corpus) -> bool:
    """Whether the text of a network is counted, too: native code and a validation text can make use of it."""
    wanted = settings.model.kind == "network" and settings.model.counts == "auto"
    return wanted and native_library.level() != "off" and corpus.validation.characters >= FEWEST


def count_text(
    corpus: Corpus, budget: BudgetSettings | None = None, stop: Callable[[], int] = lambda: 0
) -> tuple[NgramTable, Counted]:
    """Counts the training text of a corpus, in bounded memory; with a training's budget, what it has time for.

    If that is not all, parts of equal size from all over the text are counted. Raises Interrupted if asked to stop.
    """
    text, vocabulary = corpus.training, corpus.vocabulary
    share = min(1.0, most_counted(budget) / max(1, text.characters)) if budget else 1.0
    total = round(share * (text.characters + text.documents))
    longest = longest_context(vocabulary.size, most_context(text.characters, budget))
    with NgramCounter(vocabulary.size, total, boundary=vocabulary.boundary, longest=longest) as counter:
        for ids in _parts(text, vocabulary.boundary, share):
            raise_if_stopped(stop)
            counter.count(vocabulary.clamp(ids))
        return counter.finish()


def most_counted(budget: BudgetSettings) -> int:
    """Returns how many characters of a text are counted for a network, at most."""
    return _within_time(budget, COUNTED_CHARACTERS, COUNTED_A_MINUTE)


def most_context(characters: int, budget: BudgetSettings | None) -> int:
    """Returns how many characters of context are counted, at most, in a text of this size: more in a long one.

    Memory and time must suffice for the whole text: shorter contexts in all of it are better than longer ones in half.
    """
    most = _within_time(budget, LONG_TO, LONG_A_MINUTE) if budget else LONG_TO
    return LONG_CONTEXTS if LONG_FROM <= characters <= most else USUAL_LONGEST


def _within_time(budget: BudgetSettings, most: int, a_minute: int) -> int:
    return min(most, round(budget.minutes * a_minute)) if budget.minutes else most


def _parts(text: StoredText, boundary: int | None, share: float) -> Iterator[Ids]:
    """Yields this share of a text in chunks of ids, with boundaries."""
    whole = text.characters if boundary is None else text.documents
    parts = 1 if share == 1 else min(PARTS, whole)
    for part in range(parts):
        first, end = whole * part // parts, whole * (part + 1) // parts
        end = first + max(1, round(share * (end - first)))
        yield from chunks_of(text, first, end) if boundary is None else documents_of(text, boundary, first, end)


@dataclass(frozen=True)
class HeldOut:
    """Rows of ids (T, N) to read, and which of them are predictions that count (T, N)."""

    ids: Ids
    counted: Bools


@dataclass(frozen=True)
class Predictions:
    """What counts predict for M symbols after contexts of some length at most.

    logits: logarithms of probabilities (M, V). known: the lengths of the contexts that are known, in shares of the
    longest (M,).
    """

    logits: Float32s
    known: Float32s


@dataclass(frozen=True)
class Samples:
    """What predicts M symbols: logarithms of probabilities (M, V) by the network, and the counts; the symbols (M,)."""

    network: Float32s
    counts: tuple[Predictions, ...]  # after contexts of each length that was asked for
    targets: Ids


def fit_mixture(
    predictor: Predictor, table: NgramTable, text: StoredText, protocol: tuple[str, int], order: int = WRITE_ORDER
) -> MixtureWeights | None:
    """Returns the weights of a mixture with counts: to read with, and to write with after up to `order` symbols.

    Short documents are written after fewer: half of their mean length.
    Returns None for a network that predicts the second half of the text better alone. `predictor` has no counts.
    The `protocol` is its kind and length, as of `parse_protocol`.
    """
    if text.characters < FEWEST:
        return None
    if predictor.vocabulary.boundary is not None:  # half a short document known by heart would be the whole of it
        order = min(order, max(1, text.characters // max(1, text.documents) // 2))
    orders = (table.longest, min(order, table.longest))
    fitted, unseen = (_collect(predictor, table, each, orders) for each in _halves(text, predictor, protocol))
    if not (len(fitted.targets) and len(unseen.targets) and np.isfinite(fitted.network).all()):
        return None
    reading, writing = (_fit(fitted, number) for number in range(2))
    gains = _costs(unseen, 0, NETWORK_ALONE) - _costs(unseen, 0, reading)
    noise = float(gains.std()) / len(gains) ** 0.5
    if not (reading[1].any() and float(gains.mean()) > max(WORTHWHILE, noise)):
        return None
    return MixtureWeights(reading=_as_lines(reading), writing=_as_lines(writing), order=orders[1], discount=DISCOUNT)


def _as_lines(weights: Float64s) -> Line:
    """Returns weights (2, 2) of parts at both ends as those of both parts at each end."""
    first, last = weights.T.tolist()
    return (first[0], first[1]), (last[0], last[1])


def _halves(text: StoredText, predictor: Predictor, protocol: tuple[str, int]) -> Iterator[HeldOut]:
    """Yields pieces of the first half of a text, then of the second, read as the protocol does."""
    most = max(1, min(POSITIONS, VALUES // predictor.vocabulary.size))
    for half in range(2):
        if predictor.vocabulary.boundary is not None:
            first, end = (text.documents * (half + side) // 2 for side in range(2))
            yield _documents(text, np.arange(first, end), predictor.vocabulary.boundary, most)
        else:
            first, end = (text.characters * (half + side) // 2 for side in range(2))
            yield _passages(text, first, end, protocol, most)


def _passages(text: StoredText, first: int, end: int, protocol: tuple[str, int], most: int) -> HeldOut:
    """Returns pieces of one length, which lie evenly between two places of a text."""
    kind, length = protocol
    lead, counted = {"window": (1, length), "last": (length, 1)}.get(kind, (WARM_UP, COUNTED))
    if lead + counted > end - first:
        lead, counted = (end - first) // 2, (end - first + 1) // 2
    rows = min(most, end - first - lead) // counted  # so that nothing counts twice
    rows = max(1, min(rows, READ // (lead + counted), ROWS if kind == "stream" else rows))
    places = first + np.arange(rows) * (end - first - lead - counted) // max(1, rows - 1)
    ids = np.stack([text.read(int(place), lead + counted) for place in places], 1)
    return HeldOut(ids, np.repeat(np.arange(len(ids))[:, None] >= lead, rows, 1))


def _documents(text: StoredText, numbers: Ids, boundary: int, most: int) -> HeldOut:
    """Returns documents from evenly among those with these numbers, after the boundary, and with it at their ends."""
    _, lengths = text.bounds(numbers)
    mean = max(1.0, float(np.minimum(lengths, LONGEST_DOCUMENT).mean())) if len(numbers) else 1.0
    rows = max(1, min(len(numbers), round(most / (mean + 1))))
    chosen = numbers[np.arange(rows) * len(numbers) // rows] if len(numbers) else numbers
    firsts, lengths = text.bounds(chosen)
    lengths = np.minimum(lengths, LONGEST_DOCUMENT)
    ids = np.full((int(lengths.max(initial=0)) + 2, len(chosen)), boundary)
    for row, (begin, length) in enumerate(zip(firsts.tolist(), lengths.tolist(), strict=True)):
        ids[1 : length + 1, row] = text.read(begin, length)
    place = np.arange(len(ids))[:, None]
    return HeldOut(ids, (place >= 1) & (place <= lengths + 1))


def _collect(predictor: Predictor, table: NgramTable, pieces: HeldOut, orders: Sequence[int]) -> Samples:
    """Returns what the network and the counts predict for the counted symbols of pieces."""
    ids, rows = predictor.vocabulary.clamp(pieces.ids), pieces.ids.shape[1]
    network, counts = list[Float32s](), [list[tuple[Float32s, Float32s]]() for _ in orders]
    if not rows:
        return Samples(np.empty((0, table.symbols), np.float32), (), np.empty(0, np.int64))
    alone = [NgramMixture.alone(table, order, DISCOUNT) for order in orders]
    step, context = predictor.chunk_length(rows), predictor.carry(predictor.blank(rows), ids[:1])
    for begin in range(1, len(ids), step):
        logits, context = predictor.predict(context, ids[begin : begin + step])  # (t, N, V)
        chosen, before = pieces.counted[begin : begin + step], ids[: begin + len(logits) - 1]
        network.append(_log_probabilities(logits)[chosen])
        lengths = table.known_lengths(before, len(logits), max(orders))[chosen]
        for mixture, parts in zip(alone, counts, strict=True):
            mixed = np.zeros(logits.shape, np.float32)
            mixture.mix(mixed, before)
            # What is known of a context is known of all shorter ones.
            known: Float32s = np.divide(lengths.clip(max=mixture.longest), max(1, mixture.longest), dtype=np.float32)
            parts.append((mixed[chosen], known))
    predictions = (Predictions(*map(np.concatenate, zip(*parts, strict=True))) for parts in counts)
    return Samples(np.concatenate(network), tuple(predictions), ids[1:][pieces.counted[1:]])


def _log_probabilities(logits: Float32s) -> Float32s:
    values: Float32s = torch.from_numpy(logits).log_softmax(-1).numpy()
    return values


def _fit(samples: Samples, number: int) -> Float64s:
    """Returns the weights of the network and of the counts at both ends (2, 2) that make the samples most probable.

    None is below 0. The loss is convex; Newton's method halves a step that would raise it. A weight that wants to be
    negative is 0, and the other ones are fitted again.
    """
    weights = np.full((2, 2), 0.5)
    free = np.full((2, 2), True)
    for _ in range(weights.size):
        weights = _descend(samples, number, weights * free, free)
        if (weights >= 0).all():
            break
        free &= weights > 0
    rounded: Float64s = np.round(np.maximum(weights, 0.0), DIGITS)
    return rounded


def _descend(samples: Samples, number: int, weights: Float64s, free: Bools) -> Float64s:
    loss, slope, curve = _derivatives(samples, number, weights)
    fixed = ~free.ravel()
    for _ in range(STEPS):
        held = np.diag(np.where(fixed, 1e9, 1e-6))
        step = np.where(fixed, 0.0, np.linalg.solve(curve + held, -slope)).reshape(2, 2)
        while np.abs(step).max() > 0.1**DIGITS / 4:
            after = _derivatives(samples, number, weights + step)
            if after[0] < loss:
                break
            step /= 2
        else:
            return weights
        weights, (loss, slope, curve) = weights + step, after
    return weights


def _derivatives(samples: Samples, number: int, weights: Float64s) -> tuple[float, Float64s, Float64s]:
    """Returns the mean loss of samples, in nats, and its first (4,) and second (4, 4) derivatives by the weights.

    Differences of the ends' weights cost a little, as by a normal distribution with the deviation DEVIATION: else few
    samples would decide them, and nothing where the same contexts are known everywhere.
    """
    count = len(samples.targets)
    apart = np.array([[1.0, -1.0], [-1.0, 1.0]]) / DEVIATION**2
    loss, slope = float((weights @ apart * weights).sum()) / 2, weights @ apart
    curve = np.einsum("ij,ab->iajb", np.eye(2), apart)
    for mixed in _mix(samples, number, weights):
        rows = np.arange(len(mixed.targets))
        means = np.stack([(mixed.p * part).sum(1) for part in mixed.parts])
        off = means - np.stack([part[rows, mixed.targets] for part in mixed.parts])
        loss += float(mixed.costs.sum())
        slope += off @ mixed.ends.T
        for i, j in ((0, 0), (0, 1), (1, 1)):
            bent = (mixed.p * mixed.parts[i] * mixed.parts[j]).sum(1) - means[i] * means[j]
            curve[i, :, j] += mixed.ends * bent @ mixed.ends.T
    curve[1, :, 0] = curve[0, :, 1]
    return loss / count, slope.ravel() / count, curve.reshape(4, 4) / count


def _costs(samples: Samples, number: int, weights: Float64s) -> Float64s:
    """Returns the nats (M,) that each symbol costs by a mixture."""
    return np.concatenate([mixed.costs for mixed in _mix(samples, number, weights)])


@dataclass(frozen=True)
class Mixed:
    """A mixture's predictions of some samples.

    parts: the logits (m, V) of network and counts. ends: the shares (2, m) of the ends' weights. targets (m,). p: the
    probabilities (m, V). costs: the nats (m,) of the targets.
    """

    parts: tuple[Float64s, Float64s]
    ends: Float64s
    targets: Ids
    p: Float64s
    costs: Float64s


def _mix(samples: Samples, number: int, weights: Float64s) -> Iterator[Mixed]:
    """Mixes samples, some at a time, with weights (2, 2) of network and counts at both ends."""
    counts = samples.counts[number]
    rows = max(1, AT_ONCE // samples.network.shape[1])
    for begin in range(0, len(samples.targets), rows):
        some = slice(begin, begin + rows)
        parts = samples.network[some].astype(np.float64), counts.logits[some].astype(np.float64)
        known = counts.known[some].astype(np.float64)
        ends, targets = np.stack([1 - known, known]), samples.targets[some]
        network, counted = weights @ ends
        logits = network[:, None] * parts[0] + counted[:, None] * parts[1]
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(1)
        costs = np.log(total) - logits[np.arange(len(targets)), targets]
        yield Mixed(parts, ends, targets, p / total[:, None], costs)

"""Fits the weights of a mixture of a network with counts, on text that neither has seen.

The validation text is cut into halves. The weights make samples of its first half most probable. They are kept if they
also make samples of the second half more probable than the network alone does; otherwise the network stays alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scriven.arrays import Float32s, Float64s, Ids
from scriven.inference.chunks import StoredText
from scriven.inference.predictor import Predictor
from scriven.kernels.counts import NgramMixture, NgramTable
from scriven.runs.ngrams import MixtureWeights

POSITIONS = 4096  # predictions in a half's samples, at most
VALUES = 1 << 22  # logits of a half's samples, at most, which bounds the memory
ROWS, WARM_UP, COUNTED = 32, 128, 128  # pieces of a stream: their number, and the characters read before others count
LONGEST_DOCUMENT = 512  # characters of a document that are read
READ = 1 << 15  # characters that are read for a half's samples, at most, if each prediction needs many
FEWEST = 1000  # characters of a validation text that weights are fitted on
WORTHWHILE = 0.002  # nats per character: mixing costs time, and a smaller gain is not worth it
WRITE_ORDER = 6  # characters of context that counts look at when they write: longer contexts copy the text
STEPS = 20  # of Newton's method, at most
DIGITS = 3  # of weights, which are then the same on machines that round sums in another way
AT_ONCE = 1 << 18  # values that the fit computes with


@dataclass(frozen=True)
class HeldOut:
    """Rows of ids (T, N) to read, and which of them are predictions that count (T, N)."""

    ids: Ids
    counted: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """What predicts M symbols: logarithms of probabilities (M, V) by the network and the counts; the symbols (M,)."""

    network: Float32s
    counts: tuple[Float32s, ...]  # after contexts of each length that was asked for
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
    gains = _costs(unseen, 0, np.array([1.0, 0.0])) - _costs(unseen, 0, np.array(reading))
    noise = float(gains.std()) / len(gains) ** 0.5
    if not (reading[1] and float(gains.mean()) > max(WORTHWHILE, noise)):
        return None
    return MixtureWeights(reading=reading, writing=writing, order=orders[1])


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
    alone = [NgramMixture.alone(table, order) for order in orders]
    network, counts = list[Float32s](), [list[Float32s]() for _ in orders]
    if not rows:
        return Samples(np.empty((0, table.symbols), np.float32), (), np.empty(0, np.int64))
    step, context = predictor.chunk_length(rows), predictor.carry(predictor.blank(rows), ids[:1])
    for begin in range(1, len(ids), step):
        logits, context = predictor.predict(context, ids[begin : begin + step])  # (t, N, V)
        chosen = pieces.counted[begin : begin + step]
        network.append(_log_probabilities(logits)[chosen])
        for mixture, parts in zip(alone, counts, strict=True):
            mixed = np.zeros(logits.shape, np.float32)
            mixture.mix(mixed, ids[: begin + len(mixed) - 1])
            parts.append(mixed[chosen])
    return Samples(np.concatenate(network), tuple(map(np.concatenate, counts)), ids[1:][pieces.counted[1:]])


def _log_probabilities(logits: Tensor) -> Float32s:
    values: Float32s = logits.float().log_softmax(-1).cpu().numpy()
    return values


def _fit(samples: Samples, number: int) -> tuple[float, float]:
    """Returns the weights of the network and of the counts, none below 0, that make the samples most probable.

    The loss is convex; Newton's method halves a step that would raise it. A weight that wants to be negative is 0, and
    the other one is fitted again.
    """
    weights = np.array([0.5, 0.5])
    free = np.array([True, True])
    for _ in range(len(weights)):
        weights = _descend(samples, number, weights * free, free)
        if (weights >= 0).all():
            break
        free &= weights > 0
    network, counts = np.round(np.maximum(weights, 0.0), DIGITS).tolist()
    return network, counts


def _descend(samples: Samples, number: int, weights: Float64s, free: npt.NDArray[np.bool_]) -> Float64s:
    loss, slope, curve = _derivatives(samples, number, weights)
    for _ in range(STEPS):
        step = np.where(free, np.linalg.solve(curve + np.diag(np.where(free, 1e-6, 1e9)), -slope), 0.0)
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
    """Returns the mean loss of samples, in nats, and its first (2,) and second (2, 2) derivatives by the weights."""
    loss, slope, curve = 0.0, np.zeros(2), np.zeros((2, 2))
    for parts, targets, p, costs in _mix(samples, number, weights):
        loss += float(costs.sum())
        means = [(p * part).sum(1) for part in parts]
        slope += [
            (mean - part[np.arange(len(targets)), targets]).sum() for mean, part in zip(means, parts, strict=True)
        ]
        for i, j in ((0, 0), (0, 1), (1, 1)):
            curve[i, j] += (p * parts[i] * parts[j]).sum() - means[i] @ means[j]
    curve[1, 0] = curve[0, 1]
    count = len(samples.targets)
    return loss / count, slope / count, curve / count


def _costs(samples: Samples, number: int, weights: Float64s) -> Float64s:
    """Returns the nats (M,) that each symbol costs by a mixture."""
    return np.concatenate([costs for *_, costs in _mix(samples, number, weights)])


def _mix(
    samples: Samples, number: int, weights: Float64s
) -> Iterator[tuple[tuple[Float64s, Float64s], Ids, Float64s, Float64s]]:
    """Mixes samples, some at a time.

    Yields the logits (m, V) of both parts, the targets (m,), the probabilities (m, V) of the mixture, and the nats (m,)
    that the targets cost.
    """
    rows = max(1, AT_ONCE // samples.network.shape[1])
    for begin in range(0, len(samples.targets), rows):
        some = slice(begin, begin + rows)
        parts = samples.network[some].astype(np.float64), samples.counts[number][some].astype(np.float64)
        targets = samples.targets[some]
        logits = weights[0] * parts[0] + weights[1] * parts[1]
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(1)
        costs = np.log(total) - logits[np.arange(len(targets)), targets]
        p /= total[:, None]
        yield parts, targets, p, costs

"""Pure functions from logits to the next id, in float64 on the CPU, so that every device draws the same.

A row of *weights* (V,) says how likely each symbol is, up to a factor; a filter sets some weights to zero. Symbols are
ranked by weight; of equal ones, the lower id ranks first. The order of the steps is fixed: remove special symbols,
temperature, top-k, typical, top-p, min-p, mirostat, draw. Each filter sees what the one before it left, as shares of
what is left, and never removes all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scriven.arrays import Float64s, Ids
from scriven.penalties import Past
from scriven.sampling_settings import SamplingSettings

DRAWS = 256  # texts that are drawn to choose one, unless a number is given
WIDEST = 1024  # of them at most, and of a beam


def draw(
    logits: Float64s,
    settings: SamplingSettings | Sequence[SamplingSettings],
    uniforms: Float64s,
    never: Sequence[int] = (),
) -> Ids:
    """Draws one id per row (N,) from logits (N, V), by `settings` for all rows or one for each row.

    The symbols in `never` are not drawn. `uniforms` (N,) are random numbers in [0, 1), one per row. A row's id depends
    only on its own logits, settings and number.
    """
    if never:
        logits = logits.copy()
        logits[:, list(never)] = -np.inf
    if isinstance(settings, SamplingSettings):
        return _draw(logits, settings, uniforms)
    rows = zip(logits[:, None], settings, uniforms[:, None], strict=True)
    return np.concatenate([_draw(*row) for row in rows])


def draw_after(logits: Float64s, settings: SamplingSettings, uniform: float, past: Past) -> int:
    """Draws one id from logits (V,) by all filters, and changes mirostat's bound."""
    if settings.temperature == 0:
        return int(logits.argmax())
    weights = _filter(logits[None], settings)
    if not settings.mirostat_tau:
        return int(pick(weights, np.array([uniform]))[0])
    bits = surprise(weights[0])
    drawn = int(pick(keep_surprise(weights, bits, float(past.bound[0])), np.array([uniform]))[0])
    past.bound[0] -= settings.mirostat_eta * (bits[drawn] - settings.mirostat_tau)
    return drawn


def _draw(logits: Float64s, settings: SamplingSettings, uniforms: Float64s) -> Ids:
    return likeliest(logits) if settings.temperature == 0 else pick(_filter(logits, settings), uniforms)


def _filter(logits: Float64s, settings: SamplingSettings) -> Float64s:
    """Returns the weights (N, V) that all filters but mirostat leave."""
    weights = weigh(logits, settings.temperature)
    if settings.top_k:
        weights = keep_top_k(weights, settings.top_k)
    if settings.typical_p < 1:
        weights = np.stack([keep_typical(row, settings.typical_p) for row in weights])
    if settings.top_p < 1:
        weights = keep_top_p(weights, settings.top_p)
    if settings.min_p > 0:
        weights = keep_min_p(weights, settings.min_p)
    return weights


def likeliest(logits: Float64s) -> Ids:
    """Returns the top symbol of each row (N,), which a temperature of zero draws."""
    ids: Ids = logits.argmax(axis=1)
    return ids


def weigh(logits: Float64s, temperature: float) -> Float64s:
    """Returns the weights (N, V) of logits (N, V) at a temperature above 0: exp(logit / temperature), at most 1."""
    # At a tiny temperature the unlikely symbols' exponents may reach -inf: weight 0. NaN is reported later.
    with np.errstate(over="ignore", invalid="ignore"):
        weights: Float64s = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return weights


def keep_top_k(weights: Float64s, k: int) -> Float64s:
    """Keeps the weights (N, V) of the top k symbols; all of them if k >= V."""
    kept = np.zeros_like(weights)
    first = rank(weights)[:, :k]  # (N, k)
    np.put_along_axis(kept, first, np.take_along_axis(weights, first, 1), 1)
    return kept


def keep_top_p(weights: Float64s, p: float) -> Float64s:
    """Keeps the weights (N, V) of the fewest top symbols that together have at least the share p of the row."""
    order = rank(weights)
    descending = np.take_along_axis(weights, order, 1)
    total = descending.cumsum(1)
    enough = total >= p * total[:, -1:]
    descending[:, 1:][enough[:, :-1]] = 0  # the symbols above already have enough
    kept = np.zeros_like(weights)
    np.put_along_axis(kept, order, descending, 1)
    return kept


def keep_min_p(weights: Float64s, p: float) -> Float64s:
    """Keeps the weights (N, V) of symbols that are at least p times as likely as the top one."""
    return np.where(weights >= p * weights.max(axis=1, keepdims=True), weights, 0)


def surprise(weights: Float64s) -> Float64s:
    """Returns the bits (V,) that symbols of these weights (V,) cost; inf for a weight of 0."""
    with np.errstate(divide="ignore"):
        bits: Float64s = np.log2(weights.cumsum()[-1] / weights)
    return bits


def keep_typical(weights: Float64s, p: float) -> Float64s:
    """Keeps the weights (V,) of the fewest symbols, those of the most typical surprise, that have at least the share p.

    A surprise is the more typical, the nearer it is to the entropy; of equal ones, the lower id comes first.
    """
    chances, bits = weights / weights.cumsum()[-1], surprise(weights)
    there = np.flatnonzero(weights)
    entropy = (chances[there] * bits[there]).cumsum()[-1]
    order = there[np.argsort(np.abs(bits[there] - entropy), kind="stable")]
    total = weights[order].cumsum()
    needed = order[: int((total < p * weights.cumsum()[-1]).sum()) + 1]
    kept = np.zeros_like(weights)
    kept[needed] = weights[needed]
    return kept


def keep_surprise(weights: Float64s, bits: Float64s, bound: float) -> Float64s:
    """Keeps the weights (1, V) of symbols that cost at most `bound` bits, or else the top one."""
    kept = np.where(bits <= bound, weights, 0)
    if not kept.any():
        kept[0, weights[0].argmax()] = 1
    return kept


def pick(weights: Float64s, uniforms: Float64s) -> Ids:
    """Returns the id (N,) at which the cumulated weights (N, V) pass the share `uniforms` (N,) of their sum.

    A symbol without weight is never picked.
    """
    cumulated = weights.cumsum(1)
    passed: Ids = (cumulated <= uniforms[:, None] * cumulated[:, -1:]).sum(1)
    return passed


def rank(weights: Float64s) -> Ids:
    """Returns the ids (N, V) of each row from the most to the least likely; equally likely ones in the order of ids."""
    return np.argsort(-weights, axis=1, kind="stable")

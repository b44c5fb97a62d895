"""Changes logits by earlier characters of the text: a bias, penalties for repetition, DRY, and no copies.

All of them look at the text that is being written, not at its prompt. `adjust` is the slow obvious way; native code
computes the same. docs/sampling.md has the formulas and where they come from.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from scriven.arrays import Float32s, Float64s, Ids
from scriven.errors import UsageError
from scriven.sampling_settings import DRY_MATCH, LONGEST_PAST, SamplingSettings

DRY_MOST = 1e6  # what DRY takes from a logit at most
NOTHING = np.empty(0, np.int64)


class Followers(Protocol):
    """An index of a training text; see `scriven.kernels.suffixes.SuffixTable`."""

    @property
    def native(self) -> int:
        """The address of the index, for native functions."""

    def followers(self, ids: Ids, symbols: int) -> Ids:
        """Returns which ids below `symbols` follow ids (T,) somewhere in a document of the text."""


class Past(NamedTuple):
    """What a row has written, and what of it changes the next draw.

    `ids` (T,) are the last ids. `bound` (1,) is mirostat's, in bits: drawing changes it. `bias` (V,) is added to the
    logits, or None. `training` is the index of the text that is not to be copied, or None.
    """

    ids: Ids
    bound: Float64s
    bias: Float32s | None = None
    training: Followers | None = None

    def copy(self) -> Past:
        """Returns a past whose bound is its own."""
        return self._replace(bound=self.bound.copy())

    def advance(self, ids: Ids) -> Past:
        """Returns the past after ids (T,) more, with the bound as it is now."""
        return self._replace(ids=np.concatenate((self.ids, ids))[-LONGEST_PAST:])


def begin_past(settings: SamplingSettings, bias: Float32s | None = None, index: Followers | None = None) -> Past | None:
    """Returns the past of a new text, or None without a bias and without settings that need it.

    Raises UsageError for `novel` without an index.
    """
    if settings.novel and index is None:
        raise UsageError(f"novel {settings.novel}: there is no index of the training text; load a run by scriven.load")
    if bias is None and not settings.looks_back:
        return None
    return Past(NOTHING, np.array([2 * settings.mirostat_tau]), bias, index if settings.novel else None)


def adjust(logits: Float64s, settings: SamplingSettings, past: Past) -> Float64s:
    """Returns logits (V,) with the bias, the penalties and DRY, in this order, rounded to float32.

    Those of symbols that would complete a copy are -inf. If none but `<unk>` is left, that is the end of the text.
    """
    found = logits.copy()
    if past.bias is not None:
        found += past.bias
    if settings.repeat_last_n:
        ids, counts = np.unique(past.ids[-settings.repeat_last_n :], return_counts=True)
        own = found[ids]
        if settings.repetition_penalty != 1:
            own = np.where(own > 0, own / settings.repetition_penalty, own * settings.repetition_penalty)
        found[ids] = own - (settings.presence_penalty + settings.frequency_penalty * counts)
    if settings.dry_multiplier:
        lengths = _repeated(past.ids[-settings.dry_penalty_last_n :], len(found))
        for symbol in np.flatnonzero(lengths >= settings.dry_allowed_length).tolist():
            found[symbol] -= _dry_penalty(settings, lengths.item(symbol))
    found = found.astype(np.float32).astype(np.float64)
    begin = len(past.ids) - (settings.novel - 1)
    if settings.novel and past.training is not None and begin >= 0:
        found[past.training.followers(past.ids[begin:], len(found) - 1)] = -np.inf
        if np.isneginf(found[:-1]).all():
            found[-1] = 0.0
    return found


def _repeated(ids: Ids, symbols: int) -> Ids:
    """Returns, for each symbol (V,) that would continue a repetition, the length of what it would repeat; else 0.

    For "abc ab" that is 2 for "c", since "ab" was written twice. At most DRY_MATCH are compared.
    """
    found = np.zeros(symbols, np.int64)
    places = np.arange(len(ids) - 1)  # (M,) where a stretch may end that is written again at the end
    for length in range(1, DRY_MATCH + 1):
        places = places[places >= length - 1]
        places = places[ids[places - (length - 1)] == ids[-length]] if len(places) else places
        if not len(places):
            break
        found[ids[places + 1]] = length
    return found


def _dry_penalty(settings: SamplingSettings, length: int) -> float:
    penalty = settings.dry_multiplier
    for _ in range(length - settings.dry_allowed_length):
        penalty *= settings.dry_base
        if penalty >= DRY_MOST:
            break
    return min(penalty, DRY_MOST)

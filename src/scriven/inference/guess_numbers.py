"""How many guesses it takes to come to a text, if a model's texts are guessed from the likeliest on.

The number is estimated from texts that the model writes (Dell'Amico and Filippone, Monte Carlo Strength Evaluation,
2015). A text written with probability q counts as 1/q texts. The mean of 1/q over those that are likelier than the
given text, and 0 for all others, estimates how many texts are likelier, without bias.

No value is above 1/p, where p is the probability of the given text. So the interval holds for any model: it is the
empirical Bernstein bound (Maurer and Pontil, 2009, theorem 4). Its lower end counts all likelier texts that were
written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scriven.arrays import Bools, Float64s, Ids
from scriven.errors import UsageError
from scriven.inference.boundaries import make_rule
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import check_finite, check_scored, read_rows, surprisals_of_text
from scriven.inference.units import units
from scriven.sampling_settings import SamplingSettings

LEVEL = 0.95  # of the interval, at least
ROWS = 512  # texts written at the same time
BLOCK = 16  # symbols written at once
LONGEST = 1000  # symbols of a text that is written, at most
TIE = 1e-4  # nats: texts nearer than this are equally likely, however their sums were rounded
EXACT = SamplingSettings(temperature=1.0)  # draws texts as often as the model says
COLUMNS = ("text", "bits", "guesses", "low", "high", "log10_guesses")


@dataclass(frozen=True)
class GuessSamples:
    """Texts that a model wrote, from the likeliest on: -ln of their probabilities, by the model and as written (S,).

    `cut` is the least of those of texts that had not ended; infinite if all ended. `count` includes them.
    """

    nats: Float64s
    written: Float64s
    count: int
    cut: float = math.inf

    def estimate(self, nats: Float64s) -> tuple[Float64s, Float64s, Float64s]:
        """Returns ln of the guesses for texts that cost `nats` (M,), and the ends of its interval, all (M,).

        The upper end is nan for a text that is less likely than one that had not ended.
        """
        place = np.searchsorted(self.nats, nats - TIE)  # (M,)
        once, twice = (self._log_sums(power)[place] for power in (1, 2))
        # As shares of 1/p: all values are from 0 to 1.
        mean = np.exp(once - nats) / self.count
        variance = np.maximum(np.exp(twice - 2 * nats) - self.count * mean**2, 0) / (self.count - 1)
        odds = math.log(2 / ((1 - LEVEL) / 2))
        margin = np.sqrt(2 * variance * odds / self.count) + 7 * odds / (3 * (self.count - 1))
        low, high = (
            np.log(share, out=np.full_like(share, -np.inf), where=share > 0) + nats
            for share in (mean - margin, np.minimum(mean + margin, 1))
        )
        middle = np.minimum(once - math.log(self.count), nats)
        middle, low, high = (np.logaddexp(0, likelier) for likelier in (middle, low, high))  # and the text itself
        known = np.log1p(self._distinct()[place])  # likelier texts were written, and each is a guess
        return np.maximum(middle, known), np.maximum(low, known), np.where(nats > self.cut, np.nan, high)

    def _distinct(self) -> Ids:
        """Returns how many texts there are, at least, among the first ones (S + 1,): none, one, two, and so on."""
        return np.concatenate(([0], np.cumsum(np.diff(self.nats, prepend=-np.inf) > TIE)))

    def _log_sums(self, power: int) -> Float64s:
        """Returns ln of the sums (S + 1,) of powers of 1/q over the first texts: none, one, two, and so on."""
        sums: Float64s = np.logaddexp.accumulate(np.concatenate(([-np.inf], power * self.written)))
        return sums


def draw_guess_samples(predictor: Predictor, count: int, seed: int) -> GuessSamples:
    """Returns the probabilities of `count` texts that the model writes, each from its start to its end.

    Raises UsageError if its texts never end, or if the numbers are out of range.
    """
    if predictor.vocabulary.boundary is None:
        raise UsageError(
            "texts of this model never end, so they cannot be guessed one by one; train a model of names, with "
            "corpus.documents lines"
        )
    if count < 2 or seed < 0:
        raise UsageError(f"{count} samples with seed {seed}: give 2 or more samples, and a seed of 0 or more")
    reader, random = predictor.with_counts(predictor.counts), np.random.default_rng(seed)  # counts write as they read
    parts = [_draw(reader, min(ROWS, count - begin), random) for begin in range(0, count, ROWS)]
    nats, written, ended = (np.concatenate(each) for each in zip(*parts, strict=True))
    check_finite(nats)
    order = np.argsort(nats[ended], kind="stable")
    return GuessSamples(nats[ended][order], written[ended][order], count, float(min(nats[~ended], default=math.inf)))


def _draw(predictor: Predictor, rows: int, random: np.random.Generator) -> tuple[Float64s, Float64s, Bools]:
    """Writes texts. Returns their nats (N,) by the model and as written, and which of them ended.

    `<unk>` is never written, so that all other symbols are written more often than the model says.
    """
    vocabulary = predictor.vocabulary
    context, going = predictor.start().rows([0] * rows), np.arange(rows)
    nats, written = np.zeros(rows), np.zeros(rows)
    for _ in range(0, LONGEST, BLOCK):
        ids, after = predictor.generate(context, EXACT, random.random((BLOCK, len(going))))  # (T, N)
        costs, _, _ = read_rows(predictor, ids, context)
        unknown, _, _ = read_rows(predictor, np.full_like(ids, vocabulary.unknown), context, ids)
        ends = ids == vocabulary.boundary
        inside = np.cumsum(ends, 0) - ends == 0  # with the end
        nats[going] += (costs * inside).sum(0)
        written[going] += ((costs + np.log1p(-np.exp(-unknown))) * inside).sum(0)
        rest = np.flatnonzero(~ends.any(0))
        context, going = after.rows(rest.tolist()), going[rest]
        if not going.size:
            break
    ended = np.ones(rows, np.bool_)
    ended[going] = False
    return nats, written, ended


def rank_documents(predictor: Predictor, chunks: Iterable[Ids], samples: GuessSamples) -> Iterator[dict[str, Any]]:
    """Yields a row for each document of a text: its bits, and how many guesses it takes, with the interval.

    No guess comes to a text with a character that the model does not know, so that its numbers are None.
    """
    vocabulary = predictor.vocabulary
    pieces = check_scored(surprisals_of_text(predictor, chunks))
    for some in units(vocabulary, pieces, make_rule(vocabulary, "document")):
        nats = some.sums.nats + some.sums.end_nats
        found = [*samples.estimate(nats)]
        with np.errstate(over="ignore"):
            numbers = np.stack([nats / math.log(2), *map(np.exp, found), found[0] / math.log(10)])  # (5, M)
        for text, unseen, row in zip(some.texts, some.sums.unseen.tolist(), numbers.T.tolist(), strict=True):
            shown = [each if math.isfinite(each) else None for each in row]
            yield dict(zip(COLUMNS, (text, row[0], *([None] * 4 if unseen else shown[1:])), strict=True))

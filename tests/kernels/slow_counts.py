"""Interpolated Kneser-Ney smoothing in slow, obvious Python."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

Context = tuple[int, ...]
Discounts = Sequence[Sequence[Sequence[float]]]


class SlowNgrams:
    """The n-grams of a text, in dictionaries; `left_out` are its places that are not counted."""

    def __init__(
        self, ids: Sequence[int], symbols: int, boundary: int | None, longest: int, left_out: Collection[int] = ()
    ) -> None:
        self.symbols, self.boundary, self.longest = symbols, boundary, longest
        self.rows: dict[Context, Counter[int]] = defaultdict(Counter)
        before = [] if boundary is None else [boundary]
        text = [*before, *ids]
        for place in range(len(before), len(text)):
            if place - len(before) not in left_out:
                context = self.context(text[:place])
                for length in range(len(context) + 1):
                    self.rows[context[len(context) - length :]][text[place]] += 1

    def context(self, ids: Sequence[int]) -> Context:
        """What is known of the symbols before a place: the last ones, not beyond a boundary."""
        found: Context = ()
        for symbol in reversed(ids):
            if len(found) == self.longest or (found and found[0] == self.boundary):
                break
            found = (symbol, *found)
        return found

    def prune(self, most: Sequence[int]) -> None:
        """Leaves out n-grams that occurred up to so often, by the length of their context."""
        for context, row in list(self.rows.items()):
            kept = {symbol: count for symbol, count in row.items() if not context or count > most[len(context)]}
            self.rows[context] = Counter(kept)
            if not kept:
                del self.rows[context]

    def count_continuations(self) -> dict[Context, Counter[int]]:
        """Counts of n-grams: of different symbols before them, and of occurrences without one."""
        counts = {context: Counter(row) for context, row in self.rows.items()}
        for context, row in self.rows.items():
            for symbol, occurrences in row.items() if context else ():
                counts[context[1:]][symbol] += 1 - occurrences
        return counts

    def distribution(
        self, ids: Sequence[int], discounts: Discounts, counts: dict[Context, Counter[int]]
    ) -> list[float]:
        """The probabilities of what follows ids."""
        return [self.probability(ids, symbol, discounts, counts) for symbol in range(self.symbols)]

    def probability(
        self, ids: Sequence[int], symbol: int, discounts: Discounts, counts: dict[Context, Counter[int]]
    ) -> float:
        p, context = 1 / self.symbols, self.context(ids)
        for length in range(len(context) + 1):
            row = counts.get(context[len(context) - length :])
            if not row:
                break
            own = discounts[length][(0, 0, 1, 2, 2, 3)[min(len(row), 5)]]
            total, taken = sum(row.values()), sum(own[min(count, 3) - 1] for count in row.values())
            p *= taken / total
            if symbol in row:
                p += (row[symbol] - own[min(row[symbol], 3) - 1]) / total
        return p


def held_out_places(total: int) -> list[int]:
    """The places that discounts are fitted to: five blocks."""
    size, block = min(total // 50, 20_000), total // 5
    if size < 20:
        return []
    middle = (block - size) // 2
    return [number * block + middle + i for number in range(5) for i in range(size)]

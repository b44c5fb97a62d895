"""How rows are shared among requests that want more of them than there are."""

from __future__ import annotations

from collections.abc import Sequence


def shares(wanted: Sequence[int], rows: int) -> list[int]:
    """How many rows each gets who wants so many: as many, unless others who get fewer want more, too.

    Of those who want as many the first may get one more. Where there is a row for each, each gets one.
    """
    given = [0] * len(wanted)
    for place, number in enumerate(sorted(range(len(wanted)), key=lambda number: (wanted[number], -number))):
        given[number] = min(wanted[number], rows // (len(wanted) - place))
        rows -= given[number]
    return given


__all__ = ["shares"]

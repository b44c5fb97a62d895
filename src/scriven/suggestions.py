"""Words for people: which name a mistyped one may have meant, and numbers of bytes."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

LIKENESS = 0.7  # of difflib, from which two names are taken for one
BEGINNING = 3  # letters from which the beginning of a name stands for it
ENTRIES_READ = 10_000  # of a folder


def close_names(name: str, names: Iterable[str], count: int = 1) -> list[str]:
    """Returns at most `count` names that are similar to a name in any case, the most similar first."""
    by_lower: dict[str, str] = {}
    for each in names:
        by_lower.setdefault(each.lower(), each)
    return [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, count, LIKENESS)]


def close_dotted(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Returns at most `count` dotted names that an unknown name may have meant.

    It prefers names with the same last part, then those whose last part starts with it, then similar ones.
    """
    lasts = {each: each.rpartition(".")[2] for each in names}
    last = name.rpartition(".")[2]
    same = [each for each in lasts if lasts[each] == last]
    begun = [each for each in lasts if len(last) >= BEGINNING and lasts[each].startswith(last)]
    alike = close_names(name, [*lasts]) or close_names(last, lasts.values())
    return (same or begun or [each for each in lasts if {each, lasts[each]} & set(alike)])[:count]


def close_paths(path: str) -> list[str]:
    """Returns the most similar path in the same folder as one that does not exist, if any."""
    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            found = close_names(name, (entry.name for entry in islice(entries, ENTRIES_READ)))
    except (OSError, ValueError):
        return []
    return [str(Path(folder) / each) for each in found]


def did_you_mean(names: Sequence[str]) -> str:
    """Returns the end of a sentence: `; did you mean A or B?`, or nothing without names."""
    return f"; did you mean {join_names(names)}?" if names else ""


def join_names(names: Sequence[str]) -> str:
    """Joins names as in a sentence: `A, B or C`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def format_bytes(count: int) -> str:
    """Returns a number of bytes as text, in MB or GB (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"
